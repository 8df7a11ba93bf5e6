"""One timer of the event loop for all alarms: heartbeats, maximum ages and stalls of streams."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from math import inf

EARLY = 0.02
"""Seconds by which an alarm may go off early, together with others."""


class Alarm:
    """Calls ``callback`` at ``at`` (the event loop's time), or up to ``EARLY`` seconds before."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback
        Wheel.running().add(self)

    def cancel(self) -> None:
        self.callback = None


class Wheel:
    """All alarms of an event loop."""

    _latest: "Wheel | None" = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._next = inf

    @classmethod
    def running(cls) -> "Wheel":
        """The wheel of the running event loop."""
        loop = asyncio.get_running_loop()
        if cls._latest is None or cls._latest.loop is not loop:
            cls._latest = Wheel(loop)
        return cls._latest

    def add(self, alarm: Alarm) -> None:
        heapq.heappush(self._alarms, (alarm.at, next(self._numbers), alarm))
        self._schedule()

    def _schedule(self) -> None:
        if self._alarms and self._alarms[0][0] < self._next:
            if self._timer is not None:
                self._timer.cancel()
            self._next = self._alarms[0][0]
            self._timer = self.loop.call_at(self._next, self._fire)

    def _fire(self) -> None:
        self._timer, self._next = None, inf
        until = self.loop.time() + EARLY
        while self._alarms and (self._alarms[0][0] <= until or self._alarms[0][2].callback is None):
            callback = heapq.heappop(self._alarms)[2].callback
            if callback is not None:
                self.loop.call_soon(callback)
        self._schedule()
