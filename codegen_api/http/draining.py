"""Graceful shutdown: on SIGTERM the gateway ends every stream before the server stops.

uvicorn informs the application of a signal only after the last connection has closed. Streams never close by
themselves, so they would be killed at the end of the grace period, without notice to their clients. Therefore the
application handles the signal itself: it asks streams to end, waits for them, aborts connections that do not read, and
only then calls the server's own handler.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Literal

from codegen_api.telemetry import logger

REQUEST_SECONDS = 10.0
"""Seconds for requests that are still running when the streams have ended."""
SIGINT_SECONDS = 2.0
"""Seconds for streams and requests together after a Ctrl-C."""


class Drain:
    """Handles SIGTERM and SIGINT while the application runs. Streams have ``seconds`` to end, unanswered requests
    ``request_seconds`` more. ``announce``: log the beginning; with several workers, their parent does that.
    """

    def __init__(self, seconds: float, request_seconds: float = REQUEST_SECONDS, *, announce: bool = True) -> None:
        self.phase: Literal["starting", "ready", "draining"] = "starting"
        self._seconds = seconds
        self._request_seconds = request_seconds
        self._announce = announce
        self._previous: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._task: asyncio.Task[None] | None = None

    def handle_signals(
        self,
        end_streams: Callable[[float], Awaitable[None]],
        abort_stuck: Callable[[], None],
        cancel_requests: Callable[[], None],
    ) -> None:
        """Become ready, and handle signals from now on if this is the main thread: no other can.

        ``end_streams(seconds)`` asks all streams to end and waits up to that long; ``abort_stuck`` aborts connections
        that do not read; ``cancel_requests`` ends requests that are not answered in time.
        """
        self.phase = "ready"
        self._end_streams, self._abort_stuck, self._cancel_requests = end_streams, abort_stuck, cancel_requests
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            if callable(previous):  # otherwise there is no server to forward the signal to
                self._previous[number] = previous
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._begin, number))

    def restore_signals(self) -> None:
        """Restore the previous handlers."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _begin(self, number: int) -> None:
        if self._task is None:
            seconds = min(self._seconds, SIGINT_SECONDS) if number == signal.SIGINT else self._seconds
            request_seconds = 0.0 if number == signal.SIGINT else self._request_seconds
            self._task = asyncio.ensure_future(self._drain(number, seconds, request_seconds))
        elif number == signal.SIGINT:  # a second Ctrl-C: stop at once
            self._forward(number)

    async def _drain(self, number: int, seconds: float, request_seconds: float) -> None:
        self.phase = "draining"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if self._announce:
            logger.info("draining for up to %g s", seconds)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # uvicorn's messages are expected from here on
        try:
            await self._end_streams(seconds)
            self._abort_stuck()
        finally:  # otherwise the server would never stop
            self._forward(number)
        # the server accepts nothing new and waits for its requests, but not for ever, since the host may hang
        await asyncio.sleep(max(request_seconds, deadline - loop.time()))
        self._cancel_requests()

    def _forward(self, number: int) -> None:
        self._previous[number](number, None)
