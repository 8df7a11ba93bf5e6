"""Server-sent events and JSON lines: how a stream is written, and how a position in one is read.

Only ``EventStream`` does I/O. It differs from Starlette's ``StreamingResponse`` on purpose: a write that the client
does not take for ``stall_seconds`` aborts the connection instead of holding on, and the source is always closed.
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
from codegen_api.following import close_running
from codegen_api.positions import AMENDABLE, Position, Sighting, names_a_position
from codegen_api.telemetry import note

T = TypeVar("T")

WRITE_BYTES = 64 * 1024
"""The most that is handed to a connection at once: what a viewer who does not read can hold."""

HEARTBEAT = b":\n\n"

BEAT = 3.0
"""Seconds of silence before a sign of life where clients are scripts: httpx gives up after five by itself."""

STREAM_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""With these no cache and no proxy keeps a stream back."""

HEAD_ONLY = "head_only"
"""The key in an ASGI scope that says: of the answer to this GET only the head is wanted."""

_NUMBER, _DIGEST = r"[0-9]{1,18}", r"[A-Za-z0-9_.-]{4}"
_POSITION = re.compile(
    rf"({_NUMBER})(?:(\.end)|(?:-({_NUMBER})([._])({_NUMBER}))?(?:~((?:{_DIGEST}){{1,{AMENDABLE}}}))?)", re.ASCII
)


def frame(event: str, data: bytes, id: str | int | None = None) -> bytes:  # noqa: A002 - the protocol's own word
    """One event. ``data`` is one line of JSON, in which a line break can only stand escaped.

    The id comes last: there are clients that remember it before they have the rest of the frame, and a connection can
    break anywhere.
    """
    name = b"" if id is None else b"id: %b\n" % str(id).encode()
    return b"event: %b\ndata: %b\n%b\n" % (event.encode(), data, name)


def line(event: str, data: bytes, id: str | int | None = None) -> bytes:  # noqa: A002 - the same names as ``frame``
    """The same event as a line of JSON."""
    name = b"null" if id is None else b'"%b"' % str(id).encode()
    return b'{"event":"%b","id":%b,"data":%b}\n' % (event.encode(), name, data)


def retry(milliseconds: int) -> bytes:
    """How long a client is to wait before it comes back."""
    return b"retry: %d\n" % milliseconds


def parse_position(text: str) -> Position:
    """``25``, ``25.end`` from somebody who was told that the log ends there, or any other id of an event.

    Raises:
        InvalidCursor: it is none of them.
    """
    match = _POSITION.fullmatch(text.strip())
    if match is None:
        raise InvalidCursor
    number, over, length, place, cursor, copies = match.groups()
    told = None if length is None else Sighting(int(length), place == "_", int(cursor))
    return Position(int(number), over is not None, told, tuple(re.findall(_DIGEST, copies or "")))


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
    """What a client says that it has seen last, if it says anything.

    What a library adds to a URL is newer than what the URL was made with, so it counts before ``last_event_id``: in any
    spelling, and of several the last, as they are put at the end.
    """
    added = [
        text
        for name, text in request.query_params.multi_items()
        if text and name != "last_event_id" and names_a_position(name)
    ]
    given = [request.headers.get("last-event-id"), *added[-1:], request.query_params.get("last_event_id")]
    return next((text for text in given if text), None)


LastEventId = Annotated[str | None, Depends(_last_event_id)]
"""Where a stream is to go on, from wherever in the request clients say it."""


async def _begins(request: Request) -> None:
    """
    Raises:
        InvalidRequest: whoever asks wants to go on with what was begun.
    """
    if await _last_event_id(request):
        raise InvalidRequest("This would begin another run: the stream of the first goes on where Location said.")


Begins = Annotated[None, Depends(_begins)]
"""For what begins a run and answers with its stream: some libraries ask for that again when it was cut."""


async def beating(source: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """The same, with None whenever nothing has come for so many seconds."""
    coming: asyncio.Task[T] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({coming}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                came = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield came
    finally:
        await close_running(source, coming)


async def nothing() -> AsyncGenerator[bytes, None]:
    """The frames of a stream of which only the head is wanted."""
    return
    yield


class Cut(Exception):
    """Raised by frames that break off: the client must not take what it has for the whole, and is to come back."""


class Connection(Protocol):
    """What is known of a client's connection beyond ASGI."""

    def unsent(self) -> int | None:
        """How many bytes wait to be sent; None where nobody can tell."""
        ...

    def abort(self) -> None:
        """Cut it, now."""
        ...

    def stream(self) -> None:
        """It will carry a stream: hold little of it outside of our sight."""
        ...


class Source(Protocol):
    """What frames are made from."""

    async def aclose(self) -> None: ...


class EventStream(Response):
    """A response that lasts: ``frames`` as they come, until they end, the client leaves, or it stops reading.

    ``source`` is closed afterwards, whatever happened. Frames that raise ``Cut`` end with the connection, so that what
    was sent is not taken for all.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        headers: Mapping[str, str],
        stall_seconds: float,
        connection: Connection,
        source: Source | None = None,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        del self.headers["content-length"]
        self._frames = frames
        self._stall_seconds = stall_seconds
        self._connection = connection
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(HEAD_ONLY):  # nothing is begun, and nobody has left
            await self._frames.aclose()
            await send(self._head())
            await send({"type": "http.response.body", "body": b""})
            return
        writing = asyncio.ensure_future(self._write(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.wait({writing, leaving})
            await self._frames.aclose()
            if self._source is not None:  # frames that were never begun have closed nothing
                await self._source.aclose()
        if not writing.cancelled():
            try:
                writing.result()
            except Cut:
                self._connection.abort()

    async def _write(self, send: Send) -> None:
        self._connection.stream()
        if not await self._taken(send, self._head()):
            return
        async for piece in self._frames:
            for start in range(0, len(piece), WRITE_BYTES):
                body = piece[start : start + WRITE_BYTES]
                if not await self._taken(send, {"type": "http.response.body", "body": body, "more_body": True}):
                    return
        await self._taken(send, {"type": "http.response.body", "body": b"", "more_body": False})

    def _head(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}

    async def _taken(self, send: Send, message: Message) -> bool:
        """Whether the client took this; one that takes nothing at all for too long loses its connection.

        A server's ``send`` waits until there is room and writes only then, so one that timed out can be repeated.
        """
        while True:
            unsent = self._connection.unsent()
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await send(message)
            except TimeoutError:
                left = self._connection.unsent()
                if unsent is None or left is None or left >= unsent:
                    note("client_stalled", None)
                    self._connection.abort()
                    return False
            else:
                return True


async def _disconnected(receive: Receive) -> None:
    with contextlib.suppress(HTTPException):  # a body that nobody asked for, and that does not end
        while (await receive())["type"] != "http.disconnect":
            pass
