"""Which entries of turns changed after they were sent, as this process has seen it.

A log does not say that something in it came late. So it is recorded here, for all readers of a turn and for those who
reconnect. Earlier versions of entries are not kept, only hashes that tell them apart: the present one is sent again.
"""

from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import LRUCache

from codegen_api.runs import LogEntry, Step, to_json

ROOM = 2000
"""How many entries can be sent again between two events. More wait for the next event."""

MOST_BYTES = 16 * 1024 * 1024
"""The bound on all records together."""

PORTION = 64
"""By how many entries the array of forms grows at a time."""

UNTOLD = 0
"""The form of an entry that has not been sent to anyone."""


class Form(NamedTuple):
    """Hashes that tell versions of an entry apart: of all of it, its text, its call, and the call's outcome."""

    whole: int
    text: int
    call: int
    outcome: int

    @classmethod
    def of(cls, entry: LogEntry, step: Step) -> "Form":
        arguments = None if step.input is None else to_json(step.input)
        output = None if step.output is None else to_json(step.output)
        text = hash((step.kind, step.raw_kind, step.text, entry.created_at))
        return cls(hash(entry.json) or 1, text, hash((step.tool, arguments)), hash((step.closed, output)))


class Slot(NamedTuple):
    """Where in a stream an entry is sent again: after entry number ``behind``, before or after that one is closed, as
    the ``number``-th repeat there; -1 is before the first. Slots sort in the order of the stream.
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
    """How the numbers of an entry's events are laid out for repeated entries, which take ``block`` numbers each. The
    blocks from ``meanwhile`` on are for repeats while the entry is an open action; the next block is for what closes
    it, and the rest for repeats afterwards.
    """

    meanwhile: int
    block: int

    @property
    def closed(self) -> int:
        """The first number of the events that close an action."""
        return self.meanwhile + ROOM * self.block

    @property
    def afterwards(self) -> int:
        return self.closed + self.block

    @property
    def places(self) -> int:
        """How many numbers an entry has."""
        return self.afterwards + ROOM * self.block

    def slot(self, offset: int, place: int) -> Slot:
        """The slot that a reader has reached who has the events of entry ``offset`` up to number ``place``."""
        is_closed = place >= self.closed
        first = self.afterwards if is_closed else self.meanwhile
        return Slot(offset, is_closed, max(-1, (place - first) // self.block))

    def first(self, slot: Slot) -> int:
        """The first number of the entry that is sent again at ``slot``."""
        return (self.afterwards if slot.is_closed else self.meanwhile) + self.block * slot.number


@dataclass(slots=True)
class Alteration:
    """Which parts of an entry changed after they were sent. ``slot`` is None until the entry is sent again."""

    text: bool = False
    call: bool = False
    outcome: bool = False
    slot: Slot | None = None


class TurnChanges:
    """The late changes of one turn. ``on_growth`` is called when the record takes more memory."""

    def __init__(self, on_growth: Callable[[], None] = lambda: None) -> None:
        self._on_growth = on_growth
        self._forms = array("q")  # of each entry as it was sent last
        self._altered: dict[int, Alteration] = {}
        self._front = (0, False)  # the furthest place that any reader has reached
        self._taken = 0  # how many slots are taken there

    @property
    def size(self) -> int:
        """What holding this costs, in bytes."""
        return 500 + 8 * len(self._forms) + 300 * len(self._altered)

    def record(self, offset: int, form: Form) -> None:
        """Record that an entry is sent in this form."""
        parts = len(form)
        start = parts * offset
        if start >= len(self._forms):
            self._forms.extend([UNTOLD] * (parts * (offset + PORTION) - len(self._forms)))
            self._on_growth()
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
            self._on_growth()

    def of(self, offset: int) -> Alteration | None:
        """What has changed in an entry, if anything has."""
        return self._altered.get(offset)

    def reach(self, place: tuple[int, bool]) -> bool:
        """Record that a reader has reached ``place``, and return whether none has got further."""
        if place > self._front:
            self._front, self._taken = place, 0
        return place == self._front

    def take(self, altered: Alteration, after: Slot, *, last: bool) -> Slot | None:
        """Take a slot at the front, after ``after``; None if that is full. The ``last`` place never is."""
        number = max(self._taken, after.number + 1 if after.place == self._front else 0)
        if number >= ROOM and not last:
            return None
        self._taken = number + 1
        altered.slot = Slot(*self._front, min(number, ROOM - 1))
        return altered.slot


class LateChanges:
    """The late changes of the turns that have been read lately."""

    def __init__(self, max_bytes: int = MOST_BYTES) -> None:
        self._changes: LRUCache[str, TurnChanges] = LRUCache(max_bytes, getsizeof=lambda changes: changes.size)

    def of(self, turn_id: str) -> TurnChanges:
        """The late changes of a turn, shared by all its readers."""
        changes = self._changes.get(turn_id)
        if changes is None:
            changes = self._changes[turn_id] = TurnChanges(lambda: self._weigh(turn_id))
        return changes

    def _weigh(self, turn_id: str) -> None:
        with suppress(KeyError, ValueError):  # evicted already, or too large to keep
            self._changes[turn_id] = self._changes.pop(turn_id)
