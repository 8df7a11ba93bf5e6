"""A viewer's position in a log, as written into event ids and read back from clients.

A log grows and earlier entries change, so the number of the last entry is not enough: a viewer that reconnects with it
would never learn of an amendment it missed. A position therefore also encodes which changes the viewer has. It refers
to the log itself, never to a process, so that any instance can continue a stream of another.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from codegen_api.runs import Cursor, LogEntry

AMENDABLE = 20
"""While a run is active, entries this close to the tail are read again until they have their output."""

SETTLING = 100
"""Entries further than this from the tail are settled: they normally no longer change."""

COMPARED = 2_000
"""Number of last entries that are compared with what was sent when a run has ended."""

UNKNOWN = "...."
"""Placeholder for a digest: the viewer's version of the entry is not known."""

OUTDATED = "..--"
"""Placeholder for a digest: the viewer's version of the entry is known to be old."""


def plain(name: str) -> str:
    """A name without its spelling conventions: case, dashes, underscores."""
    return name.replace("_", "").replace("-", "").lower()


def names_a_position(name: str) -> bool:
    """Whether a URL parameter is some spelling of ``lastEventId``, as EventSource libraries add it on reconnect."""
    return plain(name) == "lasteventid"


class Sighting(NamedTuple):
    """A change of entry ``cursor``, observed when the log had this ``length``. ``far``: the entry was so far from the
    end that it is only checked once the run has ended.

    The values mean the same in every process, and their order is the order in which changes are reported.
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
    """A viewer's place: it has the entries up to ``cursor``. ``over``: it was told that the log ends there.

    ``told``: it has all changes up to this one; if None, none observed at length ``cursor`` or later. ``copies`` are
    the digests of its versions of the last entries, as long as those are not settled.
    """

    cursor: Cursor
    over: bool = False
    told: Sighting | None = None
    copies: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the last entries were settled when they were sent."""
        return self.told is not None and self.cursor <= self.told.length - SETTLING

    def has(self, change: Sighting) -> bool:
        """Whether the viewer has this change."""
        return change <= (self.told or Sighting(self.cursor, False, 0))

    def after(self, came: "Position") -> "Position":
        """This position for a viewer that started at ``came`` and may have received later changes elsewhere."""
        if came.told is None or self.cursor > came.told.length or self.has(came.told):
            return self
        return replace(self, told=came.told)

    def digest(self, cursor: Cursor) -> str:
        """The digest of the viewer's version of this entry, one of the last."""
        index = len(self.copies) - 1 - (self.cursor - cursor)
        return self.copies[index] if index >= 0 else UNKNOWN

    def __str__(self) -> str:
        if self.over:
            return f"{self.cursor}.end"
        told = "" if self.told is None else f"-{self.told.length}{'_' if self.told.far else '.'}{self.told.cursor}"
        return f"{self.cursor}{told}{'~' if self.copies else ''}{''.join(self.copies)}"


@dataclass(frozen=True, slots=True)
class Missed:
    """What a viewer at some position may have missed.

    ``length`` is the log's. ``changes`` are to entries that the viewer has; ``latest`` is the last change observed at
    all. ``near`` are the viewer's last entries as they are now (None: not known). A viewer who received all this is at
    ``revision`` of the log, None if the broker has no log.
    """

    length: Cursor = 0
    latest: Sighting = Sighting(0, False, 0)  # noqa: RUF009 - frozen
    changes: Sequence[Sighting] = ()
    near: Sequence[Copy | None] = ()
    revision: int | None = field(default=None, compare=False)


class Trail:
    """Computes the position after each event sent to a viewer that started at ``came``.

    Before any new entry, the ``doubtful`` ones of its last entries are sent again, and then the ``untold`` changes. A
    connection may break after any event, so each position claims only what has been sent: entries still to be repeated
    are marked as outdated in it, and the next process repeats them.
    """

    def __init__(
        self, came: Position, missed: Missed, untold: Iterable[Sighting] = (), doubtful: Iterable[Cursor] = ()
    ) -> None:
        self._came = came
        self._cursor = came.cursor
        self._length = missed.length
        self._latest = missed.latest
        # further changes may be observed at this length, so the position names those that are included
        self._whole = max(self._latest, Sighting(self._length, False, 0))
        self._near = deque(missed.near, maxlen=AMENDABLE)
        first = self._cursor - len(self._near) + 1
        self._changeable = max(  # the last entry that may still change
            (cursor for cursor, copy in enumerate(self._near, first) if copy is None or copy.amendable), default=0
        )
        self._untold = sorted(untold, reverse=True)  # next one at the end
        self._doubtful = set(doubtful)
        self._waiting = self._doubtful.union(change.cursor for change in self._untold)

    def appended(self, entry: LogEntry) -> Position:
        """The position after the next entry: a plain number, unless another process could repeat or miss changes."""
        self._cursor += 1
        settled = self._cursor <= self._length - SETTLING
        if self._cursor > self._length - SETTLING - AMENDABLE:
            self._near.append(Copy.of(entry))
        else:  # settled: its digest will not be needed
            self._near.clear()
        if entry.amendable:
            self._changeable = self._cursor
        may_change = self._changeable > max(0, self._cursor - AMENDABLE)
        told = self._whole if self._latest.length >= self._cursor or (settled and may_change) else None
        return self._position(told, with_copies=may_change or told is not None)

    def amended(self, cursor: Cursor, entry: LogEntry) -> Position:
        """The position after an earlier entry was sent again."""
        self._waiting.discard(cursor)
        self._doubtful.discard(cursor)
        while self._untold and self._untold[-1].cursor not in self._waiting:
            self._untold.pop()
        back = self._cursor - cursor + 1
        if back <= len(self._near):
            self._near[-back] = Copy.of(entry)
        if self._doubtful:
            told = self._came.told
        elif self._untold:
            told = self._untold[-1]._replace(cursor=self._untold[-1].cursor - 1)
        else:
            told = max(self._whole, self._came.told or self._whole)
        return self._position(told, with_copies=True)

    def _position(self, told: Sighting | None, *, with_copies: bool) -> Position:
        needless = not with_copies or (told is not None and self._cursor <= told.length - SETTLING)
        return Position(self._cursor, False, told, () if needless else self._copies())

    def _copies(self) -> tuple[str, ...]:
        first = self._cursor - len(self._near) + 1
        return tuple(
            OUTDATED if cursor in self._waiting else UNKNOWN if copy is None else copy.digest
            for cursor, copy in enumerate(self._near, first)
        )
