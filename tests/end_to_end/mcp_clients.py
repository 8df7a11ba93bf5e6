"""MCP's clients, as tests drive them: those for JavaScript in Node, and the SDK for Python in this process."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.end_to_end.processes import WAIT, program

JAVASCRIPT = Path(__file__).parents[1] / "javascript"
OLDER, NEWER = "2025-11-25", "2026-07-28"
"""The two eras of the protocol: with a handshake, and without."""
CLIENTS = [
    ("mcp", NEWER),
    ("mcp", OLDER),
    ("@modelcontextprotocol/client", NEWER),
    ("@modelcontextprotocol/client", OLDER),
    ("@modelcontextprotocol/sdk", OLDER),
]
TASKS = "io.modelcontextprotocol/tasks"


class McpFailure(Exception):
    """What a client raised: a JSON-RPC error, or that it could not ask."""

    def __init__(self, code: object, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class McpClient(Protocol):
    """A client that is connected, after ``connect``."""

    version: str
    outlasts: bool
    """Whether it can be used when a connection has broken; else it has to connect again."""

    def do(self, command: str, /, **given: Any) -> Any:
        """
        Raises:
            McpFailure: the client raised something.
        """


def called(client: McpClient, name: str, /, **arguments: Any) -> dict[str, Any]:
    """What a tool gives that does not fail."""
    result = client.do("call", name=name, arguments=arguments)["result"]
    assert not result.get("isError"), result
    given: dict[str, Any] = result["structuredContent"]
    return given


def refused(client: McpClient, name: str, /, **arguments: Any) -> str:
    """What a tool says that fails."""
    result = client.do("call", name=name, arguments=arguments)["result"]
    assert result.get("isError") is True, result
    (said,) = result["content"]
    return str(said["text"])


def followed(client: McpClient, run: str, after: int = 0) -> tuple[dict[str, Any], list[Any]]:
    """A run when it has ended or waits, and its entries behind ``after`` as a model has them then."""
    entries: dict[int, Any] = {}
    for _ in range(20):
        now = called(client, "follow_run", run_id=run, after=after, wait_seconds=10)
        after = now["next_after"]
        entries |= {entry["position"]: entry for entry in now["entries"]}
        if now["ended"] or "waiting_for" in now:
            return now, [entries[position] for position in sorted(entries)]
    raise AssertionError(f"it goes on and on: {now}")


@dataclass
class JavaScriptClient:
    """A package in Node."""

    version: str
    process: "subprocess.Popen[str]"
    outlasts = True

    def do(self, command: str, /, **given: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"command": command, **given}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the client has broken down"
        came = json.loads(line)
        if "error" in came:
            raise McpFailure(came["error"].get("code"), came["error"]["message"])
        return came.get("value")


@contextmanager
def in_node(package: str, version: str, url: str) -> Iterator[JavaScriptClient]:
    if not (JAVASCRIPT / "node_modules" / package).is_dir():
        pytest.skip("npm ci --prefix tests/javascript installs this client")
    command = [program("node"), str(JAVASCRIPT / "mcp_client.mjs"), package, version, url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=JAVASCRIPT)
    try:
        yield JavaScriptClient(version, process)
    finally:
        process.kill()
        process.wait(WAIT)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def mcp_client(package: str, version: str, url: str) -> AbstractContextManager[McpClient]:
    if package != "mcp":
        return in_node(package, version, url)
    from tests.end_to_end.mcp_python import in_python  # which takes a while to import, for all who run tests

    return in_python(version, url)
