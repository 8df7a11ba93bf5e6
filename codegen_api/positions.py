"""A viewer's position in a log, as written into event ids and read back from clients.

A log grows and earlier entries change, so the number of the last entry is not enough: a viewer that reconnects with it
would never learn of an amendment it missed. A position therefore also encodes which changes the viewer has. It refers
only to the log, never to a process, so that any instance can continue a stream of another.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from codegen_api.runs import Cursor, LogEntry

AMENDABLE = 20
"""While a run is active, this many entries before the tail are read again until they have their output."""

SETTLING = 100
"""Entries further than this from the tail are settled: they normally no longer change."""

COMPARED = 2_000
"""When a run has ended, this many entries before the tail are compared with what was sent."""

UNKNOWN = "...."
"""Placeholder for a digest: the viewer's version of the entry is not known."""

OUTDATED = "..--"
"""Placeholder for a digest: the viewer's version of the entry is known to be old."""


def plain(name: str) -> str:
    """A name without case, dashes and underscores."""
    return name.replace("_", "").replace("-", "").lower()


def names_a_position(name: str) -> bool:
    """Whether a URL parameter is some spelling of ``lastEventId``, as EventSource libraries add it on reconnect."""
    return plain(name) == "lasteventid"


class Sighting(NamedTuple):
    """A change of entry ``cursor``, observed when the log had this ``length``. ``far``: the entry was so far from the
    end that it is only checked once the run has ended.

    The values mean the same in every process. Changes are reported in their order.
    """

    length: Cursor
    far: bool
    cursor: Cursor

    @classmethod
    def of(cls, length: Cursor, cursor: Cursor) -> "Sighting":
        return cls(length, cursor <= length - AMENDABLE, cursor)


class Copy(NamedTuple):
    """What is remembered of an entry: its digest, whether it is amendable, and the digests of earlier versions."""

    digest: str
    amendable: bool
    earlier: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: LogEntry) -> "Copy":
        return cls(entry.digest, entry.amendable)


@dataclass(frozen=True, slots=True)
class Position:
    """A viewer's place: it has the entries up to ``cursor``. ``over``: it knows that the log ends there.

    ``seen``: it has all changes up to this one; if None, none observed at length ``cursor`` or later. ``copies`` are
    the digests of its versions of the last entries, unless those are settled.
    """

    cursor: Cursor
    over: bool = False
    seen: Sighting | None = None
    copies: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the last entries were settled when they were sent."""
        return self.seen is not None and self.cursor <= self.seen.length - SETTLING

    def has(self, change: Sighting) -> bool:
        """Whether the viewer has this change."""
        return change <= (self.seen or Sighting(self.cursor, False, 0))

    def after(self, start: "Position") -> "Position":
        """This position for a viewer that started at ``start`` and may have received later changes elsewhere."""
        if start.seen is None or self.cursor > start.seen.length or self.has(start.seen):
            return self
        return replace(self, seen=start.seen)

    def digest(self, cursor: Cursor) -> str:
        """The digest of the viewer's version of entry ``cursor``; ``UNKNOWN`` if the position has none."""
        index = len(self.copies) - 1 - (self.cursor - cursor)
        return self.copies[index] if index >= 0 else UNKNOWN

    def __str__(self) -> str:
        if self.over:
            return f"{self.cursor}.end"
        seen = "" if self.seen is None else f"-{self.seen.length}{'_' if self.seen.far else '.'}{self.seen.cursor}"
        return f"{self.cursor}{seen}{'~' if self.copies else ''}{''.join(self.copies)}"


@dataclass(frozen=True, slots=True)
class Missed:
    """What a viewer at some position may have missed.

    ``length`` is the log's. ``changes`` concern entries that the viewer has; ``latest`` is the last one of any entry.
    ``near`` are the viewer's last entries as they are now, None for each that is unknown. A viewer who received all
    this is at ``revision`` of the log, None if the broker has no log.
    """

    length: Cursor = 0
    latest: Sighting = Sighting(0, False, 0)  # noqa: RUF009 - frozen
    changes: Sequence[Sighting] = ()
    near: Sequence[Copy | None] = ()
    revision: int | None = field(default=None, compare=False)


class Trail:
    """Computes the position after each event sent to a viewer that started at ``start``.

    Before any new entry, the ``doubtful`` ones of its last entries are sent again, and then the ``unseen`` changes. A
    connection may break after any event, so each position claims only what has been sent: it marks entries that are
    still to be sent again as outdated, so that the next process does that.
    """

    def __init__(
        self, start: Position, missed: Missed, unseen: Iterable[Sighting] = (), doubtful: Iterable[Cursor] = ()
    ) -> None:
        self._start = start
        self._cursor = start.cursor
        self._length = missed.length
        self._latest = missed.latest
        # further changes may be observed at this length, so the position names the last one that is included
        self._all = max(self._latest, Sighting(self._length, False, 0))
        self._near = deque(missed.near, maxlen=AMENDABLE)
        first = self._cursor - len(self._near) + 1
        self._last_amendable = max(
            (cursor for cursor, copy in enumerate(self._near, first) if copy is None or copy.amendable), default=0
        )
        self._unseen = sorted(unseen, reverse=True)  # the next one is at the end
        self._doubtful = set(doubtful)
        self._outdated = self._doubtful.union(change.cursor for change in self._unseen)

    def appended(self, entry: LogEntry) -> Position:
        """The position after the next entry: a plain number, unless another process could repeat or miss changes."""
        self._cursor += 1
        settled = self._cursor <= self._length - SETTLING
        if self._cursor > self._length - SETTLING - AMENDABLE:
            self._near.append(Copy.of(entry))
        else:  # settled: its digest will not be needed
            self._near.clear()
        if entry.amendable:
            self._last_amendable = self._cursor
        may_change = self._last_amendable > max(0, self._cursor - AMENDABLE)
        seen = self._all if self._latest.length >= self._cursor or (settled and may_change) else None
        return self._position(seen, with_copies=may_change or seen is not None)

    def amended(self, cursor: Cursor, entry: LogEntry) -> Position:
        """The position after an earlier entry was sent again."""
        self._outdated.discard(cursor)
        self._doubtful.discard(cursor)
        while self._unseen and self._unseen[-1].cursor not in self._outdated:
            self._unseen.pop()
        back = self._cursor - cursor + 1
        if back <= len(self._near):
            self._near[-back] = Copy.of(entry)
        if self._doubtful:
            seen = self._start.seen
        elif self._unseen:
            seen = self._unseen[-1]._replace(cursor=self._unseen[-1].cursor - 1)
        else:
            seen = max(self._all, self._start.seen or self._all)
        return self._position(seen, with_copies=True)

    def _position(self, seen: Sighting | None, *, with_copies: bool) -> Position:
        settled = seen is not None and self._cursor <= seen.length - SETTLING
        return Position(self._cursor, False, seen, self._copies() if with_copies and not settled else ())

    def _copies(self) -> tuple[str, ...]:
        first = self._cursor - len(self._near) + 1
        return tuple(
            OUTDATED if cursor in self._outdated else UNKNOWN if copy is None else copy.digest
            for cursor, copy in enumerate(self._near, first)
        )
