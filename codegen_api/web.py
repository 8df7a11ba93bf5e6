"""What every dialect shares on the wire: request ids, cross-origin rules, who is calling, and errors of every origin.

``Edge`` is the outermost layer of the application: even an answer to a fault inside passes through it, so that it
carries its request id and its cross-origin headers, and the text of an unexpected exception never leaves the process.
"""

import asyncio
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable
from typing import Annotated
from weakref import WeakSet

from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codegen_api.auth.callers import Callers
from codegen_api.auth.quota import WINDOW, Left, Quota
from codegen_api.errors import (
    Detail,
    GatewayError,
    InsufficientScope,
    InvalidRequest,
    InvalidToken,
    LoopDetected,
    NotAuthenticated,
    NotFound,
    RateLimited,
    Rejected,
    ShuttingDown,
    TokenInUrl,
    UpstreamTimeout,
)
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.telemetry import Observer, Trace, log_fault, logger, trace

TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
UNSENT_BYTES = 16 * 1024
"""How much of a stream the kernel may hold that was not sent: so that a slow reader shows as slow, not as stuck."""

MOST_URI, MOST_HEADERS = 16 * 1024, 64 * 1024
"""Bytes of a request's target, with its query, and of all its headers."""
MOST_FIELDS = 200

REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Cache-Control",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-Organization-ID",
    "X-Request-ID",
    "traceparent",
    "tracestate",
    "baggage",
)
EXPOSED_HEADERS = (
    "X-Request-ID",
    "Idempotent-Replayed",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Location",
    "Content-Location",
    "Link",
)
LOCAL_PAGES = r"http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?"

PROBES = ("/livez", "/readyz")
"""Asked for under any name: probes and load balancers call a machine by its address."""

_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::[0-9]*)?")
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_PASSED_ON = ("traceparent", "tracestate", "baggage")

RenderError = Callable[[GatewayError], Response]

bearer = HTTPBearer(
    auto_error=False,
    description="A token of the hosted API; in the sandbox `sandbox-alice`. Where the deployment has its own users, a"
    " JWT or a key.",
)
SCOPE = "x-required-scope"


class MethodNotAllowed(InvalidRequest):
    code = "method_not_allowed"
    default_message = "This route does not know that method."


class PayloadTooLarge(InvalidRequest):
    code = "payload_too_large"
    default_message = "The request is too large."


class UriTooLong(InvalidRequest):
    code = "uri_too_long"
    default_message = "The URL of the request is too long."


class HeadersTooLarge(InvalidRequest):
    code = "headers_too_large"
    default_message = "The headers of the request are too many or too large."


class UntrustedHost(InvalidRequest):
    code = "untrusted_host"
    default_message = "The gateway is not called by this name."


class CorsRefused(InvalidRequest):
    code = "cors_refused"
    default_message = "Pages of this origin may not send this request here."


# -- dependencies -----------------------------------------------------------------------------------------------------


async def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def authenticate(request: Request) -> Caller:
    """Who is calling, by the Authorization header.

    Raises:
        NotAuthenticated: nobody says who.
        InvalidToken: somebody does, and it is not true.
        InsufficientScope: this route is not for them.
        AuthUnavailable: it cannot be found out just now.
        RateLimited: they have asked often enough.
    """
    if not bears_token(request):
        raise NotAuthenticated
    token = request.headers["authorization"].partition(" ")[2].strip()
    if not _TOKEN.fullmatch(token):
        raise InvalidToken
    return await identify(request, token)


async def identify(request: Request, token: str) -> Caller:
    """Whose token this is, who may do what the route does."""
    callers: Callers = request.app.state.callers
    caller = await callers.authenticate(token)
    await _count(request, caller)
    scope: str | None = request.scope["route"].openapi_extra[SCOPE]  # a route that says nothing is open to nobody
    if scope is not None and not caller.may(scope):
        raise InsufficientScope.lacking(scope)
    return caller


def needs(scope: str | None) -> dict[str, str | None]:
    """What each route that wants to know its caller says of itself: which scope they need, if any."""
    return {SCOPE: scope}


async def _count(request: Request, caller: Caller) -> None:
    """Count this request of ``caller``, where the deployment counts; the edge will say in the answer what is left.

    Raises:
        RateLimited: they have asked often enough.
    """
    quota: Quota | None = request.app.state.quota
    if quota is not None:
        left = request.scope["quota_left"] = await quota.take(caller.principal)
        if not left.granted:
            raise RateLimited("You have made as many requests as you may in a minute.", retry_after=left.seconds)


def bears_token(request: Request) -> bool:
    return request.headers.get("authorization", "").partition(" ")[0].lower() == "bearer"


async def wanted_organization(
    name: Annotated[
        str | None,
        Header(alias="X-Organization-ID", description="The organization that is meant; else the deployment's."),
    ] = None,
) -> str | None:
    """The organization that the request names, if it names one."""
    return name or None


Door = Annotated[Gateway, Depends(gateway_of)]
Asker = Annotated[Caller, Depends(authenticate)]
WantedOrganization = Annotated[str | None, Depends(wanted_organization)]


# -- errors -----------------------------------------------------------------------------------------------------------


def understood(error: Exception) -> GatewayError:
    """Any exception that the framework raises, in our words."""
    match error:
        case GatewayError():
            return error
        case RequestValidationError():
            # neither the input nor the context of a fault: they quote prompts
            return Rejected(
                details=[Detail(tuple(item["loc"]), str(item["msg"]), str(item["type"])) for item in error.errors()]
            )
        case HTTPException(status_code=404):
            return NotFound("There is no such route.")
        case HTTPException(status_code=405):
            return MethodNotAllowed()
        case HTTPException(status_code=413):
            return PayloadTooLarge()
        case HTTPException(status_code=status) if 400 <= status < 500:
            return InvalidRequest()
        case _:
            return GatewayError()


# -- the edge ---------------------------------------------------------------------------------------------------------


class Cors(CORSMiddleware):
    """Starlette's cross-origin rules, with refused preflights answered in the gateway's own shape.

    What the edge refuses (``refusal`` in the scope) is refused as a preflight too.
    """

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...], local_pages: bool, render: RenderError) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_origin_regex=LOCAL_PAGES if local_pages else None,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=REQUEST_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age=600,
        )
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["refusal"] and "origin" in headers:
            await self.simple_response(scope, receive, send, request_headers=headers)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refusal = self._render(CorsRefused())
        for name, value in response.headers.items():
            if name == "vary" or name.startswith("access-control-"):
                refusal.headers[name] = value
        return refusal


class Edge:
    """The outermost layer: request ids, one log line a request, and inside of the cross-origin rules the last line of
    defence.

    ``hosts`` are the names it may be called by. ``via`` is the name under which the gateway forwards, so that it knows
    itself again; ``observer`` hears of each answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        render: RenderError,
        hosts: tuple[str, ...],
        via: str,
        origins: tuple[str, ...],
        local_pages: bool,
        root_path: str,
        max_body: int,
        observer: Observer,
    ) -> None:
        self._app = app
        self._cors = Cors(self._guarded, origins=origins, local_pages=local_pages, render=render)
        self._render = render
        self._hosts = hosts
        self._via = via
        self._root_path = root_path
        self._max_body = max_body
        self._observer = observer
        self._transports: WeakSet[object] = WeakSet()
        self._requests: set[asyncio.Task[object]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        token = trace.set(Trace(request_id, tuple((name, headers[name]) for name in _PASSED_ON if name in headers)))
        scope["connection"] = self._connection(send)
        scope["root_path"] = self._root_path or scope.get("root_path", "")
        scope["refusal"] = self._refusal(scope)
        status: int | None = None
        started = time.monotonic()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                nonlocal status
                status = message["status"]
                marked = MutableHeaders(scope=message)
                marked["X-Request-ID"] = request_id
                if "origin" not in marked.get("vary", "").lower():
                    marked.add_vary_header("Origin")
                left: Left | None = scope.get("quota_left")
                if left is not None:
                    marked["RateLimit-Policy"] = f'"default";q={left.quota};w={WINDOW}'
                    marked["RateLimit"] = f'"default";r={left.remaining};t={left.seconds}'
            await send(message)

        try:
            await self._cors(scope, receive, send_marked)
        finally:
            seconds = time.monotonic() - started
            shown = (scope["method"], _loggable(scope["path"]), status or "-", seconds * 1000)
            logger.info("%s %s %s %.0f ms", *shown)
            self._observer.answered(getattr(scope.get("route"), "path", None), scope["method"], status, seconds)
            trace.reset(token)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = complete = False
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:
                raise HTTPException(413)
            return message

        async def send_noted(message: Message) -> None:
            nonlocal answered, complete
            answered = True
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a server always runs in one
        self._requests.add(task)
        try:
            refusal: GatewayError | None = scope["refusal"]
            await (self._render(refusal) if refusal else self._app)(scope, receive_some, send_noted)
        except asyncio.CancelledError:
            # the process is about to stop, by `give_up` or by the server's patience; it goes no further, because
            # the server would log it as a fault
            if not answered:
                harmless = scope["method"] in ("GET", "HEAD", "OPTIONS")
                await self._render(ShuttingDown(retry_after=1) if harmless else UpstreamTimeout())(scope, receive, send)
            elif not complete:
                scope["connection"].abort()
        except Exception as error:  # process boundary: whatever went wrong inside, its text stays inside
            log_fault("answering a request", error)
            if not answered:
                await self._render(GatewayError())(scope, receive, send)
            elif not complete:
                scope["connection"].abort()  # cut short, so that the client does not take this for the whole
        finally:
            self._requests.discard(task)

    def give_up(self) -> None:
        """Answer whoever still waits that this process is about to stop."""
        for task in list(self._requests):
            task.cancel()

    def abort_stuck(self) -> None:
        """Cut every connection that has not taken what was written to it: closing it politely would wait for that."""
        for transport in list(self._transports):
            if transport.get_write_buffer_size() > 0:  # type: ignore[attr-defined]
                transport.abort()  # type: ignore[attr-defined]

    def _refusal(self, scope: Scope) -> GatewayError | None:
        headers = Headers(scope=scope)
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > MOST_URI:
            return UriTooLong()
        size = sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw)
        if size > MOST_HEADERS or len(headers.raw) > MOST_FIELDS:
            return HeadersTooLarge()
        if not self._is_trusted(headers.getlist("host")) and scope["path"].removeprefix(self._root_path) not in PROBES:
            return UntrustedHost()
        if any(self._via in value for value in headers.getlist("via")):
            return LoopDetected()
        if b"access_token=" in scope["query_string"]:
            return TokenInUrl()
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:19]) > self._max_body:
            return PayloadTooLarge()
        return None

    def _is_trusted(self, given: list[str]) -> bool:
        if "*" in self._hosts:
            return True
        found = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
        return found is not None and any(
            found[1].endswith(host[1:]) if host.startswith("*.") else found[1] == host for host in self._hosts
        )

    def _connection(self, send: Send) -> "Connection":
        """ASGI has no word for a connection; uvicorn's ``send`` knows its transport."""
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        if transport is not None:
            self._transports.add(transport)
        return Connection(transport)


class Connection:
    """A client's connection, as far as the server lets us know it."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self._transport = transport

    def unsent(self) -> int | None:
        return None if self._transport is None else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def stream(self) -> None:
        """Keep what waits to be sent with us instead of in the kernel, which takes megabytes and tells nobody."""
        given = None if self._transport is None else self._transport.get_extra_info("socket")
        if given is not None and TCP_NOTSENT_LOWAT is not None and given.family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(fileno=os.dup(given.fileno())) as connection:  # uvloop's own object cannot do this
                connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _loggable(path: str) -> str:
    """A path as it may stand in a log line: on one line, and not endless."""
    return path[:200].encode("unicode_escape").decode()
