"""When to read next: how often a log is worth a look, and what the host's limit leaves for it. No I/O, no clock.

Times are in seconds; ``now`` is whatever clock the caller goes by, always the same.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

LIMIT = 60.0
"""Requests that the host allows one credential in any ``WINDOW``."""

WINDOW = 60.0

READING = 0.8
"""The part of a limit that reading logs may take, whoever else asks for anything."""

RESERVE = 0.05
"""The part that reading leaves free at any moment, for callers who wait for an answer."""

FAST = WINDOW / (LIMIT * READING)
"""Seconds between reads of a log that has news."""

SLOW = 10.0
"""Seconds between reads of a log that has none."""

RESTING = 20.0
"""Seconds between reads of a run that waits for somebody."""

OVERDUE = 60.0
"""After this long without a read a run comes before all that were read since, whatever they need."""

ALONE = 0.75
"""The part of a limit that one of those who share it may use while nobody else asks for anything."""

FOR_ORDERS = 0.02
"""The part that whoever asks for something leaves to those who tell the host to do something."""

BURST = 0.25
"""The part of a limit that may be read at once, when it was quiet before; beyond that reads keep an even pace."""

HEEDED = 300.0
"""Seconds for which a host that says that nothing is left is taken at its word, before it is asked again."""

REGROWTH = 600.0
"""Seconds in which what is believed of a limit grows from nothing to all of it, unless the host objects again."""

LEAST = 1.0
"""Seconds to wait at least, even where the host says that it need not be."""

MARGIN = 0.05
"""Seconds by which clocks may differ in how long a window is."""


class Cadence:
    """How often one run is worth reading: often after news, less and less often without."""

    def __init__(self, *, fast: float = FAST, slow: float = SLOW, resting: float = RESTING) -> None:
        self.fast = fast
        self._slow = max(slow, fast)
        self._resting = max(resting, fast)
        self._delay = fast

    def next(self, *, news: bool, resting: bool = False) -> float:
        """Seconds until the next read. ``news``: the last one brought some. ``resting``: the run waits for somebody."""
        if news:
            self._delay = self.fast
        elif resting:
            self._delay = self._resting
        else:
            self._delay = min(self._delay * 1.5, self._slow)
        return self._delay


class Patience:
    """How long to wait after one failure after another: doubling, jittered so that nobody comes back together."""

    def __init__(
        self, *, first: float = 1.0, longest: float = 30.0, chance: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._longest = longest
        self._chance = chance  # from 0 to 1: it spreads load, and guards nothing
        self._failures = 0

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait. What the host asked for is the least of it, and is not doubled."""
        delay = min(self._first * 2.0**self._failures, self._longest)
        self._failures = min(self._failures + 1, 16)
        if retry_after is not None:
            delay = max(retry_after, LEAST)
        return delay * (1 + 0.25 * self._chance())

    def reset(self) -> None:
        """It went well again."""
        self._failures = 0


@dataclass(frozen=True, slots=True)
class Need:
    """Why somebody wants to read: the run was last read at ``since`` and is worth a read every ``interval``."""

    since: float
    interval: float

    def urgency(self, now: float) -> tuple[bool, float]:
        """What comes first, the greatest: what was not read for long, then what is latest by its own measure."""
        waited = now - self.since
        return (True, waited) if waited >= OVERDUE else (False, waited / self.interval)


class Shares:
    """What each of those who share a budget has used of it lately. Where they are several, each has an equal share."""

    def __init__(self) -> None:
        self._used: dict[Hashable, deque[float]] = {}

    def used(self, who: Hashable, now: float) -> None:
        """Somebody has asked for one thing more."""
        self._used.setdefault(who, deque()).append(now)

    def wait(self, who: Hashable, now: float, limit: float) -> float:
        """Seconds until ``who`` has used less than their share of ``limit``."""
        for name, times in list(self._used.items()):
            while times and times[0] <= now - WINDOW - MARGIN:
                times.popleft()
            if not times:
                del self._used[name]
        share = max(1, int(min(ALONE, (1 - RESERVE) / len(self._used.keys() | {who})) * limit))
        mine = self._used.get(who, ())
        return 0.0 if len(mine) < share else mine[len(mine) - share] + WINDOW + MARGIN - now


class Budget:
    """What may still be asked of the host with one credential.

    The host counts requests in any ``WINDOW``, so ours are counted from the moment of their answers, which is later
    than the host's own. Reading asks first (``wait``, ``begin``, ``finish``); everything else only reports itself
    (``asking``, ``asked``) and is never held up. Answers of 429 teach that the limit is lower than it was thought; what
    is believed of it grows again slowly, whether anything is asked or not: others may leave reading no room to find out
    that the host allows more. What the host says is left (``told``) holds as far as it is less.
    """

    def __init__(self, limit: float = LIMIT, *, chance: Callable[[], float] = random.random) -> None:
        self._limit = self._allowed = self._learned = max(limit, 1.0)
        self._patience = Patience(first=10.0, longest=60.0, chance=chance)
        self._all: deque[float] = deque()
        self._reads: deque[float] = deque()
        self._asking = self._reading = self._promised = 0
        self._began = -math.inf
        self._even = -math.inf  # when the reads so far would have ended at an even pace
        self._closed_until = -math.inf
        self._learned_at = -math.inf
        self._told_left, self._told_until = math.inf, -math.inf

    # -- every request to the host ------------------------------------------------------------------------------------

    def asking(self) -> None:
        """A request begins."""
        self._asking += 1

    def asked(self, now: float) -> None:
        """A request is over, whatever came of it."""
        self._asking -= 1
        self._all.append(now)
        self._forget(now)  # reading does so as well, but there may be nobody who reads
        self._told_left -= 1

    def told(self, now: float, remaining: int, seconds: float) -> None:
        """The host says how many requests are left for how long."""
        self._told_left, self._told_until = remaining, now + min(seconds, HEEDED) + MARGIN

    # -- reading ------------------------------------------------------------------------------------------------------

    def wait(self, now: float, *, waiting: int = 1, late: bool = False) -> float:
        """Seconds until a read may begin; infinite when that depends on an answer which is still to come.

        ``waiting``: how many want to read. ``late``: one of them must not wait for the sake of an even pace.
        """
        self._forget(now)
        # what others are given meanwhile may be all that is believed of the limit, and less than it is: it is tried
        untried = now >= self._began + WINDOW
        cap = max(1, int(self._limit * (1 - RESERVE))) if late and untried else self._cap(1 - RESERVE)
        waits = [
            self._closed_until - now,
            _room(self._all, self._asking + self._promised, cap, now),
            _room(self._reads, self._reading, self._cap(READING), now),
            self._scarcity(now),
            # those who are late keep apart as well, but not as far
            (self._began + self.gap / 2 if late else self._pace(waiting)) - now,
        ]
        return max(0.0, *waits)

    def begin(self, now: float) -> None:
        """A read may begin, as ``wait`` allowed; it is about to be ``sent``."""
        self._reading += 1
        self._promised += 1
        self._began = now
        latest = now + self._cap(BURST) * self.gap  # whoever had to hurry is not made to wait for it
        self._even = min(max(self._even, now), latest) + max(self.gap, self._share(now))

    def promise(self) -> None:
        """A request is about to be ``sent``."""
        self._promised += 1

    def sent(self) -> None:
        """It is a request like any other from here on."""
        self._promised -= 1

    def finish(self, now: float) -> None:
        """It is over."""
        self._reading -= 1
        self._reads.append(now)

    def accepted(self, now: float) -> None:
        """A read was answered: the host has no objections."""
        self._forget(now)
        self._learned, self._learned_at = self._allowed, now
        self._patience.reset()

    def refused(self, now: float, retry_after: float | None) -> None:
        """A read was answered with 429: nobody reads until the host wants to be asked again."""
        if now < self._closed_until and retry_after is None:
            return  # it was under way with the one that taught us
        if now >= self._closed_until:
            self._learned = max(self._limit / 10, self._learned * 0.75)
        self._learned_at = now
        self._forget(now)
        self._closed_until = max(self._closed_until, now + self._patience.next(retry_after))

    # -- what there is ------------------------------------------------------------------------------------------------

    def closed(self, now: float) -> float:
        """Seconds for which the host wants to be left alone."""
        scarcity = self._scarcity(now)
        return max(0.0, self._closed_until - now, scarcity if scarcity < math.inf else 0.0)

    def left(self, now: float) -> float:
        """How many reads there is room for."""
        self._forget(now)
        return 0.0 if self.closed(now) else max(0.0, self._left())

    def allowed(self, now: float) -> float:
        """What is believed of the limit."""
        self._forget(now)
        return self._allowed

    def room(self, now: float) -> float:
        """Seconds until one of those who were promised a call can make it, and leave something for orders."""
        self._forget(now)
        return _room(self._all, self._asking + self._promised - 1, self._cap(1 - FOR_ORDERS), now)

    def spare(self, now: float) -> int:
        """How many calls there is room for that somebody waits for but that must not crowd out the reads: the part of
        the limit that reading leaves, and more as long as half of the limit is free.
        """
        self._forget(now)
        if self.closed(now):
            return 0
        asked = len(self._all) + self._asking + self._promised
        beside = asked - len(self._reads) - self._reading
        left = self._cap(1 - RESERVE) - asked
        return min(left, max(self._cap(1) - self._cap(READING) - beside, left - self._cap(0.5)))

    @property
    def gap(self) -> float:
        """Seconds between reads at an even pace."""
        return WINDOW / self._cap(READING)

    def idle(self, now: float) -> bool:
        """Whether there is nothing to remember."""
        self._forget(now)
        return not (self._all or self._reads or self._asking or self._reading or self.closed(now))

    def _left(self) -> float:
        return min(
            self._cap(1 - RESERVE) - len(self._all) - self._asking - self._promised,
            self._cap(READING) - len(self._reads) - self._reading,
        )

    def _scarcity(self, now: float) -> float:
        """Seconds to wait because of what the host said is left."""
        remains, under_way = self._told_until - now, self._asking + self._promised
        reserve = self._allowed * RESERVE * min(1.0, max(remains, 0.0) / WINDOW)
        if self._told_left - under_way > reserve or remains <= -WINDOW:
            return 0.0
        # what there is afterwards, the next answer will tell: one at a time until then
        return remains if remains > 0 else math.inf if under_way else 0.0

    def _pace(self, waiting: int) -> float:
        """When the next read may begin so that what is left lasts until there is more."""
        burst = self._cap(BURST)
        even = self._even - burst * self.gap
        return max(even, self._began + self._share(self._began)) if self._left() < max(waiting, burst) else even

    def _share(self, since: float) -> float:
        """The time from ``since`` until there is more, by the number of reads that it has to do for."""
        left = self._left()
        scarce = self._reads if self._cap(READING) - len(self._reads) - self._reading <= left else self._all
        return (scarce[0] + WINDOW - since) / (max(left, 0) + 1) if scarce and since > -math.inf else 0.0

    def _cap(self, part: float) -> int:
        return max(1, int(self._allowed * part))

    def _forget(self, now: float) -> None:
        """Forget what was asked too long ago, and by and by what a refusal has taught."""
        self._allowed = min(self._limit, self._learned + self._limit * (now - self._learned_at) / REGROWTH)
        for times in (self._all, self._reads):
            while times and times[0] <= now - WINDOW - MARGIN:
                times.popleft()


def _room(times: deque[float], under_way: int, cap: int, now: float) -> float:
    """Seconds until one more is within ``cap``."""
    excess = len(times) + under_way - cap + 1
    if excess <= 0:
        return 0.0
    return times[excess - 1] + WINDOW + MARGIN - now if excess <= len(times) else math.inf
