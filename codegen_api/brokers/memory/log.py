"""The log of one run: the pages held of it, and copies of other entries."""

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
"""Batches of a log kept although no viewer holds them, for viewers that reach the same position later. Each may include
its encoded form.
"""

LOG_OVERHEAD = 4096
"""Bytes charged for a log beyond its entries."""

AMENDED_OVERHEAD = 500
"""Bytes charged for an amended entry, beyond the entry."""

EARLIER = 4
"""Digests of earlier versions kept per entry."""


class NotHeld(Exception):
    """The page of the entry at ``position`` must be read again first."""

    def __init__(self, position: Cursor) -> None:
        super().__init__(position)
        self.position = position


class Log:
    """The log of one run, up to ``tail``.

    Each amendment of an entry gets the next revision, so a viewer's position is two numbers: how far it is in the log,
    and which amendments it knows. For an entry that is not held there is a copy, by which an amendment is noticed; its
    page is then read again for the viewers that lack the amendment.
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
        # of all entries seen or given that may still be compared
        self._copies = Copies()
        self._copies_size = 0
        # amendments by position, the latest last, each with its revision
        self._amended: dict[Cursor, tuple[int, Sighting]] = {}
        # the digests of earlier versions of these entries
        self._earlier: dict[Cursor, tuple[str, ...]] = {}
        self._latest = Sighting(0, False, 0)
        # batches that some viewer holds: sharing them is free, however far apart the viewers are
        self._batches: WeakValueDictionary[tuple[Cursor, int, bool], Batch] = WeakValueDictionary()
        self._kept: dict[Batch, int] = {}  # with the bytes of its encoded form
        self._listeners: dict[Subscription, None] = {}
        self._active: dict[Subscription, None] = {}  # the listeners that are not idle yet
        self._notified: tuple[object, Changed | None] = (None, None)  # the state at the last notification
        self._waking = False
        self._charge(LOG_OVERHEAD)

    @property
    def known(self) -> Cursor:
        """Entries after this position were seen here."""
        return (self._copies.first or self.tail + 1) - 1

    @property
    def is_blank(self) -> bool:
        return not self.opened and not self._longest and self.changed is None

    def recent(self) -> tuple[LogEntry, ...]:
        """Those of the last entries that are held, without a gap."""
        found: list[LogEntry] = []
        for position in range(self.tail, max(0, self.tail - SETTLING), -1):
            if (entry := self._held(position)) is None:
                break
            found.append(entry)
        return tuple(reversed(found))

    def holds(self, number: int) -> bool:
        """Whether the whole page is held."""
        return number in self._pages and self._pages[number].whole

    # -- what comes in ------------------------------------------------------------------------------------------------

    def take_in(self, after: Cursor, entries: tuple[LogEntry, ...]) -> None:
        """Add what the follower has read."""
        tail, revision = self.tail, self.revision
        self.tail = max(self.tail, after) if self.opened else after
        self.opened = True
        for position, entry in enumerate(entries, after + 1):
            if entry.absent and position <= self.tail and self._copy(position) is not None:
                continue  # the entry seen before is better than none
            held, before = self._held(position), self._copies.put(position, entry)
            if before is None and held is not None and held.json != entry.json:
                before = Copy.of(held)
            if held is None or before is not None:
                self._put(position, entry)
                self.tail = max(self.tail, position)
            if before is not None:
                self._amend(position, before.digest)
        if self.revision != revision:
            self._drop_batches(reaching=0)
        elif self.tail != tail:
            self._drop_batches(reaching=tail)
        self._longest = max(self._longest, self.tail)
        self._forget_old()

    def fill_in(self, page: HeldPage) -> None:
        """Note the entries that are not held of a page that was read again, and hold them if none of the page can be
        amended any more in a log of this length.
        """
        if self.dropped:
            return
        entries = [entry for entry in page.entries if entry is not None and not entry.absent]
        settled = len(entries) == PAGE and page.last <= self.tail - SETTLING
        holding = settled and sum(entry.size for entry in entries) <= self._shelf.max_bytes and self._is_current(page)
        for position, entry in enumerate(page.entries, page.last - len(page.entries) + 1):
            if entry is None or position > self.tail or self._held(position) is not None:
                continue
            # viewers may have been given a different version, and must be sent this entry again if so
            self._copies.note(position, entry)
            if holding:
                self._put(position, entry, page.since)
        self._forget_old()

    def change(self, changed: Changed) -> None:
        """Set the description of the run."""
        self._charge(_size(changed) - _size(self.changed))
        self.changed = changed
        self._drop_batches(reaching=self.tail)

    def close(self) -> None:
        """Show nothing until the log is opened again, and keep only copies."""
        self.opened = False
        self._drop_batches(reaching=0)
        for page in list(self._pages.values()):
            self.trim(page, page.size)

    def drop(self) -> None:
        """Drop everything: subscribers get ``Forgotten``."""
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
        self._shelf.use(page, page.size - before)

    def _amend(self, position: Cursor, before: str) -> None:
        self.revision += 1
        self._earlier[position] = (*self._earlier.get(position, ()), before)[-EARLIER:]
        self._latest = max(self._latest, seen := Sighting.of(max(self._longest, self.tail), position))
        if self._amended.pop(position, None) is None:  # so that the latest amendment stands last
            self._charge(AMENDED_OVERHEAD)
        self._amended[position] = (self.revision, seen)

    def _forget_old(self) -> None:
        """Forget copies and amendments too far from the end to be compared again."""
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
        """The current entry, held here or in ``spare``, a page just read again; None if its page must be read again.

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
        """Whether nothing in the page was amended since the host was asked for it."""
        return page.since == self.revision or self.revised(page.number) <= (page.since or 0)

    def revised(self, number: int) -> int:
        """The revision of the last amendment in that page; 0 if there is none."""
        amended = (self._amended.get(position) for position in range(number * PAGE + 1, (number + 1) * PAGE + 1))
        return max((amendment[0] for amendment in amended if amendment is not None), default=0)

    def missed(self, after: Cursor, revision: int = 0) -> Missed:
        changes = [seen for _, seen in self._amended_since(revision) if seen.cursor <= after]
        near = [self._copy(position) for position in range(max(1, after - AMENDABLE + 1), after + 1)]
        return Missed(max(self._longest, self.tail), self._latest, changes, near, self.revision)

    def batch(
        self, after: Cursor, revision: int | None, described: Changed | None, spare: HeldPage | None
    ) -> Batch | None:
        """The next batch for a viewer at this position; None if it lacks nothing. ``described``: the description that
        the viewer has.

        Raises:
            NotHeld: a page must be read again first.
            Forgotten: this log is gone, or is not the one of that revision.
        """
        if self.dropped or (revision is not None and revision < self._began):
            raise Forgotten
        if not self.opened or after > self.tail:
            return None
        pending = [(at, seen) for at, seen in self._amended_since(revision or 0) if seen.cursor <= after]
        if after == self.tail and not pending and described is self.changed:
            return None  # the usual case: the viewer has just been given the news
        page = self._pages.get(after // PAGE)
        if page is not None:
            self._shelf.use(page)
        key = (after, pending[0][0] if pending else 0, described is self.changed)
        batch = self._batches.get(key)
        if batch is None:
            batch = self._build(after, pending, spare, None if described is self.changed else self.changed)
            if batch is not None:
                self._batches[key] = batch
        return batch

    def keep(self, batch: Batch) -> None:
        """Keep ``batch`` for the next viewer at the same position, if there is room."""
        if batch not in self._kept and (size := sum(event.entry.size for event in batch.entries)) <= self._shelf.room:
            self._keep({**dict([*self._kept.items()][1 - SHARED_BATCHES :]), batch: size})

    def trim(self, page: HeldPage, excess: int) -> None:
        """Drop the batches kept for later viewers, and the oldest entries of ``page`` until ``excess`` bytes are free
        or it is empty.
        """
        goal = self.size - excess
        self._keep({})
        self._charge(-self._shelf.trim(page, self.size - goal))
        if not page.size:
            del self._pages[page.number]

    def _build(
        self, after: Cursor, pending: list[tuple[int, Sighting]], spare: HeldPage | None, changed: Changed | None
    ) -> Batch | None:
        """Build a batch: first amendments, then new entries, until it is full or a page is not held."""
        events: list[Appended | Amended] = []
        positions: list[Position] = []
        room, cursor, amended = BATCH_BYTES, after, 0
        trail = Trail(Position(after), self.missed(after, self.revision), unseen=(seen for _, seen in pending))
        for position in chain((seen.cursor for _, seen in pending), range(after + 1, self.tail + 1)):
            entry = self.entry(position, spare)
            if entry is None and not events:
                raise NotHeld(position)
            if entry is None or (events and room < entry.size):
                changed = None  # it comes after all entries
                break
            if amended < len(pending):
                amended += 1
                events.append(Amended(position, entry))
                positions.append(trail.amended(position, entry))
            else:
                cursor = position
                events.append(Appended(position, entry))
                positions.append(trail.appended(entry))
            room -= entry.size
        if not events and changed is None:
            return None
        revision = self.revision if amended == len(pending) else pending[amended - 1][0]
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

    def _drop_batches(self, *, reaching: Cursor) -> None:
        """Drop the batches that reach this position: they are outdated."""
        for key, batch in list(self._batches.items()):
            if batch.cursor >= reaching:
                del self._batches[key]
        self._keep({batch: size for batch, size in self._kept.items() if batch.cursor < reaching})

    def _keep(self, batches: dict[Batch, int]) -> None:
        self._charge(sum(batches.values()) - sum(self._kept.values()))
        self._kept = batches

    def _charge(self, size: int) -> None:
        self.size += size
        self._shelf.held += size

    def add_listener(self, listener: "Subscription") -> None:
        """Tell ``listener`` of news from now on."""
        self._listeners[listener] = self._active[listener] = None

    def remove_listener(self, listener: "Subscription") -> None:
        self._listeners.pop(listener, None)
        self._active.pop(listener, None)

    def wake(self) -> None:
        """Notify the listeners, in the order in which they came, in the next iteration of the event loop."""
        if self._listeners and not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._notify)

    def _notify(self) -> None:
        """Notify the listeners. Most reads of a log find nothing new: then only those are notified that are not idle,
        because a listener that has just come may wait for exactly that.
        """
        self._waking = False
        batches: dict[tuple[Cursor, int | None], Batch | None] = {}
        now = asyncio.get_running_loop().time()
        (before, described), now_is = self._notified, (self.tail, self.revision, self.opened, self.dropped)
        is_news = before != now_is or described is not self.changed
        self._notified = now_is, self.changed
        for listener in list(self._listeners if is_news else self._active):
            listener.on_news(batches, now)
            if listener.sink.idle:
                self._active.pop(listener, None)


def _size(changed: Changed | None) -> int:
    """Approximate bytes that a description takes in memory: objects take a multiple of their text."""
    if changed is None:
        return 0
    try:
        return 3 * len(to_json(changed.run.fields))
    except ValueError:  # nested too deeply: it is small, and cannot be sent either
        return 0
