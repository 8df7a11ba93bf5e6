"""What happens to a request before a route sees it: it is counted, may be struck by a fault, and must be allowed.

The order is that of the host, as far as known: first the token (401), then the rate limit (429), and only
then the body and its validation (422). Faults come before all three, since they stand for what lies between a
client and the host; only `odd_json` and `half_body` spoil the answer the request would have got. Admin requests
pass untouched. This is the outermost ASGI layer on purpose: cutting a connection needs the server's own
transport, which any layer in between would hide.
"""

import asyncio
import re
from dataclasses import dataclass
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import invalid_token, json_response, rate_limited
from .bodies import FaultOrder
from .directory import owner
from .faults import play, seconds_of
from .host import UNKNOWN, operation_of
from .state import SandboxState

ADMIN = "/_sandbox/"
"""The prefix of the admin routes; the host has nothing there."""


@dataclass(frozen=True, slots=True)
class HostMiddleware:
    """The ASGI app around the routes. `retry_after`: whether a 429 carries that header."""

    app: ASGIApp
    state: SandboxState
    retry_after: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or f"{scope['path']}/".startswith(ADMIN):
            await self.app(scope, receive, send)
            return
        operation = operation_of(scope["method"], scope["path"])
        user = owner(Headers(scope=scope).get("authorization"))
        name = user.name if user else None
        answered = self.state.requests.begin(scope, operation, name)
        # The host gives every answer an id of its own, whatever id the client sent.
        extra = [(b"x-request-id", str(uuid4()).encode())]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered(message["status"])
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        async def routes(scope: Scope, receive: Receive, send: Send) -> None:
            scope["user"] = user
            await (self._refusal(operation, name) or self.app)(scope, receive, send)

        harsh: FaultOrder | None = None
        for order in self.state.faults.strike(operation, name):
            if order.kind == "latency":
                await asyncio.sleep(seconds_of(order, 1.0))
            elif order.kind == "cookie":
                extra.append((b"set-cookie", f"session={order.value}; Path=/".encode()))
            else:
                harsh = order
        if harsh is None:
            await routes(scope, receive, answer)
        else:
            await play(harsh, routes, scope, receive, answer, send)

    def _refusal(self, operation: str, user: str | None) -> Response | None:
        """The 401 or 429 in place of the real answer. An unknown path needs no token and costs nothing."""
        if operation == UNKNOWN:
            return None
        if user is None:
            return invalid_token()
        wait = self.state.limits.take(user, operation)
        return None if wait is None else rate_limited(wait if self.retry_after else None)


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The ASGI app, for requests whose `Host` is one of `names`. Otherwise any web page could make a name of its own
    resolve to this machine and reach it: the tokens are public, and the admin routes need none.
    """

    app: ASGIApp
    names: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = re.sub(r":[0-9]*$", "", Headers(scope=scope).get("host", ""))
        refusal = json_response({"detail": "The sandbox is not called by this name; see --open."}, 400)
        await (self.app if name.lower() in self.names else refusal)(scope, receive, send)
