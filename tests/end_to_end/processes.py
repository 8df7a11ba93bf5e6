"""Sandbox and gateway as processes of their own, on free ports; each is ended by its pid, whatever happens."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import httpx
import pytest
import uvicorn

from tests.end_to_end.warm_starts import WarmProcess
from tests.leaks import WATCH

Process: TypeAlias = subprocess.Popen[bytes] | WarmProcess

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
WAIT = 60.0
"""Seconds after which anything here has failed, on a machine that is busy with other tests too."""
STARTING = 180.0
"""Seconds that a start may take on a busy machine, with several others at the same time."""

SERVER = [sys.executable, str(ROOT / "run_server.py"), "--port", "0"]
PATIENT = ["--timeout-worker-healthcheck", "20"]
"""Or uvicorn takes a worker for dead that needs five seconds to start. It may need as long to see that one is dead: the
pipe on which it waits for an answer stays open."""
ALICE = {"Authorization": "Bearer sandbox-alice"}
BOB = {"Authorization": "Bearer sandbox-bob"}


PACKAGES = {"node": "nodejs"}


def program(name: str) -> str:
    """Where a program is. Without it the test is skipped, but in CI it fails (see ``tests/conftest.py``)."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")  # which is not on everybody's path
    if path is None:
        pytest.skip(f"{name} is not on PATH: apt-get install {PACKAGES.get(name, name)}")
    return path


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with no settings but these, and no proxy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("CODEGEN_") and not name.lower().endswith("_proxy")
    }
    named = {f"CODEGEN_{name.upper()}": str(value) for name, value in settings.items()}
    # what tests look for in a log is written for people
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "CODEGEN_LOG_FORMAT": "text", **named}


def eventually(
    probe: Callable[[], T], wanted: Callable[[T], bool] = bool, within: float = WAIT, every: float = 0.05
) -> T:
    """What ``probe`` finds once it is ``wanted``."""
    deadline = time.monotonic() + within
    while True:
        found = probe()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, f"after {within} s it is still {found!r}"
        time.sleep(every)


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` started, and those that they did."""
    found = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # gone meanwhile
        return []
    for child in children:
        found += [child, *descendants(child)]
    return found


def running(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be buried is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def memory(pid: int) -> int:
    """Bytes that the process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def new_client() -> httpx.Client:
    """A client with a new connection for each request: a kept one may be closed just when it is used again."""
    return httpx.Client(timeout=WAIT, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass(frozen=True)
class Sandbox:
    """A hosted API that is ours alone, and how to play with it."""

    url: str
    client: httpx.Client

    def admin(self, method: str, path: str, body: object = None) -> Any:
        answer = self.client.request(method, f"{self.url}/_sandbox/{path}", json=body)
        answer.raise_for_status()
        return answer.json()

    def seed(self, **order: object) -> int:
        """A run that stands still: its id."""
        run: int = self.admin("POST", "runs", order)["id"]
        return run

    def patch(self, run: int, **order: object) -> None:
        self.admin("PATCH", f"runs/{run}", order)

    def append(self, run: int, *texts: str, **order: object) -> None:
        self.patch(run, append=[entry(text) for text in texts], **order)

    def fault(self, kind: str, operation: str | None = None, token: str | None = None, **more: object) -> None:
        self.admin("POST", "faults", {"kind": kind, "match": {"operation": operation, "token": token}, **more})

    def heal(self) -> None:
        self.admin("DELETE", "faults")

    def requests(self, operation: str) -> int:
        """How often the host was asked for ``operation``."""
        operations = self.admin("GET", "requests")["operations"]
        total: int = operations.get(operation, {"total": 0})["total"]
        return total

    def forget_requests(self) -> None:
        self.admin("DELETE", "requests")

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] = ALICE) -> Any:
        """An ordinary request to the hosted API."""
        WATCH.sent(headers, body)
        answer = self.client.request(method, f"{self.url}/v1/{path}", json=body, headers=headers)
        answer.raise_for_status()
        return answer.json()

    def create(self, scenario: str, speed: float = 1.0) -> int:
        body = {"prompt": "Tidy up", "metadata": {"scenario": scenario, "speed": speed}}
        run: int = self.ask("POST", "organizations/323/agent/run", body)["id"]
        return run

    def resume(self, run: int) -> None:
        self.ask("POST", "organizations/323/agent/run/resume", {"agent_run_id": run, "prompt": "Go on"})

    def log(self, run: int, organization: int = 323) -> list[dict[str, Any]]:
        """The host's own log, as the gateway should tell it: times in UTC, positions."""
        entries: list[dict[str, Any]] = []
        while True:
            path = f"alpha/organizations/{organization}/agent/run/{run}/logs?limit=100&skip={len(entries)}"
            page = self.ask("GET", path)["logs"]
            for item in page:
                created_at = item["created_at"].replace(" ", "T") + "Z"
                entries.append({**item, "created_at": created_at, "position": len(entries) + 1})
            if len(page) < 100:
                return entries


def entry(text: str, **more: object) -> dict[str, object]:
    """A tool call that is done."""
    WATCH.secret("a text of a log", text)
    tool = {"tool_name": "run_command", "message_type": "ACTION", "thought": text, "tool_input": {}, "observation": ""}
    return {**tool, "tool_output": {"exit_code": 0}, **more}


@dataclass(frozen=True)
class Server:
    """A gateway that serves."""

    url: str
    process: Process
    log: Path
    client: httpx.Client

    @property
    def pid(self) -> int:
        return self.process.pid

    def get(self, path: str, headers: dict[str, str] = ALICE) -> httpx.Response:
        return self.request("GET", path, headers=headers)

    def request(
        self, method: str, path: str, *, json: object = None, headers: dict[str, str] = ALICE
    ) -> httpx.Response:
        WATCH.sent(headers, json)
        answer = self.client.request(method, self.url + path, json=json, headers=headers)
        WATCH.answer(answer.status_code, answer.text)
        return answer

    def health(self, name: str) -> Any:
        return self.get("/health", headers={}).json()[name]

    def files(self) -> int:
        """How many file descriptors it holds."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@contextmanager
def sandbox(*arguments: str, limits: str = "off") -> Iterator[Sandbox]:
    command = [sys.executable, "-m", "codegen_api.sandbox", "--port", "0", "--announce", "--die-with-stdin"]
    with (
        new_client() as client,
        tempfile.TemporaryDirectory() as directory,
        tempfile.TemporaryFile() as log,
        WarmProcess(
            [*command, "--limits", limits, *arguments],
            stdin=True,
            stdout=True,
            stderr=log.fileno(),
            cwd=directory,
            env=environment(),
        ) as process,
    ):
        try:
            yield Sandbox(json.loads(line(process))["url"], client)
        finally:
            process.kill()
            process.wait(WAIT)
            log.seek(0)
            collect(process, log.read())


def line(process: Process, within: float = STARTING) -> str:
    """The next line on its standard output."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], within)
    assert ready, "the process said nothing"
    said = process.stdout.readline().decode()
    WATCH.output("output of a process", said)
    return said


def collect(process: Process, log: bytes) -> None:
    """Hand in what a process that has ended wrote and nobody has read."""
    if process.stdout is not None:
        os.set_blocking(process.stdout.fileno(), False)  # one that it started, and that is about to end, may hold it
        WATCH.output("output of a process", (process.stdout.read() or b"").decode())
    WATCH.log("log of a process", log.decode())


@contextmanager
def launched(
    command: Sequence[str], settings: Mapping[str, object], cwd: Path | None = None, *, talks: bool = True
) -> Iterator[Server]:
    """The process of ``command``; nobody has waited until it serves. It has no ``.env`` file and a log of its own.

    Somebody has to read what a process says that ``talks``, or it stops at 64 KiB; else that is in the log, too.
    ``run_server.py`` and uvicorn are started warm, in this checkout.
    """
    with new_client() as client, tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        started_in = cwd or directory
        given = {"TMPDIR": directory, **environment(**settings)}  # workers that are killed leave files
        with (
            log.open("wb") as errors,
            WarmProcess(command, cwd=started_in, env=given, stdout=talks, stderr=errors.fileno())
            if [*command[:2]] == SERVER[:2] or [*command[1:3]] == ["-m", "uvicorn"]
            else subprocess.Popen(
                command,
                stdout=subprocess.PIPE if talks else errors,
                stderr=errors,
                bufsize=0,  # else a line that has been read may wait where select does not see it
                cwd=started_in,
                env=given,
            ) as process,
        ):
            try:
                yield Server("", process, log, client)
            finally:
                for pid in descendants(process.pid):
                    kill(pid)
                process.kill()
                process.wait(WAIT)
                collect(process, log.read_bytes())


def ended(command: Sequence[str], cwd: Path, settings: Mapping[str, object]) -> "subprocess.CompletedProcess[str]":
    """What became of a start that ends by itself, of a program that can be started warm."""
    with tempfile.TemporaryFile() as errors:
        given = environment(**settings)
        with WarmProcess(command, cwd=cwd, env=given, stdout=True, stderr=errors.fileno()) as process:
            assert process.stdout is not None
            try:
                status = process.wait(STARTING)
            finally:
                process.kill()
            said = process.stdout.read() or b""
        errors.seek(0)
        found = errors.read().decode()
    WATCH.log("log of a front door", found)
    return subprocess.CompletedProcess([*command], status, said.decode(), found)


@contextmanager
def held_port() -> Iterator[int]:
    """A port to serve on that nobody else is given meanwhile, however many tests are starting something."""
    with socket.socket() as holding:  # bound and not listening, it lets in who asks for this very port
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holding.bind(("127.0.0.1", 0))
        yield holding.getsockname()[1]


def gateway(host: Sandbox | None, /, *arguments: str, **settings: object) -> AbstractContextManager[Server]:
    """``run_server.py``, serving, in front of ``host`` (or of what the arguments say)."""
    return gateway_in(None, host, *arguments, **settings)


@contextmanager
def gateway_in(checkout: Path | None, host: Sandbox | None, /, *arguments: str, **settings: object) -> Iterator[Server]:
    """As ``gateway``, of that ``checkout``, and started in it."""
    if host is not None:
        settings = {"base_url": host.url, "org_id": 323, **settings}
    command = [sys.executable, str((checkout or ROOT) / "run_server.py")]
    with held_port() as port, launched([*command, "--port", str(port), *arguments], settings, checkout) as server:
        said = line(server.process)
        assert said.startswith("codegen_api is at http://"), said + server.log.read_text()
        yield replace(server, url=said.split()[-1])


@contextmanager
def silent(command: Sequence[str], port: int, /, **settings: object) -> Iterator[Server]:
    """A server on ``port``, serving, that does not say by itself where it is."""
    with launched(command, settings, talks=False) as server:
        served = replace(server, url=f"http://127.0.0.1:{port}")

        def answers() -> bool:
            assert server.process.poll() is None, server.log.read_text()
            try:
                return served.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, within=STARTING)
        yield served


@contextmanager
def plain_uvicorn(host: Sandbox, /, *arguments: str, **settings: object) -> Iterator[Server]:
    """``uvicorn codegen_api:create_app``, serving."""
    command = [sys.executable, "-m", "uvicorn", "codegen_api:create_app", *PATIENT]
    settings = {"base_url": host.url, "org_id": 323, **settings}
    with held_port() as port, silent([*command, "--port", str(port), *arguments], port, **settings) as server:
        yield server


@contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """A gateway in a thread of this process, in front of a host that is in memory."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
