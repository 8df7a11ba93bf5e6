"""Delivers a stream to one client: from the tap its pieces come from to the outlet they go to.

Whoever has news calls ``ring`` or ``offer``, which writes what there is and returns. Nothing waits meanwhile: an idle
viewer is a few small objects, and one who is sent something costs no task, future or timer of their own.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from contextvars import copy_context
from typing import Protocol

from codegen_api.errors import StreamCut
from codegen_api.following import loop_time
from codegen_api.taps import Sink, Tap
from codegen_api.telemetry import note, over
from codegen_api.wheel import Alarm

WRITE_BYTES = 64 * 1024
"""Maximum bytes per write: what a client that does not read can make us hold."""


TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
UNSENT_BYTES = 16 * 1024
"""Maximum unsent bytes of a stream in the kernel, so that a slow reader looks slow instead of stuck."""


class ServerConnection:
    """A client's connection, as far as the server exposes it."""

    __slots__ = ("transport",)

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self.transport = transport

    def unsent(self) -> int | None:
        """Bytes waiting to be sent; None if unknown."""
        return None if self.transport is None else self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close it at once."""
        if self.transport is not None:
            self.transport.abort()

    def stream(self) -> None:
        """Keep unsent data in our own buffer instead of the kernel's, which holds megabytes without saying how much."""
        given = None if self.transport is None else self.transport.get_extra_info("socket")
        # after a disconnect the socket is closed
        if (
            given is not None
            and given.fileno() >= 0
            and TCP_NOTSENT_LOWAT is not None
            and given.family in (socket.AF_INET, socket.AF_INET6)
        ):
            connection = socket.socket(fileno=given.fileno())  # uvloop's socket object lacks setsockopt
            try:
                connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            finally:
                connection.detach()  # the transport owns the descriptor


class Outlet(Protocol):
    """Where the pieces of one stream go."""

    @property
    def ready(self) -> bool:
        """Whether it takes a piece now. Once it does again, it calls ``ring``."""
        ...

    def write(self, piece: bytes) -> None: ...

    def end(self) -> None:
        """There was everything."""
        ...


class Source(Protocol):
    """What pieces are made from."""

    async def aclose(self) -> None: ...


class Delivery(Sink):
    """A stream on its way. ``pieces`` and ``source`` are always closed at the end, and then ``finished`` is called. A
    client that takes nothing at all for ``stall_seconds`` is disconnected. If the pieces raise, the connection is
    aborted, so that the client does not take the stream for complete; ``error`` is what they raised, unless it was
    ``StreamCut``.
    """

    __slots__ = (
        "_alarm", "_busy", "_closing", "_connection", "_context", "_ended", "_outlet", "_pieces", "_rest", "_source",
        "_stall_seconds", "_unsent", "closed", "error", "finished", "over",
    )  # fmt: skip

    def __init__(
        self,
        pieces: Tap[bytes],
        outlet: Outlet,
        connection: ServerConnection,
        stall_seconds: float,
        source: Source | None,
    ) -> None:
        self.over = False
        self.closed = False
        self.error: BaseException | None = None
        self.finished: Callable[[], None] | None = None
        self._pieces = pieces
        self._outlet, self._connection = outlet, connection
        self._stall_seconds = stall_seconds
        self._source = source
        self._context = copy_context()  # that of the request, for the log
        self._rest = b""
        self._ended = False
        self._busy = False
        self._alarm: Alarm | None = None
        self._unsent: int | None = None
        self._closing: asyncio.Task[None] | None = None
        pieces.sink = self

    def offer(self, item: bytes, now: float) -> bool:
        if self.over or self._busy or len(item) > WRITE_BYTES or not self._outlet.ready:
            return False
        self._outlet.write(item)
        return True

    def ring(self) -> None:
        """Write what there is, as far as there is room."""
        if not self.over and not self._busy:
            self._busy = True
            try:
                self._context.run(self._write)
            finally:
                self._busy = False

    def stop(self, ending: str = "stopped") -> None:
        """It is not wanted any more."""
        if not self.over:
            self._context.run(self._finish, ending)

    def gone(self) -> None:
        """The client has left."""
        self.stop("client_left")

    def cancel(self) -> None:
        """This process stops: cut it off."""
        self.stop()
        self._connection.abort()

    def fail(self, error: BaseException) -> None:
        """The outlet is broken."""
        self.error = self.error or error
        self.stop("complete")

    async def aclose(self) -> None:
        """Stop, and wait until everything has been closed."""
        self.stop()
        if self._closing is not None:
            await asyncio.wait({self._closing})

    def _write(self) -> None:
        outlet = self._outlet
        if outlet.ready and self._alarm is not None:  # the client has taken something
            self._alarm.cancel()
            self._alarm = None
        try:
            while outlet.ready:
                if self._ended:
                    self._finish("complete")
                    return
                piece: bytes | None = self._rest or self._pieces.take()
                if piece is not None:
                    if len(piece) > WRITE_BYTES:
                        piece, self._rest = piece[:WRITE_BYTES], piece[WRITE_BYTES:]
                    elif self._rest:
                        self._rest = b""
                    outlet.write(piece)
                elif self._pieces.over:
                    self._ended = True
                    outlet.end()
                else:
                    break
        except (StreamCut, asyncio.CancelledError):
            self._cut("cut")
        except Exception as error:  # boundary: whoever calls has other streams to advance
            self.error = error
            self._cut("complete")
        else:
            self._watch()

    def _watch(self) -> None:
        """See to it that the client takes something, if there is no room now."""
        if not self._outlet.ready and self._alarm is None:
            self._unsent = self._connection.unsent()
            self._alarm = Alarm(loop_time() + self._stall_seconds, lambda: self._context.run(self._look))

    def _look(self) -> None:
        self._alarm = None
        if self.over:
            return
        left = self._connection.unsent()
        if not self._outlet.ready and (self._unsent is None or left is None or left >= self._unsent):
            note("client_stalled", None)
            self._cut("client_stalled")
        else:
            self._watch()

    def _cut(self, ending: str) -> None:
        self._finish(ending)
        self._connection.abort()

    def _finish(self, ending: str) -> None:
        over(ending)
        self.over = True
        self._rest = b""
        if self._alarm is not None:
            self._alarm.cancel()
        self._closing = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        try:
            await self._pieces.aclose()
            if self._source is not None:  # frames that never started have not closed it
                await self._source.aclose()
        except Exception as error:  # task boundary
            self.error = self.error or error
        finally:
            self.closed = True
            if self.finished is not None:
                self.finished()
