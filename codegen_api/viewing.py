"""Viewing a live log: a place among the viewers, the right to the run, and how long the stream lives."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from codegen_api.brokers import Batch
from codegen_api.errors import GatewayError
from codegen_api.following import (
    Current,
    Ended,
    Hub,
    Patrol,
    Position,
    Quiet,
    Right,
    StreamLimits,
    Subscriber,
    Update,
    loop_time,
)
from codegen_api.identity import READ, Caller
from codegen_api.ownership import Ownership, on_behalf_of
from codegen_api.runs import Appended, RunRef
from codegen_api.taps import Tap
from codegen_api.telemetry import Observer, trace


class Viewing:
    """Brings callers to the hub. ``patrol`` gives the usual bounds of a stream, ``clock`` epoch seconds."""

    def __init__(
        self,
        hub: Hub,
        ownership: Ownership,
        limits: StreamLimits,
        patrol: Callable[[], Patrol],
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.ownership = ownership
        self.limits = limits
        self._patrol = patrol
        self._observer = observer
        self._clock = clock
        self._ages = Ages(observer, clock)

    def patrol(self, caller: Caller) -> Patrol:
        """Maximum age and heartbeat interval for a stream of this caller."""
        patrol = self._patrol()
        if caller.expires is None:
            return patrol
        # the stream must not outlive the credentials
        return replace(patrol, max_age=max(0.0, min(patrol.max_age, caller.expires - self._clock())))

    async def updates(
        self, caller: Caller, ref: RunRef, right: Right | None, position: Position
    ) -> AsyncGenerator[Update | Tap[Update], None]:
        """What a viewer is told on the way to their seat, and then that: the rest comes of it. Without a ``right``, the
        host is asked for one when it is their turn.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            GatewayError: the caller may not see the run.
        """
        opened, patrol, began = self._clock(), self.patrol(caller), loop_time()
        # the place is taken only here: a caller still being checked, or who left meanwhile, has no stream
        async with self.limits.take(caller.principal):
            if right is None:
                whole = caller.shared and self.ownership.owner_record(ref) is None
                coming = self.hub.let_in(caller.credential, ref, position, patrol, whole=whole)
                with on_behalf_of(caller):
                    async with aclosing(coming):
                        async for news in coming:
                            if not isinstance(news, Right):
                                yield news
                                continue
                            right = news
                            if whole:
                                self.ownership.require(caller, self.ownership.remember(ref, right.run), READ)
                if right is None:
                    return  # the stream ended with a request to reconnect
                patrol = replace(patrol, max_age=max(0.0, patrol.max_age - (loop_time() - began)))
            with on_behalf_of(caller):
                subscriber = self.hub.subscribe(caller.credential, right, position, patrol)
            try:
                yield _Seat(caller, subscriber, opened, self._observer, self._ages)
            finally:
                await subscriber.aclose()


class _Seat(Tap[Update]):
    """What a viewer is told, and the operator of that."""

    __slots__ = ("_ages", "_caller", "_observer", "_opened", "_replayed", "_span", "_subscriber")

    def __init__(self, caller: Caller, subscriber: Subscriber, opened: float, observer: Observer, ages: "Ages") -> None:
        super().__init__()
        self._caller = caller
        self._subscriber = subscriber
        self._opened = opened
        self._observer = observer
        self._ages = ages
        current = trace.get()  # who gives them something does so on behalf of others
        self._span = None if current is None else current.span
        self._replayed: int | None = 0  # of the entries from before they came
        subscriber.sink = self

    def take(self) -> Update | None:
        try:
            update = self._subscriber.take()
        except GatewayError:
            with on_behalf_of(self._caller):
                raise
        finally:
            self.over = self._subscriber.over
        if isinstance(update, Batch):
            self._report(update)
            if self._replayed is not None:
                self._replayed += sum(isinstance(event, Appended) for event in update.entries)
        elif self._replayed is not None and isinstance(update, Current | Ended):
            self._observer.replayed(self._replayed)
            self._replayed = None
        return update

    def offer(self, item: Batch | Quiet, now: float) -> bool:
        if self._replayed is not None or not self.sink.offer(item, now):
            return False
        if isinstance(item, Batch):
            self._report(item)
        return True

    def _report(self, batch: Batch) -> None:
        self._ages.gave(batch, self._opened)
        read = self._subscriber.reading.last_read
        if self._span is not None and read is not None:
            self._span.link(read)


class Ages:
    """How old entries were when waiting viewers were given them: reported once for all who are given the same.
    ``clock`` gives epoch seconds.
    """

    def __init__(self, observer: Observer, clock: Callable[[], float]) -> None:
        self._observer = observer
        self._clock = clock
        self._batch: Batch | None = None
        self._created: float | None = None
        self._viewers = 0

    def gave(self, batch: Batch, opened: float) -> None:
        """A viewer who came at ``opened`` was given this. Its newest entry counts, unless it existed before: that one
        is old, not late.
        """
        if batch is not self._batch:
            self._report()
            asyncio.get_running_loop().call_soon(self._report)
            newest = next((event.entry for event in reversed(batch.entries) if isinstance(event, Appended)), None)
            self._batch, self._created = batch, None if newest is None else newest.created
        if self._created is not None and self._created >= opened:
            self._viewers += 1

    def _report(self) -> None:
        if self._viewers and self._created is not None:
            self._observer.delivered(max(0.0, self._clock() - self._created), self._viewers)
        self._batch, self._viewers = None, 0
