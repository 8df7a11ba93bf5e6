"""When to read next: how often a quiet log is worth a look, and how long to wait after a failure. No I/O, no clock."""

import random

FAST = 1.25
"""Seconds between reads of a log that has news: 48 a minute, four fifths of the 60 that the host allows."""

SLOW = 10.0
"""Seconds between reads of a log that has none."""


class Cadence:
    """How often one run is read: often after news, less and less often without.

    ``share`` is the part of the host's budget that is ours: with four processes beside each other, each takes a
    quarter.
    """

    def __init__(self, *, fast: float = FAST, slow: float = SLOW, share: float = 1.0) -> None:
        self.fast = fast / share
        self._slow = max(slow, self.fast)
        self._delay = self.fast

    def next(self, *, news: bool, resting: bool = False) -> float:
        """Seconds until the next read. ``news``: the last one brought some. ``resting``: the run waits for somebody."""
        if news:
            self._delay = self.fast
        elif resting:
            self._delay = self._slow
        else:
            self._delay = min(self._delay * 1.5, self._slow)
        return self._delay


class Patience:
    """How long to wait after one failure after another: doubling, jittered so that nobody comes back together."""

    def __init__(self, *, first: float = 1.0, longest: float = 30.0, rng: random.Random | None = None) -> None:
        self._first = first
        self._longest = longest
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._failures = 0

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait. What the host asked for is the least of it, and is not doubled."""
        delay = min(self._first * 2.0**self._failures, self._longest)
        self._failures = min(self._failures + 1, 16)
        if retry_after is not None:
            delay = max(retry_after, self._first)
        return delay * (1 + 0.25 * self._rng.random())
