"""A window: the recent stretch of one log, and what is remembered of entries that it does not hold any more."""

import asyncio
from collections import deque
from weakref import WeakValueDictionary

from codegen_api.brokers import BATCH_BYTES, Batch, Evicted, Forgotten
from codegen_api.brokers.memory.copies import Copies
from codegen_api.positions import AMENDABLE, COMPARED, SETTLING, UNKNOWN, Copy, Missed, Position, Sighting, Trail
from codegen_api.runs import Amended, Appended, Changed, Cursor, LogEntry, to_json

SHARED_BATCHES = 2
"""How many batches of a window are kept although nobody holds them, for viewers who come to the same position; each may
hold its encoded form.
"""

WINDOW_OVERHEAD = 4096
"""Bytes charged for a window beyond its entries."""

AMENDED_OVERHEAD = 500
"""Bytes charged for what is remembered of an entry that has changed, beyond the entry."""

EARLIER = 4
"""How many of its earlier forms are remembered of an entry."""


class Window:
    """The recent stretch of one log.

    Entries ``base + 1`` to ``tail`` are held. Whatever alters what a viewer has seen already, an amendment or a new
    description of the run, takes the next revision, so that a viewer's position is two numbers: how far in the log, and
    which alterations it knows.
    """

    def __init__(self, revision: int) -> None:
        self.opened = False
        self.forgotten = False
        self.dropped = False
        self.subscribers = 0
        self.base: Cursor = 0
        self.revision = revision
        self.changed: Changed | None = None
        self.size = WINDOW_OVERHEAD
        self._began = revision  # who knows less may have missed what nobody here has seen
        self._entries: list[LogEntry] = []
        self._longest: Cursor = 0  # how long the log was before the window was closed
        self._changed_revision = 0
        # what is not held, but was given to somebody, as it was then
        self._faded = Copies()
        # what has changed since it was given, the latest last, with the revision at which it did
        self._amended: dict[Cursor, tuple[int, Sighting]] = {}
        # and what it was before
        self._earlier: dict[Cursor, tuple[str, ...]] = {}
        self._latest = Sighting(0, False, 0)
        # those that somebody holds: to share them costs nothing, however far apart the viewers are
        self._batches: WeakValueDictionary[tuple[Cursor, int, bool], Batch] = WeakValueDictionary()
        self._kept: deque[Batch] = deque(maxlen=SHARED_BATCHES)
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def tail(self) -> Cursor:
        return self.base + len(self._entries)

    @property
    def known(self) -> Cursor:
        """What is behind this position was seen here."""
        return (self._faded.first or self.base + 1) - 1

    @property
    def is_blank(self) -> bool:
        return not self._longest and self.changed is None

    def recent(self) -> tuple[LogEntry, ...]:
        return tuple(self._entries[-SETTLING:])

    # -- what comes in ------------------------------------------------------------------------------------------------

    def take_in(self, after: Cursor, entries: tuple[LogEntry, ...]) -> None:
        if not self.opened:
            self.opened, self.base = True, after
        if after > self.tail:
            self._skip_to(after)
        was = self.tail, self.revision
        for position, entry in enumerate(entries, after + 1):
            if entry.absent and position <= self.tail and self._copy(position) is not None:
                continue  # what was given is better than nothing
            if self.base < position <= self.tail:
                held = self._entries[position - self.base - 1]
                before = None if held.json == entry.json else held.digest
                self._entries[position - self.base - 1] = entry
                self.size += entry.size - held.size
            else:
                known = self._faded.get(position)
                before = None if known is None or known.digest == entry.digest else known.digest
                if position > self.tail:
                    self._entries.append(entry)
                    self.size += entry.size
                    self._faded.drop(position)
                else:
                    self._fade(position, Copy.of(entry))
            if before is not None:
                self._amend(position, before)
        if (self.tail, self.revision) != was:
            self._longest = max(self._longest, self.tail)
            self._forget_far()
            self._let_go_batches()

    def note(self, after: Cursor, entries: tuple[LogEntry, ...]) -> None:
        for position, entry in enumerate(entries, after + 1):
            if not self.base < position <= self.tail:
                known, copy = self._faded.get(position), Copy.of(entry)
                # viewers who were given different ones will have to be told, whatever it comes to
                self._fade(position, copy if known in (None, copy) else copy._replace(digest=UNKNOWN))
        self._forget_far()

    def change(self, changed: Changed) -> None:
        self.size += _size(changed) - _size(self.changed)
        self.changed = changed
        self.revision += 1
        self._changed_revision = self.revision
        self._let_go_batches()

    def close(self) -> None:
        """Give nothing that is held, and know what it looked like."""
        self._skip_to(self.tail)
        self.opened = False

    def _skip_to(self, base: Cursor) -> None:
        """Go on from there: who is before it finds what lies between evicted."""
        for position, entry in enumerate(self._entries, self.base + 1):
            self._fade(position, Copy.of(entry))
            self.size -= entry.size
        self._entries.clear()
        self.base = base
        self._forget_far()
        self._let_go_batches()

    def _amend(self, position: Cursor, before: str) -> None:
        self.revision += 1
        self._earlier[position] = (*self._earlier.get(position, ()), before)[-EARLIER:]
        self._latest = max(self._latest, seen := Sighting.of(max(self._longest, self.tail), position))
        if self._amended.pop(position, None) is None:  # so that the latest amendment stands last
            self.size += AMENDED_OVERHEAD
        self._amended[position] = (self.revision, seen)

    def _copy(self, position: Cursor) -> Copy | None:
        if self.base < position <= self.tail:
            copy: Copy | None = Copy.of(self._entries[position - self.base - 1])
        else:
            copy = self._faded.get(position)
        return copy and copy._replace(earlier=self._earlier.get(position, ()))

    def _fade(self, position: Cursor, copy: Copy) -> None:
        before = self._faded.size
        self._faded.put(position, copy)
        self.size += self._faded.size - before

    def _forget_far(self) -> None:
        """Of what is further back nobody will ever know whether it has changed."""
        first = max(self._longest, self.tail) - COMPARED
        before = self._faded.size
        self._faded.forget(first)
        self.size += self._faded.size - before
        if len(self._amended) > COMPARED:
            for position in [position for position in self._amended if position <= first]:
                del self._amended[position], self._earlier[position]
                self.size -= AMENDED_OVERHEAD

    # -- what goes out ------------------------------------------------------------------------------------------------

    def held(self, after: Cursor) -> tuple[LogEntry, ...]:
        pieces: list[LogEntry] = []
        room = BATCH_BYTES
        if after >= self.base:
            for index in range(after - self.base, len(self._entries)):  # a slice would copy the rest of the log
                entry = self._entries[index]
                if pieces and room < entry.size:
                    break
                pieces.append(entry)
                room -= entry.size
        return tuple(pieces)

    def missed(self, after: Cursor, revision: int | None) -> Missed:
        length = max(self._longest, self.tail)
        changes = [seen for _, seen in self._amended_since(revision or 0) if seen.cursor <= after]
        if revision is not None and revision < self._began:
            changes = [Sighting.of(length, position) for position in range(max(1, after - SETTLING + 1), after + 1)]
        near = [self._copy(position) for position in range(max(1, after - AMENDABLE + 1), after + 1)]
        return Missed(length, self._latest, changes, near, self.revision)

    def batch(self, after: Cursor, revision: int | None, *, described: bool) -> Batch | None:
        """What a viewer at this position lacks; None when it lacks nothing. ``described``: the run was, lately."""
        if self.forgotten:
            raise Forgotten
        if not self.opened or after > self.tail:
            return None
        pending = [(at, seen) for at, seen in self._amended_since(revision or 0) if seen.cursor <= after]
        outdated = revision is not None and revision < self._began and after > 0
        if after < self.base or outdated or any(seen.cursor <= self.base for _, seen in pending):
            raise Evicted(self.base + 1, self.missed(after, revision))
        key = (after, revision or 0, described)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._build(after, revision or 0, pending, described=described)
            if batch is not None:
                self._batches[key] = batch
        return batch

    def keep(self, batch: Batch, *, room: int) -> None:
        """Keep it for the next who comes to the same place, if there is room."""
        if batch in self._kept or _written(batch) > room:
            return
        if len(self._kept) == SHARED_BATCHES:
            self.size -= _written(self._kept.popleft())
        self._kept.append(batch)
        self.size += _written(batch)

    def let_go_kept(self) -> None:
        self.size -= sum(map(_written, self._kept))
        self._kept.clear()

    def _let_go_batches(self) -> None:
        """What was built before is of no use any more."""
        self._batches.clear()
        self.let_go_kept()

    def _build(
        self, after: Cursor, revision: int, pending: list[tuple[int, Sighting]], *, described: bool
    ) -> Batch | None:
        pieces: list[Appended | Amended] = []
        positions: list[Position] = []
        room, seen = BATCH_BYTES, revision
        trail = Trail(Position(after), self.missed(after, revision), untold=(each for _, each in pending))
        for altered, (_, _, position) in pending:
            entry = self._entries[position - self.base - 1]
            if pieces and room < entry.size:
                return Batch(tuple(pieces), None, after, seen, tuple(positions))
            pieces.append(Amended(position, entry))
            positions.append(trail.amended(position, entry))
            room -= entry.size
            seen = altered
        cursor = after
        for index in range(max(0, after - self.base), len(self._entries)):
            entry = self._entries[index]
            if pieces and room < entry.size:
                return Batch(tuple(pieces), None, cursor, seen, tuple(positions))
            cursor += 1
            pieces.append(Appended(cursor, entry))
            positions.append(trail.appended(entry))
            room -= entry.size
        news = not described or self._changed_revision > revision
        changed = self.changed if news else None
        if not pieces and changed is None:
            return None
        return Batch(tuple(pieces), changed, cursor, self.revision, tuple(positions))

    def _amended_since(self, revision: int) -> list[tuple[int, Sighting]]:
        """Amendments newer than ``revision``, oldest first."""
        newer = []
        for amendment in reversed(self._amended.values()):
            if amendment[0] <= revision:
                break
            newer.append(amendment)
        newer.reverse()
        return newer

    def trim(self, excess: int) -> None:
        """Let go of the oldest entries, until ``excess`` bytes are free or nothing is left."""
        goal = self.size - excess
        count = 0
        for position, entry in enumerate(self._entries, self.base + 1):
            if self.size <= goal:
                break
            self.size -= entry.size
            self._fade(position, Copy.of(entry))
            count += 1
        del self._entries[:count]
        self.base += count
        self._let_go_batches()

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


def _size(changed: Changed | None) -> int:
    """About what holding this costs, in bytes: objects take a multiple of their text."""
    if changed is None:
        return 0
    try:
        return 3 * len(to_json(changed.run.fields))
    except ValueError:  # nested too deeply: it is small, and cannot be sent either
        return 0


def _written(batch: Batch) -> int:
    """About what the encoded form of a batch takes."""
    return sum(event.entry.size for event in batch.entries)
