"""The command line: the promised first minute, reloading, dying, and refusing what makes no sense."""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

import codegen_api
from codegen_api.program.http1 import MAX_UNREAD
from tests.commands import completed
from tests.end_to_end import processes
from tests.end_to_end.processes import (
    ROOT,
    SERVER,
    STARTING,
    WAIT,
    Server,
    descendants,
    ended,
    environment,
    eventually,
    gateway,
    gateway_in,
    held_port,
)
from tests.end_to_end.terminals import COLOUR, terminal
from tests.end_to_end.viewing import Connection, Viewer
from tests.leaks import WATCH

CURL, BASH = shutil.which("curl"), shutil.which("bash")


needs_curl = pytest.mark.skipif(CURL is None, reason="install curl to run this")


@pytest.mark.parametrize(
    ("host", "advice"),
    [("127.0.0.1", "Address already in use. --port takes another one"), ("192.0.2.1", ". --host takes an address of")],
)
def test_an_address_that_cannot_be_served_on_is_named_with_what_to_do(host: str, advice: str) -> None:
    with held_port() as port, socket.create_server(("127.0.0.1", port)):
        done = completed([*SERVER, "--host", host, "--port", str(port)], timeout=WAIT, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{host}:{port} cannot be served on: ")
    assert advice in done.stderr


@needs_curl
@pytest.mark.skipif(shutil.which("jq") is None or BASH is None, reason="install bash and jq to run this")
@pytest.mark.wire("ndjson")
def test_the_lines_that_the_front_door_prints_work_when_they_are_pasted() -> None:
    with gateway(None, "--sandbox") as server:
        printed = [processes.line(server.process)]
        while "Last-Event-ID" not in printed[-1]:
            printed.append(processes.line(server.process))
        first, second, third = (text.strip() for text in printed if "curl" in text)
        script = "\n".join([first, f"({second}) | head -n 2", f"({third}) | head -n 2"])
        done = completed([BASH or "", "-c", script], timeout=WAIT, check=True, env=environment())
    WATCH.secret("a prompt", "Write a haiku about logs")
    run, *lines = done.stdout.splitlines()
    assert int(run) > 12345
    assert json.loads(lines[0])["event"] == "status"
    assert json.loads(lines[1])["id"] == "1"
    assert lines[2:] == ["retry: 2000", "event: status"]


def test_people_at_a_terminal_are_told_where_everything_is_and_then_a_line_for_each_request() -> None:
    given = {name: value for name, value in environment().items() if name not in ("CODEGEN_LOG_FORMAT", "NO_COLOR")}
    with held_port() as port, terminal([*SERVER[:2], "--sandbox", "--port", str(port)], {**given, "TERM": "x"}) as door:
        door.until(lambda text: "Last-Event-ID" in text)
        url = f"http://127.0.0.1:{port}"
        bare = COLOUR.sub("", door.text).replace("\r\n", "\n")
        assert re.match(
            rf"codegen_api is at {url}\n  console  {url}/console/\n  docs     {url}/docs\n"
            r"  host     the sandbox, at http://127\.0\.0\.1:\d+: nothing leaves this machine\n"
            r"  tokens   sandbox-alice, sandbox-bob\n",
            bare,
        ), bare
        assert "\x1b[1m" in door.text
        assert "\x1b[2m  tokens   \x1b[0m" in door.text
        assert "\r\n  curl -sN" in door.text, "commands have no colours"
        with processes.new_client() as client:
            for path in ("/livez", "/console/", "/agent-runs/12345"):
                assert client.get(f"{url}{path}", headers=processes.ALICE).status_code == 200
            assert client.get(f"{url}/agent-runs/12345").status_code == 401
        door.until(lambda text: "not_authenticated" in text)
        door.type("\x03")
        assert door.over() == 0
    told = COLOUR.sub("", door.text).replace("\r\n", "\n").partition("Last-Event-ID: 3'\n\n")[2]
    WATCH.log("log of a front door", told)
    moment = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf"{moment} 200 GET   /agent-runs/12345  \d+ ms  \d+\n"
        rf"{moment} 401 GET   /agent-runs/12345  \d+ ms  not_authenticated  request_id=\w+\n"
        rf"\^C{moment} draining for up to 2 s\n",
        told,
    ), told


def test_the_sandbox_outlives_a_reload_and_dies_with_the_front_door(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "codegen_api", tmp_path / "codegen_api", ignore=ignored)
    shutil.copy(ROOT / "run_server.py", tmp_path)

    def sandbox_of(server: Server) -> int:
        (pid,) = (
            pid
            for pid in descendants(server.pid)
            if b"codegen_api.sandbox" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        return pid

    def started(server: Server) -> float:
        """When the process that answers was started; 0 while none does."""
        try:
            return round(time.time() - float(server.health("uptime_seconds")))
        except (OSError, httpx.TransportError):
            return 0

    async def come_back(server: Server, run: int) -> None:
        viewer = Viewer(server.url, run)
        watching = asyncio.create_task(viewer.watch())
        await viewer.until("log")
        first = await asyncio.to_thread(started, server)
        path = f"/agent-runs/{run}/logs/stream-ticket"
        ticket = (await asyncio.to_thread(server.request, "POST", path)).json()["ticket"]
        touched = tmp_path / "codegen_api" / "runs.py"
        touched.write_text(touched.read_text() + "\n# touched\n")
        await watching  # a reload drains
        assert viewer.events[-1].data["code"] == "reconnect"
        await asyncio.to_thread(eventually, lambda: started(server), lambda when: when > first)
        await viewer.connect()
        await asyncio.wait_for(anext(viewer.connection.events()), WAIT)  # type: ignore[union-attr]
        viewer.leave()
        with_ticket = await Connection.open(server.url, f"/agent-runs/{run}/logs/stream?ticket={ticket}", {})
        assert (await with_ticket.head()).status == 200  # the key is that of the front door
        with_ticket.close()

    with gateway_in(tmp_path, None, "--sandbox", "--reload") as server:
        made = server.request("POST", "/agent-runs", json={"prompt": "x", "metadata": {"scenario": "endless"}}).json()
        sandbox = sandbox_of(server)
        asyncio.run(come_back(server, made["id"]))
        assert sandbox_of(server) == sandbox
        assert server.get(f"/agent-runs/{made['id']}").json()["created_at"] == made["created_at"]
        everybody = descendants(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        try:
            eventually(lambda: processes.running(sandbox), lambda alive: not alive)
        finally:
            for pid in everybody:
                processes.kill(pid)


@pytest.mark.wire("head-limit", "error-shape")
@pytest.mark.parametrize("endless", [b"x-a: b\r\n" * 8192, b"x-long: " + b"x" * 65528, b"x" * 65536])
def test_a_head_without_an_end_costs_no_memory(server: Server, endless: bytes) -> None:
    before = processes.memory(server.pid)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), WAIT) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: gateway\r\n")
        with suppress(ConnectionError):  # it hangs up on us
            for _ in range(16 * 64):  # 64 MiB, which would take ten times as much
                connection.sendall(endless)
            pytest.fail("it takes everything")
    assert processes.memory(server.pid) < before + 16 * 1024 * 1024
    assert server.get("/health").status_code == 200


@pytest.mark.wire("head-limit", "error-shape", "request-id")
def test_a_head_that_is_too_large_is_told_so(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for head, status, code in (
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "uri_too_long"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"x-a: b\r\n" * 300 + b"\r\n", 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nx-long: " + b"x" * MAX_UNREAD, 431, "headers_too_large"),
        (b"no request\r\n\r\n", 400, "invalid_request"),
    ):
        with socket.create_connection((host, int(port)), WAIT) as connection, connection.makefile("rb") as answer:
            connection.sendall(head)
            said, headers = answer.readline(), http.client.parse_headers(answer)
            body = json.loads(answer.read(int(headers["content-length"])))
        assert int(said.split()[1]) == body["status_code"] == status
        assert body["code"] == code
        assert body["request_id"] == headers["x-request-id"]


def test_nothing_is_left_when_the_front_door_is_killed() -> None:
    with gateway(None, "--sandbox") as server:
        everybody = eventually(lambda: descendants(server.pid))  # /proc may miss one that is just being waited for
        os.kill(server.pid, signal.SIGKILL)
        try:
            eventually(lambda: [pid for pid in everybody if processes.running(pid)], lambda left: not left)
        finally:
            for pid in everybody:
                processes.kill(pid)


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        (["--sandbox", "--host", "0.0.0.0"], {}, "--sandbox-open"),
        ([], {"port": "abc"}, "CODEGEN_PORT"),
        ([], {"base_url": "ftp://x"}, "CODEGEN_BASE_URL"),
        ([], {"base_url": "http://user:hunter2@x"}, "CODEGEN_BASE_URL"),
        ([], {"org_id": "abc"}, "CODEGEN_ORG_ID"),
        ([], {"api_token_file": "/nowhere"}, "CODEGEN_API_TOKEN_FILE"),
        ([], {"secret_key": "hunter2"}, "CODEGEN_SECRET_KEY"),
        (["--reload", "--workers", "2"], {}, "--reload"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line_that_names_it(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], named: str
) -> None:
    done = ended([*(SERVER[:2] if "port" in settings else SERVER), *arguments], tmp_path, settings)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    assert named in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    "command", [SERVER[:2], [sys.executable, "-m", "codegen_api"], [sys.executable, "-m", "codegen_api.validate"]]
)
def test_it_says_which_version_it_is(command: list[str]) -> None:
    done = completed([*command, "--version"], timeout=STARTING, env=environment(), check=True)
    assert done.stdout == f"codegen-gateway {codegen_api.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]])
def test_an_interrupt_is_told_in_one_line_and_ends_it(arguments: list[str]) -> None:
    with gateway(None, "--sandbox", *arguments) as server:
        workers = int(arguments[1]) if arguments else 1
        eventually(lambda: server.log.read_text().count("startup complete") == workers)
        before = eventually(server.log.read_text, lambda text: "running on" in text)
        for pid in (server.pid, *descendants(server.pid)):  # as a terminal does
            os.kill(pid, signal.SIGINT)
        assert server.process.wait(WAIT) == 0
        said = server.log.read_text().removeprefix(before)
    assert len([line for line in said.splitlines() if "GET /livez" not in line]) == 1, said
