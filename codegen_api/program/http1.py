"""HTTP/1.1 at the socket: uvicorn's protocol, corrected where it deviates from the standard or is unbounded.

uvicorn by itself

- collects a head of any size, and waits for it for ever;
- loses a body that comes with an offered upgrade;
- sends chunked responses to HTTP/1.0 clients, which cannot read them;
- closes the connection without a response if a body is malformed;
- passes on requests with ambiguous Host or Transfer-Encoding, which invites request smuggling.

Here each refusal is a response in the shape of every error. Connections accepted when hardly any descriptors are left
are marked as ``crowded``.
"""

import asyncio
import re
import sys
import uuid
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from codegen_api.dialects.native.wire import render_error
from codegen_api.errors import GatewayError, InvalidRequest
from codegen_api.http.delivery import Delivery
from codegen_api.http.web import HeadersTooLarge
from codegen_api.telemetry import Trace, trace, warn_once_a_minute

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

MAX_UNREAD = 128 * 1024
"""Maximum bytes received without progress in parsing: more than the edge accepts, so that its own error comes first."""
HEAD_SECONDS = 30.0
"""Maximum seconds for a request's head from its first byte, or for the rest of a body that was already answered."""
RESERVE = 64
"""Descriptors (at most a quarter) kept for everything else, and for telling new clients that the process is full."""

_HOST = re.compile(rb"[^\s/@?#\\,]*")
_ABSOLUTE = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)


class StrictHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, strict and bounded, and small, since each viewer has one."""

    __slots__ = (  # in uvicorn's __dict__ they would be too many for Python to share its keys between instances
        "_application", "_crowded", "_head_timer", "_in_head", "_progressed", "_unread", "delivery", "unparsable",
    )  # fmt: skip

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pipeline = cast("Any", _Pipeline())
        self._application = self.app
        self.app = self._serve
        self._unread = 0
        self._progressed = False
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._crowded = False
        self.unparsable = False
        """The rest of the input cannot be parsed."""
        self.delivery: Delivery | None = None
        """The stream that writes to this connection outside of uvicorn's cycle."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._crowded = _uses_reserve(transport)
        # a connection opened in advance may idle as long as one between two requests
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        super().connection_lost(exc)
        if self.delivery is not None:
            self.delivery.on_disconnect()
            self.delivery = None

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.delivery is not None:
            self.delivery.notify()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.unparsable or self.transport.is_closing():
            return
        self._progressed = False
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._stop_reading(InvalidRequest())
            return
        self._unread = 0 if self._progressed else self._unread + len(data)
        if self.transport.is_closing():
            return
        if self._unread > MAX_UNREAD:
            self._stop_reading(HeadersTooLarge())
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):  # in the next head
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Called when the client has closed its side; returns True to keep ours open. Some clients do so after the
        request, others to disconnect. If no response has started, the client still gets one; otherwise it has left.
        """
        if self.transport.is_closing() or self.transport.get_extra_info("sslcontext") is not None:
            return False
        if self.cycle is None or self.cycle.response_complete:
            if self._head_timer is not None:  # part of a head has arrived
                self._refuse(InvalidRequest("The request ends before it is whole."))
            return False
        if self.cycle.more_body:
            self._stop_reading(InvalidRequest())
        elif self.cycle.response_started:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # not trailers, which are unchecked, and which the application could take for headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # `_feed` parses it again without the upgrade
        self._in_head = False
        self._progressed = True
        self._stop_head_timer()
        error = self._refusal()
        if error is not None:
            self.scope["refusal"] = error  # type: ignore[typeddict-unknown-key]
        if self._crowded:
            self.scope["crowded"] = True  # type: ignore[typeddict-unknown-key]
            warn_once_a_minute("a system resource is exhausted: %s", "descriptors")
        super().on_headers_complete()
        if error is not None or self._crowded:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._progressed = True
        self._stop_head_timer()
        super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Parse more data. A request that offers an upgrade is fed to a new parser without the offer."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                method = self.parser.get_method()
                if method == b"CONNECT":
                    raise httptools.HttpParserError("this is no proxy") from offer
                head = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
                head += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
                data = b"\r\n".join([*head, b"", data[offer.args[0] :]])
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
            else:
                return

    def _refusal(self) -> GatewayError | None:
        """The error for a request that can be parsed but is ambiguous or unsupported, if any."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return InvalidRequest("The gateway speaks HTTP/1.1.")
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_HOST.fullmatch, hosts)):
            return InvalidRequest("The request needs one Host header.")
        absolute = _ABSOLUTE.match(self.url)
        if absolute and hosts and absolute[1].lower() != hosts[0].lower():
            return InvalidRequest("The target of the request names one host, and its Host header another.")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if not codings or codings == [b"chunked"]:
            return None
        return InvalidRequest("The gateway knows no transfer coding but chunked.")

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = scope["outlet"] = ExchangeAdapter(self, receive.__self__)
        await self._application(scope, exchange.receive, exchange.send if scope["http_version"] == "1.0" else send)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_reading(self, error: GatewayError) -> None:
        """Stop reading. If the application is waiting for the rest of a body, wake it so that it responds."""
        self.unparsable = True
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.more_body:
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
        else:
            self._refuse(error)

    def _refuse(self, error: GatewayError) -> None:
        if self.cycle is None or self.cycle.response_complete:  # otherwise the response in progress is cut off
            request_id = uuid.uuid4().hex
            token = trace.set(Trace(request_id, ()))
            response = render_error(error)
            trace.reset(token)
            response.headers.update({"X-Request-ID": request_id, "Connection": "close"})
            head = f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}\r\n".encode()
            fields = b"".join(b"%b: %b\r\n" % field for field in response.raw_headers)
            self.transport.write(head + fields + b"\r\n" + bytes(response.body))
        self.transport.close()


class Flow(FlowControl):
    """uvicorn's flow control, which creates its event only when somebody waits."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False
        self._writable: asyncio.Event | None = None

    async def drain(self) -> None:
        if self.write_paused:
            self._writable = self._writable or asyncio.Event()
            await self._writable.wait()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None


class _Pipeline(list[Any]):
    """The queue of pipelined requests, as a list: it is nearly always empty, and an empty deque takes 600 bytes."""

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class _NullEvent:
    """Replaces an event that nobody waits for any more."""

    def set(self) -> None:
        pass


def _uses_reserve(transport: asyncio.Transport) -> bool:
    """Whether this connection has one of the last descriptors. A new one always gets the lowest free number."""
    connection = transport.get_extra_info("socket")
    if connection is None or sys.platform == "win32":
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and connection.fileno() >= limit - min(RESERVE, limit // 4)


class ExchangeAdapter:
    """One exchange between uvicorn and the application, and its ``ExclusiveOutlet``. ``send`` is for HTTP/1.0."""

    def __init__(self, protocol: StrictHttpProtocol, cycle: "RequestResponseCycle") -> None:
        self.transport = cycle.transport
        self._protocol = protocol
        self._cycle = cycle
        self._until_close = False

    async def receive(self) -> Any:
        message = await self._cycle.receive()
        if message["type"] == "http.request" and message["more_body"] and self._protocol.unparsable:
            raise InvalidRequest("The body of the request cannot be read.")
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            self._until_close = b"content-length" not in names
        if self._until_close:  # not chunked: the response ends with the connection (RFC 9112, section 6.3)
            self._cycle.chunked_encoding = False
            self._cycle.expected_content_length = len(message.get("body", b""))
        await self._cycle.send(cast("Any", message))

    # -- the exclusive outlet -----------------------------------------------------------------------------------------

    @property
    def available(self) -> bool:
        return self.ready and not self._cycle.more_body and self._cycle is self._protocol.cycle

    @property
    def ready(self) -> bool:
        return not self._cycle.flow.write_paused and not self.transport.is_closing()

    def hand_to(self, delivery: Delivery) -> None:
        self._protocol.delivery = delivery
        self._cycle.disconnected = True  # so that uvicorn does not expect the application to complete the response
        self._cycle.scope = self._protocol.scope = cast("Any", None)
        self._cycle.message_event = cast("Any", _NULL_EVENT)
        if self.transport.is_closing():
            delivery.on_disconnect()

    def write(self, piece: bytes) -> None:
        self.transport.write(_chunk(piece) if self._cycle.chunked_encoding else piece)

    def end(self) -> None:
        if self._cycle.chunked_encoding:
            self.transport.write(b"0\r\n\r\n")
        self._cycle.response_complete = True
        if not self._cycle.keep_alive:
            self.transport.close()
        self._protocol.on_response_complete()


_NULL_EVENT = _NullEvent()


@lru_cache(1)
def _chunk(piece: bytes) -> bytes:
    """A chunk of a body, made once for all viewers that are sent the same piece in turn."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
