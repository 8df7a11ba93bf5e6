"""Leaving in good order: on SIGTERM every open stream is ended by the gateway before the server is told to stop.

uvicorn tells the application of a signal only after the last connection has closed, which for streams would be never.
So the application takes the signal itself, lets the streams end, and then hands the signal on to the server's own
handler.
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
"""How long requests that are under way when the streams have ended may go on."""
SIGINT_SECONDS = 2.0
"""For all of it. Somebody at a keyboard does not wait longer."""


class Drain:
    """Takes SIGTERM and SIGINT for as long as the application runs. Streams have ``seconds`` to end, and what is then
    not answered has ``request_seconds`` more. ``says``: log that it begins; of several workers their parent does.
    """

    def __init__(self, seconds: float, request_seconds: float = REQUEST_SECONDS, *, says: bool = True) -> None:
        self.phase: Literal["starting", "ready", "draining"] = "starting"
        self._seconds = seconds
        self._request_seconds = request_seconds
        self._says = says
        self._previous: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._task: asyncio.Task[None] | None = None

    def take_signals(
        self, empty: Callable[[float], Awaitable[None]], cut: Callable[[], None], give_up: Callable[[], None]
    ) -> None:
        """All is ready, and from now on the signals come here; only a process's main thread can do that.

        ``empty(seconds)`` asks every stream to end and waits for that, at most so long; ``cut`` aborts connections that
        take nothing; ``give_up`` ends the requests that are not answered in time.
        """
        self.phase = "ready"
        self._empty, self._cut, self._give_up = empty, cut, give_up
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            if callable(previous):  # else nobody serves us who could be told afterwards
                self._previous[number] = previous
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._begin, number))

    def give_back(self) -> None:
        """The signals go where they went before."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _begin(self, number: int) -> None:
        if self._task is None:
            seconds = min(self._seconds, SIGINT_SECONDS) if number == signal.SIGINT else self._seconds
            more = 0.0 if number == signal.SIGINT else self._request_seconds
            self._task = asyncio.ensure_future(self._drain(number, seconds, more))
        elif number == signal.SIGINT:  # asked twice: at once
            self._hand_on(number)

    async def _drain(self, number: int, seconds: float, more: float) -> None:
        self.phase = "draining"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if self._says:
            logger.info("draining for up to %g s", seconds)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the rest is a matter of course
        try:
            await self._empty(seconds)
            self._cut()
        finally:  # whatever went wrong, the server has to hear of the signal
            self._hand_on(number)
        # the server takes nothing new from here on, and waits for what it has: a host that hangs must not hold it
        await asyncio.sleep(max(more, deadline - loop.time()))
        self._give_up()

    def _hand_on(self, number: int) -> None:
        self._previous[number](number, None)
