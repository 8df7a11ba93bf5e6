"""The log of one run: the pages that are held of it, and what is remembered of the others."""

import asyncio
from itertools import chain, takewhile
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from codegen_api.brokers import BATCH_BYTES, PAGE, Batch, Forgotten
from codegen_api.brokers.memory.copies import Copies
from codegen_api.brokers.memory.pages import HeldPage, Shelf
from codegen_api.positions import AMENDABLE, COMPARED, SETTLING, Copy, Missed, Position, Sighting, Trail
from codegen_api.runs import Amended, Appended, Changed, Cursor, LogEntry, to_json

if TYPE_CHECKING:
    from codegen_api.brokers.memory import Subscription

SHARED_BATCHES = 2
"""How many batches of a log are kept although nobody holds them, for viewers who come to the same position; each may
hold its encoded form.
"""

LOG_OVERHEAD = 4096
"""Bytes charged for a log beyond its entries."""

AMENDED_OVERHEAD = 500
"""Bytes charged for what is remembered of an entry that has changed, beyond the entry."""

EARLIER = 4
"""How many of its earlier forms are remembered of an entry."""


class NotHeld(Exception):
    """The page of the entry at ``position`` has to be read again first."""

    def __init__(self, position: Cursor) -> None:
        super().__init__(position)
        self.position = position


class Log:
    """The log of one run, up to ``tail``.

    Each amendment of an entry takes the next revision, so that a viewer's position is two numbers: how far in the log,
    and which amendments it knows. Of an entry that is not held it is remembered how it looked, so that it is noticed
    when it was amended: then no more than that is kept, and its page is read again for whoever has to be told.
    """

    def __init__(self, shelf: Shelf, revision: int) -> None:
        self.opened = False
        self.dropped = False
        self.tail: Cursor = 0
        self.revision = revision
        self.changed: Changed | None = None
        self.size = 0
        self._began = revision
        self._shelf = shelf
        self._pages: dict[int, HeldPage] = {}
        self._longest: Cursor = 0  # how long the log was before it was doubted
        # how all that was seen or given looked then, as far as it may be compared
        self._copies = Copies()
        self._copies_size = 0
        # what has changed since it was given, the latest last, with the revision at which it did
        self._amended: dict[Cursor, tuple[int, Sighting]] = {}
        # and what it was before
        self._earlier: dict[Cursor, tuple[str, ...]] = {}
        self._latest = Sighting(0, False, 0)
        # those that somebody holds: to share them costs nothing, however far apart the viewers are
        self._batches: WeakValueDictionary[tuple[Cursor, int, bool], Batch] = WeakValueDictionary()
        self._kept: dict[Batch, int] = {}  # with what its encoded form takes
        self._listeners: dict[Subscription, None] = {}
        self._restless: dict[Subscription, None] = {}  # those of them who have not come to rest yet
        self._told: tuple[object, Changed | None] = (None, None)  # how the log was when they heard of it
        self._waking = False
        self._charge(LOG_OVERHEAD)

    @property
    def known(self) -> Cursor:
        """What is behind this position was seen here."""
        return (self._copies.first or self.tail + 1) - 1

    @property
    def is_blank(self) -> bool:
        return not self.opened and not self._longest and self.changed is None

    def recent(self) -> tuple[LogEntry, ...]:
        """The last entries, as far as they are held."""
        found: list[LogEntry] = []
        for position in range(self.tail, max(0, self.tail - SETTLING), -1):
            if (entry := self._held(position)) is None:
                break
            found.append(entry)
        return tuple(reversed(found))

    def holds(self, number: int) -> bool:
        """Whether all of that page is held."""
        return number in self._pages and self._pages[number].whole

    # -- what comes in ------------------------------------------------------------------------------------------------

    def take_in(self, after: Cursor, entries: tuple[LogEntry, ...]) -> None:
        """What the follower has read."""
        tail, revision = self.tail, self.revision
        self.tail = max(self.tail, after) if self.opened else after
        self.opened = True
        for position, entry in enumerate(entries, after + 1):
            if entry.absent and position <= self.tail and self._copy(position) is not None:
                continue  # what was given is better than nothing
            held, before = self._held(position), self._copies.put(position, entry)
            if before is None and held is not None and held.json != entry.json:
                before = Copy.of(held)
            if held is None or before is not None:
                self._put(position, entry)
                self.tail = max(self.tail, position)
            if before is not None:
                self._amend(position, before.digest)
        if self.revision != revision:
            self._let_go_batches(behind=0)
        elif self.tail != tail:
            self._let_go_batches(behind=tail)
        self._longest = max(self._longest, self.tail)
        self._forget_far()

    def fill_in(self, page: HeldPage) -> None:
        """Take in what is not held of a page that was read again, and hold it if nothing in it can be amended any more
        in a log of this length.
        """
        if self.dropped:
            return
        entries = [entry for entry in page.entries if entry is not None and not entry.absent]
        settled = len(entries) == PAGE and page.last <= self.tail - SETTLING
        holding = settled and sum(entry.size for entry in entries) <= self._shelf.max_bytes and self._is_current(page)
        for position, entry in enumerate(page.entries, page.last - len(page.entries) + 1):
            if entry is None or position > self.tail or self._held(position) is not None:
                continue
            # viewers who were given a different one will have to be told, whatever it comes to
            self._copies.note(position, entry)
            if holding:
                self._put(position, entry, page.since)
        self._forget_far()

    def change(self, changed: Changed) -> None:
        """The run is described anew."""
        self._charge(_size(changed) - _size(self.changed))
        self.changed = changed
        self._let_go_batches(behind=self.tail)

    def close(self) -> None:
        """Show nothing that is held, and know what it looked like."""
        self.opened = False
        self._let_go_batches(behind=0)
        for page in list(self._pages.values()):
            self.trim(page, page.size)

    def drop(self) -> None:
        """Be gone: whoever waits or comes back hears of it."""
        for page in self._pages.values():
            self._shelf.trim(page, page.size)
        self._shelf.held -= self.size
        self.dropped = True
        self.wake()

    def _put(self, position: Cursor, entry: LogEntry, since: int | None = None) -> None:
        number = (position - 1) // PAGE
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = HeldPage(self, number, since=since)
        before = page.size
        page.put(position, entry)
        self._charge(page.size - before)
        self._shelf.take(page, page.size - before)

    def _amend(self, position: Cursor, before: str) -> None:
        self.revision += 1
        self._earlier[position] = (*self._earlier.get(position, ()), before)[-EARLIER:]
        self._latest = max(self._latest, seen := Sighting.of(max(self._longest, self.tail), position))
        if self._amended.pop(position, None) is None:  # so that the latest amendment stands last
            self._charge(AMENDED_OVERHEAD)
        self._amended[position] = (self.revision, seen)

    def _forget_far(self) -> None:
        """Of what is further back nobody will ever know whether it has changed."""
        first = max(self._longest, self.tail) - COMPARED
        self._copies.forget(first)
        self._charge(self._copies.size - self._copies_size)
        self._copies_size = self._copies.size
        if len(self._amended) > COMPARED:
            for position in [position for position in self._amended if position <= first]:
                del self._amended[position], self._earlier[position]
                self._charge(-AMENDED_OVERHEAD)

    # -- what goes out ------------------------------------------------------------------------------------------------

    def entry(self, position: Cursor, spare: HeldPage | None) -> LogEntry | None:
        """An entry as it is now, be it held here or in a page that was just read again; None when its page has to be.

        Raises:
            Forgotten: this log is gone.
        """
        if self.dropped:
            raise Forgotten
        entry = self._held(position)
        if entry is None and spare is not None and self._is_current(spare):
            entry = spare.get(position)
        return entry

    def _is_current(self, page: HeldPage) -> bool:
        """Whether nothing in it was amended since it was asked for."""
        return page.since == self.revision or self.revised(page.number) <= (page.since or 0)

    def revised(self, number: int) -> int:
        """The revision at which an entry of that page was amended last."""
        amended = (self._amended.get(position) for position in range(number * PAGE + 1, (number + 1) * PAGE + 1))
        return max((amendment[0] for amendment in amended if amendment is not None), default=0)

    def missed(self, after: Cursor, revision: int = 0) -> Missed:
        changes = [seen for _, seen in self._amended_since(revision) if seen.cursor <= after]
        near = [self._copy(position) for position in range(max(1, after - AMENDABLE + 1), after + 1)]
        return Missed(max(self._longest, self.tail), self._latest, changes, near, self.revision)

    def batch(
        self, after: Cursor, revision: int | None, described: Changed | None, spare: HeldPage | None
    ) -> Batch | None:
        """What a viewer at this position lacks; None when it lacks nothing. ``described``: what it was told of the run.

        Raises:
            NotHeld: a page has to be read again first.
            Forgotten: this log is gone, or is not the one of that revision.
        """
        if self.dropped or (revision is not None and revision < self._began):
            raise Forgotten
        if not self.opened or after > self.tail:
            return None
        pending = [(at, seen) for at, seen in self._amended_since(revision or 0) if seen.cursor <= after]
        if after == self.tail and not pending and described is self.changed:
            return None  # as every viewer finds who has just been given the news
        page = self._pages.get(after // PAGE)
        if page is not None:
            self._shelf.take(page, 0)
        key = (after, pending[0][0] if pending else 0, described is self.changed)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._build(after, pending, spare, None if described is self.changed else self.changed)
            if batch is not None:
                self._batches[key] = batch
        return batch

    def keep(self, batch: Batch) -> None:
        """Keep it for the next who comes to the same place, if there is room."""
        if batch not in self._kept and (size := sum(event.entry.size for event in batch.entries)) <= self._shelf.room:
            self._keep({**dict([*self._kept.items()][1 - SHARED_BATCHES :]), batch: size})

    def trim(self, page: HeldPage, excess: int) -> None:
        """Let go of what is kept for others, and of the oldest entries of a page, until ``excess`` bytes are free or
        nothing is left of it.
        """
        goal = self.size - excess
        self._keep({})
        self._charge(-self._shelf.trim(page, self.size - goal))
        if not page.size:
            del self._pages[page.number]

    def _build(
        self, after: Cursor, pending: list[tuple[int, Sighting]], spare: HeldPage | None, changed: Changed | None
    ) -> Batch | None:
        """The amendments first, then what is new: as much as goes into a batch and is there."""
        events: list[Appended | Amended] = []
        positions: list[Position] = []
        room, cursor, told = BATCH_BYTES, after, 0
        trail = Trail(Position(after), self.missed(after, self.revision), unseen=(seen for _, seen in pending))
        for position in chain((seen.cursor for _, seen in pending), range(after + 1, self.tail + 1)):
            entry = self.entry(position, spare)
            if entry is None and not events:
                raise NotHeld(position)
            if entry is None or (events and room < entry.size):
                changed = None  # it comes behind all the rest
                break
            if told < len(pending):
                told += 1
                events.append(Amended(position, entry))
                positions.append(trail.amended(position, entry))
            else:
                cursor = position
                events.append(Appended(position, entry))
                positions.append(trail.appended(entry))
            room -= entry.size
        if not events and changed is None:
            return None
        revision = self.revision if told == len(pending) else pending[told - 1][0]
        return Batch(tuple(events), changed, cursor, revision, tuple(positions))

    def _held(self, position: Cursor) -> LogEntry | None:
        page = self._pages.get((position - 1) // PAGE)
        return None if page is None else page.get(position)

    def _copy(self, position: Cursor) -> Copy | None:
        copy = self._copies.get(position)
        if copy is None:
            held = self._held(position)
            return None if held is None else Copy.of(held)
        return copy._replace(earlier=self._earlier[position]) if position in self._earlier else copy

    def _amended_since(self, revision: int) -> list[tuple[int, Sighting]]:
        """Amendments newer than ``revision``, oldest first."""
        newer = takewhile(lambda amendment: amendment[0] > revision, reversed(self._amended.values()))
        return [*newer][::-1]

    def _let_go_batches(self, *, behind: Cursor) -> None:
        """Those that reach so far are of no use any more."""
        for key, batch in list(self._batches.items()):
            if batch.cursor >= behind:
                del self._batches[key]
        self._keep({batch: size for batch, size in self._kept.items() if batch.cursor < behind})

    def _keep(self, batches: dict[Batch, int]) -> None:
        self._charge(sum(batches.values()) - sum(self._kept.values()))
        self._kept = batches

    def _charge(self, size: int) -> None:
        self.size += size
        self._shelf.held += size

    def listen(self, listener: "Subscription") -> None:
        """``listener`` wants to hear of news from now on."""
        self._listeners[listener] = self._restless[listener] = None

    def unlisten(self, listener: "Subscription") -> None:
        self._listeners.pop(listener, None)
        self._restless.pop(listener, None)

    def wake(self) -> None:
        """The log was read: all who listen hear of what is new in the order in which they came, when whoever publishes
        rests.
        """
        if self._listeners and not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        """Most readings of a log find nothing. Those who rest need not hear of that, however many they are; those who
        have just come may wait for just that.
        """
        self._waking = False
        known: dict[tuple[Cursor, int | None], Batch | None] = {}
        now = asyncio.get_running_loop().time()
        (before, described), now_is = self._told, (self.tail, self.revision, self.opened, self.dropped)
        is_news = before != now_is or described is not self.changed
        self._told = now_is, self.changed
        for listener in list(self._listeners if is_news else self._restless):
            listener.news(known, now)
            if listener.sink.idle:
                self._restless.pop(listener, None)


def _size(changed: Changed | None) -> int:
    """About what holding this costs, in bytes: objects take a multiple of their text."""
    if changed is None:
        return 0
    try:
        return 3 * len(to_json(changed.run.fields))
    except ValueError:  # nested too deeply: it is small, and cannot be sent either
        return 0
