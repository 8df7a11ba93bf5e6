"""Delivers a stream to one client, from a tap to an outlet.

The tap calls ``notify`` or ``offer``, which write what is available and return. Nothing waits in between: an idle
viewer is a few small objects, and sending to one takes no task, future or timer of its own.
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
from codegen_api.telemetry import note, record_ending
from codegen_api.wheel import Alarm

WRITE_BYTES = 64 * 1024
"""Maximum bytes per write, and so what a client that does not read can make us hold."""

TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
UNSENT_BYTES = 16 * 1024
"""Maximum unsent bytes of a stream in the kernel, so that a slow reader looks slow instead of stuck."""


class ServerConnection:
    """A client's connection, if the server exposes its transport."""

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

    def limit_kernel_buffer(self) -> None:
        """Keep unsent data in our own buffer instead of the kernel's, which holds megabytes without saying how much."""
        exposed = None if self.transport is None else self.transport.get_extra_info("socket")
        if (
            exposed is not None
            and exposed.fileno() >= 0  # closed after a disconnect
            and TCP_NOTSENT_LOWAT is not None
            and exposed.family in (socket.AF_INET, socket.AF_INET6)
        ):
            connection = socket.socket(fileno=exposed.fileno())  # uvloop's socket object lacks setsockopt
            try:
                connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            finally:
                connection.detach()  # the transport owns the descriptor


class Outlet(Protocol):
    """Where the pieces of one stream go."""

    @property
    def ready(self) -> bool:
        """Whether it can take a piece now. When it can again, it calls the delivery's ``notify``."""
        ...

    def write(self, piece: bytes) -> None: ...

    def end(self) -> None:
        """Complete the response: all pieces were written."""
        ...


class Source(Protocol):
    """What the pieces of a stream are made from."""

    async def aclose(self) -> None: ...


class Delivery(Sink):
    """Writes ``pieces`` to ``outlet``. At the end it always closes ``pieces`` and ``source``, then calls ``on_closed``.

    A client that takes nothing at all for ``stall_seconds`` is disconnected. If ``pieces`` raises, the connection is
    aborted, so that the client does not take the stream for complete; ``error`` is what was raised, unless it was
    ``StreamCut``.
    """

    __slots__ = (
        "_closing", "_connection", "_context", "_ended", "_outlet", "_pieces", "_rest", "_source", "_stall_alarm",
        "_stall_seconds", "_unsent", "_writing", "closed", "error", "on_closed", "over",
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
        self.on_closed: Callable[[], None] | None = None
        self._pieces = pieces
        self._outlet, self._connection = outlet, connection
        self._stall_seconds = stall_seconds
        self._source = source
        self._context = copy_context()  # the request's, for the log
        self._rest = b""
        self._ended = False
        self._writing = False
        self._stall_alarm: Alarm | None = None
        self._unsent: int | None = None
        self._closing: asyncio.Task[None] | None = None
        pieces.sink = self

    def offer(self, item: bytes, now: float) -> bool:
        if self.over or self._writing or len(item) > WRITE_BYTES or not self._outlet.ready:
            return False
        self._outlet.write(item)
        return True

    def notify(self) -> None:
        """Write what is available, while the outlet has room."""
        if not self.over and not self._writing:
            self._writing = True
            try:
                self._context.run(self._write)
            finally:
                self._writing = False

    def stop(self, ending: str = "stopped", *, failed: bool = False) -> None:
        """End the delivery without completing the response."""
        if not self.over:
            self._context.run(self._finish, ending, failed=failed)

    def on_disconnect(self) -> None:
        """Stop, because the client has left."""
        self.stop("client_left")

    def cancel(self) -> None:
        """Stop and abort the connection, because this process is stopping."""
        self.stop()
        self._connection.abort()

    def fail(self, error: BaseException) -> None:
        """Stop, because the outlet raised ``error``."""
        self.error = self.error or error
        self.stop("cut", failed=True)

    async def aclose(self) -> None:
        """Stop, and wait until everything has been closed."""
        self.stop()
        if self._closing is not None:
            await asyncio.wait({self._closing})

    def _write(self) -> None:
        outlet = self._outlet
        if outlet.ready and self._stall_alarm is not None:  # the client has taken something
            self._stall_alarm.cancel()
            self._stall_alarm = None
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
            self._abort("cut")
        except Exception as error:  # boundary: the caller has other streams to advance
            self.error = error
            self._abort("cut", failed=True)
        else:
            self._watch_for_stall()

    def _watch_for_stall(self) -> None:
        """If the outlet has no room now, check in ``stall_seconds`` that the client has taken something."""
        if not self._outlet.ready and self._stall_alarm is None:
            self._unsent = self._connection.unsent()
            self._stall_alarm = Alarm(loop_time() + self._stall_seconds, lambda: self._context.run(self._check_stall))

    def _check_stall(self) -> None:
        self._stall_alarm = None
        if self.over:
            return
        unsent = self._connection.unsent()
        if not self._outlet.ready and (self._unsent is None or unsent is None or unsent >= self._unsent):
            note("client_stalled", None)
            self._abort("client_stalled")
        else:
            self._watch_for_stall()

    def _abort(self, ending: str, *, failed: bool = False) -> None:
        self._finish(ending, failed=failed)
        self._connection.abort()

    def _finish(self, ending: str, *, failed: bool = False) -> None:
        record_ending(ending, failed=failed)
        self.over = True
        self._rest = b""
        if self._stall_alarm is not None:
            self._stall_alarm.cancel()
        self._closing = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        try:
            await self._pieces.aclose()
            if self._source is not None:  # pieces that never started have not closed it
                await self._source.aclose()
        except Exception as error:  # task boundary
            self.error = self.error or error
        finally:
            self.closed = True
            if self.on_closed is not None:
                self.on_closed()
