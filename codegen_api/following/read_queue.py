"""Which log is read next, and with whose credential, within the host's rate limits.

Each credential has a budget, or all of them share one. Reads wait for their turn; the most urgent goes first. Requests
of waiting callers, such as creating a run or checking a token, are sent at once and only counted.

Where instances share their budgets, a read also needs permission from there, and all requests are reported without
waiting. While the shared budgets cannot be reached, each instance keeps to its part.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from codegen_api.errors import RateLimited, ShuttingDown
from codegen_api.following.rights import TICK, loop_time
from codegen_api.following.shared_budgets import CommonBudgets, FairShares, Usage
from codegen_api.following.troubles import Outage
from codegen_api.identity import Credential, asker
from codegen_api.pace import LIMIT, OVERDUE, WINDOW, Budget, Need
from codegen_api.telemetry import Exchange, Observer

LATE = OVERDUE + 5
"""Seconds without a read after which a log is not held back for the sake of an even pace."""

PATIENCE = 10.0
"""Maximum seconds that a caller who has used up their share waits."""

TOO_MUCH = "You have asked for as much as you may of what the host allows all who share its token; ask again later."

ASK_AGAIN = 1.0
"""Seconds after which to ask for permission again if a read depends on an answer that another instance awaits."""

LAG = 0.25
"""Fraction of the distance of two reads by which the least urgent read of an instance comes back later than others."""

FEW = 1000
"""Number of credentials up to which idle ones are not forgotten."""


@dataclass(kw_only=True, eq=False)
class ReadQueue(Observer):
    """The budgets of all credentials, each of ``limit`` requests a minute; one for all of them when ``together``.

    A read takes ``cost`` requests. ``observer`` is told what is left. ``common`` are shared with other instances.
    As an ``Observer`` of the upstream it counts requests.
    """

    limit: float = LIMIT
    together: bool = False
    cost: int = 1
    observer: Observer | None = None
    common: CommonBudgets | None = None
    outage: Outage = field(default_factory=Outage)
    _queues: dict[str, "_Queue"] = field(default_factory=dict)
    _swept: float = 0.0
    _careful_until: float = -math.inf

    def __post_init__(self) -> None:
        if self.common is not None:
            self.common.listeners.append(self._common_changed)

    def want(self, need: Need, refused: Callable[[], None] = lambda: None) -> "QueuedRead":
        """Queue a read. Close it after use. ``refused`` is called when the host refuses another read meanwhile."""
        return QueuedRead(self, need, refused)

    def closed(self, credential: Credential) -> float:
        """Seconds for which the host accepts no requests with this credential."""
        return self.queue(credential.digest).budget.closed(loop_time())

    def line(self, credential: Credential) -> float:
        """Seconds until a read that is queued now has its turn, at an even pace."""
        queue = self.queue(credential.digest)
        return queue.budget.closed(loop_time()) + len(queue.waiting) * queue.budget.gap

    @contextmanager
    def room(self, credential: Credential) -> Iterator[bool]:
        """Whether one more request may be sent at once beside the reads, in this context."""
        queue = self.queue(credential.digest)
        queue.report()  # which also learns, for the next time, what other instances have used
        if queue.budget.spare(loop_time()) < 1:
            yield False
            return
        queue.budget.promise()
        try:
            yield True
        finally:
            queue.budget.sent()

    async def take(self, credential: Credential, *, order: bool = False) -> None:
        """Where callers share the host's limit, wait until the current one (``asker``) may send one more request: each
        keeps to their share, and reads leave room for writes (``order``).

        Raises:
            RateLimited: that would take too long.
        """
        caller = asker.get()
        if caller is None or not (caller.shared or self.together):
            return
        queue = self.queue(credential.digest)
        deadline = loop_time() + PATIENCE
        queue.budget.promise()  # so that reads of logs do not take this place meanwhile
        try:
            while True:
                now = loop_time()
                wait = queue.shares.wait(caller.principal, now, queue.budget.allowed(now))
                if not order:
                    wait = max(wait, queue.budget.room(now))
                if wait <= TICK:
                    break
                if now >= deadline or (now + wait > deadline and wait < math.inf):
                    raise RateLimited(TOO_MUCH, retry_after=min(wait, WINDOW))
                await asyncio.sleep(min(wait, 1.0))
        finally:
            queue.budget.sent()
        queue.shares.used(caller.principal, now)

    def asking(self, credential: str, operation: str) -> None:
        queue = self.queue(credential)
        queue.budget.asking()
        queue.report()

    def asked(self, exchange: Exchange) -> None:
        queue, now = self.queue(exchange.credential), loop_time()
        queue.budget.asked(now)
        queue.unreported.answered += 1
        if exchange.allowance is not None and exchange.operation == "read_log":  # other routes may have other limits
            queue.unreported.told = exchange.allowance.remaining, exchange.allowance.seconds
            queue.budget.reported(now, *queue.unreported.told)
        if self.observer is not None:
            self.observer.spent(queue.budget.unspent(now))
        queue.report()
        queue.serve()

    def queue(self, digest: str) -> "_Queue":
        if len(self._queues) > FEW and loop_time() >= self._swept + WINDOW:
            self._sweep()
        key = "" if self.together else digest
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(self.common, key or "together", self.limit, self.cost)
            if self.common is not None and (not self.common.usable or loop_time() < self._careful_until):
                queue.keep_to_part(self.common.instances, self._careful_until)
        return queue

    def _common_changed(self) -> None:
        """Adapt to shared budgets that have become usable or unusable, or have lost their past."""
        if self.common is None or not self._queues:
            return
        # for a minute it is unknown what other instances asked meanwhile
        self._careful_until = loop_time() + WINDOW if self.common.usable else math.inf
        for queue in self._queues.values():
            queue.keep_to_part(self.common.instances, self._careful_until)
            queue.serve()

    def _sweep(self) -> None:
        """Forget credentials that were not used lately."""
        self._swept = now = loop_time()
        self._queues = {
            digest: queue for digest, queue in self._queues.items() if queue.waiting or not queue.budget.idle(now)
        }


@dataclass(eq=False, slots=True)
class QueuedRead:
    """A queued read, granted with one of the credentials offered for it."""

    turns: ReadQueue
    need: Need
    on_refusal: Callable[[], None]
    _shown: dict[Credential, float] = field(default_factory=dict)
    _granted: asyncio.Future[Credential] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _queue: "_Queue" = field(init=False)  # the one that has granted it
    _reading: bool = False
    _begun: bool = False

    def offer(self, *credentials: tuple[Credential, float]) -> None:
        """Add credentials to read with, each with the time when the host was last shown it."""
        self._shown.update(credentials)
        for credential in sorted(self._shown, key=self._preference) if len(self._shown) > 1 else [*self._shown]:
            if self._granted.done():
                return
            self.turns.queue(credential.digest).enter(self)

    def withdraw(self, credential: Credential) -> None:
        if self._shown.pop(credential, None) is not None:
            queue = self.turns.queue(credential.digest)
            if all(self.turns.queue(other.digest) is not queue for other in self._shown):
                queue.leave(self)

    @property
    def ready(self) -> bool:
        return self._granted.done()

    async def granted(self) -> Credential:
        """Wait for this read's turn; returns the credential to read with.

        Raises:
            ShuttingDown: there will be no turn.
        """
        return await self._granted

    def give_up(self) -> None:
        """End the waiting for this read."""
        self._leave()
        if not self._granted.done():
            self._granted.set_exception(ShuttingDown())

    def grant(self, queue: "_Queue") -> None:
        """Give this read its turn in this queue."""
        self._leave()
        if self._granted.done():  # granted by another queue, or given up
            return
        credentials = [credential for credential in self._shown if self.turns.queue(credential.digest) is queue]
        self._queue, self._reading = queue, True
        queue.budget.begin(loop_time())
        self._granted.set_result(min(credentials, key=self._shown.__getitem__))

    def begun(self) -> None:
        if not self._begun:
            self._begun = True
            self._queue.budget.sent()

    def accepted(self) -> None:
        self._queue.budget.accepted(loop_time())
        self._queue.unreported.accepted = True

    def refused(self, retry_after: float | None) -> None:
        """Note that the host answered with 429."""
        self._queue.budget.refused(loop_time(), retry_after)
        self._queue.unreported.refused, self._queue.unreported.retry_after = True, retry_after
        self.on_refusal()
        for other in list(self._queue.waiting):
            other.on_refusal()

    def close(self) -> None:
        """Finish the read, or withdraw it."""
        self._leave()
        if self._reading:
            self._reading = False
            self.begun()
            queue = self._queue
            queue.budget.finish(loop_time())
            queue.unreported.read += self.turns.cost
            queue.report()
            queue.serve()

    def _leave(self) -> None:
        for credential in self._shown:
            self.turns.queue(credential.digest).leave(self)

    def _preference(self, credential: Credential) -> tuple[float, float]:
        """Sort key: first the credential with most left, then the one shown longest ago."""
        left = self.turns.queue(credential.digest).budget.left(loop_time())
        return (-round(left / 10), self._shown[credential])


@dataclass(eq=False, slots=True)
class _Queue:
    """The reads that wait for one budget, which may be one of the ``common`` ones of several instances."""

    common: CommonBudgets | None
    digest: str
    limit: float
    cost: int
    budget: Budget = field(init=False)
    shares: FairShares = field(default_factory=FairShares)
    waiting: dict[QueuedRead, None] = field(default_factory=dict)
    unreported: Usage = field(default_factory=Usage)
    """What has happened since the last report."""
    _report_due: bool = False
    _reporting: asyncio.Task[None] | None = None
    _part_until: float = -math.inf
    _reported_at: float = -math.inf
    _timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.budget = Budget(self.limit, cost=self.cost)

    def enter(self, turn: QueuedRead) -> None:
        self.waiting[turn] = None
        self.serve()

    def leave(self, turn: QueuedRead) -> None:
        self.waiting.pop(turn, None)

    def keep_to_part(self, instances: int, until: float) -> None:
        """Until then (event loop time), keep to one instance's part of the limit."""
        self.unreported = Usage()  # it must not be counted twice
        self._part_until = until
        self.budget.divide(instances, loop_time())

    def report(self) -> None:
        """Report to the shared budgets, without waiting."""
        self._report_due = True
        self._start_reporting()

    def serve(self) -> None:
        """Grant the reads that can begin now, and set a timer for the others."""
        self._serve_in(math.inf)
        if self.common is not None and self.common.usable:
            self._start_reporting()
            return
        while self.waiting:
            now = loop_time()
            wait = self._own_wait(now)
            if wait > TICK:
                self._serve_in(wait)
                return
            self._grant(now)

    def _own_wait(self, now: float) -> float:
        return self.budget.wait(now, waiting=len(self.waiting), late=self._late(now))

    def _late(self, now: float) -> bool:
        return any(now - turn.need.since >= LATE for turn in self.waiting)

    def _grant(self, now: float) -> None:
        max(self.waiting, key=lambda turn: turn.need.urgency(now)).grant(self)

    def _serve_in(self, wait: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait, self.serve) if wait < math.inf else None

    # -- with other instances ------------------------------------------------------------------------------------------

    def _start_reporting(self) -> None:
        if self.common is not None and self.common.usable and self._reporting is None:
            self._reporting = asyncio.create_task(self._keep_reporting(self.common))

    async def _keep_reporting(self, common: CommonBudgets) -> None:
        """Report, and ask for reads, as long as there is something to report or a read was granted."""
        try:
            while await self._report_once(common):
                pass
        finally:
            self._reporting = None

    async def _report_once(self, common: CommonBudgets) -> bool:
        """Report once, and begin a read if permitted; whether to report again."""
        now = loop_time()
        if now >= self._part_until:
            self.budget.unite()
        own = self._own_wait(now) if now < self._part_until and self.waiting else 0.0
        wanted = bool(self.waiting) and own <= TICK
        if not (wanted or self._report_due):
            if self.waiting:
                self._serve_in(own)
            return False
        usage, self.unreported, self._report_due = self.unreported, Usage(), False
        usage.under_way, usage.reading = self.budget.under_way
        usage.waiting, usage.late, usage.wanted = len(self.waiting), self._late(now), wanted
        usage.known = now < self._reported_at + WINDOW
        standing = await common.tell(self.digest, usage, limit=self.limit, cost=self.cost)
        if standing is None:
            return False  # they cannot be used now: ``_common_changed`` will follow
        self._reported_at = now = loop_time()
        if now >= self._part_until:
            self.budget.learn(now, standing)
        if not wanted:
            return self._report_due or bool(self.waiting)
        if standing.wait > TICK:
            lag = self._lag(now) if common.instances > 1 else 0.0
            self._serve_in(lag + (standing.wait if standing.wait < math.inf else ASK_AGAIN))
            return self._report_due
        if self.waiting:
            self._grant(now)
        self._report_due = True  # whether the permitted read has begun
        return True

    def _lag(self, now: float) -> float:
        """Seconds by which to ask later than other instances, so that the most urgent read of all goes first."""
        urgency = max((turn.need.urgency(now)[1] for turn in self.waiting), default=0.0)
        return LAG * self.budget.gap / (1 + urgency)
