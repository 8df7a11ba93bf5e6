"""Reads a turn's stretch of its run's log: live, entry by entry until its end, or page by page once it is over.

Offsets count the entries of the turn from 1. Everything is read through the gateway, so callers who may not see the run
see none of its turns.
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
"""Seconds after a resume in which the host may still report the end before it."""

DECISION_DOUBT = 5.0
"""Seconds after a decision in which the host may still report the run as waiting for it."""

MOMENT = 0.01

DOUBTED_SECONDS = 1.0
"""Seconds until an end that is not believed is looked at again."""

FRESH = 5.0
"""Shortest time, in seconds, that a page is cached."""

LASTING = 0.1
"""A page is cached for this fraction of the time since its turn ended, as HTTP caches do: what has not changed for long
will not change soon.
"""

RESTING = (RunStatus.WAITING, RunStatus.PAUSED)
"""The host does nothing until somebody answers. That ends a turn, but not its run."""

ENDS: Mapping[RunStatus, TurnState] = {
    RunStatus.COMPLETED: TurnState.COMPLETED,
    RunStatus.CANCELLED: TurnState.CANCELLED,
    **dict.fromkeys(RESTING, TurnState.WAITING),
}
"""The state of a turn by the status of its run at the end. With any other status the turn has failed."""


class TurnEntry(NamedTuple):  # many are made, and this is how they are made fastest
    """Entry ``offset`` of a turn: new, or, if ``amended``, a changed version of it."""

    offset: int
    entry: LogEntry
    amended: bool = False


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All entries that existed have been yielded, up to ``offset``."""

    offset: int


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is over, and all its entries have been yielded."""

    turn: Turn


Entries: TypeAlias = tuple[TurnEntry, ...]

Progress: TypeAlias = Entries | CaughtUp | Notice | Quiet | Leaving | TurnEnded

Shared: TypeAlias = "WeakKeyDictionary[Batch, dict[Cursor, Entries]]"
"""The entries of a batch by the cursor at which their turn begins, made once for all readers of that batch."""

Finish = Callable[[Turn, Run, Cursor, str | None], Awaitable[Turn]]
"""Stores the end of a turn, given its run, the end of its log and the last answer in that."""


async def read_behind(gateway: Gateway, caller: Caller, ref: RunRef, after: Cursor, most: int) -> LogPage:
    """Read at most ``most`` entries of a log, oldest first."""
    return await gateway.read_log(caller, ref.organization, ref.id, after, most, newest_first=False)


async def pending_in(gateway: Gateway, caller: Caller, ref: RunRef) -> Sequence[PendingRequest]:
    """The pending requests of a run, oldest first. Empty if the host does not tell them."""
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
    """Follow a turn whose end is not known. For ``doubt`` more seconds the host may report the end of the turn before.
    ``rest_of`` yields what is after an offset of a turn that is over, and then its end.
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
                    await watch.require_same_log(update)
                    gateway.touched(ref)  # the follower of this log is behind
                    break
                if (news := watch.take(update)) is not None:
                    yield news
                if isinstance(update, Leaving):
                    return
                if await watch.is_over():
                    over = await finish(turn, watch.described, turn.begin + watch.offset, watch.answer)
                    async for rest in rest_of(over, watch.offset):
                        yield rest
                    return
                if watch.catches_up():
                    yield CaughtUp(watch.offset)
        # the end is not believed, as it may be from before the resume, or the follower is behind
        yield Quiet()
        await asyncio.sleep(DOUBTED_SECONDS)


@dataclass(eq=False, slots=True)
class _Watch:
    """What has been seen of a turn in progress, and whether that is all of it."""

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
    """Whether all existing entries have been yielded."""
    caught: bool = False
    """Whether ``CaughtUp`` has been yielded."""

    @property
    def described(self) -> Run:
        assert self.run is not None  # noqa: S101 - nothing but notices comes before the run
        return self.run

    def take(self, update: Update) -> Progress | None:
        """Record an update of the log, and return what it means for those who follow the turn."""
        match update:
            case Batch():
                return self._take_entries(update) or None
            case Changed(run=run, seen=seen):
                self._describe(run)
                # the answer to the resume counts: it came a moment before the turn was stored as running
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
        """Whether the turn has ended, or its run waits, and all entries have been taken."""
        if self.run is None or self._doubtful():
            return False
        if self.ended:
            return True
        if self.described.status not in RESTING:
            return False
        cursor = self.turn.begin + self.offset
        if self.resting_at is None or self.resting_at < cursor:
            page = await self._read(cursor)
            # the status known here may be from before the resume
            rests = page.run.status in RESTING or page.run.raw_status is None
            self.resting_at = page.last if page.at_end and rests else None
        return self.resting_at == cursor

    def catches_up(self) -> bool:
        """Whether to yield ``CaughtUp`` now: once, and not if ``TurnEnded`` is about to come."""
        if not self.current or self.caught or (self.described.status.ended and not self._doubtful()):
            return False
        self.caught = True
        return True

    async def require_same_log(self, resync: Resync) -> None:
        """Raise ``UpstreamError`` if the log is not the one that the turn is in."""
        if resync.cursor == 0 or not (await self._read(resync.requested - 1)).entries:
            raise UpstreamError("The host has another log under the name of this run.")

    def _describe(self, run: Run) -> None:
        self.run = run
        self.ended = False
        self.resting_at = None

    def _take_entries(self, batch: Batch) -> Entries:
        begin = self.turn.begin
        by_begin = self.shared.setdefault(batch, {})
        entries = by_begin.get(begin)
        if entries is None:
            entries = by_begin[begin] = tuple(
                TurnEntry(event.cursor - begin, event.entry, amended=not isinstance(event, Appended))
                for event in batch.entries
                if event.cursor > begin
            )
        for each in entries:
            self.offset = max(self.offset, each.offset)
            if each.entry.answers:
                self.answer = self.gateway.step(each.entry).text
        return entries

    async def _read(self, after: Cursor) -> LogPage:
        return await read_behind(self.gateway, self.caller, self.ref, after, self.gateway.page_size)

    def _doubtful(self) -> bool:
        """Whether this may be the state from before the resume. One entry proves nothing: it may be the prompt."""
        believed = self.active_seen and self.described.status not in RESTING
        believed = believed or (not self.turn.prompt and self.described.status.ended)  # the run waited: this is new
        return not believed and self.offset <= 1 and loop_time() < self.doubted_until


class Pages:
    """Reads turns that are over, and caches ``max_bytes`` of them. ``clock`` returns seconds since the epoch."""

    def __init__(self, gateway: Gateway, *, max_bytes: int, clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._clock = clock
        self._kept: LRUCache[tuple[str, Cursor], tuple[float, Entries]] = LRUCache(max_bytes, getsizeof=_size)
        self._flights: Singleflight[tuple[str, Cursor, str], Entries] = Singleflight()

    async def read(self, caller: Caller, turn: Turn, offset: int = 0) -> AsyncGenerator[Entries, None]:
        """Yield the entries after ``offset`` of a turn that is over. Raises ``GatewayError`` if the caller may not see
        them, or the host fails.
        """
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
                page = tuple(each for each in page if each.offset > offset)
            offset = page[-1].offset
            yield page

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _fetch(self, caller: Caller, turn: Turn, start: Cursor, end: Cursor) -> Entries:
        """The turn's entries on the page of the log that begins at ``start``."""
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
        good_until = loop_time() + (FRESH if any(each.entry.absent for each in page) else max(FRESH, LASTING * over))
        if _size((good_until, page)) <= self._kept.maxsize:
            self._kept[turn.id, start] = (good_until, page)
        return page


def _size(kept: tuple[float, Entries]) -> int:
    return 100 + sum(each.entry.size for each in kept[1])
