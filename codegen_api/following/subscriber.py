"""The subscriber: one viewer's position in a log, which moves on as the viewer takes updates.

It promises every entry behind its position once and in order, whether held or read again from the host; amendments of
entries given before; and one end, when the run has ended and everything was given.
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
    """The position asked for is not in this log; the stream goes on from ``cursor``."""

    requested: Cursor
    length: Cursor
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing came for a while."""


QUIET = Quiet()


@dataclass(frozen=True, slots=True)
class Current:
    """The viewer has caught up: with the run's description, and with the log up to ``cursor``, which was its end."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Leaving:
    """The gateway ends this stream, not the log: reconnect with ``position``."""

    position: Position


@dataclass(frozen=True, slots=True)
class Ended:
    """The run has ended, and everything was given."""

    run: Run
    length: Cursor


Update: TypeAlias = Batch | Changed | Notice | Resync | Quiet | Current | Leaving | Ended


@dataclass(frozen=True, slots=True)
class Patrol:
    """How long a stream lives, and how long it may be silent, in seconds."""

    max_age: float = 600.0
    heartbeat: float = field(default=15.0)


class Subscriber(Tap[Update]):
    """One viewer's updates about a run, from ``position`` on. ``on_close`` is called when it is closed.

    ``take`` raises a ``GatewayError`` when the host refuses to show this viewer the run, or reading it failed for good.
    Unless something has to be read again, a viewer has no task, and no timer of its own.
    """

    __slots__ = (
        "_alarm", "_broker", "_changed", "_current", "_generation", "_joined", "_last_notice", "_leaving", "_on_close",
        "_patrol", "_poked", "_resting", "_revision", "_run", "_silent_since", "_source", "_start", "credential",
        "cursor", "follower", "position",
    )  # fmt: skip

    def __init__(
        self,
        follower: Follower,
        broker: Broker,
        credential: Credential,
        position: Position,
        joined: float,
        patrol: Patrol,
        on_close: "Callable[[Subscriber], None]",
    ) -> None:
        super().__init__()
        self.cursor = position.cursor
        self.position = replace(position, over=False)
        self._start = position
        self._joined = joined
        self.follower = follower
        self._broker = broker
        self._on_close = on_close
        self.credential = credential
        self._patrol = patrol
        self._poked = False
        self._resting = False  # everything was given; only an entry or a poke can change that
        self._leaving = False
        self._generation = follower.generation
        self._revision: int | None = None  # of the log, as given up to the cursor
        self._source: Tap[Batch | Resync] = self._tap(Pulled(self._approach()))
        self._alarm: Alarm | None = None
        self._silent_since = joined
        self._current = False
        self._run: Run | None = None  # as the viewer last saw it
        self._changed: Changed | None = None  # a description not given yet
        trouble = follower.readers.trouble
        self._last_notice = trouble if trouble is not None and trouble.code == RECOVERED else None  # old news

    def poke(self) -> None:
        """Let the viewer look for updates, once the current callback has returned."""
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
            update = self._run_update() or self._stream_update()
            if update is not None:
                return update
            now, item = loop_time(), self._next()
            if item is None:
                silent_until = self._silent_since + self._patrol.heartbeat
                if now >= silent_until - EARLY:
                    self._silent_since = now
                    return QUIET
                self._set_alarm(min(silent_until, self._joined + self._patrol.max_age))
                self._resting = self._current and self._start.seen is None
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

    def _run_update(self) -> Update | None:
        """The run's description, if it is new to the viewer, or its end."""
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
        self.follower.look(self._trusted_since())
        return None

    def _stream_update(self) -> Update | None:
        """What concerns the stream and not the log: trouble, having caught up, leaving. Raises what ends it."""
        follower, readers = self.follower, self.follower.readers
        fault = readers.refusal(self.credential) or follower.fault
        if fault is not None:
            self.over = True
            raise fault
        if readers.trouble is not None and readers.trouble is not self._last_notice:
            self._last_notice, self._silent_since = readers.trouble, loop_time()
            return self._last_notice
        if not self._current and follower.caught_up and self.cursor == follower.tail and self._run == follower.run:
            self._current = True  # everything was given that the follower has seen
            return Current(self.cursor)
        if self._leaving or loop_time() >= self._joined + self._patrol.max_age - EARLY:
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
            self._on_close(self)

    def _rouse(self) -> None:
        self._poked = False
        self.notify()

    def _set_alarm(self, at: float) -> None:
        """Wake up at that time or earlier: an early look costs less than a new alarm for each entry."""
        if self._alarm is None or self._alarm.at > at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = Alarm(at, self._wake_up)

    def _wake_up(self) -> None:
        self._alarm, now = None, loop_time()
        leaving = self._joined + self._patrol.max_age
        if self._resting and now < leaving - EARLY:  # most viewers, most of the time: this is all that they cost
            quiet = now >= self._silent_since + self._patrol.heartbeat - EARLY
            if not quiet or self.sink.offer(QUIET, now):
                self._silent_since = now if quiet else self._silent_since
                self._set_alarm(min(self._silent_since + self._patrol.heartbeat, leaving))
                return
        self._resting = False
        self.notify()

    def _is_over(self, changed: Changed) -> bool:
        """Whether this description ends the stream: at the viewer's position, and seen recently enough."""
        since = max(self._trusted_since(), self.follower.resumption.at)
        return changed.length == self.cursor and changed.seen >= since

    def _trusted_since(self) -> float:
        """The earliest time at which an end must have been seen to be given to this viewer.

        An end is shared: a thousand viewers who open a finished run together cost one look, as long as it is no older
        than ``BELIEVED``. But a viewer who returns without an end may have learnt elsewhere that the run was resumed a
        moment ago; the old end would contradict that. For them it must have been seen since they joined.
        """
        return self._joined if self._start.cursor and not self._start.over else self._joined - BELIEVED

    # -- what comes from the log --------------------------------------------------------------------------------------

    def _tap(self, source: Tap[Any]) -> Tap[Any]:
        source.sink = self
        return source

    def _next(self) -> Batch | Resync | None:
        while True:
            try:
                item = self._source.take()
            except Forgotten:
                self._source = self._tap(Pulled(self._restart()))
                continue
            if item is None and self._source.over:  # what precedes the log has been given
                if self._generation == self.follower.generation:
                    follower = self.follower
                    log = self._broker.subscribe(follower.ref, self.cursor, self._revision, follower.read_again)
                    self._source = self._tap(log)
                else:
                    self._source = self._tap(Pulled(self._restart()))
                continue
            return self._relabelled(item) if isinstance(item, Batch) else item

    async def _approach(self) -> AsyncGenerator[Batch | Resync, None]:
        """What precedes the log itself: a resync if it is too short, and changes that a returning viewer has missed.

        Raises:
            Forgotten: the host has another log by now.
        """
        follower, broker = self.follower, self._broker
        await follower.wait_until_known(self.cursor, since=self._joined)
        if self.cursor > follower.tail:
            # where entries change and go, this viewer's copies of the others prove nothing either
            yield Resync(self.cursor, follower.tail, 0 if follower.edited else follower.tail)
            self._start = Position(self.cursor)
        if self.cursor == 0 or self._generation != follower.generation:
            return
        if await broker.tail(follower.ref) is None:
            await follower.wait_for_progress()  # the log is about to be opened
        await self._refresh(self._start, await broker.missed(follower.ref, self.cursor))
        missed = await broker.missed(follower.ref, self.cursor)
        async with aclosing(self._missing(self._start, missed)) as batches:
            async for batch in batches:
                yield batch
        self._revision = missed.revision

    async def _restart(self) -> AsyncGenerator[Batch | Resync, None]:
        follower = self.follower
        while not follower.caught_up:
            await follower.wait_until_known(follower.tail + 1, since=float("-inf"))
        self._generation = follower.generation
        yield Resync(self.cursor, follower.tail, 0)
        self._start = Position(0)
        self._revision = None

    def _relabelled(self, batch: Batch) -> Batch:
        """The batch with this viewer's positions: they may know more than other viewers."""
        if self._start.seen is None:
            return batch
        positions = tuple(position.after(self._start) for position in batch.positions)
        return batch if positions == batch.positions else replace(batch, positions=positions)

    async def _missing(self, start: Position, missed: Missed) -> AsyncGenerator[Batch, None]:
        """The changes of entries up to ``start`` that a returning viewer has not seen."""
        changes, near = missed.changes, missed.near
        doubtful: list[Cursor] = []
        if not start.settled:
            first = max(1, start.cursor - AMENDABLE + 1)
            changes = [change for change in changes if change.cursor < first]
            copies = [Copy.of(entry) async for _, entry in self._entries(range(first, start.cursor + 1))]
            near = copies
            changed = {change.cursor for change in missed.changes if not start.has(change)}
            for cursor, copy in enumerate(copies, first):
                digest = start.digest(cursor)
                if copy.amendable or cursor in changed if digest == UNKNOWN else digest != copy.digest:
                    doubtful.append(cursor)
        unseen = sorted(change for change in changes if not start.has(change))
        trail = Trail(start, replace(missed, near=near), unseen, doubtful)
        again = [*doubtful, *(change.cursor for change in unseen)]
        amended: list[Amended] = []
        positions: list[Position] = []
        room = BATCH_BYTES
        async with aclosing(self._entries(again)) as entries:
            async for cursor, entry in entries:
                if amended and entry.size > room:
                    yield Batch(tuple(amended), None, start.cursor, 0, tuple(positions))
                    amended, positions, room = [], [], BATCH_BYTES
                amended.append(Amended(cursor, entry))
                positions.append(trail.amended(cursor, entry))
                room -= entry.size
        if amended:
            yield Batch(tuple(amended), None, start.cursor, 0, tuple(positions))

    def _entries(self, cursors: Iterable[Cursor]) -> AsyncGenerator[tuple[Cursor, LogEntry], None]:
        return self._broker.entries(self.follower.ref, cursors, self.follower.read_again)

    async def _refresh(self, start: Position, missed: Missed) -> None:
        """Have the last entries read again if the viewer has copies not seen here: they may be newer."""
        if start.settled:
            return
        for cursor, copy in enumerate(missed.near, start.cursor - len(missed.near) + 1):
            digest = start.digest(cursor)
            if "." not in digest and copy is not None and digest not in (copy.digest, *copy.earlier):
                await self.follower.wait_until_reread(start.cursor, since=self._joined)
                return
