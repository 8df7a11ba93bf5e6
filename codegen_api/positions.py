"""Where a viewer is in a log, as it is written into the id of an event and read from what a client sends back.

A log grows, and entries that are there change. So a position is more than the number of the last entry: it also says
which changes of earlier entries the viewer has. Whatever it says is of the log itself, not of a process, so that each
process can go on where another one stopped.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from codegen_api.runs import Cursor, LogEntry

AMENDABLE = 20
"""While a run goes on, entries this near the tail are read again as long as their output is missing."""

SETTLING = 100
"""What is further from the tail than so many entries is settled: as a rule it does not change any more."""

COMPARED = 2_000
"""So many of the last entries are compared with what was given of them when a run has ended."""

UNKNOWN = "...."
"""In place of a digest: nobody can tell how the viewer's copy of this entry looks."""

OUTDATED = "..--"
"""In place of a digest: the viewer's copy of this entry is known to be an old one."""


def plain(name: str) -> str:
    """A name without what tells one way of spelling it from another."""
    return name.replace("_", "").replace("-", "").lower()


def names_a_position(name: str) -> bool:
    """Whether a parameter of a URL is called, in any spelling, as libraries call the position they come back with."""
    return plain(name) == "lasteventid"


class Sighting(NamedTuple):
    """Entry ``cursor`` was seen to have changed when the log was of this ``length``; ``far`` from its end, where
    it is looked at only when the run has ended. That means the same everywhere; changes are told of in this order.
    """

    length: Cursor
    far: bool
    cursor: Cursor

    @classmethod
    def of(cls, length: Cursor, cursor: Cursor) -> "Sighting":
        return cls(length, cursor <= length - AMENDABLE, cursor)


class Copy(NamedTuple):
    """What is remembered of an entry; ``amendable`` as there. ``earlier`` are digests of what it was before."""

    digest: str
    amendable: bool
    earlier: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: LogEntry) -> "Copy":
        return cls(entry.digest, entry.amendable)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a viewer is: it has the entries up to ``cursor``. ``over``: it was told that the log ended there.

    ``told``: it has the changes up to this one; without, none of those that were seen when the log was as long as
    ``cursor`` or longer. ``copies`` are the digests of its copies of the last entries, where those are not settled.
    """

    cursor: Cursor
    over: bool = False
    told: Sighting | None = None
    copies: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the last entries were settled when they were given."""
        return self.told is not None and self.cursor <= self.told.length - SETTLING

    def has(self, change: Sighting) -> bool:
        """Whether the viewer was told of this change."""
        return change <= (self.told or Sighting(self.cursor, False, 0))

    def after(self, came: "Position") -> "Position":
        """The same for somebody who came from there, and may have been told of more elsewhere."""
        if came.told is None or self.cursor > came.told.length or self.has(came.told):
            return self
        return replace(self, told=came.told)

    def digest(self, cursor: Cursor) -> str:
        """Of the viewer's copy of that entry, which is one of the last."""
        index = len(self.copies) - 1 - (self.cursor - cursor)
        return self.copies[index] if index >= 0 else UNKNOWN

    def __str__(self) -> str:
        if self.over:
            return f"{self.cursor}.end"
        told = "" if self.told is None else f"-{self.told.length}{'_' if self.told.far else '.'}{self.told.cursor}"
        return f"{self.cursor}{told}{'~' if self.copies else ''}{''.join(self.copies)}"


@dataclass(frozen=True, slots=True)
class Missed:
    """What a viewer who stands somewhere in a log may have missed.

    The log is of this ``length``. ``changes`` concern entries that the viewer has, and ``latest`` is the last of all
    that were seen. ``near`` are the last entries that it has, as they are now (None: nobody knows). Who has been given
    all this is at ``revision`` of the window; None where there is none.
    """

    length: Cursor = 0
    latest: Sighting = Sighting(0, False, 0)  # noqa: RUF009 - frozen
    changes: Sequence[Sighting] = ()
    near: Sequence[Copy | None] = ()
    revision: int | None = field(default=None, compare=False)


class Trail:
    """Names the positions of a viewer on its way from ``came`` on, event by event.

    Before anything new it is given the ``doubtful`` ones of its last entries again, and then told of the ``untold``
    changes.
    """

    def __init__(
        self, came: Position, missed: Missed, untold: Iterable[Sighting] = (), doubtful: Iterable[Cursor] = ()
    ) -> None:
        self._came = came
        self._cursor = came.cursor
        self._length = missed.length
        self._latest = missed.latest
        # more may be seen at this length: so the position says which changes are known
        self._whole = max(self._latest, Sighting(self._length, False, 0))
        self._near = deque(missed.near, maxlen=AMENDABLE)
        first = self._cursor - len(self._near) + 1
        self._changeable = max(  # the last entry that may change
            (cursor for cursor, copy in enumerate(self._near, first) if copy is None or copy.amendable), default=0
        )
        self._untold = sorted(untold, reverse=True)  # the next one last
        self._doubtful = set(doubtful)
        self._waiting = self._doubtful.union(change.cursor for change in self._untold)

    def appended(self, entry: LogEntry) -> Position:
        """The position behind the next entry: no more than its number, where another process could not know less."""
        self._cursor += 1
        settled = self._cursor <= self._length - SETTLING
        if self._cursor > self._length - SETTLING - AMENDABLE:
            self._near.append(Copy.of(entry))
        else:  # nobody will ask for it
            self._near.clear()
        if entry.amendable:
            self._changeable = self._cursor
        may_change = self._changeable > max(0, self._cursor - AMENDABLE)
        told = self._whole if self._latest.length >= self._cursor or (settled and may_change) else None
        return self._position(told, with_copies=may_change or told is not None)

    def amended(self, cursor: Cursor, entry: LogEntry) -> Position:
        """The position of who has also been given that earlier entry as it is now."""
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
