"""The subscriber: one viewer's way through a log, a position and nothing else.

It promises every entry behind its position once and in order, whether it is held or read again from the host;
amendments of what was given before; and, when the run has ended and everything was given, one end.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from codegen_api.brokers import BATCH_BYTES, Batch, Broker, Forgotten
from codegen_api.following.follower import BELIEVED, Follower
from codegen_api.following.readers import RECOVERED, Notice
from codegen_api.following.rights import TICK, loop_time
from codegen_api.identity import Credential
from codegen_api.positions import AMENDABLE, UNKNOWN, Copy, Missed, Position, Trail
from codegen_api.runs import Amended, Changed, Cursor, LogEntry, Run

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resync:
    """The position asked for is not in this log; it goes on from ``cursor``."""

    requested: Cursor
    length: Cursor
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing came for a while."""


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


class Subscriber:
    """One viewer of a run, from ``position`` on."""

    def __init__(
        self,
        follower: Follower,
        broker: Broker,
        credential: Credential,
        position: Position,
        came: float,
        patrol: Patrol,
    ) -> None:
        self.cursor = position.cursor
        self.position = replace(position, over=False)
        self._from = position
        self._came = came
        self._follower = follower
        self._broker = broker
        self._credential = credential
        self._patrol = patrol
        self._poked: asyncio.Future[None] | None = None
        self._leaving = False
        self._generation = follower.generation

    def poke(self) -> None:
        """There may be something to tell."""
        if self._poked is not None and not self._poked.done():
            self._poked.set_result(None)

    def leave(self) -> None:
        """End the stream soon, politely."""
        self._leaving = True
        self.poke()

    async def updates(self) -> AsyncGenerator[Update, None]:
        """What this viewer is to be told, as it happens.

        Raises:
            GatewayError: the host refuses to show this viewer the run, or the reading of it broke down.
        """
        opened = loop_time()
        silent_since = opened
        current = False
        readers, run = self._follower.readers, self._follower.run
        trouble = readers.trouble
        told = trouble if trouble is not None and trouble.code == RECOVERED else None  # old news
        yield Changed(run, None, self._follower.described)
        source = self._source()
        pull: asyncio.Task[Batch | Resync] | None = None
        try:
            while True:
                fault = readers.refusal(self._credential) or self._follower.fault
                if fault is not None:
                    raise fault
                if readers.trouble is not None and readers.trouble is not told:
                    told = readers.trouble
                    silent_since = loop_time()
                    yield told
                if not current and self._is_current(run):
                    current = True
                    yield Current(self.cursor)
                now = loop_time()
                if self._leaving or now >= opened + self._patrol.max_age - TICK:
                    yield Leaving(self.position)
                    return
                pull = pull or asyncio.ensure_future(anext(source))
                await self._wait(pull, min(silent_since + self._patrol.heartbeat, opened + self._patrol.max_age) - now)
                if pull.done():
                    item, pull = pull.result(), None
                    silent_since = loop_time()
                    self._stand(item)
                    if isinstance(item, Resync):
                        yield item
                        continue
                    if item.entries:
                        yield item
                    if item.changed is not None:
                        if item.changed.run != run:
                            run = item.changed.run
                            yield item.changed
                        if self._is_over(item.changed, opened):
                            yield Ended(run, self.cursor)
                            return
                        # an end that is too old to be believed has to be seen again
                        self._follower.look(self._believed(opened))
                elif loop_time() >= silent_since + self._patrol.heartbeat - TICK:
                    silent_since = loop_time()
                    yield Quiet()
        finally:
            await close_running(source, pull)

    def _stand(self, item: Batch | Resync) -> None:
        self.cursor = item.cursor
        if isinstance(item, Resync):
            self.position = Position(item.cursor)
        elif item.entries:
            self.position = item.positions[-1]

    def _is_current(self, run: Run) -> bool:
        """Whether the viewer has all that the follower has seen, of which ``run`` is the last description."""
        follower = self._follower
        return follower.caught_up and self.cursor == follower.tail and run == follower.run

    def _is_over(self, changed: Changed, opened: float) -> bool:
        """Whether this description ends the stream: an end that is behind us, and not from too long before we came."""
        since = max(self._believed(opened), self._follower.resumption.at)
        return changed.length == self.cursor and changed.seen >= since

    def _believed(self, opened: float) -> float:
        """Since when an end must have been seen to be told to this viewer.

        An end is shared: a thousand who open a finished run together cost one look, as long as it is no older than
        ``BELIEVED``. But who comes back without an end may have been told by somebody else, a moment ago, that the run
        was resumed; to hear again of the old end would contradict that. So for them it must have been seen since.
        """
        return opened if self._from.cursor and not self._from.over else opened - BELIEVED

    async def _wait(self, pull: asyncio.Task[Batch | Resync], seconds: float) -> None:
        self._poked = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[Any]] = {pull, self._poked}
        await asyncio.wait(either, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)

    async def _source(self) -> AsyncGenerator[Batch | Resync, None]:
        follower, broker = self._follower, self._broker
        revision: int | None = None
        await follower.reached(self.cursor, since=self._came)
        if self.cursor > follower.tail:
            yield Resync(self.cursor, follower.tail, follower.tail)
            self._from = Position(self.cursor)
        returns = self.cursor > 0
        while True:
            try:
                if self._generation != follower.generation:
                    raise Forgotten
                if returns:
                    if await broker.tail(follower.ref) is None:
                        await follower.read()  # the log is about to be opened
                    await self._refresh(self._from, await broker.missed(follower.ref, self.cursor))
                    missed = await broker.missed(follower.ref, self.cursor)
                    async with aclosing(self._missing(self._from, missed)) as batches:
                        async for batch in batches:
                            yield batch
                    returns, revision = False, missed.revision
                async with aclosing(
                    broker.subscribe(follower.ref, self.cursor, revision, follower.read_again)
                ) as batches:
                    async for batch in batches:
                        yield self._relabelled(batch)
            except Forgotten:
                while not follower.caught_up:
                    await follower.reached(follower.tail + 1, since=float("-inf"))
                self._generation = follower.generation
                yield Resync(self.cursor, follower.tail, 0)
                self._from = Position(0)
                revision, returns = None, False

    def _relabelled(self, batch: Batch) -> Batch:
        """The same for this viewer, who may know more than others here."""
        if self._from.told is None:
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
        return self._broker.entries(self._follower.ref, cursors, self._follower.read_again)

    async def _refresh(self, came: Position, missed: Missed) -> None:
        """Have the last entries read again if the viewer's copies are none that were seen here: it may be ahead."""
        if came.settled:
            return
        for cursor, copy in enumerate(missed.near, came.cursor - len(missed.near) + 1):
            digest = came.digest(cursor)
            if "." not in digest and copy is not None and digest not in (copy.digest, *copy.earlier):
                await self._follower.refreshed(came.cursor, since=self._came)
                return


async def close_running(source: AsyncGenerator[T, None], pull: "asyncio.Task[T] | None") -> None:
    """Close a generator that may be running: closing it under its own step would raise, and hide what went wrong."""
    if pull is not None:
        pull.cancel()
        await asyncio.wait({pull})
        if not pull.cancelled():
            pull.exception()
    await source.aclose()
