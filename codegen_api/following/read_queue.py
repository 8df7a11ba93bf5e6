"""Who may read a log next, and with whose credential, so that the host's limits are kept.

Each credential has a budget, or all of them one. Reads wait for their turn; the most urgent goes first. What is asked
for somebody who waits for the answer, a new run or the check of a token, goes at once and is only counted.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from codegen_api.errors import RateLimited, ShuttingDown
from codegen_api.following.outage import Outage
from codegen_api.following.rights import TICK, loop_time
from codegen_api.identity import Credential, asker
from codegen_api.pace import LIMIT, OVERDUE, WINDOW, Budget, Need, Shares
from codegen_api.telemetry import Exchange, NullObserver

LATE = OVERDUE + 5
"""Seconds without a read after which somebody is not held back for the sake of an even pace."""


PATIENCE = 10.0
"""Seconds for which somebody who has used up their share is let wait."""

TOO_MUCH = "You have asked for as much as you may of what the host allows all who share its token; ask again later."

FEW = 1000
"""So many credentials are remembered whether they ask for anything or not."""


class ReadQueue(NullObserver):
    """The budgets of all credentials, each of ``limit`` requests a minute; one for all of them when ``together``.

    An ``Observer`` of the upstream: that is how it learns what is spent.
    """

    def __init__(self, *, limit: float = LIMIT, together: bool = False) -> None:
        self.outage = Outage()
        self._limit = limit
        self._together = together
        self._queues: dict[str, _Queue] = {}
        self._swept = 0.0

    def want(self, need: Need, refused: Callable[[], None]) -> "QueuedRead":
        """Want to read; to be closed after use. ``refused`` is called when the host refuses others meanwhile."""
        return QueuedRead(self, need, refused)

    def closed(self, credential: Credential) -> float:
        """Seconds for which the host wants to hear nothing from this credential."""
        return self.queue(credential.digest).budget.closed(loop_time())

    def line(self, credential: Credential) -> float:
        """Seconds until somebody who comes now has their turn, at an even pace."""
        queue = self.queue(credential.digest)
        return queue.budget.closed(loop_time()) + len(queue.waiting) * queue.budget.gap

    @contextmanager
    def room(self, credential: Credential) -> Iterator[bool]:
        """Whether one more call may be made at once beside the reads, in this context."""
        queue = self.queue(credential.digest)
        if queue.budget.spare(loop_time()) < 1:
            yield False
            return
        queue.budget.promise()
        try:
            yield True
        finally:
            queue.budget.sent()

    async def take(self, credential: Credential, *, order: bool = False) -> None:
        """Wait until whoever is asking (``asker``) may ask the host for one thing more, where several share what it
        allows: nobody has more than their share of it, and what is only read (no ``order``) leaves room for others.

        Raises:
            RateLimited: that would take too long.
        """
        caller = asker.get()
        if caller is None or not (caller.shared or self._together):
            return
        queue = self.queue(credential.digest)
        deadline = loop_time() + PATIENCE
        queue.budget.promise()  # so that logs are not read meanwhile in our place
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
        self.queue(credential).budget.asking()

    def asked(self, exchange: Exchange) -> None:
        queue, now = self.queue(exchange.credential), loop_time()
        queue.budget.asked(now)
        if exchange.allowance is not None and exchange.operation == "read_log":  # other routes may have limits apart
            queue.budget.told(now, exchange.allowance.remaining, exchange.allowance.seconds)
        queue.serve()

    def queue(self, digest: str) -> "_Queue":
        if len(self._queues) > FEW and loop_time() >= self._swept + WINDOW:
            self._sweep()
        key = "" if self._together else digest
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(Budget(self._limit))
        return queue

    def _sweep(self) -> None:
        """Forget credentials that have asked for nothing lately."""
        self._swept = now = loop_time()
        self._queues = {
            digest: queue for digest, queue in self._queues.items() if queue.waiting or not queue.budget.idle(now)
        }


class QueuedRead:
    """One wish to read: granted with one of the credentials that were offered for it."""

    def __init__(self, turns: ReadQueue, need: Need, refused: Callable[[], None]) -> None:
        self.need = need
        self.on_refusal = refused
        self._turns = turns
        self._shown: dict[Credential, float] = {}
        self._granted: asyncio.Future[Credential] = asyncio.get_running_loop().create_future()
        self._queue: _Queue | None = None
        self._begun = False

    def offer(self, *credentials: tuple[Credential, float]) -> None:
        """It may be read with these; the times say when the host was last shown each."""
        self._shown.update(credentials)
        for credential in sorted(self._shown, key=self._preference):
            if self._granted.done():
                return
            self._turns.queue(credential.digest).enter(self)

    def withdraw(self, credential: Credential) -> None:
        """Not with this one any more."""
        if self._shown.pop(credential, None) is not None:
            queue = self._turns.queue(credential.digest)
            if all(self._turns.queue(other.digest) is not queue for other in self._shown):
                queue.leave(self)

    @property
    def ready(self) -> bool:
        """Whether it is our turn."""
        return self._granted.done()

    async def granted(self) -> Credential:
        """The credential to read with, when it is our turn.

        Raises:
            ShuttingDown: that will not be.
        """
        return await self._granted

    def give_up(self) -> None:
        """Let nobody wait for this any longer."""
        self._leave()
        if not self._granted.done():
            self._granted.set_exception(ShuttingDown())

    def grant(self, queue: "_Queue") -> None:
        """It is our turn, by this queue."""
        self._leave()
        if self._granted.done():  # by another queue, or nobody waits any more
            return
        credentials = [credential for credential in self._shown if self._turns.queue(credential.digest) is queue]
        self._queue = queue
        queue.budget.begin(loop_time())
        self._granted.set_result(min(credentials, key=self._shown.__getitem__))

    def begun(self) -> None:
        """The host is asked now."""
        if self._queue is not None and not self._begun:
            self._begun = True
            self._queue.budget.sent()

    def accepted(self) -> None:
        """The host answered."""
        if self._queue is not None:
            self._queue.budget.accepted(loop_time())

    def refused(self, retry_after: float | None) -> None:
        """The host answered with 429."""
        if self._queue is not None:
            self._queue.budget.refused(loop_time(), retry_after)
            self.on_refusal()
            for other in list(self._queue.waiting):
                other.on_refusal()

    def close(self) -> None:
        """The read is over, or not wanted any more."""
        self._leave()
        if self._queue is not None:
            self.begun()
            queue, self._queue = self._queue, None
            queue.budget.finish(loop_time())
            queue.serve()

    def _leave(self) -> None:
        for credential in self._shown:
            self._turns.queue(credential.digest).leave(self)

    def _preference(self, credential: Credential) -> tuple[float, float]:
        """First who has most left, then who was not shown for longest."""
        left = self._turns.queue(credential.digest).budget.left(loop_time())
        return (-round(left / 10), self._shown[credential])


class _Queue:
    """Those who wait for one budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.shares = Shares()
        self.waiting: dict[QueuedRead, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, turn: QueuedRead) -> None:
        self.waiting[turn] = None
        self.serve()

    def leave(self, turn: QueuedRead) -> None:
        self.waiting.pop(turn, None)

    def serve(self) -> None:
        """Grant what can be granted now, and come back when there is more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.waiting:
            now = loop_time()
            late = any(now - turn.need.since >= LATE for turn in self.waiting)
            wait = self.budget.wait(now, waiting=len(self.waiting), late=late)
            if wait > TICK:
                if wait < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(wait, self.serve)
                return
            max(self.waiting, key=lambda turn: turn.need.urgency(now)).grant(self)
