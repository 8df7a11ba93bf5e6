"""What happens to a request before a route sees it: it is booked, may be struck by a fault, and must be allowed.

The order is that of the host as far as it is known: first the token (401), then the rate limit (429), and only
then the body and its validation (422). Faults come before all three, since they stand for what lies between a
client and the host; only `odd_json` and `half_body` spoil the answer the request would have got. Admin requests
pass untouched. This is the outermost ASGI layer on purpose: cutting a connection needs the server's own
transport, which any layer in between would hide.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .bodies import FaultOrder
from .connection import hang, reset, send_half
from .directory import Directory, User
from .encoding import encode
from .errors import INVALID_TOKEN, RATE_LIMITED, Refusal
from .faults import ANSWERS, Answer, Faults
from .ledger import Ledger
from .limits import Limits
from .oddities import odd
from .operations import UNKNOWN, Recognition

ADMIN = "/_sandbox/"
"""Where the admin routes lie; the host has nothing there."""

USER = "codegen_api.sandbox.user"
"""The key in an ASGI scope under which the routes find the authenticated User."""


@dataclass(frozen=True, slots=True)
class Front:
    """The ASGI app around the routes. `retry_after` says whether a 429 carries that header."""

    app: ASGIApp
    directory: Directory
    ledger: Ledger
    limits: Limits
    faults: Faults
    clock: Callable[[], float]
    retry_after: bool
    recognition: Recognition = field(default_factory=Recognition)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not f"{scope['path']}/".startswith(ADMIN):
            await self._receive(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _receive(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request to the host, from its arrival to its answer."""
        operation = self.recognition.name(scope["method"], scope["path"])
        user = self.directory.owner(_header(scope, b"authorization"))
        name = user.name if user else None
        request = self.ledger.open(
            self.clock(),
            operation=operation,
            user=name,
            method=scope["method"],
            path=self.directory.without_tokens(scope["path"]),
            query=self.directory.without_tokens(scope["query_string"].decode("latin-1")),
            headers=scope["headers"],
        )
        # The host gives every answer an id of its own, whatever id the client sent.
        extra = [(b"x-request-id", str(uuid4()).encode())]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.ledger.close(request, message["status"])
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        harsh = await self._bear(operation, name, extra)
        if harsh is None:
            await self._serve(scope, receive, answer, operation, user)
        elif harsh.kind in ANSWERS:
            await ANSWERS[harsh.kind](harsh).send(answer)
        elif harsh.kind == "reset":
            await reset(receive, send)
        elif harsh.kind == "hang":
            await hang(receive, send, _seconds(harsh, 60.0))
        else:
            held = _Held()
            await self._serve(scope, receive, held.hold, operation, user)
            if harsh.kind == "odd_json":
                await held.release(answer, odd(held.body, scope["query_string"].decode("latin-1")))
            else:
                await answer(held.start)
                await send_half(held.body, receive, send)

    async def _bear(self, operation: str, user: str | None, extra: list[tuple[bytes, bytes]]) -> FaultOrder | None:
        """Suffer the gentle faults that strike, with `extra` for headers; the harsh one, if any, is left to do."""
        harsh: FaultOrder | None = None
        for fault in self.faults.strike(operation, user):
            order = fault.order
            if order.kind == "latency":
                await asyncio.sleep(_seconds(order, 1.0))
            elif order.kind == "cookie":
                extra.append((b"set-cookie", f"session={order.value}; Path=/".encode()))
            else:
                harsh = order
        return harsh

    async def _serve(self, scope: Scope, receive: Receive, send: Send, operation: str, user: User | None) -> None:
        """The real answer. An unknown path has no owner and no price."""
        if operation != UNKNOWN:
            if user is None:
                await Answer(401, encode({"detail": INVALID_TOKEN})).send(send)
                return
            wait = self.limits.take(user.name, operation)
            if wait is not None:
                headers = (("retry-after", str(wait)),) if self.retry_after else ()
                await Answer(429, encode(Refusal(*RATE_LIMITED).to_wire()), headers=headers).send(send)
                return
        scope[USER] = user
        await self.app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Private:
    """The ASGI app, for who calls it by one of `names`. A page that makes a name of its own lead here is refused: the
    tokens are public, and the admin routes want none.
    """

    app: ASGIApp
    names: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = re.sub(r":[0-9]*$", "", _header(scope, b"host") or "") if scope["type"] == "http" else ""
        if scope["type"] == "http" and name.lower() not in self.names:
            await Answer(400, encode({"detail": "The sandbox is not called by this name; see --open."})).send(send)
        else:
            await self.app(scope, receive, send)


def _seconds(order: FaultOrder, otherwise: float) -> float:
    return otherwise if order.seconds is None else order.seconds


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


@dataclass(slots=True)
class _Held:
    """A real answer, held back. The routes answer whole bodies at once, so nothing is lost by waiting."""

    start: Message = field(default_factory=dict)
    body: bytes = b""

    async def hold(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")

    async def release(self, send: Send, body: bytes) -> None:
        """Let the answer go with another body."""
        kept = [(name, value) for name, value in self.start["headers"] if name != b"content-length"]
        kept.append((b"content-length", str(len(body)).encode()))
        await send({**self.start, "headers": kept})
        await send({"type": "http.response.body", "body": body})
