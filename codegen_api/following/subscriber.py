"""The subscriber: one viewer's way through a log, a position and nothing else.

It promises every entry behind its position once and in order, whether it comes from the window or is read again from
the host; amendments of what was given before; and, when the run has ended and everything was given, one end.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from codegen_api.brokers import BATCH_BYTES, Batch, Broker, Evicted, Forgotten
from codegen_api.following.follower import BELIEVED, Follower
from codegen_api.following.known import AMENDABLE
from codegen_api.following.readers import RECOVERED, Notice
from codegen_api.following.rights import TICK, loop_time
from codegen_api.identity import Credential
from codegen_api.runs import Amended, Appended, Changed, Cursor, Run

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
    """The gateway ends this stream, not the log: come back with ``cursor``."""

    cursor: Cursor


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
    """One viewer of a run, from ``cursor`` on."""

    def __init__(
        self, follower: Follower, broker: Broker, credential: Credential, cursor: Cursor, page_size: int, patrol: Patrol
    ) -> None:
        self.cursor = cursor
        self._follower = follower
        self._broker = broker
        self._credential = credential
        self._page_size = page_size
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
                    yield Leaving(self.cursor)
                    return
                pull = pull or asyncio.ensure_future(anext(source))
                await self._wait(pull, min(silent_since + self._patrol.heartbeat, opened + self._patrol.max_age) - now)
                if pull.done():
                    item, pull = pull.result(), None
                    silent_since = loop_time()
                    self.cursor = item.cursor
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
                        self._follower.look()  # an end that is too old to be believed has to be seen again
                elif loop_time() >= silent_since + self._patrol.heartbeat - TICK:
                    silent_since = loop_time()
                    yield Quiet()
        finally:
            await close_running(source, pull)

    def _is_current(self, run: Run) -> bool:
        """Whether the viewer has all that the follower has seen, of which ``run`` is the last description."""
        follower = self._follower
        return follower.caught_up and self.cursor == follower.tail and run == follower.run

    def _is_over(self, changed: Changed, opened: float) -> bool:
        """Whether this description ends the stream: an end that is behind us, and not from too long before we came."""
        return changed.length == self.cursor and changed.seen >= max(opened - BELIEVED, self._follower.resumed_at)

    async def _wait(self, pull: asyncio.Task[Batch | Resync], seconds: float) -> None:
        self._poked = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[Any]] = {pull, self._poked}
        await asyncio.wait(either, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)

    async def _source(self) -> AsyncGenerator[Batch | Resync, None]:
        follower, cursor = self._follower, self.cursor
        revision: int | None = None
        behind: Evicted | None = None
        await follower.reached(cursor)
        if cursor > follower.tail:
            yield Resync(cursor, follower.tail, follower.tail)
            cursor = follower.tail
        # the viewer's copies may be older than the last amendment, and nobody knows how old
        doubtful = range(max(0, cursor - AMENDABLE), cursor)
        while True:
            try:
                self._same_log()
                if doubtful:
                    for batch in await self._again(doubtful.start, doubtful.stop, all_of_them=False):
                        yield batch
                    doubtful = range(0)
                if behind is not None:
                    async with aclosing(self._catch_up(cursor, behind)) as batches:
                        async for batch in batches:
                            cursor = batch.cursor
                            yield batch
                    revision, behind = behind.revision, None
                if follower.caught_up and await self._broker.tail(follower.ref) is None:
                    follower.touched()  # the window was let go while nobody was at it, and an ended run is not read
                async with aclosing(self._broker.subscribe(follower.ref, cursor, revision)) as batches:
                    async for batch in batches:
                        cursor, revision = batch.cursor, batch.revision
                        yield batch
            except Evicted as evicted:
                behind = evicted
            except Forgotten:
                while not follower.caught_up:
                    await follower.reached(follower.tail + 1)
                self._generation = follower.generation
                yield Resync(cursor, follower.tail, 0)
                cursor, revision, behind, doubtful = 0, None, None, range(0)

    def _same_log(self) -> None:
        """Raise ``Forgotten`` when the host has another log by now."""
        if self._generation != self._follower.generation:
            raise Forgotten

    async def _catch_up(self, cursor: Cursor, evicted: Evicted) -> AsyncGenerator[Batch, None]:
        """What a viewer at ``cursor`` lacks of what the window no longer holds."""
        if evicted.amended is not None:
            for batch in await self._again(evicted.amended - 1, cursor, all_of_them=True):
                yield batch
        page: list[Appended] = []
        while cursor < evicted.first - 1:
            self._same_log()
            # the window is part of it: what reaches into a later one may lack amendments of which that one speaks
            key = (self._generation, cursor, evicted.first, evicted.revision)
            shared = self._follower.past.batches.get(key)
            if shared is None:
                page = [each for each in page if each.cursor > cursor] or await self._old(
                    cursor, evicted.first - 1, evicted.revision
                )
                if not page:
                    return
                portion = _portions(page)[0]
                shared = Batch(portion, None, portion[-1].cursor, evicted.revision)
                self._follower.past.batches[key] = shared
                if self._follower.past.holds(cursor // self._page_size):
                    page = []  # a slow viewer must not hold on to all of it
            cursor = shared.cursor
            yield shared

    async def _again(self, start: Cursor, stop: Cursor, *, all_of_them: bool) -> list[Batch]:
        """Entries ``start + 1`` to ``stop``, which the viewer has, as they are now."""
        async with aclosing(self._stretch(start, stop)) as entries:
            amended = [
                Amended(appended.cursor, appended.entry)
                async for appended in entries
                if all_of_them or appended.entry.amendable
            ]
        return [Batch(portion, None, stop, 0) for portion in _portions(amended)]

    async def _stretch(self, start: Cursor, stop: Cursor) -> AsyncGenerator[Appended, None]:
        """Entries ``start + 1`` to ``stop``, which are in the log, from wherever they are."""
        cursor = start
        while cursor < stop:
            self._same_log()
            try:
                async with aclosing(self._broker.subscribe(self._follower.ref, cursor)) as batches:
                    async for batch in batches:
                        for event in batch.entries:
                            if isinstance(event, Appended) and event.cursor <= stop:
                                yield event
                                cursor = event.cursor
                        if cursor >= stop:
                            return
            except Evicted as evicted:
                for appended in await self._old(cursor, min(stop, evicted.first - 1), evicted.revision):
                    yield appended
                    cursor = appended.cursor

    async def _old(self, cursor: Cursor, last: Cursor, revision: int) -> list[Appended]:
        """The next entries of ``cursor + 1`` to ``last``, from one of the host's own full pages, read again."""
        number, offset = divmod(cursor, self._page_size)
        entries = await self._follower.past.page(number, revision)
        self._same_log()
        page = [
            Appended(position, entry) for position, entry in enumerate(entries[offset:], cursor + 1) if position <= last
        ]
        if not page:  # the host shows less than it did: a stale answer, or another log, which the follower will see
            await asyncio.sleep(1.0)
        return page


def _portions(entries: "list[Appended] | list[Amended]") -> list[tuple[Appended | Amended, ...]]:
    """``entries`` in stretches that are as large as a batch may be."""
    portions: list[tuple[Appended | Amended, ...]] = []
    portion: list[Appended | Amended] = []
    room = BATCH_BYTES
    for event in entries:
        if portion and event.entry.size > room:
            portions.append(tuple(portion))
            portion, room = [], BATCH_BYTES
        portion.append(event)
        room -= event.entry.size
    return [*portions, tuple(portion)] if portion else portions


async def close_running(source: AsyncGenerator[T, None], pull: "asyncio.Task[T] | None") -> None:
    """Close a generator that may be running: closing it under its own step would raise, and hide what went wrong."""
    if pull is not None:
        pull.cancel()
        await asyncio.wait({pull})
        if not pull.cancelled():
            pull.exception()
    await source.aclose()
