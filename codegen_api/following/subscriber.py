"""The subscriber: one viewer's way through a log, a position and nothing else.

It promises every entry behind its position once and in order, whether it is held or read again from the host;
amendments of what was given before; and, when the run has ended and everything was given, one end.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from codegen_api.brokers import BATCH_BYTES, Batch, Broker, Forgotten
from codegen_api.following.follower import BELIEVED, Follower
from codegen_api.following.readers import RECOVERED, Notice
from codegen_api.following.rights import loop_time
from codegen_api.identity import Credential
from codegen_api.positions import AMENDABLE, UNKNOWN, Copy, Missed, Position, Trail
from codegen_api.runs import Amended, Changed, Cursor, LogEntry, Run
from codegen_api.taps import Pulled, Tap
from codegen_api.wheel import EARLY, Alarm


@dataclass(frozen=True, slots=True)
class Resync:
    """The position asked for is not in this log; it goes on from ``cursor``."""

    requested: Cursor
    length: Cursor
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing came for a while."""


QUIET = Quiet()


@dataclass(frozen=True, slots=True)
class Current:
    """Everything that was there when this viewer came has been given, and how the run is: ``cursor`` was the end of the
    log.
    """

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Leaving:
    """The gateway ends this stream, not the log: come back with ``position``."""

    position: Position


@dataclass(frozen=True, slots=True)
class Ended:
    """The run has ended and everything was given."""

    run: Run
    length: Cursor


Update: TypeAlias = Batch | Changed | Notice | Resync | Quiet | Current | Leaving | Ended


@dataclass(frozen=True, slots=True)
class Patrol:
    """How long a stream lives, and how long it may be silent; in seconds."""

    max_age: float = 600.0
    heartbeat: float = field(default=15.0)


class Subscriber(Tap[Update]):
    """One viewer of a run, from ``position`` on: gives what they are to be told.

    ``take`` raises a ``GatewayError`` when the host refuses to show this viewer the run, or the reading of it broke
    down. Where nothing has to be read again, no task works for a viewer, and no timer.
    """

    __slots__ = (
        "_alarm", "_broker", "_came", "_changed", "_current", "_from", "_generation", "_leaving", "_left", "_patrol",
        "_poked", "_resting", "_revision", "_run", "_silent_since", "_source", "_told", "credential", "cursor",
        "follower", "position",
    )  # fmt: skip

    def __init__(
        self,
        follower: Follower,
        broker: Broker,
        credential: Credential,
        position: Position,
        came: float,
        patrol: Patrol,
        left: "Callable[[Subscriber], None]",
    ) -> None:
        super().__init__()
        self.cursor = position.cursor
        self.position = replace(position, over=False)
        self._from = position
        self._came = came
        self.follower = follower
        self._broker = broker
        self._left = left
        self.credential = credential
        self._patrol = patrol
        self._poked = False
        self._resting = False  # everything was told, and only an entry or a call can change that
        self._leaving = False
        self._generation = follower.generation
        self._revision: int | None = None  # of the log, of which everything was given up to the cursor
        self._source: Tap[Batch | Resync] = self._tap(Pulled(self._approach()))
        self._alarm: Alarm | None = None
        self._silent_since = came
        self._current = False
        self._run: Run | None = None  # as it was described last
        self._changed: Changed | None = None  # a description that is still to be told
        trouble = follower.readers.trouble
        self._told = trouble if trouble is not None and trouble.code == RECOVERED else None  # old news

    def poke(self) -> None:
        """There may be something to tell, when whoever says so is done."""
        if not self._poked:
            self._poked, self._resting = True, False
            asyncio.get_running_loop().call_soon(self._rouse)

    def leave(self) -> None:
        """End the stream soon, politely."""
        self._leaving = True
        self.poke()

    @property
    def idle(self) -> bool:
        return self._resting

    def offer(self, item: Batch, now: float) -> bool:
        if not self._resting or not self.sink.offer(item, now):
            return False
        self.cursor, self.position, self._silent_since = item.cursor, item.positions[-1], now
        return True

    def take(self) -> Update | None:
        self._resting = False
        while not self.over:
            update = self._told_of_run() or self._told_beside()
            if update is not None:
                return update
            now, item = loop_time(), self._next()
            if item is None:
                silent_until = self._silent_since + self._patrol.heartbeat
                if now >= silent_until - EARLY:
                    self._silent_since = now
                    return QUIET
                self._set_alarm(min(silent_until, self._came + self._patrol.max_age))
                self._resting = self._current and self._from.seen is None
                return None
            self._silent_since = now
            self.cursor = item.cursor
            if isinstance(item, Resync):
                self.position = Position(item.cursor)
                return item
            self._changed = item.changed
            if item.entries:
                self.position = item.positions[-1]
                return item
        return None

    def _told_of_run(self) -> Update | None:
        """How the run is, if that is news, and maybe that it has ended."""
        changed = self._changed
        if self._run is None:
            self._run = self.follower.run
            return Changed(self._run, None, self.follower.described)
        if changed is None:
            return None
        if changed.run != self._run:
            self._run = changed.run
            return changed
        self._changed = None
        if self._is_over(changed):
            self.over = True
            return Ended(changed.run, self.cursor)
        # an end that is too old to be believed has to be seen again
        self.follower.look(self._believed())
        return None

    def _told_beside(self) -> Update | None:
        """What does not come of the log."""
        follower, readers = self.follower, self.follower.readers
        fault = readers.refusal(self.credential) or follower.fault
        if fault is not None:
            self.over = True
            raise fault
        if readers.trouble is not None and readers.trouble is not self._told:
            self._told, self._silent_since = readers.trouble, loop_time()
            return self._told
        if not self._current and follower.caught_up and self.cursor == follower.tail and self._run == follower.run:
            self._current = True  # everything was given that the follower has seen
            return Current(self.cursor)
        if self._leaving or loop_time() >= self._came + self._patrol.max_age - EARLY:
            self.over = True
            return Leaving(self.position)
        return None

    async def aclose(self) -> None:
        self.over, self._resting = True, False
        if self._alarm is not None:
            self._alarm.cancel()
        try:
            await self._source.aclose()
        finally:
            self._left(self)

    def _rouse(self) -> None:
        self._poked = False
        self.notify()

    def _set_alarm(self, at: float) -> None:
        """Have a look then, at the latest; looking too early costs little, and setting it anew for each entry more."""
        if self._alarm is None or self._alarm.at > at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = Alarm(at, self._wake_up)

    def _wake_up(self) -> None:
        self._alarm, now = None, loop_time()
        leaving = self._came + self._patrol.max_age
        if self._resting and now < leaving - EARLY:  # as most viewers do most of the time: this is all that they cost
            quiet = now >= self._silent_since + self._patrol.heartbeat - EARLY
            if not quiet or self.sink.offer(QUIET, now):
                self._silent_since = now if quiet else self._silent_since
                self._set_alarm(min(self._silent_since + self._patrol.heartbeat, leaving))
                return
        self._resting = False
        self.notify()

    def _is_over(self, changed: Changed) -> bool:
        """Whether this description ends the stream: an end that is behind us, and not from too long before we came."""
        since = max(self._believed(), self.follower.resumption.at)
        return changed.length == self.cursor and changed.seen >= since

    def _believed(self) -> float:
        """Since when an end must have been seen to be told to this viewer.

        An end is shared: a thousand who open a finished run together cost one look, as long as it is no older than
        ``BELIEVED``. But who comes back without an end may have been told by somebody else, a moment ago, that the run
        was resumed; to hear again of the old end would contradict that. So for them it must have been seen since.
        """
        return self._came if self._from.cursor and not self._from.over else self._came - BELIEVED

    # -- what comes from the log --------------------------------------------------------------------------------------

    def _tap(self, source: Tap[Any]) -> Tap[Any]:
        source.sink = self
        return source

    def _next(self) -> Batch | Resync | None:
        while True:
            try:
                item = self._source.take()
            except Forgotten:
                self._source = self._tap(Pulled(self._begin_anew()))
                continue
            if item is None and self._source.over:  # the way to the log is behind us
                if self._generation == self.follower.generation:
                    follower = self.follower
                    log = self._broker.subscribe(follower.ref, self.cursor, self._revision, follower.read_again)
                    self._source = self._tap(log)
                else:
                    self._source = self._tap(Pulled(self._begin_anew()))
                continue
            return self._relabelled(item) if isinstance(item, Batch) else item

    async def _approach(self) -> AsyncGenerator[Batch | Resync, None]:
        """What comes before the log itself: where it turns out to be too short, and what somebody who comes back lacks.

        Raises:
            Forgotten: there is another log by now.
        """
        follower, broker = self.follower, self._broker
        await follower.reached(self.cursor, since=self._came)
        if self.cursor > follower.tail:
            # where entries change and go, what this viewer has of the others says nothing either
            yield Resync(self.cursor, follower.tail, 0 if follower.edited else follower.tail)
            self._from = Position(self.cursor)
        if self.cursor == 0 or self._generation != follower.generation:
            return
        if await broker.tail(follower.ref) is None:
            await follower.read()  # the log is about to be opened
        await self._refresh(self._from, await broker.missed(follower.ref, self.cursor))
        missed = await broker.missed(follower.ref, self.cursor)
        async with aclosing(self._missing(self._from, missed)) as batches:
            async for batch in batches:
                yield batch
        self._revision = missed.revision

    async def _begin_anew(self) -> AsyncGenerator[Batch | Resync, None]:
        follower = self.follower
        while not follower.caught_up:
            await follower.reached(follower.tail + 1, since=float("-inf"))
        self._generation = follower.generation
        yield Resync(self.cursor, follower.tail, 0)
        self._from = Position(0)
        self._revision = None

    def _relabelled(self, batch: Batch) -> Batch:
        """The same for this viewer, who may know more than others here."""
        if self._from.seen is None:
            return batch
        positions = tuple(position.after(self._from) for position in batch.positions)
        return batch if positions == batch.positions else replace(batch, positions=positions)

    async def _missing(self, came: Position, missed: Missed) -> AsyncGenerator[Batch, None]:
        """What somebody who comes back lacks of the entries before that place."""
        changes, near = missed.changes, missed.near
        doubtful: list[Cursor] = []
        if not came.settled:
            first = max(1, came.cursor - AMENDABLE + 1)
            changes = [change for change in changes if change.cursor < first]
            copies = [Copy.of(entry) async for _, entry in self._entries(range(first, came.cursor + 1))]
            near = copies
            changed = {change.cursor for change in missed.changes if not came.has(change)}
            for cursor, copy in enumerate(copies, first):
                digest = came.digest(cursor)
                if copy.amendable or cursor in changed if digest == UNKNOWN else digest != copy.digest:
                    doubtful.append(cursor)
        untold = sorted(change for change in changes if not came.has(change))
        trail = Trail(came, replace(missed, near=near), untold, doubtful)
        again = [*doubtful, *(change.cursor for change in untold)]
        told: list[Amended] = []
        positions: list[Position] = []
        room = BATCH_BYTES
        async with aclosing(self._entries(again)) as entries:
            async for cursor, entry in entries:
                if told and entry.size > room:
                    yield Batch(tuple(told), None, came.cursor, 0, tuple(positions))
                    told, positions, room = [], [], BATCH_BYTES
                told.append(Amended(cursor, entry))
                positions.append(trail.amended(cursor, entry))
                room -= entry.size
        if told:
            yield Batch(tuple(told), None, came.cursor, 0, tuple(positions))

    def _entries(self, cursors: Iterable[Cursor]) -> AsyncGenerator[tuple[Cursor, LogEntry], None]:
        return self._broker.entries(self.follower.ref, cursors, self.follower.read_again)

    async def _refresh(self, came: Position, missed: Missed) -> None:
        """Have the last entries read again if the viewer's copies are none that were seen here: it may be ahead."""
        if came.settled:
            return
        for cursor, copy in enumerate(missed.near, came.cursor - len(missed.near) + 1):
            digest = came.digest(cursor)
            if "." not in digest and copy is not None and digest not in (copy.digest, *copy.earlier):
                await self.follower.refreshed(came.cursor, since=self._came)
                return
