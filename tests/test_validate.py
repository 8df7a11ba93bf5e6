"""The smoke checks, against a real gateway on a sandbox, and against a stub that is right unless told to be wrong."""

import asyncio
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from codegen_api.validate import main
from codegen_api.validate.checks import CHECKS
from codegen_api.validate.client import Failed, ServerEvent, events_of
from tests.commands import completed
from tests.end_to_end import processes

ROOT = Path(__file__).parents[1]
WAIT = 60.0
"""Seconds after which anything here has failed."""

TOKEN = "a-very-secret-token"
TIME = "2026-01-02T03:04:05.678Z"
FIRST, WHOLE, AFTER_RESUME = 3, 6, 9
"""How long the stub's log is at first, when its run ends, and when it ends again."""


# -- against the real thing -------------------------------------------------------------------------------------------


def test_a_real_gateway_passes_every_check() -> None:
    with processes.gateway(None, "--sandbox") as server:
        command = [sys.executable, "-W", "error", "validate_server.py", server.url, "--create", "--json"]
        # slow enough to be seen at work, fast enough to be waited for
        command += ["--metadata", '{"speed": 3}', "--timeout", "45"]
        environment = {**os.environ, "CODEGEN_API_TOKEN": "sandbox-alice"}
        done = completed(command, cwd=ROOT, env=environment, timeout=3 * WAIT)
    report = json.loads(done.stdout)
    assert [check for check in report["checks"] if not check.get("ok")] == []
    assert {check["name"] for check in report["checks"]} == {check.name for check in CHECKS}
    assert (report["url"], report["ok"], done.returncode, done.stderr) == (server.url, True, 0, "")
    assert "sandbox-alice" not in done.stdout


# -- the stub ---------------------------------------------------------------------------------------------------------


class Stub:
    """A gateway with one run, which goes on when somebody comes back to it: nothing here depends on how fast one is.

    ``broken`` names what it does wrong.
    """

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.time = TIME.removesuffix("Z") if broken == "times without Z" else TIME
        self.created = False
        self.length, self.lengths = (1, [1, 4]) if broken == "too short to be cut" else (FIRST, [WHOLE, AFTER_RESUME])
        self.ended = self.resumed = self.late = self.limited = False
        self.looked_at = asyncio.Event()
        self.connections = 0
        self.requests: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/docs", self.docs),
                Route("/redoc", self.docs),
                Route("/docs/assets/app.js", self.asset),
                Route("/openapi.json", self.openapi),
                Route("/users/me", self.me),
                Route("/organizations", self.organizations),
                Route("/agent-runs", self.runs, methods=["GET"]),
                Route("/agent-runs", self.create, methods=["POST"]),
                Route("/agent-runs", self.preflight, methods=["OPTIONS"]),
                Route("/agent-runs/{id:int}", self.run),
                Route("/agent-runs/{id:int}/logs", self.logs),
                Route("/agent-runs/{id:int}/logs/stream", self.stream),
                Route("/agent-runs/{id:int}/logs/stream-ticket", self.ticket, methods=["POST"]),
                Route("/agent-runs/{id:int}/resume", self.resume, methods=["POST"]),
                Route("/{path:path}", self.nothing),
            ]
        )

    # -- answers --

    def answer(
        self, request: Request, body: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        given = {"X-Request-ID": request.headers["x-request-id"], **(headers or {})}
        if "origin" in request.headers and self.broken != "errors without CORS":
            given["Access-Control-Allow-Origin"] = request.headers["origin"]
        return Response(json.dumps(body), status, given, "application/json")

    def error(self, request: Request, status: int, code: str, headers: Mapping[str, str] | None = None) -> Response:
        body = {"error": "A sentence.", "code": code, "status_code": status}
        if self.broken != "errors without request_id":
            body["request_id"] = request.headers["x-request-id"]
        response = self.answer(request, body, status, headers)
        if self.broken == "request ids not echoed":
            response.headers["X-Request-ID"] = "another"
        return response

    def refusal(self, request: Request) -> Response | None:
        token = request.headers.get("authorization")
        if token is None:
            challenge = {} if self.broken == "no challenge" else {"WWW-Authenticate": "Bearer"}
            return self.error(request, 401, "not_authenticated", challenge)
        if token != f"Bearer {TOKEN}":
            bad = "Bearer" if self.broken == "no invalid_token" else 'Bearer error="invalid_token"'
            return self.error(request, 401, "invalid_token", {"WWW-Authenticate": bad})
        return None

    def the_run(self) -> dict[str, Any]:
        status = "completed" if self.ended else "running"
        return {"id": 7, "run_status": status, "ended": self.ended, "created_at": self.time, "result": None}

    def entry(self, position: int, output: object = "done") -> dict[str, Any]:
        return {"created_at": self.time, "thought": "a\u2028b\x85 ü", "tool_output": output, "position": position}

    def page(self, items: list[Any]) -> dict[str, Any]:
        return {"items": items, "total": len(items), "page": 1, "size": 100, "pages": 1}

    # -- routes --

    async def health(self, request: Request) -> Response:
        body: dict[str, Any] = {
            "status": "healthy",
            "version": "1.0",
            "timestamp": self.time,
            "uptime_seconds": 1.5,
            "upstream": {"name": "stub", "reachable": None, "checked_at": None},
            "redis": "not configured",
            "runs_followed": 0,
            "viewers": 0,
        }
        if self.broken == "health lacks something":
            del body["viewers"]
        return self.answer(request, body)

    async def docs(self, _: Request) -> Response:
        source = {
            "docs from a CDN": "https://cdn.example.com/app.js",
            "docs without their assets": "/docs/assets/nowhere.js",
        }.get(self.broken, "/docs/assets/app.js")
        return HTMLResponse(f'<html><link rel="icon" href="data:,"><script src="{source}"></script></html>')

    async def asset(self, _: Request) -> Response:
        return Response("1", media_type="text/javascript")

    async def openapi(self, request: Request) -> Response:
        if self.broken == "openapi without routes":
            return self.answer(request, {"openapi": "3.1.0", "paths": {}})
        paths = ["/health", "/users/me", "/organizations", "/agent-runs", "/agent-runs/{id}/logs/stream"]
        return self.answer(request, {"openapi": "3.1.0", "paths": {path: {} for path in paths}})

    async def me(self, request: Request) -> Response:
        if refusal := self.refusal(request):
            return refusal
        if self.broken == "host out of breath" and not self.limited:
            self.limited = True
            return self.error(request, 429, "upstream_rate_limited", {"Retry-After": "0"})
        if self.broken == "host away":
            return self.error(request, 502, "upstream_unreachable")
        if self.broken == "user 500":
            return self.error(request, 500, "internal_error")
        return self.answer(request, {"id": 1})

    async def organizations(self, request: Request) -> Response:
        items = [{"id": 323, "name": "One"}]
        return self.answer(request, items if self.broken == "organizations no page" else self.page(items))

    async def runs(self, request: Request) -> Response:
        if self.broken == "runs no page":
            return self.answer(request, {"items": [self.the_run()]})
        return self.answer(request, self.page([] if self.broken == "no runs" else [self.the_run()]))

    async def create(self, request: Request) -> Response:
        self.created = True
        status = 200 if self.broken == "create 200" else 201
        headers = {} if self.broken == "create without Location" else {"Location": "/agent-runs/7"}
        if self.broken == "Location elsewhere":
            headers = {"Location": "http://127.0.0.2:1/agent-runs/7"}
        return self.answer(request, self.the_run(), status, headers)

    async def preflight(self, request: Request) -> Response:
        if self.broken == "no origins":
            return self.error(request, 400, "cors_refused")
        if self.broken == "preflight refused in plain text":
            return Response("Disallowed CORS origin", 400)
        allowed = (
            "Authorization" if self.broken == "preflight without Last-Event-ID" else "Authorization, Last-Event-ID"
        )
        origin = request.headers["origin"]
        return Response(headers={"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Headers": allowed})

    async def run(self, request: Request) -> Response:
        if request.path_params["id"] != 7:
            return self.error(request, 422 if self.broken == "unknown run 422" else 404, "not_found")
        if self.connections:
            self.looked_at.set()
        # before it was created it is only the newest that is listed
        wrong = {"id": 8} if self.broken == "another run" and not self.created else {}
        return self.answer(request, {**self.the_run(), **wrong})

    async def logs(self, request: Request) -> Response:
        skip, limit = int(request.query_params.get("skip", 0)), int(request.query_params["limit"])
        logs = [self.entry(position) for position in range(1, self.length + 1)][skip : skip + limit]
        if self.broken == "pages differ" and skip:
            logs[0]["tool_output"] = "another"
        links = {"Link": f'</x?skip={skip + limit}>; rel="next"'} if skip + limit < self.length else {}
        if self.broken == "pages without Link":
            links = {}
        body = {**self.the_run(), "logs": logs, "total_logs": self.length, "page": 1, "size": limit, "pages": 1}
        return self.answer(request, body, headers=links)

    async def resume(self, request: Request) -> Response:
        self.resumed = True
        self.ended = self.broken in ("resume does nothing", "resume unnoticed")
        return self.answer(request, self.the_run())

    async def nothing(self, request: Request) -> Response:
        if self.broken == "404 in HTML":
            return HTMLResponse("<h1>Not found</h1>", 404)
        return self.error(request, 404, "not_found")

    async def ticket(self, request: Request) -> Response:
        if self.broken == "no key":
            return self.error(request, 501, "tickets_not_configured")
        url = {} if self.broken == "ticket without url" else {"url": "/agent-runs/7/logs/stream?ticket=good"}
        return self.answer(request, {"ticket": "good", "expires_at": self.time, **url}, 201)

    async def stream(self, request: Request) -> Response:
        good = request.query_params.get("ticket") == "good" and self.broken != "ticket opens nothing"
        if "authorization" not in request.headers and not good and self.broken != "any ticket will do":
            return self.error(request, 401, "invalid_ticket", {"WWW-Authenticate": "Bearer"})
        last = request.headers.get("last-event-id", request.query_params.get("last_event_id", "0"))
        position = int(re.split("[-~.]", last)[0])
        done = last.endswith(".end") and self.ended and position == self.length
        if done and self.broken != "no 204" and not (self.resumed and self.broken == "resume does nothing"):
            if self.broken == "host out of breath" and not self.late:
                self.late = True
                return StreamingResponse(self.notice(), 200, media_type="text/event-stream")
            return Response(status_code=204)
        self.connections += 1
        headers = {"Cache-Control": "no-cache"}
        if self.broken == "stream may be cached":
            headers = {}
        if self.broken == "stream as JSON":
            return self.answer(request, {})
        if self.broken == "stream refused":
            return self.error(request, 503, "unavailable")
        pieces = self.pieces(position)
        if self.broken == "all at the end":
            pieces = held_back(pieces)
        return StreamingResponse(pieces, 200, headers, "text/event-stream")

    async def notice(self) -> AsyncIterator[bytes]:
        yield event("status", self.the_run()) + event("notice", {"code": "rate_limited", "retry_in": 0.01})

    async def pieces(self, position: int) -> AsyncIterator[bytes]:
        first = self.connections == 1
        yield b"retry: 10\r\n" + event("status", self.the_run()) + b":\n\n"
        if self.broken == "failure":
            yield event("failure", {"code": "internal_error"})
        if self.broken == "resync":
            yield event("resync", {"requested": 2, "log_length": 0}, 0)
        for number in range(position + 1, self.length + 1):
            yield event("log", self.entry(number, None if number == 2 else "done"), number)
        if first and self.broken != "all at the end":
            if self.broken == "too short to be cut":
                await asyncio.wait_for(self.looked_at.wait(), WAIT)
            else:
                await asyncio.sleep(WAIT)  # until the connection is cut
        elif not self.ended:
            yield event("notice", {"code": "recovered", "retry_in": None}) + event("what is this", {})
        if self.broken == "connection closed in the middle" and self.connections == 2:
            yield event("notice", {"code": "reconnect", "retry_in": 0.01, "last_event_id": str(self.length)})
            return
        if self.broken == "never over":
            await asyncio.sleep(WAIT)
        for piece in self.rest():
            yield piece

    def rest(self) -> Iterator[bytes]:
        """How the log goes on, and its end."""
        known = self.length
        if not self.ended:
            self.length = self.lengths.pop(0)
        if self.broken not in ("amendment withheld", "too short to be cut"):
            yield event("log.amended", self.entry(2), f"{known}-{known}.2~abcd")
        for number in range(known + 1, self.length + 1):
            if number == FIRST + 1 and self.broken == "entry dropped":
                continue
            frame = event("log", self.entry(number), 99 if self.broken == "wrong ids" else number)
            yield frame * (2 if number == FIRST + 1 and self.broken == "entry doubled" else 1)
        self.ended = True
        yield event("status", self.the_run())
        end = {**self.the_run(), "total_logs": 99 if self.broken == "wrong total" else self.length}
        if self.broken != "no end":
            yield event("end", end, f"{self.length}.end")


def event(name: str, data: object, number: int | str | None = None) -> bytes:
    own = "" if number is None else f"id: {number}\n"
    return f"{own}event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


async def held_back(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"".join([piece async for piece in pieces])


class Serving:
    """An HTTP server in a thread, for one stub after the other."""

    def __init__(self) -> None:
        self.stub = Stub()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self, lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.stub.requests.append(f"{scope['method']} {scope['path']}")
        await self.stub.app(scope, receive, send)

    def __enter__(self) -> "Serving":
        self._thread.start()
        give_up = time.monotonic() + WAIT
        while not self._server.started:
            assert time.monotonic() < give_up, "the stub did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with Serving() as serving:
        yield serving


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("CODEGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # away from any .env


def check(served: Serving, broken: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, str]]:
    """The exit status, and how each check went against a stub that is broken in this way."""
    served.stub = Stub(broken)
    status = main([served.url, "--token", TOKEN, "--json", *more])
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is (status == 0)
    assert TOKEN not in json.dumps(report)
    return status, {
        each["name"]: "skipped" if each.get("skipped") else "ok" if each["ok"] else "FAILED"
        for each in report["checks"]
    }


# -- what fails -------------------------------------------------------------------------------------------------------

ERRORS = {"no token", "bad token", "unknown run", "unknown route", "ticket"}

BROKEN = {
    "health lacks something": {"health"},
    "docs from a CDN": {"documentation"},
    "docs without their assets": {"documentation"},
    "openapi without routes": {"openapi"},
    "no challenge": {"no token"},
    "no invalid_token": {"bad token"},
    "errors without request_id": ERRORS,
    "request ids not echoed": ERRORS,
    "user 500": {"user"},
    "organizations no page": {"organizations"},
    "runs no page": {"list of runs"},
    "another run": {"one run"},
    "times without Z": {"times"},
    "unknown run 422": {"unknown run"},
    "404 in HTML": {"unknown route"},
    "preflight without Last-Event-ID": {"preflight"},
    "preflight refused in plain text": {"preflight"},
    "errors without CORS": {"preflight"},
    "create 200": {"create"},
    "create without Location": {"create"},
    "Location elsewhere": {"create"},
    "stream as JSON": {"stream"},
    "stream may be cached": {"stream"},
    "stream refused": {"stream"},
    "wrong ids": {"stream"},
    "failure": {"stream"},
    "resync": {"stream"},
    "all at the end": {"live"},
    "entry dropped": {"cut and reconnect"},
    "entry doubled": {"cut and reconnect"},
    "no end": {"end"},
    "wrong total": {"end"},
    "never over": {"end"},
    "pages differ": {"log by pages"},
    "pages without Link": {"log by pages"},
    "amendment withheld": {"log by pages"},
    "no 204": {"nothing after the end"},
    "ticket without url": {"ticket"},
    "ticket opens nothing": {"ticket"},
    "any ticket will do": {"ticket"},
    "resume does nothing": {"resume"},
    "resume unnoticed": {"resume"},
}
"""What is wrong with the gateway, and the checks that have to see it."""


@pytest.mark.parametrize("broken", BROKEN)
def test_a_gateway_with_one_fault_fails_exactly_the_checks_for_it(
    broken: str, served: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    patience = "0.5" if broken == "never over" else "20"
    status, outcomes = check(served, broken, capsys, "--create", "--timeout", patience)
    assert {name for name, outcome in outcomes.items() if outcome == "FAILED"} == BROKEN[broken]
    assert status == 1


def test_every_check_has_been_seen_failing() -> None:
    assert set().union(*BROKEN.values()) == {check.name for check in CHECKS}


@pytest.mark.parametrize("harmless", ["", "connection closed in the middle", "host out of breath"])
def test_a_gateway_that_keeps_its_contract_passes(
    harmless: str, served: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    status, outcomes = check(served, harmless, capsys, "--create", "--timeout", "20")
    assert outcomes == {check.name: "ok" for check in CHECKS}
    assert status == 0


# -- what is skipped --------------------------------------------------------------------------------------------------


def test_a_check_without_what_it_needs_is_skipped_with_the_reason(
    served: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    served.stub = Stub("create 200")
    assert main([served.url, "--token", TOKEN, "--create"]) == 1
    rows = {line[:20].rstrip(): line for line in capsys.readouterr().out.splitlines()}
    assert "skipped" in rows["stream"]
    assert "'create' failed" in rows["stream"]
    assert "'stream' was skipped" in rows["live"]


@pytest.mark.parametrize(
    ("state", "skipped"),
    [
        ("no runs", {"one run"}),
        ("no origins", {"preflight"}),
        ("no key", {"ticket"}),
        ("too short to be cut", {"cut and reconnect", "log by pages"}),
    ],
)
def test_what_cannot_be_checked_is_skipped_and_no_failure(
    state: str, skipped: set[str], served: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    status, outcomes = check(served, state, capsys, "--create", "--timeout", "20")
    assert {name for name, outcome in outcomes.items() if outcome != "ok"} == skipped
    assert status == 0


def test_without_create_nothing_is_written(served: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    status, outcomes = check(served, "", capsys)
    assert status == 0
    assert set(outcomes) == {check.name for check in CHECKS if not check.creates}
    assert [request for request in served.stub.requests if request.startswith("POST")] == []


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_table_shows_each_check_its_outcome_its_time_and_what_was_seen(
    served: Serving, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEGEN_API_TOKEN", TOKEN)
    served.stub = Stub("user 500")
    assert main([served.url + "/"]) == 1
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert next(row for row in rows if row[:1] == ["user"])[1] == "FAILED"
    assert "answered 500 (internal_error), not 200" in output
    assert f"{served.url}: 12 ok, 0 skipped, 1 failed" in output
    assert TOKEN not in output


def test_where_the_token_is_not_good_that_is_said_once_and_what_follows_is_skipped(
    served: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    served.stub = Stub()
    assert main([served.url, "--token", "a-wrong-token", "--create", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    failed = [each for each in checks if each.get("ok") is False]
    assert [each["name"] for each in failed] == ["user"]
    assert failed[0]["detail"] == "the token is not good here: 401 (invalid_token)"
    skipped = {each["name"]: each["detail"] for each in checks if each.get("skipped")}
    assert set(skipped) >= {"organizations", "list of runs", "unknown run", "create"}
    assert {skipped[name] for name in ("organizations", "list of runs", "unknown run", "create")} == {
        "the token is not good here"
    }


def test_where_the_host_is_not_reached_that_is_said_once(served: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    status, outcomes = check(served, "host away", capsys)
    assert status == 1
    assert [name for name, outcome in outcomes.items() if outcome == "FAILED"] == ["user"]
    assert outcomes["organizations"] == outcomes["unknown run"] == "skipped"


@pytest.mark.parametrize("elsewhere", ["/codegen", "/docs/assets", "/docs/assets/app.js?"])
def test_what_is_no_gateway_is_one_line(elsewhere: str, served: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    served.stub = Stub("404 in HTML" if elsewhere == "/codegen" else "")
    url = served.url + elsewhere.rstrip("?")
    assert main([url, "--token", TOKEN]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"What answers at {url} is no gateway, or not its whole address: /health gave 404 (")
    assert captured.err.count("\n") == 1


def test_an_interrupt_ends_the_checks_without_a_traceback(
    served: Serving, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("codegen_api.validate._run", interrupted)
    assert main([served.url, "--token", TOKEN]) == 130
    assert capsys.readouterr().err == ""


def test_an_unreachable_gateway_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert main([url, "--token", TOKEN]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"Nobody answers at {url}: Connection refused\n"

    assert main([url, "--token", TOKEN, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert [each["name"] for each in report["checks"]] == ["reachable"]


def test_a_gateway_that_goes_away_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Leaving() as leaving:
        assert main([leaving.url, "--token", TOKEN, "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    failed = [each for each in checks if each.get("ok") is False]
    assert [each["detail"] for each in failed] == ["nobody answers any more"]
    assert all(each["detail"] == "nobody answers any more" for each in checks if each.get("skipped"))
    assert len(checks) == len([check for check in CHECKS if not check.creates])


class Leaving:
    """Answers one request and is gone."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(WAIT)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Leaving":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with self._socket, connection:
            connection.settimeout(WAIT)
            connection.recv(65536)
            self._socket.close()
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ftp://127.0.0.1"],
        ["http://"],
        ["http://name:password@127.0.0.1"],
        ["http://127.0.0.1?x=1"],
        ["--timeout", "0"],
        ["--timeout", "soon"],
        ["--metadata", "[]"],
        ["--metadata", "{"],
        ["--origin", "https://ü"],
        ["--origin", "app.example.com"],
        ["--token", "two words"],
        ["--what"],
    ],
)
def test_arguments_that_make_no_sense_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--token", TOKEN, *arguments])
    assert exit_.value.code == 2
    output = capsys.readouterr()
    assert "password" not in output.err + output.out
    assert TOKEN not in output.err + output.out


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_it_exits_with_2_and_names_the_variable(
    token: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if token is not None:
        monkeypatch.setenv("CODEGEN_API_TOKEN", token)
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "CODEGEN_API_TOKEN" in capsys.readouterr().err


def test_settings_that_are_not_valid_exit_with_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEGEN_PORT", "many")
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "CODEGEN_PORT" in capsys.readouterr().err


# -- the reader of events ---------------------------------------------------------------------------------------------


def read(*chunks: bytes) -> list[ServerEvent]:
    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[ServerEvent]:
        return [event async for event in events_of(source())]

    return asyncio.run(collect())


def test_events_are_the_same_wherever_the_bytes_are_split() -> None:
    stream = "retry: 20\r\nevent: a\ndata: ü\u2028\n\n:\n\nid: 3\ndata:1\ndata: 2\r\n\r\ndata: never ended\n".encode()
    expected = [ServerEvent("a", "ü\u2028", None, 20), ServerEvent("message", "1\n2", "3", 20)]
    assert read(stream) == expected
    assert read(*(stream[index : index + 1] for index in range(len(stream)))) == expected


def test_a_line_without_end_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_api.validate.client.LONGEST_LINE", 10)
    with pytest.raises(Failed):
        read(b"data: ", b"0123456789")
