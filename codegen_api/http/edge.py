"""The outermost layer, which applies to every request and response.

Even responses to internal errors pass through it, so they carry a request id and CORS headers, and the text of an
unexpected exception never leaves the process.
"""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import chain
from weakref import WeakSet

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codegen_api import origins
from codegen_api.auth.quota import WINDOW, QuotaState
from codegen_api.errors import GatewayError, Interrupted, InvalidRequest, LoopDetected, ShuttingDown, TokenInUrl
from codegen_api.http import web
from codegen_api.http.delivery import Delivery, ServerConnection
from codegen_api.http.request_bodies import BodyBudget, IncomingBody
from codegen_api.http.sse import HEAD_ONLY
from codegen_api.telemetry import Observer, Trace, Tracer, log_fault, trace
from codegen_api.telemetry.log_lines import log_request

MAX_URI, MAX_HEADERS = 16 * 1024, 64 * 1024
"""Maximum bytes of a request target with its query, and of all headers."""
MAX_HEADER_COUNT = 200

EXPOSED_HEADERS = (
    "X-Request-ID", "Idempotent-Replayed", "Retry-After", "RateLimit", "RateLimit-Policy", "Location",
    "Content-Location", "Link", "Warning",
)  # fmt: skip
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
"""Methods that pages of other origins may use."""
LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?"
MAX_PREFLIGHT = 8 * 1024
"""Maximum bytes of header names in a preflight, since they are echoed."""

SINGLE_VALUED = (
    "authorization", "x-api-key", "content-type", "idempotency-key", "x-organization-id", "x-org-id",
    "mcp-protocol-version", "mcp-method", "mcp-name",
)  # fmt: skip
"""Headers that may not be repeated with different values: which one counts would be arbitrary."""

PROBES = ("/livez", "/readyz")
"""Paths served under any Host: probes and load balancers use the machine's address."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
BAGGAGE = "baggage"
_PASSED_ON = ("traceparent", "tracestate", BAGGAGE)

EXPECTED = (GatewayError, HTTPException, RequestValidationError)
"""Exceptions that routes raise on purpose, to answer with an error."""

Render = Callable[[Scope, GatewayError], Response]
"""Makes the response to a failed request, from its ASGI scope and the error."""


class HeaderFields:
    """The headers of a request, indexed once. ``size`` is in bytes; ``repeated``: some name occurs twice."""

    __slots__ = ("_first", "_raw", "count", "repeated", "size")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._raw, self._first = raw, dict(reversed(raw))
        self.count = len(raw)
        self.size = sum(map(len, chain.from_iterable(raw))) + self.count * len(": \r\n")
        self.repeated = len(self._first) < self.count

    def first(self, name: str) -> str | None:
        """The first value of a header."""
        value = self._first.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        encoded = name.encode()
        return [value.decode("latin-1") for other, value in self._raw if other == encoded]


class Cors(CORSMiddleware):
    """Starlette's CORS rules, with refused preflights in the gateway's error shape.

    If the edge refuses a request (``refusal`` in the scope), its preflight is refused too. Allowed pages may send any
    header: without cookies, a browser attaches no credentials on its own.
    """

    def __init__(
        self, app: ASGIApp, render: Render, allowed: tuple[str, ...], exposed: tuple[str, ...], *, local_pages: bool
    ) -> None:
        super().__init__(
            app,
            allow_origins=(origins.ALL,) if origins.ALL in allowed else (),
            allow_origin_regex="|".join(filter(None, [origins.pattern(allowed), LOCAL_PAGES * local_pages])) or None,
            allow_methods=METHODS,
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=(*EXPOSED_HEADERS, *exposed),
            max_age=600,
        )
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["refusal"] and "origin" in headers:
            await self.simple_response(scope, receive, send, request_headers=headers)
        elif scope["method"] == "OPTIONS" and {"origin", "access-control-request-method"} <= set(headers):
            await self._preflight(scope, headers)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _preflight(self, scope: Scope, headers: Headers) -> Response:
        response = self.preflight_response(headers)
        requested = ",".join(headers.getlist("access-control-request-headers"))
        names = [name.strip(" \t") for name in requested.split(",") if name.strip(" \t")]
        if response.status_code < 400 and len(requested) <= MAX_PREFLIGHT and all(map(_NAME.fullmatch, names)):
            if names:
                response.headers["Access-Control-Allow-Headers"] = ", ".join(names)
            return response
        if not self.is_allowed_origin(headers["origin"]):
            message = (
                f"Pages of {headers['origin'][:200]} may not ask here, unless CODEGEN_CORS_ORIGINS names their origin."
            )
        elif headers["access-control-request-method"] not in METHODS:
            message = f"Pages may ask with {', '.join(METHODS)}."
        else:
            message = f"Names of headers are not well formed, or have more than {MAX_PREFLIGHT} bytes."
        refusal = self._render(scope, web.CorsRefused(message))
        for name in ("vary", "access-control-allow-origin"):
            if name in response.headers:
                refusal.headers[name] = response.headers[name]
        return refusal


@dataclass(eq=False)
class Edge:
    """The outermost layer. Order matters:

    1. The request id and trace come first, so that every later refusal and log line carries them.
    2. Refusals are determined before CORS but rendered inside it. Outside, a page could not read the error: the browser
       would report a CORS failure instead. For the same reason they apply to preflights.
    3. The last exception handler is inside CORS, so that its responses have these headers too.

    ``render`` makes error responses. ``hosts`` are the accepted Host names. ``exposed_headers`` are added to those that
    pages of other origins may always read. ``via`` is the gateway's pseudonym as a proxy, by which it detects loops.
    ``observer`` hears of each response; ``tracer``, if any, starts a span for each request.
    """

    app: ASGIApp
    _: KW_ONLY
    render: Render
    hosts: tuple[str, ...]
    via: str
    allowed_origins: tuple[str, ...]
    local_pages: bool
    exposed_headers: tuple[str, ...]
    root_path: str
    max_body: int
    observer: Observer
    tracer: Tracer | None

    def __post_init__(self) -> None:
        self._cors = Cors(
            self._guarded, self.render, self.allowed_origins, self.exposed_headers, local_pages=self.local_pages
        )
        self._bodies = BodyBudget(self.max_body)
        self._transports: WeakSet[object] = WeakSet()
        self._requests: set[asyncio.Task[object]] = set()
        self._deliveries: set[Delivery] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method: str = scope["method"]
        # routes handle HEAD as GET, and only the head is sent; a copy, since the server must still see HEAD
        if method == "HEAD":
            scope = {**scope, "method": "GET", HEAD_ONLY: True}
        fields = HeaderFields(scope["headers"])
        given = fields.first("x-request-id")
        request_id = given if given and _SANE_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        passed_on = tuple((name, value) for name in _PASSED_ON if (value := fields.first(name)) is not None)
        current = Trace(request_id, passed_on, observer=self.observer)
        if self.tracer is not None:
            parent = {name: ",".join(fields.all(name)) for name, _ in passed_on}
            current.tracer, current.span = self.tracer, self.tracer.request(method, parent)
            current.passed_on = tuple(each for each in passed_on if each[0] == BAGGAGE)  # the span provides the others
        token = trace.set(current)
        scope["connection"] = self._connection(scope, send)
        scope["root_path"] = self.root_path or scope.get("root_path", "")
        scope["refusal"] = scope.get("refusal") or self._refusal(scope, fields)  # `http1` may have set one
        scope[web.CROSS_SITE] = self._is_cross_site(fields)
        status: int | None = None
        started = time.monotonic()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                nonlocal status
                status = message["status"]
                message["headers"] = _headers(message.get("headers", ()), request_id, scope.get("quota_left"))
            await send(message)

        try:
            # the rules for other origins add nothing to a request without an origin
            await (self._guarded if fields.first("origin") is None else self._cors)(scope, receive, send_with_headers)
        finally:
            route: str | None = getattr(scope.get("route"), "path", None)
            report = partial(self._report, current, method, scope["path"], route, status, started)
            delivery: Delivery | None = scope.get("delivery")
            if delivery is None or delivery.closed:
                report()
            else:  # the stream continues after this call
                self._deliveries.add(delivery)
                delivery.on_closed = partial(self._on_delivered, delivery, report)
            trace.reset(token)

    def _on_delivered(self, delivery: Delivery, report: Callable[[], None]) -> None:
        self._deliveries.discard(delivery)
        if delivery.error is not None:
            log_fault("answering a request", delivery.error)
        report()

    def _report(
        self, current: Trace, method: str, path: str, route: str | None, status: int | None, started: float
    ) -> None:
        """Log, measure and trace a response that has ended."""
        seconds = time.monotonic() - started
        refused = 400 <= (status or 0) < 500
        log_request(current, method, path, route, status, seconds, refused)
        self.observer.answered(route, method, status, seconds)
        if current.ending is not None:
            self.observer.streamed(current.ending)
        if current.span is not None:
            _end_span(current, method, route, status)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = complete = False
        body = IncomingBody(self._bodies, receive)

        async def send_tracked(message: Message) -> None:
            nonlocal answered, complete
            answered = True
            body.release()
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] != "http.response.body" or not scope.get(HEAD_ONLY):
                await send(message)
            elif complete:
                await send({"type": "http.response.body", "body": b""})

        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server runs each request in a task
        self._requests.add(task)
        try:
            refusal: GatewayError | None = scope["refusal"]
            await (self.render(scope, refusal) if refusal else self.app)(scope, body.receive, send_tracked)
        except asyncio.CancelledError:
            # the process is stopping: by `cancel_requests`, or by the server's own timeout. Not re-raised, since the
            # server would log it as a fault
            if not answered:
                harmless = scope["method"] in ("GET", "HEAD", "OPTIONS") or body.unfinished
                error = ShuttingDown(retry_after=1) if harmless else Interrupted()
                await self.render(scope, error)(scope, receive, send_tracked)
            elif not complete:
                scope["connection"].abort()
        except Exception as error:  # process boundary: the text of an unexpected exception must not leave
            if answered or not isinstance(error, EXPECTED):
                log_fault("answering a request", error)
            if not answered:
                await self.render(scope, web.as_gateway_error(error))(scope, receive, send_tracked)
            elif not complete:
                scope["connection"].abort()  # otherwise the client would take this for the complete response
        finally:
            self._requests.discard(task)
            body.release()

    def cancel_requests(self) -> None:
        """Answer all pending requests with an error, since this process is about to stop."""
        for task in list(self._requests):
            task.cancel()
        for delivery in list(self._deliveries):
            delivery.cancel()

    def abort_stuck(self) -> None:
        """Abort connections whose write buffer is not empty: a graceful close would wait for their clients to read."""
        for transport in list(self._transports):
            if transport.get_write_buffer_size() > 0:  # type: ignore[attr-defined]
                transport.abort()  # type: ignore[attr-defined]

    def _refusal(self, scope: Scope, fields: HeaderFields) -> GatewayError | None:
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > MAX_URI:
            return web.UriTooLong()
        if fields.size > MAX_HEADERS or fields.count > MAX_HEADER_COUNT:
            return web.HeadersTooLarge()
        if not self._is_trusted(fields.all("host")) and scope["path"].removeprefix(self.root_path) not in PROBES:
            return web.UntrustedHost()
        if any(self.via in value for value in fields.all("via")):
            return LoopDetected()
        if b"access_token=" in scope["query_string"]:
            return TokenInUrl()
        for name in SINGLE_VALUED if fields.repeated else ():
            if len(set(fields.all(name))) > 1:
                return InvalidRequest(f"The request has several {name} headers, and only one can be meant.")
        length = fields.first("content-length")
        if length is not None and length.isdecimal() and int(length[:19]) > self._bodies.max_body:
            return web.PayloadTooLarge(self._bodies.too_large)
        return None

    def _is_trusted(self, given: list[str]) -> bool:
        if "*" in self.hosts:
            return True
        found = origins.HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
        return found is not None and any(
            found[1].endswith(host[1:]) if host.startswith("*.") else found[1] == host for host in self.hosts
        )

    def _is_cross_site(self, fields: HeaderFields) -> bool:
        """Whether a browser sends this for a page of another site whose origin is not allowed."""
        site, origin = fields.first("sec-fetch-site"), fields.first("origin")
        if site is origin is None:
            return False
        if site == "same-origin" or (origin or "").partition("://")[2] == (fields.first("host") or "-"):
            return False
        if origin is not None:
            return not self._cors.is_allowed_origin(origin)
        return site in ("cross-site", "same-site")

    def _connection(self, scope: Scope, send: Send) -> ServerConnection:
        """The client's connection, of which ASGI has no notion. ``http1`` provides it in ``scope["outlet"]``. Without
        that, uvicorn's own ``send`` is bound to an object with the transport, unless the application is wrapped.
        """
        transport = getattr(scope.get("outlet") or getattr(send, "__self__", None), "transport", None)
        if transport is not None:
            self._transports.add(transport)
        return ServerConnection(transport)


def _headers(
    raw: Iterable[tuple[bytes, bytes]], request_id: str, quota: QuotaState | None
) -> list[tuple[bytes, bytes]]:
    """The headers of a response, completed with those that every response has."""
    headers = [field for field in raw if field[0] != b"x-request-id"]
    headers.append((b"x-request-id", request_id.encode("latin-1")))
    names = {name for name, _ in headers}
    if b"cache-control" not in names:
        headers.append((b"cache-control", b"no-store"))  # most responses are for one caller only
    varies = b", ".join(value for name, value in headers if name == b"vary") if b"vary" in names else b""
    if b"origin" not in varies.lower():
        headers = [field for field in headers if field[0] != b"vary"]
        headers.append((b"vary", b", ".join(filter(None, [varies, b"Origin"]))))
    if quota is not None:
        headers.append((b"ratelimit-policy", f'"default";q={quota.quota};w={WINDOW}'.encode()))
        headers.append((b"ratelimit", f'"default";r={quota.remaining};t={quota.seconds}'.encode()))
    return headers


def _end_span(current: Trace, method: str, route: str | None, status: int | None) -> None:
    """End the span of a request. It contains no path or query, which clients choose: they may hold anything."""
    assert current.span is not None  # noqa: S101 - the caller has checked
    attributes: dict[str, str | int] = {"codegen_api.request_id": current.request_id}
    if route is not None:
        attributes["http.route"] = route
    if status is not None:
        attributes["http.response.status_code"] = status
    if current.ending is not None:
        attributes["codegen_api.stream.ending"] = current.ending
        attributes["codegen_api.stream.entries"] = current.entries
    verb = method if method in (*METHODS, "OPTIONS") else "HTTP"
    error = (current.code or "_OTHER") if status is not None and status >= 500 else None
    current.span.end(attributes, name=f"{verb} {route}" if route else verb, error=error)
