"""One timer of the event loop for everybody who waits for a time of their own: heartbeats, ages and stalls."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from math import inf

EARLY = 0.02
"""Seconds by which somebody may be called early, together with others."""


class Alarm:
    """Calls ``bell`` at ``at`` (the event loop's time), or up to ``EARLY`` seconds before."""

    __slots__ = ("at", "bell")

    def __init__(self, at: float, bell: Callable[[], None]) -> None:
        self.at = at
        self.bell: Callable[[], None] | None = bell
        Wheel.running().add(self)

    def cancel(self) -> None:
        self.bell = None


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
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        if cls._latest is None or cls._latest.loop is not loop:
            cls._latest = Wheel(loop)
        return cls._latest

    def add(self, alarm: Alarm) -> None:
        heapq.heappush(self._alarms, (alarm.at, next(self._numbers), alarm))
        self._wind()

    def _wind(self) -> None:
        if self._alarms and self._alarms[0][0] < self._next:
            if self._timer is not None:
                self._timer.cancel()
            self._next = self._alarms[0][0]
            self._timer = self.loop.call_at(self._next, self._turn)

    def _turn(self) -> None:
        self._timer, self._next = None, inf
        until = self.loop.time() + EARLY
        while self._alarms and (self._alarms[0][0] <= until or self._alarms[0][2].bell is None):
            bell = heapq.heappop(self._alarms)[2].bell
            if bell is not None:
                self.loop.call_soon(bell)
        self._wind()
