"""A gateway under test as its clients see it: the whole ASGI application in front of a host in memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from codegen_api import Settings, create_app
from codegen_api.app import Application
from codegen_api.http.edge import Edge
from codegen_api.settings.environment import stripped
from tests.fakehost import FakeHost
from tests.leaks import WATCH
from tests.stores.model import ModelStore

CALLER = "alice"
AUTHORIZED = {"Authorization": f"Bearer {CALLER}"}

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in real time: the framework uses threads, for which virtual time does not wait."""

    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await main

    return asyncio.run(bounded())


class Given(Settings):
    """Settings that come from the test alone: looking for them in the environment takes longer than all else."""

    def __init__(self, **more: Any) -> None:
        BaseModel.__init__(self, **stripped(more))


def settings(**more: Any) -> Settings:
    return Given(**more)


def gateway_app(
    host: Any = None,
    *,
    title: str = "codegen_api",
    version: str | None = None,
    store: Any = None,
    embedder: Any = None,
    **more: Any,
) -> FastAPI:
    return create_app(
        settings(**more),
        title=title,
        version=version,
        upstream=host or FakeHost(),
        store=store or ModelStore(),
        embedder=embedder,
    )


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """The application's life as a server gives it: through the ASGI protocol."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    life = asyncio.ensure_future(app(scope, inbox.get, outbox.put))
    try:
        await inbox.put({"type": "lifespan.startup"})
        assert (await outbox.get())["type"] == "lifespan.startup.complete"
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await life
    assert (await outbox.get())["type"] == "lifespan.shutdown.complete"


@dataclass
class Site:
    """What a client can do."""

    app: FastAPI
    host: Any

    @property
    def edge(self) -> Edge:
        assert isinstance(self.app, Application)
        return self.app.edge

    async def ask(
        self, method: str, path: str, *, token: str | None = CALLER, headers: Any = None, **more: Any
    ) -> httpx.Response:
        given = httpx.Headers(headers)
        if token is not None and "authorization" not in given:
            given["Authorization"] = f"Bearer {token}"
        given.setdefault("Accept", "*/*")
        WATCH.sent(given, more.get("json"))
        # without a client, which takes a quarter of the time and has nothing to add
        request = httpx.Request(method, httpx.URL("http://localhost").join(path), headers=given, **more)
        answer = await httpx.ASGITransport(self.app).handle_async_request(request)
        await answer.aread()
        answer.request = request
        WATCH.answer(answer.status_code, answer.text)
        return answer

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.ask("POST", path, **({} if body is None else {"json": body}), **more)


@asynccontextmanager
async def serving(host: Any = None, **more: Any) -> AsyncIterator[Site]:
    """A gateway that is up. ``more`` are settings, or ``title``, ``version``, ``store`` and
    ``embedder``."""
    host = FakeHost() if host is None else host
    app = gateway_app(host, **more)
    async with lifespan(app):
        yield Site(app, host)


def refusal(status: int, headers: Mapping[str, str], body: str | bytes) -> dict[str, Any]:
    """What an error tells a client: its fields in JSON, or a sentence, as ``error``, with the rest in headers.

    ``headers`` are those of httpx, or have their names in lower case.
    """
    text = body if isinstance(body, str) else body.decode()
    if not headers["content-type"].startswith("text/plain"):
        said: dict[str, Any] = json.loads(text)
        if "jsonrpc" in said:
            error = said["error"]
            return {"rpc_code": error["code"], **error.get("data", {}), "error": error["message"]}
        return said["error"] if said.keys() == {"error"} and isinstance(said["error"], dict) else said
    assert text, "an error without a sentence"
    found = {"code": headers["x-error-code"], "status_code": status, "error": text}
    return {**found, "request_id": headers["x-request-id"]}


def refused(answer: httpx.Response) -> dict[str, Any]:
    """The same, of an answer."""
    return refusal(answer.status_code, answer.headers, answer.text)


def request_scope(method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """A request as a server hands it in, or as no server should."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.decode(errors="replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }


class Connection:
    """One request whose answer is taken piece by piece, as a server's connection would take it.

    ``transport`` stands in for the server's: the application looks for it behind ``send``, to be able to cut it.
    """

    def __init__(
        self, app: Any, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes = b""
    ) -> None:
        self.messages: list[Any] = []
        self.transport = Transport()
        self.blocked: asyncio.Event | None = None
        self._gone = asyncio.Event()
        self._arrived = asyncio.Event()
        self._asked = False
        self._body = body
        path, _, query = path.partition("?")
        given = {"Host": "localhost", **(headers or AUTHORIZED)}
        sent = [(name.lower().encode(), value.encode()) for name, value in given.items()]
        scope = request_scope(method, path.encode(), query.encode(), sent)
        self.task = asyncio.ensure_future(app(scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.blocked is not None and message["type"] == "http.response.body":
            await self.blocked.wait()
        self.messages.append(message)
        self._arrived.set()

    async def received(self, count: int) -> None:
        """Until so many messages have come."""
        while len(self.messages) < count:
            self._arrived.clear()
            await self._arrived.wait()

    def leave(self) -> None:
        self._gone.set()

    async def left(self) -> None:
        """Leave, and wait until the application is done with it."""
        self.leave()
        await self.task

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> httpx.Headers:
        return httpx.Headers(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        body = b"".join(message["body"] for message in self.messages[1:])
        WATCH.answer(self.status, body.decode())
        return body

    @property
    def complete(self) -> bool:
        last = self.messages[-1] if self.messages else {"type": "nothing"}
        return last["type"] == "http.response.body" and not last.get("more_body", False)


class Transport:
    """A server's transport, as far as it matters here."""

    def __init__(self) -> None:
        self.aborted = False
        self.waiting = 0

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.waiting
