"""What has changed in the entries of turns after they were told, as this process has seen it.

Who tells a turn tells such an entry again, behind what has come by then. No log says that it was late. So it is noted
here, for all who read the turn and for who comes back to it: they get what they lack, and it once.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from cachetools import LRUCache

MOST_TURNS = 10_000
MOST_CHANGES = 1000
"""In one turn."""

MOST_AT_ONCE = 16
"""Between two entries."""


class Change(NamedTuple):
    """Entry ``offset`` has changed when ``behind`` entries had come, of which the last was still open, or not; as the
    ``number``-th there, from 0.
    """

    offset: int
    behind: int
    is_open: bool
    number: int


@dataclass(slots=True)
class Changes:
    """Those of a turn, in the order in which they were seen. ``unanswered`` are entries that were told without their
    output, and ``front`` is how far anybody was told anything: the last entry, and whether it was not open any more.
    """

    seen: list[Change] = field(default_factory=list)
    unanswered: set[int] = field(default_factory=set)
    front: tuple[int, bool] = (0, False)

    def told(self, offset: int, *, is_open: bool) -> None:
        """Somebody was told of everything up to an entry."""
        self.front = max(self.front, (offset, not is_open))

    def left_open(self, offset: int) -> None:
        """Somebody was told of an entry without its output."""
        if len(self.unanswered) < MOST_CHANGES:
            self.unanswered.add(offset)

    def of(self, offset: int) -> bool:
        """Whether an entry was seen to change."""
        return any(change.offset == offset for change in self.seen)

    def see(self, told: Collection[Change], offset: int, behind: int, *, is_open: bool) -> Change | None:
        """A change, for somebody who was ``told`` of those; None when there are too many to tell."""
        here = [each for each in self.seen if (each.behind, each.is_open) == (behind, is_open)]
        for each in here:
            if each.offset == offset and each not in told:
                return each
        if len(here) >= MOST_AT_ONCE or len(self.seen) >= MOST_CHANGES:
            return None
        self.seen.append(Change(offset, behind, is_open, len(here)))
        return self.seen[-1]


class Late:
    """The changes of those turns that somebody has read lately."""

    def __init__(self) -> None:
        self._changes: LRUCache[str, Changes] = LRUCache(MOST_TURNS)

    def of(self, turn_id: str) -> Changes:
        """Those of a turn: the same for all who read it."""
        changes: Changes = self._changes.setdefault(turn_id, Changes())
        return changes
