"""What a follower knows of the log it reads: how long it is, and what its last entries looked like.

From that it tells what has to be read again, and whether an answer is of this log at all: an answer may be older than
the one before it, and a host may have put another log under the same name.
"""

from collections import deque
from dataclasses import dataclass, replace

from codegen_api.brokers import Tail
from codegen_api.positions import AMENDABLE, COMPARED, SETTLING
from codegen_api.runs import Cursor, LogEntry, LogPage, Run

GONE_LOOKS = 3
"""How many looks in a row must miss the tail before the log counts as replaced, and not as a stale answer."""


class Replaced(Exception):
    """The host has another log under this name."""


class Stale(Exception):
    """This answer is older than one that came before it."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is remembered of an entry near the tail."""

    id: str | None
    created_at: str | None
    open: bool

    @classmethod
    def of(cls, entry: LogEntry) -> "_Mark":
        return cls(entry.id, entry.created_at, entry.open)

    def tells_apart(self, entry: LogEntry) -> bool:
        """Whether this cannot be the same entry, by the host's own id, or by its time; without them nobody knows."""
        if self.id is not None and entry.id is not None:
            return self.id != entry.id
        return self.created_at is not None and entry.created_at is not None and self.created_at != entry.created_at


class Known:
    """The log as it was last seen; ``tail`` is the position of its last entry."""

    def __init__(self) -> None:
        self.tail: Cursor = 0
        self._marks: deque[_Mark] = deque(maxlen=SETTLING)
        self._missed = 0

    def adopt(self, tail: Tail) -> None:
        """Take over what an earlier follower has seen."""
        self.tail = tail.cursor
        self._marks.extend(map(_Mark.of, tail.recent))

    def begin(self, tail: Cursor) -> None:
        """Know nothing but that the log is at least this long."""
        self.tail, self._missed = tail, 0
        self._marks.clear()

    def unsettled(self) -> Cursor:
        """Behind which position to read so that outputs which came late are seen, and the last entry again."""
        recent = list(self._marks)[-AMENDABLE:]
        for back, mark in enumerate(recent):
            if mark.open:
                return self.tail - len(recent) + back
        return max(0, self.tail - 1)

    def settling(self) -> Cursor:
        """Behind which position to read so that late changes of what is older are seen as well."""
        return max(0, self.tail - SETTLING)

    def compare(self, page: LogPage, *, in_doubt: bool) -> None:
        """Hold a page against what is known. ``in_doubt``: stale answers are likely just now.

        Raises:
            Stale: it does not fit, and that may pass.
            Replaced: it has not fitted for so long that it must be another log.
        """
        first = self.tail - len(self._marks)  # position before the first mark
        differs = any(
            first < position <= self.tail and self._marks[position - first - 1].tells_apart(entry)
            for position, entry in enumerate(page.entries, page.after + 1)
        )
        gone = not page.entries and page.last < self.tail
        if not differs and not gone:
            return
        self._missed += 1
        if self._missed >= (2 if differs else GONE_LOOKS) and not (gone and in_doubt):
            raise Replaced
        raise Stale

    def agreed(self) -> None:
        """The whole look fitted."""
        self._missed = 0

    def take_in(self, page: LogPage) -> None:
        """Remember what this page shows, which begins at or before the tail."""
        for position, entry in enumerate(page.entries, page.after + 1):
            mark = _Mark.of(entry)
            if position > self.tail:
                self._marks.append(mark)
                self.tail = position
            elif position > self.tail - len(self._marks):
                self._marks[position - self.tail - 1] = mark


def opens_at(near: Cursor, size: int) -> Cursor:
    """Where the page of ``size`` begins at which a log is opened for a viewer at ``near``."""
    return max(0, near - AMENDABLE) // size * size


def given_from(tail: Tail, elsewhere: Cursor | None, size: int) -> Cursor:
    """Where the first page of ``size`` begins of all that was given here, or elsewhere behind that position, as far as
    it can be compared.
    """
    known = tail.known if elsewhere is None else min(tail.known, elsewhere)
    return max(known, tail.cursor - COMPARED) // size * size


def without_nulls(run: Run) -> Run:
    """What a log page says of its run: it lacks some fields, and a null there is one of them."""
    if None not in run.fields.values():
        return run
    return replace(run, fields={name: value for name, value in run.fields.items() if value is not None})


def may_have_ended(run: Run) -> bool:
    """Whether an answer does not speak against an end."""
    return run.status.ended or run.raw_status is None
