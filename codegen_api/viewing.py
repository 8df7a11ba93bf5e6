"""Viewing a live log: a place among the viewers, the right to the run, and what is told them for how long."""

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
from codegen_api.identity import READ, Caller, Principal
from codegen_api.ownership import Ownership, on_behalf_of
from codegen_api.runs import Appended, Changed, Cursor, Run, RunRef
from codegen_api.taps import Pulled, Tap
from codegen_api.telemetry import Observer, Trace, trace

OVER_SECONDS = 2.0
"""How long somebody who was told the end waits for the word that it is still the end, before a stream begins
instead.
"""


class OpenStreams(Protocol):
    """How many streams each principal has open in all instances."""

    async def take(self, principal: Principal, count: int, each: int) -> bool:
        """They have ``count`` here now; False if that would be more than ``each`` everywhere."""

    def left(self, principal: Principal, count: int) -> None:
        """They have only ``count`` here from now on."""


@dataclass(eq=False, slots=True)
class StreamLimits:
    """``at_most`` for everybody together in this process, ``each`` for one of them; in ``common`` with others."""

    at_most: int
    each: int
    common: OpenStreams | None = None
    _taken: Counter[Principal] = field(default_factory=Counter)

    @property
    def taken(self) -> int:
        return self._taken.total()

    def make_sure_of_room(self, principal: Principal) -> None:
        """
        Raises:
            RateLimited: they have as many as they may.
            AtCapacity: all have.
        """
        if self._taken[principal] >= self.each:
            raise RateLimited(retry_after=_soon())
        if self.taken >= self.at_most:
            raise AtCapacity(retry_after=_soon())

    @asynccontextmanager
    async def take(self, principal: Principal) -> AsyncIterator[None]:
        """A stream may be open for as long as the context lasts; raises as ``make_sure_of_room``."""
        self.make_sure_of_room(principal)
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
    """Seconds until it may be worth while to come again: not the same for all who were refused together."""
    return random.uniform(5, 10)  # noqa: S311 - spreads load only


@dataclass(eq=False, slots=True)
class Viewing:
    """Brings callers to the hub. ``bounds`` gives the usual bounds of a stream, ``clock`` epoch seconds."""

    hub: Hub
    ownership: Ownership
    limits: StreamLimits
    bounds: Callable[[], Patrol]
    observer: Observer
    clock: Callable[[], float]
    _batch: Batch | None = None  # that waiting viewers were given last
    _created: float | None = None  # its newest entry
    _waited: int = 0  # so many viewers for that

    def patrol(self, caller: Caller) -> Patrol:
        """Maximum age and heartbeat interval for a stream of this caller."""
        patrol = self.bounds()
        if caller.expires is None:
            return patrol
        # the stream must not outlive the credentials
        return replace(patrol, max_age=max(0.0, min(patrol.max_age, caller.expires - self.clock())))

    def gave(self, batch: Batch, opened: float) -> None:
        """A viewer who came at ``opened`` was given this. How old its newest entry was then is reported once for all
        who are given the same, unless it existed before they came: then it is old, not late.
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
    """What one viewer is told on the way to the log of ``ref``, and then of it; its operator hears of that. Without a
    ``right``, the host is asked for one when it is their turn.

    ``take`` raises a ``GatewayError`` when the viewer may have no more, or there is no room for them.
    """

    __slots__ = ("_caller", "_first", "_opened", "_reading", "_replayed", "_span", "_updates", "_viewing")

    def __init__(self, viewing: Viewing, caller: Caller, ref: RunRef, right: Right | None, position: Position) -> None:
        super().__init__()
        self._viewing = viewing
        self._caller = caller
        self._opened = viewing.clock()
        current = trace.get()  # who gives them something does so on behalf of others
        self._span = None if current is None else current.span
        self._replayed: int | None = 0  # of the entries from before they came
        self._reading: Trace | None = None  # of those who read for all viewers
        self._first: list[Update] = []
        self._updates: Pulled[Update] = Pulled(self._come(ref, right, position))
        self._updates.sink = self

    async def begin(self, position: Position, held: Run | None) -> bool:
        """Wait for what comes first. False when the viewer at ``position`` knows the end already and it is still the
        end. ``held`` is a description of the run from before they asked, if there was one.
        """
        try:
            first = [await anext(self)]
            with suppress(TimeoutError):
                async with asyncio.timeout(OVER_SECONDS):
                    while position.over and not _is_news(first[-1], position.cursor, held):
                        if isinstance(first[-1], Ended):
                            await self.aclose()
                            return False
                        first.append(await anext(self))
        except BaseException:  # whatever it was, the caller included who left: there will be no stream to close
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
            return False  # they are told when they take it
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
        self._viewing.gave(batch, self._opened)
        if self._span is not None and self._reading is not None and self._reading.last_read is not None:
            self._span.link(self._reading.last_read)

    async def _come(
        self, ref: RunRef, right: Right | None, position: Position
    ) -> AsyncGenerator[Update | Tap[Update], None]:
        caller, hub, ownership = self._caller, self._viewing.hub, self._viewing.ownership
        patrol, began = self._viewing.patrol(caller), loop_time()
        # the place is taken only here: a caller still being checked, or who left meanwhile, has no stream
        async with self._viewing.limits.take(caller.principal):
            if right is None:
                whole = caller.shared and ownership.owner_record(ref) is None
                async with aclosing(hub.let_in(caller.credential, ref, position, patrol, whole=whole)) as coming:
                    async for news in coming:
                        if isinstance(news, Right):
                            right = news
                        else:
                            yield news
                if right is None:
                    return  # the stream ended with a request to reconnect
                if whole:
                    ownership.require(caller, ownership.remember(ref, right.run), READ)
                patrol = replace(patrol, max_age=max(0.0, patrol.max_age - (loop_time() - began)))
            subscriber = hub.subscribe(caller.credential, right, position, patrol)
            self._reading = subscriber.follower.readers.trace
            yield subscriber


def _is_news(update: Update, cursor: Cursor, held: Run | None) -> bool:
    """Whether a viewer who was told that the log ended at ``cursor`` has to hear this.

    ``held`` is a description of the run that may be from before that end.
    """
    if isinstance(update, Batch):
        return any(isinstance(event, Appended) for event in update.entries)
    if isinstance(update, Ended):
        return update.length != cursor
    if isinstance(update, Current):
        return False
    if isinstance(update, Changed):
        return not update.run.status.ended and update.run is not held
    return True
