"""Server-sent events and JSON lines: writing streams, and parsing the position to resume from.

Only ``EventStream`` does I/O. It deliberately differs from Starlette's ``StreamingResponse``: a write that the client
does not take within ``stall_seconds`` aborts the connection instead of waiting for ever, the source is always closed,
and where the server allows it an idle stream needs no task (``delivery``).
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Header, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from codegen_api.errors import InvalidCursor, InvalidRequest
from codegen_api.http.delivery import Delivery, Outlet, ServerConnection, Source
from codegen_api.http.parts import parts_of
from codegen_api.positions import AMENDABLE, Position, Sighting, names_a_position
from codegen_api.taps import Pulled, Tap

T = TypeVar("T")

HEARTBEAT = b":\n\n"

HEARTBEAT_SECONDS = 3.0
"""Seconds of silence before a heartbeat for scripts: httpx times out after five by default."""

STREAM_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""Keep caches and proxies from buffering a stream."""

HEAD_ONLY = "head_only"
"""Key in an ASGI scope: this GET was a HEAD, so only the head of the response is sent."""

_NUMBER, _DIGEST = r"[0-9]{1,18}", r"[A-Za-z0-9_.-]{4}"
_POSITION = re.compile(
    rf"({_NUMBER})(?:(\.end)|(?:-({_NUMBER})([._])({_NUMBER}))?(?:~((?:{_DIGEST}){{1,{AMENDABLE}}}))?)", re.ASCII
)


def frame(event: str, data: bytes, id: str | int | None = None) -> bytes:  # noqa: A002 - the protocol's own word
    """One event. ``data`` is one line of JSON, in which line breaks are escaped.

    The id comes last: some clients remember it as soon as they read it. If it came first and the connection broke
    before the rest of the frame, they would resume after an event that they never got.
    """
    id_line = b"" if id is None else b"id: %b\n" % str(id).encode()
    return b"event: %b\ndata: %b\n%b\n" % (event.encode(), data, id_line)


def line(event: str, data: bytes, id: str | int | None = None) -> bytes:  # noqa: A002 - the same names as ``frame``
    """The same event as a line of JSON."""
    quoted_id = b"null" if id is None else b'"%b"' % str(id).encode()
    return b'{"event":"%b","id":%b,"data":%b}\n' % (event.encode(), quoted_id, data)


def retry(milliseconds: int) -> bytes:
    """The field that sets the client's reconnect delay."""
    return b"retry: %d\n" % milliseconds


def parse_position(text: str) -> Position:
    """Parse an event id: ``25``, ``25.end`` if the log ended there, or any other ``Position``.

    Raises:
        InvalidCursor: it is none of these.
    """
    match = _POSITION.fullmatch(text.strip())
    if match is None:
        raise InvalidCursor
    number, over, length, far, cursor, copies = match.groups()
    seen = None if length is None else Sighting(int(length), far == "_", int(cursor))
    return Position(int(number), over is not None, seen, tuple(re.findall(_DIGEST, copies or "")))


async def _last_event_id(
    request: Request,
    _header: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Where to go on: the id of the last event seen.")
    ] = None,
    _query: Annotated[
        str | None, Query(alias="last_event_id", description="The same, for the first connect of who sends no headers.")
    ] = None,
    _added: Annotated[
        str | None, Query(alias="lastEventId", description="The same, as libraries add it when they come back.")
    ] = None,
) -> str | None:
    """The last event id that the client sends, if any.

    Libraries append ``lastEventId``, in any spelling, to the URL on reconnect, so the last of several is the newest. It
    is also newer than ``last_event_id``, which was in the URL from the start.
    """
    added = [
        text
        for name, text in request.query_params.multi_items()
        if text and name != "last_event_id" and names_a_position(name)
    ]
    candidates = [request.headers.get("last-event-id"), *added[-1:], request.query_params.get("last_event_id")]
    return next((text for text in candidates if text), None)


LastEventId = Annotated[str | None, Depends(_last_event_id)]
"""The position to resume from, from a header or the query."""


async def _refuse_reconnect(request: Request) -> None:
    """Raises ``InvalidRequest`` if the client wants to resume a stream."""
    if await _last_event_id(request):
        raise InvalidRequest("This would begin another run: the stream of the first goes on where Location said.")


NoReconnect = Annotated[None, Depends(_refuse_reconnect)]
"""For requests that start a run and stream it: some libraries repeat them to reconnect, which would start another run.
"""


async def with_heartbeats(source: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """Yield the items of ``source``, and None after each ``seconds`` without one."""

    async def boxed() -> AsyncGenerator[tuple[T], None]:  # an item may be None, which a tap takes for none
        async with contextlib.aclosing(source):
            async for item in source:
                yield (item,)

    items = Pulled(boxed())
    try:
        while True:
            try:
                async with asyncio.timeout(seconds) as silence:
                    (item,) = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not silence.expired():
                    raise
                yield None
            else:
                yield item
    finally:
        await items.aclose()


class ExclusiveOutlet(Outlet, Protocol):
    """An outlet below ASGI, which can be handed to a delivery once the head of the response is sent."""

    @property
    def available(self) -> bool:
        """Whether it can be handed over now."""
        ...

    def hand_to(self, delivery: Delivery) -> None:
        """Let ``delivery`` write the rest, and call its ``notify`` or ``on_disconnect``."""
        ...


class EventStream(Response):
    """A streaming response: sends ``frames`` until they end, the client disconnects, or it stops reading.

    If the server offers an ``ExclusiveOutlet`` (``scope["outlet"]``), the call returns as soon as the stream has begun,
    and ``scope["delivery"]`` continues it. ``source`` is always closed at the end. ``scope["connection"]`` is the
    ``ServerConnection``.
    """

    def __init__(
        self,
        frames: Tap[bytes] | AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str],
        stall_seconds: float,
        source: Source | None = None,
    ) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._frames = frames if isinstance(frames, Tap) else Pulled(frames)
        self._stall_seconds = stall_seconds
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(HEAD_ONLY):
            await self._frames.aclose()
            await send(self._head())
            await send({"type": "http.response.body", "body": b""})
            return
        connection: ServerConnection = scope["connection"]
        connection.limit_kernel_buffer()
        outlet: ExclusiveOutlet | None = scope.get("outlet")
        if outlet is None or not outlet.available:
            await self._deliver_by_asgi(connection, receive, send)
            return
        delivery = Delivery(self._frames, outlet, connection, self._stall_seconds, self._source)
        try:
            await send(self._head())
        except BaseException:
            await delivery.aclose()
            raise
        scope["delivery"] = delivery
        outlet.hand_to(delivery)
        delivery.notify()

    async def _deliver_by_asgi(self, connection: ServerConnection, receive: Receive, send: Send) -> None:
        """Deliver the stream with two tasks, one for ``send`` and one for ``receive``."""
        outlet = _AsgiOutlet()
        delivery = Delivery(self._frames, outlet, connection, self._stall_seconds, self._source)
        closed = asyncio.Event()
        delivery.on_closed = closed.set
        sending = asyncio.ensure_future(outlet.run(self._head(), send, delivery))
        disconnecting = asyncio.ensure_future(_disconnected(receive))
        disconnecting.add_done_callback(lambda _: delivery.on_disconnect())
        try:
            await closed.wait()
        finally:
            delivery.stop()
            for task in (sending, disconnecting):
                task.cancel()
            await asyncio.wait({sending, disconnecting})
            await delivery.aclose()
        if delivery.error is not None:
            raise delivery.error

    def _head(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}


class _AsgiOutlet:
    """An outlet that writes with ASGI's ``send``, one message at a time."""

    def __init__(self) -> None:
        self._message: Message | None = None
        self._has_message = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._message is None

    def write(self, piece: bytes) -> None:
        self._put({"type": "http.response.body", "body": piece, "more_body": True})

    def end(self) -> None:
        self._put({"type": "http.response.body", "body": b"", "more_body": False})

    def _put(self, message: Message) -> None:
        self._message = message
        self._has_message.set()

    async def run(self, head: Message, send: Send, delivery: Delivery) -> None:
        self._put(head)
        delivery.notify()  # so that it watches for a stall
        try:
            while True:
                await self._has_message.wait()
                self._has_message.clear()
                if self._message is not None:
                    await send(self._message)
                    self._message = None
                delivery.notify()
        except Exception as error:  # task boundary: `_deliver_by_asgi` raises it
            delivery.fail(error)


def lasting(
    request: Request,
    frames: Tap[bytes] | AsyncGenerator[bytes, None],
    media_type: str,
    headers: Mapping[str, str] = STREAM_HEADERS,
    source: Source | None = None,
) -> EventStream:
    """A streaming response to ``request``."""
    return EventStream(frames, media_type, headers, parts_of(request).stall_seconds, source)


async def _disconnected(receive: Receive) -> None:
    with contextlib.suppress(HTTPException):  # an unexpected body that never ends
        while (await receive())["type"] != "http.disconnect":
            pass
