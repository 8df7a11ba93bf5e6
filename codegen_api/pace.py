"""When to read next: how often a log is worth reading, and what the host's rate limit leaves for that.

No I/O, no clock: times are in seconds, and ``now`` may come from any clock, as long as it is always the same one.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

LIMIT = 60.0
"""Requests that the host allows per credential in any ``WINDOW``."""

WINDOW = 60.0

READ_SHARE = 0.8
"""Fraction of the limit that log reading may use, however many logs are followed."""

RESERVE = 0.05
"""Fraction that reading always leaves free, for callers waiting for an answer."""

FAST = WINDOW / (LIMIT * READ_SHARE)
"""Seconds between reads of a log with news."""

SLOW = 10.0
"""Seconds between reads of a log without news, at most."""

BRISK = 1.0
"""The same while the run is under way and the budget has room."""

QUIET_SHARE = 0.125
"""Fraction of the reads left that one log without news may use: at 60 requests a minute, one read per ``SLOW``."""

CROWD = 0.002
"""Minimum seconds between reads without news, per followed run: looking for news must not fill the process."""

NOTIFIED = 5.0
"""Minimum seconds between reads without news while the host tells of news by itself."""

RESTING = 20.0
"""Seconds between reads of a run that waits for a human."""

OVERDUE = 60.0
"""Seconds without a read after which a run goes before all others, whatever their intervals."""

WRITE_RESERVE = 0.02
"""Fraction that callers' reads leave free for writes."""

BURST = 0.25
"""Fraction of the limit that may be read at once after a quiet time; beyond it reads are spaced evenly."""

MAX_BELIEVED = 300.0
"""Maximum seconds for which a host's claim that nothing is left is believed before it is asked again."""

RECOVERY = 600.0
"""Seconds in which the estimate of the limit recovers from zero to full, unless the host refuses again."""

MIN_WAIT = 1.0
"""Minimum seconds to wait, even if the host's Retry-After is less."""

CLOCK_MARGIN = 0.05
"""Seconds of tolerance for clocks that measure a window differently."""


class Cadence:
    """How often a run is worth reading: often after news, ever less without. ``notified``: the host tells of news."""

    def __init__(self, *, fast: float = FAST, slow: float = SLOW, resting: float = RESTING) -> None:
        self.fast = fast
        self.notified = False
        self._slow = max(slow, fast)
        self._resting = max(resting, fast)
        self._delay = fast

    @property
    def slowest(self) -> float:
        """Seconds between reads of the log that is read least often."""
        return max(self._slow, self._resting)

    def next(self, *, news: bool, resting: bool = False, room: float = math.inf, runs: int = 1) -> float:
        """Seconds until the next read. ``news``: the last read found some. ``resting``: the run waits for a human.
        ``room``: seconds between reads without news for which the budget has room. ``runs``: followed here.
        """
        if news:
            self._delay = self.fast
        elif resting:
            self._delay = self._resting
        else:
            slow = min(self._slow, max(room, self.fast, BRISK, CROWD * runs))
            self._delay = min(self._delay * 1.5, max(self._slow, NOTIFIED) if self.notified else slow)
        return self._delay


@dataclass(kw_only=True, slots=True)
class Patience:
    """Exponential backoff, with jitter so that clients do not come back together."""

    first: float = 1.0
    longest: float = 30.0
    chance: Callable[[], float] = random.random  # in [0, 1); spreads load only, so it need not be secure
    _failures: int = 0

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait after another failure: at least ``retry_after``, which is not doubled."""
        delay = min(self.first * 2.0**self._failures, self.longest)
        self._failures = min(self._failures + 1, 16)
        if retry_after is not None:
            delay = max(retry_after, MIN_WAIT)
        return delay * (1 + 0.25 * self.chance())

    def reset(self) -> None:
        self._failures = 0


@dataclass(frozen=True, slots=True)
class Need:
    """A request to read a run that was last read at ``since`` and is worth a read every ``interval``."""

    since: float
    interval: float

    def urgency(self, now: float) -> tuple[bool, float]:
        """Sort key, greatest first: overdue runs, then those latest relative to their interval."""
        waited = now - self.since
        return (True, waited) if waited >= OVERDUE else (False, waited / self.interval)


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """A budget shared by all instances: ``wait`` seconds until the wanted read may begin, infinite if that depends on
    an outstanding answer; requests and reads in the window and under way; the estimate of the limit; and for how long
    the host accepts nothing.
    """

    wait: float
    asked: int
    reads: int
    allowed: float
    closed: float


class Budget:
    """How many more requests one credential may send to the host.

    The host counts requests in a sliding ``WINDOW`` whose clock we do not see. A request is therefore counted from the
    moment of its answer, which is never earlier than the host's own count: counted from the start, a slow request would
    leave our window while still in the host's, and the next read would earn a 429.

    Only reads ask for permission (``wait``, ``begin``, ``finish``). All other requests are only reported (``asking``,
    ``asked``) and never delayed: a caller's request must not queue behind reads in the background.

    A 429 lowers the estimate of the limit. The estimate recovers with time alone, not with successful reads: while
    other requests use up what is believed to be left, no read would ever get to prove that the host allows more. What
    the host itself says is left (``reported``) counts if it is less.

    ``cost``: how many requests one read takes.
    """

    def __init__(self, limit: float = LIMIT, *, cost: int = 1, chance: Callable[[], float] = random.random) -> None:
        self._cost = cost
        self._whole = self._limit = self._allowed = self._learned = max(limit, 1.0)
        self._patience = Patience(first=10.0, longest=60.0, chance=chance)
        self._all: deque[float] = deque(maxlen=int(self._whole) + cost)  # they say when there is room again
        self._reads: deque[float] = deque()
        self._asking = self._reading = self._promised = 0
        self._began = -math.inf
        self._even = -math.inf  # when the reads so far would have ended if evenly spaced
        self._closed_until = -math.inf
        self._learned_at = -math.inf
        self._reported_left, self._reported_until = math.inf, -math.inf
        # requests and reads of other instances, as known at that time
        self._beside, self._read_beside, self._beside_at = 0, 0, -math.inf

    def asking(self) -> None:
        self._asking += 1

    def asked(self, now: float) -> None:
        self._asking -= 1
        self._all.append(now)
        self._expire(now)  # bounds the memory also where nobody reads logs
        self._reported_left -= 1

    def reported(self, now: float, remaining: int, seconds: float) -> None:
        """The host says that ``remaining`` requests are left for ``seconds``."""
        self._reported_left, self._reported_until = remaining, now + min(seconds, MAX_BELIEVED) + CLOCK_MARGIN

    def wait(self, now: float, *, waiting: int = 1, late: bool = False) -> float:
        """Seconds until a read may begin; infinite if that depends on an outstanding answer.

        ``waiting``: how many reads are queued. ``late``: one of them is overdue, so even spacing must not delay it.
        """
        self._expire(now)
        # other requests may take all of an estimate that is too low; without a read now and then up to the full limit,
        # reading would starve and the estimate never be corrected
        untried = now >= self._began + WINDOW
        cap = max(self._cost, int(self._limit * (1 - RESERVE))) if late and untried else self._cap(1 - RESERVE)
        waits = [
            self._closed_until - now,
            _room(self._all, self._under_way + self._cost - 1, cap, now),
            _room(self._reads, self._cost * (self._reading + 1) - 1, self._cap(READ_SHARE), now),
            self._scarcity(now),
            # overdue reads are spaced as well, but at half the distance
            (self._began + self.gap / 2 if late else self._pace(waiting)) - now,
        ]
        return max(0.0, *waits)

    def begin(self, now: float) -> None:
        """A read begins, as allowed by ``wait``; ``sent`` follows."""
        self._reading += 1
        self._promised += 1
        self._began = now
        # debt from hurried reads is capped, so that later reads do not pay for all of it
        latest = now + self._burst
        self._even = min(max(self._even, now), latest) + max(self.gap, self._share(now))

    def promise(self) -> None:
        """A request is admitted; ``sent`` follows."""
        self._promised += 1

    def sent(self) -> None:
        """An admitted request is about to report itself with ``asking``."""
        self._promised -= 1

    def finish(self, now: float) -> None:
        self._reading -= 1
        self._reads.extend([now] * self._cost)

    def accepted(self, now: float) -> None:
        """A read succeeded, so the host has no objection to the current rate."""
        self._expire(now)
        self._learned, self._learned_at = self._allowed, now
        self._patience.reset()

    def refused(self, now: float, retry_after: float | None) -> None:
        """A read got a 429: stop reading until the host wants to be asked again."""
        if now < self._closed_until and retry_after is None:
            # sent before the refusal that we already acted on: learning from each of them would divide the estimate
            # several times
            return
        if now >= self._closed_until:
            self._learned = max(self._limit / 10, self._learned * 0.75)
        self._learned_at = now
        self._expire(now)
        self._closed_until = max(self._closed_until, now + self._patience.next(retry_after))

    @property
    def under_way(self) -> tuple[int, int]:
        """Requests without an answer, and those of them that belong to reads."""
        return self._under_way, self._cost * self._reading

    def learn(self, now: float, all_of_them: BudgetStanding) -> None:
        self._expire(now)
        self._beside = max(0, all_of_them.asked - len(self._all) - self._under_way)
        self._read_beside = max(0, all_of_them.reads - len(self._reads) - self._cost * self._reading)
        self._beside_at = now
        self._learned, self._learned_at = min(all_of_them.allowed, self._limit), now
        self._closed_until = now + all_of_them.closed

    def divide(self, among: int, now: float) -> None:
        """Until ``unite``, keep to one of so many equal parts of the limit, without knowledge of the others.

        The reads of the last minute count as if each part had been used up, evenly.
        """
        self._beside = self._read_beside = 0
        if among == 1:
            return  # there are no others
        part = self._whole / among
        self._learned = self._allowed = max(1.0, min(part, self.allowed(now) * part / self._limit))
        self._limit, self._learned_at = max(1.0, part), now
        count = int(self._limit * READ_SHARE)
        others = list(self._all)[min(len(self._reads), len(self._all)) :]
        self._reads = deque(now - WINDOW * (count - each) / count for each in range(count))
        self._all = deque(sorted([*self._reads, *others]), self._all.maxlen)

    def unite(self) -> None:
        self._limit = self._whole

    def closed(self, now: float) -> float:
        """Seconds for which the host accepts no requests."""
        scarcity = self._scarcity(now)
        return max(0.0, self._closed_until - now, scarcity if scarcity < math.inf else 0.0)

    def left(self, now: float) -> float:
        """How many reads there is room for."""
        self._expire(now)
        return 0.0 if self.closed(now) else max(0.0, self._left() / self._cost)

    def quiet(self, now: float) -> float:
        """Seconds between reads of one log without news for which there is room; infinite if there is none."""
        left = QUIET_SHARE * self.left(now)
        return WINDOW / left if left else math.inf

    def unspent(self, now: float) -> float:
        """The share of the limit that is left, from 0 to 1."""
        self._expire(now)
        reported = self._reported_left if now < self._reported_until else math.inf
        left = min(self._allowed - len(self._all) - self._under_way - self._beside, reported)
        return 0.0 if self.closed(now) else min(1.0, max(0.0, left) / self._limit)

    def allowed(self, now: float) -> float:
        self._expire(now)
        return self._allowed

    def room(self, now: float) -> float:
        """Seconds until one of the admitted requests fits, with the part for writes left free."""
        self._expire(now)
        return _room(self._all, self._beside + self._under_way - 1, self._cap(1 - WRITE_RESERVE), now)

    def spare(self, now: float) -> int:
        """How many callers' requests fit in what reading leaves of the limit; more while over half of it is free."""
        self._expire(now)
        if self.closed(now):
            return 0
        asked = len(self._all) + self._under_way + self._beside
        beside = asked - len(self._reads) - self._cost * self._reading - self._read_beside
        left = self._cap(1 - RESERVE) - asked
        return min(left, max(self._cap(1) - self._cap(READ_SHARE) - beside, left - self._cap(0.5)))

    @property
    def gap(self) -> float:
        """Seconds between evenly spaced reads."""
        return WINDOW * self._cost / self._cap(READ_SHARE)

    @property
    def _burst(self) -> float:
        """Seconds that the reads allowed at once would take if evenly spaced."""
        return self._cap(BURST) * self.gap / self._cost

    @property
    def _under_way(self) -> int:
        """Requests without an answer, including those that the reads under way may still send."""
        return self._asking + self._promised + (self._cost - 1) * self._reading

    def idle(self, now: float) -> bool:
        """Whether this holds no state worth keeping."""
        self._expire(now)
        return not (self._all or self._reads or self._asking or self._reading or self.closed(now))

    def _left(self) -> float:
        return min(
            self._cap(1 - RESERVE) - len(self._all) - self._under_way - self._beside,
            self._cap(READ_SHARE) - len(self._reads) - self._cost * self._reading - self._read_beside,
        )

    def _scarcity(self, now: float) -> float:
        """Seconds to wait because of what the host said is left.

        The host also counts requests of others with the same token, so that may be less than our own count says. It is
        outdated as soon as it is said: requests under way come off it. Some requests are left to waiting callers, fewer
        as the window's end comes closer, or the last requests of a window would never be used.
        """
        remains, under_way = self._reported_until - now, self._under_way
        reserve = self._allowed * RESERVE * min(1.0, max(remains, 0.0) / WINDOW)
        if self._reported_left - under_way > reserve or remains <= -WINDOW:
            return 0.0
        # the new allowance is known only from the next answer: one request at a time until then
        return remains if remains > 0 else math.inf if under_way else 0.0

    def _pace(self, waiting: int) -> float:
        """When the next read may begin so that the remaining budget lasts until the window moves on.

        The host counts in a sliding window, so requests made at once become free again at once, a minute later: if
        reading used up all of them, news would be a minute late. So after a quiet time a quarter may be used at once,
        for opening a log; from then on reads keep an even pace that can last for ever. If little is left even so,
        because callers used more than their part, it is spread over the time until the window moves on.
        """
        even = self._even - self._burst
        scarce = self._left() < max(self._cost * waiting, self._cap(BURST))
        return max(even, self._began + self._share(self._began)) if scarce else even

    def _share(self, since: float) -> float:
        """Seconds from ``since`` until the window moves on, per read that must fit in."""
        left = self._left()
        reads_left = self._cap(READ_SHARE) - len(self._reads) - self._cost * self._reading
        scarce = self._reads if reads_left <= left else self._all
        return (scarce[0] + WINDOW - since) / (max(left, 0) / self._cost + 1) if scarce and since > -math.inf else 0.0

    def _cap(self, part: float) -> int:
        """A part of the estimate, in requests; at least the cost of one read."""
        return max(self._cost, int(self._allowed * part))

    def _expire(self, now: float) -> None:
        """Drop requests that left the window, and let the estimate recover."""
        self._allowed = min(self._limit, self._learned + self._limit * (now - self._learned_at) / RECOVERY)
        if now > self._beside_at + WINDOW:
            self._beside = self._read_beside = 0
        for times in (self._all, self._reads):
            while times and times[0] <= now - WINDOW - CLOCK_MARGIN:
                times.popleft()


def _room(times: deque[float], under_way: int, cap: int, now: float) -> float:
    """Seconds until one more request fits within ``cap``."""
    excess = len(times) + under_way - cap + 1
    if excess <= 0:
        return 0.0
    return times[excess - 1] + WINDOW + CLOCK_MARGIN - now if excess <= len(times) else math.inf
