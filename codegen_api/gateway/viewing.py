"""Viewing a live log: a place among the viewers, the right to see the run, and the stream of updates."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from codegen_api.brokers import Batch
from codegen_api.errors import AtCapacity, GatewayError, RateLimited
from codegen_api.following import Current, Ended, Patrol, Position, Quiet, Update, loop_time
from codegen_api.following.hub import Hub
from codegen_api.following.rights import Right
from codegen_api.gateway.ownership import Ownership, on_behalf_of
from codegen_api.identity import READ, Caller, Principal
from codegen_api.runs import Appended, Changed, Cursor, Run, RunRef
from codegen_api.taps import Pulled, Tap
from codegen_api.telemetry import Observer, Trace, trace

OVER_SECONDS = 2.0
"""How long a viewer who already knows the end waits for its confirmation before a stream begins instead."""


class OpenStreams(Protocol):
    """How many streams each principal has open in all instances."""

    async def take(self, principal: Principal, count: int, each: int) -> bool:
        """Report that they have ``count`` here now; False if that would be more than ``each`` everywhere."""

    def left(self, principal: Principal, count: int) -> None:
        """Report that only ``count`` are left here."""


@dataclass(eq=False, slots=True)
class StreamLimits:
    """Limits of open streams: ``at_most`` in this process, ``each`` per principal, counted in ``common`` if given."""

    at_most: int
    each: int
    common: OpenStreams | None = None
    _taken: Counter[Principal] = field(default_factory=Counter)

    @property
    def taken(self) -> int:
        return self._taken.total()

    def check_room(self, principal: Principal) -> None:
        """
        Raises:
            RateLimited: this principal has as many streams as it may.
            AtCapacity: this process has as many as it may.
        """
        if self._taken[principal] >= self.each:
            raise RateLimited(retry_after=_soon())
        if self.taken >= self.at_most:
            raise AtCapacity(retry_after=_soon())

    @asynccontextmanager
    async def take(self, principal: Principal) -> AsyncIterator[None]:
        """Count one stream as open while the context lasts; raises as ``check_room``."""
        self.check_room(principal)
        self._taken[principal] += 1
        try:
            if self.common is not None and not await self.common.take(principal, self._taken[principal], self.each):
                raise RateLimited(retry_after=_soon())
            yield
        finally:
            self._taken[principal] -= 1
            if self.common is not None:
                self.common.left(principal, self._taken[principal])
            if not self._taken[principal]:
                del self._taken[principal]


def _soon() -> float:
    """Seconds after which to try again, random so that clients refused together do not return together."""
    return random.uniform(5, 10)  # noqa: S311 - spreads load only


@dataclass(eq=False, slots=True)
class Viewing:
    """Connects callers to the hub. ``bounds`` gives the usual bounds of a stream, ``clock`` epoch seconds."""

    hub: Hub
    ownership: Ownership
    limits: StreamLimits
    bounds: Callable[[], Patrol]
    observer: Observer
    clock: Callable[[], float]
    _batch: Batch | None = None  # the last one given to waiting viewers
    _created: float | None = None  # when its newest entry was created
    _waited: int = 0  # how many viewers were waiting for that entry

    def patrol(self, caller: Caller) -> Patrol:
        """Maximum age and heartbeat interval for a stream of this caller."""
        patrol = self.bounds()
        if caller.expires is None:
            return patrol
        # the stream must not outlive the credentials
        return replace(patrol, max_age=max(0.0, min(patrol.max_age, caller.expires - self.clock())))

    def record_delivery(self, batch: Batch, opened: float) -> None:
        """Note that a stream ``opened`` at that time was given ``batch``. The age of its newest entry is reported once
        for all streams that are given the same. An entry from before the stream was opened is old, not late.
        """
        if batch is not self._batch:
            self._report_age()
            asyncio.get_running_loop().call_soon(self._report_age)
            newest = next((event.entry for event in reversed(batch.entries) if isinstance(event, Appended)), None)
            self._batch, self._created = batch, None if newest is None else newest.created
        if self._created is not None and self._created >= opened:
            self._waited += 1

    def _report_age(self) -> None:
        if self._waited and self._created is not None:
            self.observer.delivered(max(0.0, self.clock() - self._created), self._waited)
        self._batch, self._waited = None, 0


class Stream(Tap[Update]):
    """One viewer's updates: while they wait for the log of ``ref``, and then from it. Reports to the observer. Without
    a ``right``, the host is asked for one when it is this viewer's turn.

    ``take`` raises a ``GatewayError`` when the viewer may have no more, or there is no room for them.
    """

    __slots__ = ("_caller", "_first", "_opened", "_reading", "_replayed", "_span", "_updates", "_viewing")

    def __init__(self, viewing: Viewing, caller: Caller, ref: RunRef, right: Right | None, position: Position) -> None:
        super().__init__()
        self._viewing = viewing
        self._caller = caller
        self._opened = viewing.clock()
        current = trace.get()  # kept, because updates are delivered in other contexts
        self._span = None if current is None else current.span
        self._replayed: int | None = 0  # entries from before they came, given so far; None when all are
        self._reading: Trace | None = None  # the trace of the reads for all viewers
        self._first: list[Update] = []
        self._updates: Pulled[Update] = Pulled(self._open(ref, right, position))
        self._updates.sink = self

    async def begin(self, position: Position, older: Run | None) -> bool:
        """Wait for the first update. False if the viewer at ``position`` knows the end already and that still holds.
        ``older`` is a description of the run from before this request, if there is one.
        """
        try:
            first = [await anext(self)]
            with suppress(TimeoutError):
                async with asyncio.timeout(OVER_SECONDS):
                    while position.over and not _is_news(first[-1], position.cursor, older):
                        if isinstance(first[-1], Ended):
                            await self.aclose()
                            return False
                        first.append(await anext(self))
        except BaseException:  # also when the caller has left: nobody else will close this
            await self.aclose()
            raise
        self._first = first
        return True

    def take(self) -> Update | None:
        update = self._first.pop(0) if self._first else self._next()
        if update is not None:
            self._caller.confirm()
        return update

    def offer(self, item: Batch | Quiet, now: float) -> bool:
        try:
            self._caller.confirm()
        except GatewayError:
            return False  # ``take`` raises it
        if self._first or self._replayed is not None or not self.sink.offer(item, now):
            return False
        if isinstance(item, Batch):
            self._report(item)
        return True

    async def aclose(self) -> None:
        self.over = True
        self._first.clear()
        await self._updates.aclose()

    def _next(self) -> Update | None:
        try:
            update = self._updates.take()
        except GatewayError:
            with on_behalf_of(self._caller):
                raise
        finally:
            self.over = self._updates.over
        if isinstance(update, Batch):
            self._report(update)
            if self._replayed is not None:
                self._replayed += sum(isinstance(event, Appended) for event in update.entries)
        elif self._replayed is not None and isinstance(update, Current | Ended):
            self._viewing.observer.replayed(self._replayed)
            self._replayed = None
        return update

    def _report(self, batch: Batch) -> None:
        self._viewing.record_delivery(batch, self._opened)
        if self._span is not None and self._reading is not None and self._reading.last_read is not None:
            self._span.link(self._reading.last_read)

    async def _open(
        self, ref: RunRef, right: Right | None, position: Position
    ) -> AsyncGenerator[Update | Tap[Update], None]:
        caller, hub, ownership = self._caller, self._viewing.hub, self._viewing.ownership
        patrol, began = self._viewing.patrol(caller), loop_time()
        # the place is taken only here: a caller still being checked, or who left meanwhile, has no stream
        async with self._viewing.limits.take(caller.principal):
            if right is None:
                whole = caller.shared and ownership.owner_record(ref) is None
                waiting = hub.wait_for_right(caller.credential, ref, position, patrol, whole=whole)
                async with aclosing(waiting) as updates:
                    async for update in updates:
                        if isinstance(update, Right):
                            right = update
                        else:
                            yield update
                if right is None:
                    return  # the stream ended with a request to reconnect
                if whole:
                    ownership.require(caller, ownership.remember(ref, right.run), READ)
                patrol = replace(patrol, max_age=max(0.0, patrol.max_age - (loop_time() - began)))
            subscriber = hub.subscribe(caller.credential, right, position, patrol)
            self._reading = subscriber.follower.readers.trace
            yield subscriber


def _is_news(update: Update, cursor: Cursor, older: Run | None) -> bool:
    """Whether ``update`` tells anything new to a viewer who knows that the log ended at ``cursor``.

    ``older`` is a description of the run that may be from before that end.
    """
    if isinstance(update, Batch):
        return any(isinstance(event, Appended) for event in update.entries)
    if isinstance(update, Ended):
        return update.length != cursor
    if isinstance(update, Current):
        return False
    if isinstance(update, Changed):
        return not update.run.status.ended and update.run is not older
    return True
