"""What has changed in the entries of turns after they were told, as this process has seen it.

No log says that something in it was late. So it is noted here, for all who read a turn and for who comes back to it.
What entries were is not kept, only how to tell one form of them from another: what is told again is what they are now.
"""

from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import LRUCache

from codegen_api.runs import LogEntry, Step, to_json

ROOM = 2000
"""So many entries are told again between two events. More wait for the next one."""

MOST_BYTES = 16 * 1024 * 1024
"""So much is noted of all turns together."""

PORTION = 64
"""Of so many entries more the forms are noted, when there is one more."""

UNTOLD = 0
"""The form of an entry that nobody was told of."""


class Form(NamedTuple):
    """Tells an entry from what it was: all of it, what is said in it, what is called, and what came of that."""

    whole: int
    text: int
    call: int
    outcome: int

    @classmethod
    def of(cls, entry: LogEntry, step: Step) -> "Form":
        asked = None if step.input is None else to_json(step.input)
        answered = None if step.output is None else to_json(step.output)
        text = hash((step.kind, step.raw_kind, step.text, entry.created_at))
        return cls(hash(entry.json) or 1, text, hash((step.tool, asked)), hash((step.closed, answered)))


class Slot(NamedTuple):
    """Where an entry is told again: when ``behind`` entries had come, of which the last was closed or not, as the
    ``number``-th there; -1 is before all of those. Slots are in the order in which they are told.
    """

    behind: int
    is_closed: bool
    number: int = -1

    @property
    def place(self) -> tuple[int, bool]:
        return self.behind, self.is_closed

    @property
    def next(self) -> "Slot":
        return self._replace(number=self.number + 1)


START = Slot(0, False)


@dataclass(frozen=True, slots=True)
class EventLayout:
    """Where among the numbers of an entry's events that which is told again stands: in blocks of ``block`` numbers. The
    first ones begin at ``meanwhile``, for what comes while the entry, an action, is open; then what closes it has a
    block, and what comes afterwards the rest.
    """

    meanwhile: int
    block: int

    @property
    def closed(self) -> int:
        """The first number of what closes an action."""
        return self.meanwhile + ROOM * self.block

    @property
    def afterwards(self) -> int:
        return self.closed + self.block

    @property
    def places(self) -> int:
        """How many numbers an entry has."""
        return self.afterwards + ROOM * self.block

    def slot(self, offset: int, place: int) -> Slot:
        """What who has the events of entry ``offset`` up to a number has been told."""
        is_closed = place >= self.closed
        first = self.afterwards if is_closed else self.meanwhile
        return Slot(offset, is_closed, max(-1, (place - first) // self.block))

    def first(self, slot: Slot) -> int:
        """The first number of what is told again there."""
        return (self.afterwards if slot.is_closed else self.meanwhile) + self.block * slot.number


@dataclass(slots=True)
class Alteration:
    """An entry is not what somebody was told: in which parts, and where it is told again. None: nobody was there."""

    text: bool = False
    call: bool = False
    outcome: bool = False
    slot: Slot | None = None


class TurnChanges:
    """Those in one turn. ``grown`` is called when there is more to note."""

    def __init__(self, grown: Callable[[], None] = lambda: None) -> None:
        self._grown = grown
        self._forms = array("q")  # of each entry as it was told last
        self._altered: dict[int, Alteration] = {}
        self._front = (0, False)  # how far anybody was told anything,
        self._taken = 0  # and the slots that are taken there

    @property
    def size(self) -> int:
        """What holding this costs, in bytes."""
        return 500 + 8 * len(self._forms) + 300 * len(self._altered)

    def tell(self, offset: int, form: Form) -> None:
        parts = len(form)
        start = parts * offset
        if start >= len(self._forms):
            self._forms.extend([UNTOLD] * (parts * (offset + PORTION) - len(self._forms)))
            self._grown()
        if self._forms[start] == form.whole:
            return
        before = Form(*self._forms[start : start + parts])
        self._forms[start : start + parts] = array("q", form)
        if before.whole != UNTOLD:
            altered = self._altered.setdefault(offset, Alteration())
            altered.text |= before.text != form.text
            altered.call |= before.call != form.call
            altered.outcome |= before.outcome != form.outcome
            altered.slot = None
            self._grown()

    def of(self, offset: int) -> Alteration | None:
        """What has changed in an entry."""
        return self._altered.get(offset)

    def reach(self, place: tuple[int, bool]) -> bool:
        """Somebody is there. Whether nobody was told of anything behind that."""
        if place > self._front:
            self._front, self._taken = place, 0
        return place == self._front

    def take(self, altered: Alteration, after: Slot, *, last: bool) -> Slot | None:
        """A slot at the front, behind ``after``. None: it is full. The ``last`` place never is."""
        number = max(self._taken, after.number + 1 if after.place == self._front else 0)
        if number >= ROOM and not last:
            return None
        self._taken = number + 1
        altered.slot = Slot(*self._front, min(number, ROOM - 1))
        return altered.slot


class LateChanges:
    """The changes of those turns that somebody has read lately."""

    def __init__(self, max_bytes: int = MOST_BYTES) -> None:
        self._changes: LRUCache[str, TurnChanges] = LRUCache(max_bytes, getsizeof=lambda changes: changes.size)

    def of(self, turn_id: str) -> TurnChanges:
        """Those of a turn: the same for all who read it."""
        changes = self._changes.get(turn_id)
        if changes is None:
            changes = self._changes[turn_id] = TurnChanges(lambda: self._weigh(turn_id))
        return changes

    def _weigh(self, turn_id: str) -> None:
        with suppress(KeyError, ValueError):  # it is kept no longer, or has become too large for that
            self._changes[turn_id] = self._changes.pop(turn_id)
