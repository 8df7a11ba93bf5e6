"""MCP's clients, as tests drive them: the SDK for Python in this process, those for JavaScript in Node."""

import asyncio
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, ClientSession, ErrorData, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Request, Result

from tests.end_to_end.processes import WAIT, program

T = TypeVar("T")

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


# -- for JavaScript ---------------------------------------------------------------------------------------------------


@dataclass
class JavaScriptClient:
    """A package in Node."""

    version: str
    process: "subprocess.Popen[str]"

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


# -- for Python -------------------------------------------------------------------------------------------------------


class CreatedTask(Result):
    """What the SDK is told that a tool may also give."""

    result_type: Literal["task"]
    task_id: str


class AboutTask(Request[dict[str, Any], str]):
    name_param = "taskId"


class AnyResult(Result, extra="allow"):
    """What is said of a task."""


@dataclass
class TaskWatch(ClientExtension):
    """The extension for tasks, as a host would write it. ``answer`` is given to whatever is asked."""

    identifier = TASKS
    answer: Mapping[str, Any] | None = None
    states: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=self._resolve)]

    async def _resolve(self, task: CreatedTask, context: ClaimContext) -> CallToolResult:
        return await self.settled(context.session, task.task_id)

    async def settled(self, session: ClientSession, task: str) -> CallToolResult:
        async def ask(method: str, **more: Any) -> dict[str, Any]:
            request = AboutTask(method=f"tasks/{method}", params={"taskId": task, **more})
            return dump(await session.send_request(request, AnyResult))

        while True:
            now = await ask("get")
            if now["status"] not in self.states[-1:]:
                self.states.append(now["status"])
            if now["status"] == "input_required":
                self.asked += [each["params"] for each in now["inputRequests"].values()]
                answers = {key: {"action": "accept", "content": self.answer} for key in now["inputRequests"]}
                await ask("update", inputResponses=answers)
            elif now["status"] != "working":
                return CallToolResult.model_validate(now["result"])
            await asyncio.sleep(0.05)  # a host waits for as long as it is told


async def nobody(context: Any, params: Any) -> ErrorData:
    """Says that the client can ask its user, which only tasks make use of here."""
    raise AssertionError


def dump(model: Any) -> dict[str, Any]:
    """As it came over the wire."""
    found: dict[str, Any] = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return found


class PythonClient:
    """The package ``mcp``."""

    def __init__(self, version: str, url: str, portal: BlockingPortal) -> None:
        self.version = version
        self._url = url
        self._portal = portal
        self._connection = ExitStack()
        self._token = ""
        self._client: Client | None = None

    def do(self, command: str, /, **given: Any) -> Any:
        try:
            if command == "connect":
                return self._connect(**given)
            if command == "task":
                return self._task(**given)
            if command == "watch":
                return self._watch(**given)
            return self._portal.call(partial(getattr(self, f"_{command}"), **given))
        except MCPError as error:
            raise McpFailure(error.code, error.message) from error

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    def _open(self, *extensions: ClientExtension) -> Client:
        """A client in a task of its own, for as long as it is connected."""
        headers = {"Authorization": f"Bearer {self._token}"}
        http = self._enter(httpx2.AsyncClient(headers=headers, timeout=WAIT))
        mode = "auto" if self.version == NEWER else "legacy"
        client = Client(
            streamable_http_client(self._url, http_client=http),
            mode=mode,
            extensions=extensions,
            elicitation_callback=nobody,
        )
        return self._enter(client)

    def _enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        return self._connection.enter_context(self._portal.wrap_async_context_manager(manager))

    def close(self) -> None:
        """Leave. What is broken says so once more."""
        with suppress(ExceptionGroup):
            self._connection.close()

    def _connect(self, token: str) -> dict[str, Any]:
        self.close()
        self._token = token
        self._client = self._open()
        about = self._client
        return {
            "version": about.protocol_version,
            "server": about.server_info and dump(about.server_info),
            "capabilities": dump(about.server_capabilities),
            "instructions": about.instructions,
        }

    async def _tools(self) -> Any:
        return dump(await self.client.list_tools())

    async def _templates(self) -> Any:
        return dump(await self.client.list_resource_templates())

    async def _read(self, uri: str) -> Any:
        return dump(await self.client.read_resource(uri))

    async def _call(self, name: str, arguments: dict[str, Any], progress: bool = False) -> Any:
        seen: list[Any] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append({"progress": progress, "message": message})

        result = await self.client.call_tool(name, arguments, progress_callback=note if progress else None)
        return {"result": dump(result), "progress": seen}

    def _task(self, name: str, arguments: dict[str, Any], answer: Any = None) -> Any:
        watch = TaskWatch(answer)
        return self._watched(watch, self._portal.call(self._open(watch).call_tool, name, arguments))

    def _watch(self, task: str, answer: Any) -> Any:
        watch = TaskWatch(answer)
        return self._watched(watch, self._portal.call(watch.settled, self._open(watch).session, task))

    def _watched(self, watch: TaskWatch, result: CallToolResult) -> Any:
        kind = "task" if watch.states else "immediate"
        return {"kind": kind, "states": watch.states, "asked": watch.asked, "result": dump(result)}


@contextmanager
def in_python(version: str, url: str) -> Iterator[PythonClient]:
    with start_blocking_portal() as portal:
        client = PythonClient(version, url, portal)
        try:
            yield client
        finally:
            client.close()


def mcp_client(package: str, version: str, url: str) -> AbstractContextManager[McpClient]:
    return in_python(version, url) if package == "mcp" else in_node(package, version, url)
