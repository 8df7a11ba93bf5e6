"""A turn's stretch of its run's log: as it comes, entry by entry, and then its end; or, when it is over, page by page.

Offsets count the entries of the turn from 1. Everything is read through the gateway, so who may not see the run sees no
turn of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from cachetools import LRUCache

from codegen_api.brokers import Batch
from codegen_api.errors import Unsupported, UpstreamError
from codegen_api.following import Current, Ended, Leaving, Notice, Position, Quiet, Resync, Update, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import Appended, Changed, Cursor, LogEntry, LogPage, Run, RunRef, RunStatus
from codegen_api.singleflight import Singleflight
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest

RESUME_DOUBT = 30.0
"""Seconds after a resume in which the host may still tell of the end before it."""

DECISION_DOUBT = 5.0
"""Seconds after a decision in which the host may still say that the run waits for it."""

MOMENT = 0.01

DOUBTED_SECONDS = 1.0
"""How long an end that is not believed is left alone."""

FRESH = 5.0
"""Seconds for which a page is believed at least."""

LASTING = 0.1
"""The part of the time for which a turn has been over that a page of it is believed: what has stayed as it was for long
will stay so for some time. Caches of the web estimate in the same way.
"""

RESTING = (RunStatus.WAITING, RunStatus.PAUSED)
"""The host does nothing until somebody answers: that ends a turn, though not the run."""

ENDS: Mapping[RunStatus, TurnState] = {
    RunStatus.COMPLETED: TurnState.COMPLETED,
    RunStatus.CANCELLED: TurnState.CANCELLED,
    **dict.fromkeys(RESTING, TurnState.WAITING),
}
"""What becomes of a turn when its run is like this at its end. With any other status it has failed."""


class TurnEntry(NamedTuple):  # many are made, and this is how they are made fastest
    """Entry ``offset``, new or, if ``amended``, as it is now."""

    offset: int
    entry: LogEntry
    amended: bool = False


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All that was there has come, up to ``offset``."""

    offset: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is over, and all of it has come."""

    turn: Turn


Entries: TypeAlias = tuple[TurnEntry, ...]

Progress: TypeAlias = Entries | CaughtUp | Notice | Quiet | Leaving | TurnEnded

Shared: TypeAlias = "WeakKeyDictionary[Batch, dict[Cursor, Entries]]"
"""What batches amount to in turns that begin somewhere, made once for all who are given the same one."""

Finish = Callable[[Turn, Run, Cursor, str | None], Awaitable[Turn]]
"""Write down that a turn is over: with the run as it is, where its log ended, and the last answer in it."""


async def read_behind(gateway: Gateway, caller: Caller, ref: RunRef, after: Cursor, most: int) -> LogPage:
    """Entries of a log, oldest first."""
    return await gateway.read_log(caller, ref.organization, ref.id, after, most, newest_first=False)


async def pending_in(gateway: Gateway, caller: Caller, ref: RunRef) -> Sequence[PendingRequest]:
    """What a run that waits waits for, oldest first. Nothing where the host does not say so."""
    try:
        return await gateway.pending(caller, ref.organization, ref.id)
    except Unsupported:
        return ()


async def live(
    gateway: Gateway,
    caller: Caller,
    turn: Turn,
    finish: Finish,
    rest_of: Callable[[Turn, int], AsyncGenerator[Progress, None]],
    shared: Shared,
    *,
    doubt: float,
) -> AsyncGenerator[Progress, None]:
    """A turn whose end is not known. For ``doubt`` more seconds the host may tell of the end before it. ``rest_of``
    reads what comes behind an offset in a turn that is over, to its end.
    """
    assert turn.run is not None  # noqa: S101 - or it would not be running
    ref, watch = turn.run, _Watch(gateway, caller, turn, turn.run, shared, loop_time() + doubt)
    while True:
        position = Position(turn.begin + watch.offset)
        stream = await gateway.follow(caller, ref.organization, ref.id, position)
        assert stream is not None  # noqa: S101 - only who has seen an end can know it already
        async with aclosing(stream):
            async for update in stream:
                if isinstance(update, Resync):
                    await watch.make_sure_of_the_log(update)
                    gateway.touched(ref)  # whoever reads the log here is behind
                    break
                if (news := watch.see(update)) is not None:
                    yield news
                if isinstance(update, Leaving):
                    return
                if await watch.is_over():
                    over = await finish(turn, watch.described, turn.begin + watch.offset, watch.answer)
                    async for rest in rest_of(over, watch.offset):
                        yield rest
                    return
                if watch.has_caught_up():
                    yield CaughtUp(watch.offset)
        # an end that is not believed, because it may be the one from before the resume, or a reader that is behind
        yield Quiet()
        await asyncio.sleep(DOUBTED_SECONDS)


@dataclass(eq=False, slots=True)
class _Watch:
    """What has been seen of a turn, and whether that is all."""

    gateway: Gateway
    caller: Caller
    turn: Turn
    ref: RunRef
    shared: Shared
    doubted_until: float
    offset: int = 0
    answer: str | None = None
    run: Run | None = None
    active_seen: bool = False
    resting_at: Cursor | None = None
    ended: bool = False
    current: bool = False
    """Everything that was there has been given,"""
    caught: bool = False
    """and that was said."""

    @property
    def described(self) -> Run:
        assert self.run is not None  # noqa: S101 - nothing but notices comes before the run
        return self.run

    def see(self, update: Update) -> Progress | None:
        """Take notice of this, and say what of it is news to whoever follows the turn."""
        match update:
            case Batch():
                return self._take(update) or None
            case Changed(run=run, seen=seen):
                self._describe(run)
                # the answer to the resume counts, which came a moment before the turn was written down as running
                since = self.doubted_until - RESUME_DOUBT - MOMENT
                resting = run.status.ended or run.status in RESTING
                self.active_seen = self.active_seen or (seen >= since and not resting)
            case Current():
                self.current = True
            case Ended(run=run):
                self._describe(run)
                self.ended = True
            case Notice() | Quiet() | Leaving():
                return update
        return None

    async def is_over(self) -> bool:
        """Whether the turn has ended, or the host waits for an answer, and everything has come."""
        if self.run is None or self._doubtful():
            return False
        if self.ended:
            return True
        if self.described.status not in RESTING:
            return False
        cursor = self.turn.begin + self.offset
        if self.resting_at is None or self.resting_at < cursor:
            page = await self._read(cursor)
            # what was said of the run here may be from before the resume
            rests = page.run.status in RESTING or page.run.raw_status is None
            self.resting_at = page.last if page.at_end and rests else None
        return self.resting_at == cursor

    def has_caught_up(self) -> bool:
        """Whether to say, once, that everything has come. When the run has ended, the turn is about to be over."""
        if not self.current or self.caught or (self.described.status.ended and not self._doubtful()):
            return False
        self.caught = True
        return True

    async def make_sure_of_the_log(self, resync: Resync) -> None:
        """Raises ``UpstreamError``: it is not the one in which the turn is."""
        if resync.cursor == 0 or not (await self._read(resync.requested - 1)).entries:
            raise UpstreamError("The host has another log under the name of this run.")

    def _describe(self, run: Run) -> None:
        self.run = run
        self.ended = False
        self.resting_at = None

    def _take(self, batch: Batch) -> Entries:
        begin = self.turn.begin
        made = self.shared.setdefault(batch, {})
        came = made.get(begin)
        if came is None:
            came = made[begin] = tuple(
                TurnEntry(event.cursor - begin, event.entry, amended=not isinstance(event, Appended))
                for event in batch.entries
                if event.cursor > begin
            )
        for each in came:
            self.offset = max(self.offset, each.offset)
            if each.entry.answers:
                self.answer = self.gateway.step(each.entry).text
        return came

    async def _read(self, after: Cursor) -> LogPage:
        return await read_behind(self.gateway, self.caller, self.ref, after, self.gateway.page_size)

    def _doubtful(self) -> bool:
        """Whether this may be the state from before the resume: the prompt itself is one entry."""
        believed = self.active_seen and self.described.status not in RESTING
        believed = believed or (not self.turn.prompt and self.described.status.ended)  # it waited, so this is news
        return not believed and self.offset <= 1 and loop_time() < self.doubted_until


class Pages:
    """Reads what is over, and keeps ``max_bytes`` of it for whoever reads it again. ``clock`` gives seconds since the
    epoch.
    """

    def __init__(self, gateway: Gateway, *, max_bytes: int, clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._clock = clock
        self._kept: LRUCache[tuple[str, Cursor], tuple[float, Entries]] = LRUCache(max_bytes, getsizeof=_size)
        self._flights: Singleflight[tuple[str, Cursor, str], Entries] = Singleflight()

    async def read(self, caller: Caller, turn: Turn, offset: int = 0) -> AsyncGenerator[Entries, None]:
        """What comes behind ``offset`` in a turn that is over; raises ``GatewayError`` where that is not shown."""
        end = turn.begin if turn.end is None else turn.end
        size = self._gateway.page_size
        while turn.run is not None and (cursor := turn.begin + offset) < end:
            start = cursor // size * size
            await self._gateway.view(caller, turn.run.organization, turn.run.id)
            good_until, page = self._kept.get((turn.id, start)) or (float("-inf"), ())
            if loop_time() >= good_until:
                flight = (turn.id, start, caller.credential.digest)
                page = await self._flights.share(flight, partial(self._fetch, caller, turn, start, end))
            if page[0].offset <= offset:
                page = tuple(came for came in page if came.offset > offset)
            offset = page[-1].offset
            yield page

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _fetch(self, caller: Caller, turn: Turn, start: Cursor, end: Cursor) -> Entries:
        """The page of the log from ``start`` on, as far as it is the turn's."""
        assert turn.run is not None  # noqa: S101 - it is read
        entries: list[LogEntry] = []
        size = self._gateway.page_size
        while (after := start + len(entries)) < min(start + size, end):  # the host may give it in pieces
            read = await read_behind(self._gateway, caller, turn.run, after, start + size - after)
            if not read.entries:
                raise UpstreamError("The host shows less of this log than it did.")
            entries += read.entries
        page = tuple(
            TurnEntry(position - turn.begin, entry)
            for position, entry in enumerate(entries, start + 1)
            if turn.begin < position <= end
        )
        over = self._clock() - turn.updated
        good_until = loop_time() + (FRESH if any(came.entry.absent for came in page) else max(FRESH, LASTING * over))
        if _size((good_until, page)) <= self._kept.maxsize:
            self._kept[turn.id, start] = (good_until, page)
        return page


def _size(kept: tuple[float, Entries]) -> int:
    return 100 + sum(came.entry.size for came in kept[1])
