"""An event loop in which time does not pass but jumps: to the next timer, as soon as nothing else is to be done."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.closing import closing

T = TypeVar("T")


OUTSIDE = 10.0
"""Seconds within which another process answers."""


class Deadlock(AssertionError):
    """Everybody waits, and nothing is ever going to happen."""


class Livelock(AssertionError):
    """Everybody is busy, and time stands still."""


class _Jumping(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rounds = 0
        self.outside = 0
        self.patience = 0.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout != 0 and (self.outside or self.patience):
            events = super().select(OUTSIDE if self.outside else self.patience)
        if not events:
            if timeout is None:
                raise Deadlock
            if timeout > 0:
                self.now += timeout
                self.rounds = 0
            self.rounds += 1
            if self.rounds > 100_000:
                raise Livelock
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def outside(self, answers: int) -> None:
        """So many answers more (or fewer) are awaited from another process: time stands still until they come."""
        self._jumping.outside += answers
        self._jumping.patience = 0.0005  # for what comes from there unasked


def run(main: Coroutine[Any, Any, T], *, at_most: float = 3600.0) -> T:
    """Run ``main`` in virtual time. It may take ``at_most`` virtual seconds, and must leave no task behind."""

    async def bounded() -> T:
        async with asyncio.timeout(at_most):
            result = await closing(main)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"still running: {left}"
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())
