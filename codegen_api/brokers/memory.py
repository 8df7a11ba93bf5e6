"""The broker inside one process: one shared window per run, all windows together within a number of bytes."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from codegen_api.brokers import BATCH_BYTES, Batch, Evicted, Forgotten, Tail
from codegen_api.runs import Amended, Appended, Changed, Cursor, LogEntry, Page, RunRef, to_json

RECENT = 100
"""How far back from the tail an entry can still be amended, in entries."""

SHARED_BATCHES = 2
"""How many batches of a window are kept although nobody holds them, for viewers who come to the same position; each may
hold its encoded form.
"""

WINDOW_OVERHEAD = 4096
"""Bytes charged for a window beyond its entries."""


class MemoryBroker:
    """Windows in memory. Beyond ``max_bytes`` the least recently used ones are let go, oldest entries first."""

    def __init__(self, *, max_bytes: int = 96 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._revision = 0  # no window begins below it, so that a revision never names two different things
        self._windows: OrderedDict[RunRef, _Window] = OrderedDict()
        self._leads: dict[RunRef, asyncio.Lock] = {}
        self._candidates: Counter[RunRef] = Counter()

    async def publish(self, news: Page | Changed) -> None:
        ref = news.run.ref
        window = self._window(ref)
        before = window.size
        if isinstance(news, Page):
            window.take_in(news.after, news.entries)
        else:
            window.change(news)
        self._held += window.size - before
        self._windows.move_to_end(ref)
        self._let_go(ref)
        window.wake()

    async def tail(self, ref: RunRef) -> Tail | None:
        window = self._windows.get(ref)
        if window is None or not window.opened:
            return None
        return Tail(window.tail, window.recent(), window.changed)

    async def subscribe(self, ref: RunRef, after: Cursor, revision: int | None = None) -> AsyncGenerator[Batch, None]:
        window = self._window(ref)
        self._windows.move_to_end(ref)
        window.subscribers += 1
        try:
            while True:
                batch = window.batch(after, revision)
                if batch is None:
                    await window.news()
                else:
                    after, revision = batch.cursor, batch.revision
                    yield batch
        finally:
            window.subscribers -= 1
            if not window.subscribers:
                window.kept.clear()
            if not window.opened and not window.subscribers and self._windows.get(ref) is window:
                self._drop(ref)  # nobody ever published

    async def forget(self, ref: RunRef) -> None:
        if ref in self._windows:
            window = self._drop(ref)
            window.forgotten = True
            window.wake()

    @asynccontextmanager
    async def lead(self, ref: RunRef) -> AsyncIterator[None]:
        lock = self._leads.setdefault(ref, asyncio.Lock())
        self._candidates[ref] += 1
        try:
            async with lock:
                yield
        finally:
            self._candidates[ref] -= 1
            if not self._candidates[ref]:
                del self._candidates[ref], self._leads[ref]

    async def aclose(self) -> None:
        for ref in list(self._windows):
            await self.forget(ref)

    @property
    def held_bytes(self) -> int:
        """What all windows together hold now."""
        return self._held

    def _window(self, ref: RunRef) -> "_Window":
        window = self._windows.get(ref)
        if window is None:
            window = self._windows[ref] = _Window(self._revision)
            self._held += window.size
        return window

    def _drop(self, ref: RunRef) -> "_Window":
        window = self._windows.pop(ref)
        self._held -= window.size
        # nobody can tell what changes between this window and the next: who knows this one has to read again
        self._revision = max(self._revision, window.revision + 1)
        return window

    def _let_go(self, newest: RunRef) -> None:
        """Make room: whole windows that nobody watches, then the oldest entries of the others."""
        for ref, window in list(self._windows.items()):
            if self._held <= self._max_bytes:
                return
            if not window.subscribers and ref != newest:
                self._drop(ref)
        for window in list(self._windows.values()):
            if self._held <= self._max_bytes:
                return
            before = window.size
            window.trim(self._held - self._max_bytes)
            self._held += window.size - before


class _Window:
    """The recent stretch of one log.

    Entries ``base + 1`` to ``tail`` are held. Whatever alters what a viewer has seen already, an amendment or a new
    description of the run, takes the next revision, so that a viewer's position is two numbers: how far in the log, and
    which alterations it knows.
    """

    def __init__(self, revision: int) -> None:
        self.opened = False
        self.forgotten = False
        self.subscribers = 0
        self.base: Cursor = 0
        self.revision = revision
        self.changed: Changed | None = None
        self.size = WINDOW_OVERHEAD
        self._entries: list[LogEntry] = []
        self._changed_revision = 0
        # position -> (revision, entry) of what was amended and is still held, the latest amendment last
        self._amended: dict[Cursor, tuple[int, LogEntry]] = {}
        # the newest revision that may have been let go: who knows less has to read again
        self._lost = revision
        # what entries that were let go looked like, as long as they can still be amended
        self._faded: dict[Cursor, int] = {}
        # those that somebody holds: to share them costs nothing, however far apart the viewers are
        self._batches: WeakValueDictionary[tuple[Cursor, int], Batch] = WeakValueDictionary()
        self.kept: deque[Batch] = deque(maxlen=SHARED_BATCHES)
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def tail(self) -> Cursor:
        return self.base + len(self._entries)

    def recent(self) -> tuple[LogEntry, ...]:
        return tuple(self._entries[-RECENT:])

    def take_in(self, after: Cursor, entries: tuple[LogEntry, ...]) -> None:
        if not self.opened:
            self.opened, self.base = True, after
        if after > self.tail:
            self._skip_to(after)
        before = self.tail, self.revision
        for position, entry in enumerate(entries, after + 1):
            if position > self.tail:
                self._entries.append(entry)
                self.size += entry.size
            elif self._differs(position, entry):
                self._amend(position, entry)
        if (self.tail, self.revision) != before:
            self._let_go_batches()

    def change(self, changed: Changed) -> None:
        self.size += _size(changed) - _size(self.changed)
        self.changed = changed
        self.revision += 1
        self._changed_revision = self.revision
        self._let_go_batches()

    def batch(self, after: Cursor, revision: int | None) -> Batch | None:
        """What a viewer at this position lacks; None when it lacks nothing."""
        if self.forgotten:
            raise Forgotten
        if not self.opened:
            return None
        missed = revision is not None and revision < self._lost and after > 0
        if after < self.base or missed:
            # the tail was at or beyond the viewer's cursor when it read that far, so older entries are settled
            raise Evicted(self.base + 1, self._lost, max(1, after - RECENT + 1) if missed else None)
        key = (after, revision or 0)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._build(after, revision or 0)
            if batch is not None:
                self._batches[key] = batch
                self.kept.append(batch)
        return batch

    def _let_go_batches(self) -> None:
        """What was built before is of no use any more."""
        self._batches.clear()
        self.kept.clear()

    def _build(self, after: Cursor, revision: int) -> Batch | None:
        pieces: list[Appended | Amended] = []
        room = BATCH_BYTES
        seen = revision
        for position, (altered, entry) in self._amended_since(revision):
            if position > after:
                continue  # it will be given below, as it is now
            if pieces and room < entry.size:
                return Batch(tuple(pieces), None, after, seen)
            pieces.append(Amended(position, entry))
            room -= entry.size
            seen = altered
        cursor = after
        for index in range(max(0, after - self.base), len(self._entries)):  # a slice would copy the rest of the log
            entry = self._entries[index]
            if pieces and room < entry.size:
                return Batch(tuple(pieces), None, cursor, seen)
            cursor += 1
            pieces.append(Appended(cursor, entry))
            room -= entry.size
        changed = self.changed if self._changed_revision > revision and after <= self.tail else None
        if not pieces and changed is None:
            return None
        return Batch(tuple(pieces), changed, cursor, self.revision if after <= self.tail else seen)

    def _amended_since(self, revision: int) -> list[tuple[Cursor, tuple[int, LogEntry]]]:
        """Amendments newer than ``revision``, oldest first."""
        newer = []
        for position, amendment in reversed(self._amended.items()):
            if amendment[0] <= revision:
                break
            newer.append((position, amendment))
        newer.reverse()
        return newer

    def trim(self, excess: int) -> None:
        """Let go of the oldest entries, until ``excess`` bytes are free or nothing is left."""
        freed = count = 0
        for entry in self._entries:
            if freed >= excess:
                break
            freed += entry.size
            count += 1
        for position, entry in enumerate(self._entries[:count], self.base + 1):
            self._faded[position] = hash(entry.json)
        del self._entries[:count]
        self.base += count
        self.size -= freed
        for position in [position for position in self._faded if position <= self.tail - RECENT]:
            del self._faded[position]
        for position in [position for position in self._amended if position <= self.base]:
            self._lose(self._amended.pop(position)[0])
        self._let_go_batches()

    def _skip_to(self, base: Cursor) -> None:
        """Go on from there: who is before it finds what lies between evicted."""
        self.trim(self.size)
        self.base = base
        self._faded.clear()

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def news(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _differs(self, position: Cursor, entry: LogEntry) -> bool:
        if position > self.base:
            return self._entries[position - self.base - 1].json != entry.json
        known = self._faded.get(position)
        return known is not None and known != hash(entry.json)

    def _amend(self, position: Cursor, entry: LogEntry) -> None:
        self.revision += 1
        if position > self.base:
            index = position - self.base - 1
            self.size += entry.size - self._entries[index].size
            self._entries[index] = entry
            self._amended.pop(position, None)  # so that the latest amendment stands last
            self._amended[position] = (self.revision, entry)
        else:
            self._faded[position] = hash(entry.json)
            self._lose(self.revision)

    def _lose(self, revision: int) -> None:
        """Nobody can be given the amendment of this revision any more."""
        self._lost = max(self._lost, revision)
        if self.changed is not None and self._changed_revision <= self._lost:
            # who reads again goes on from what was lost, and must still hear of the run
            self.revision += 1
            self._changed_revision = self.revision


def _size(changed: Changed | None) -> int:
    """About what holding this costs, in bytes: objects take a multiple of their text."""
    if changed is None:
        return 0
    try:
        return 3 * len(to_json(changed.run.fields))
    except ValueError:  # nested too deeply: it is small, and cannot be sent either
        return 0
