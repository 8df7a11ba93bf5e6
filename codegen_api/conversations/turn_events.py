"""The events of a turn for one reader: its entries in order, the end of each action, and repeats of changed entries.

An action is closed when it has its output, a later entry has come, or the turn is over. An entry that changes after it
was sent is sent again, after the entries that exist by then. Readers who get it for the first time get it as it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from cachetools import LRUCache

from codegen_api.conversations.late_changes import START, Alteration, Form, Slot, TurnChanges
from codegen_api.conversations.progress import TurnEntry
from codegen_api.runs import LogEntry, Step
from codegen_api.stores import Turn

REMEMBERED = 100
"""For how many entries, the last ones, a teller remembers the form in which it sent them."""


class RenderedEntry(Protocol):
    """An entry as a dialect renders it."""

    @property
    def form(self) -> Form: ...

    @property
    def is_action(self) -> bool: ...

    @property
    def closed(self) -> bool: ...


class HeldEntry(RenderedEntry, Protocol):
    """A rendered entry that can be held back while the host is still writing it."""

    @property
    def offset(self) -> int: ...

    @property
    def open(self) -> bool:
        """Whether the host is still writing it."""
        ...

    @property
    def size(self) -> int:
        """Its cost in memory, in bytes."""
        ...


H = TypeVar("H", bound=HeldEntry)
R = TypeVar("R")
W = TypeVar("W", bound=RenderedEntry)


class RenderCache:
    """A cache of rendered entries, for readers of the same turn. ``max_bytes`` bounds all of it."""

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[Hashable, tuple[LogEntry, Any, int]] = LRUCache(max_bytes, getsizeof=lambda kept: kept[2])

    def of(self, key: Hashable, entry: LogEntry, render: Callable[[], R], size: Callable[[R], int]) -> R:
        """``entry`` as rendered under ``key``, from the cache or else by ``render``. The key says by which dialect and
        how. ``size`` returns the cost of what was rendered, in bytes.
        """
        kept = self._kept.get(key)
        if kept is not None and (kept[0] is entry or kept[0] == entry):
            return cast("R", kept[1])
        rendered = render()
        cost = entry.size + size(rendered)
        if cost <= self._kept.maxsize:  # the cache refuses what could never fit
            self._kept[key] = entry, rendered, cost
        return rendered

    def of_turn(
        self, dialect: str, turn: Turn, make: Callable[[Turn, TurnEntry, Step], H], step: Callable[[LogEntry], Step]
    ) -> Callable[[TurnEntry], H]:
        """A cached ``make`` for the entries of a turn, for a dialect that renders them the same for all its clients."""

        def render(came: TurnEntry) -> H:
            key = (dialect, turn.id, came.offset)
            return self.of(key, came.entry, lambda: make(turn, came, step(came.entry)), lambda made: made.size)

        return render


class EntryAdded(NamedTuple, Generic[W]):
    """There is a new entry. The outcome of an action comes later, with ``ActionClosed``."""

    offset: int
    rendered: W


class EntryChanged(NamedTuple, Generic[W]):
    """An entry differs from what was sent."""

    offset: int
    rendered: W


class ActionClosed(NamedTuple, Generic[W]):
    """The last entry, an action, is not waited for any longer."""

    offset: int
    rendered: W


class EntryRepeated(NamedTuple, Generic[W]):
    """A changed entry is sent again at ``slot``. ``text``, ``call`` and ``outcome`` say which of its parts changed.
    ``earlier``: only parts that were sent before the reader reconnected have to be repeated.
    """

    came: TurnEntry
    rendered: W
    text: bool
    call: bool
    outcome: bool
    earlier: bool
    slot: Slot = START

    @property
    def words(self) -> bool:
        return self.text or self.call


TurnEvent: TypeAlias = EntryAdded[W] | EntryChanged[W] | ActionClosed[W] | EntryRepeated[W]


class TurnTeller(Generic[W]):
    """Makes the events of a turn for a reader who has everything up to ``after``. With ``repeats``, what was sent again
    to other readers is also repeated for a reader who has only the last version, so that all have the same events.
    """

    def __init__(
        self,
        render: Callable[[TurnEntry], W],
        changes: TurnChanges | None = None,
        after: Slot = START,
        *,
        repeats: bool = False,
    ) -> None:
        self._repeats = repeats
        self.offset = 0
        self.open: W | None = None
        self.returned = False
        """Whether an entry has changed that was sent before the reader reconnected."""
        self._render = render
        self._changes = changes or TurnChanges()
        self._after = after
        self._latest = after._replace(number=after.number - 1)  # the reader may have only a part of that slot
        self._known: dict[int, int] = {}
        self._stale: dict[int, EntryRepeated[W]] = {}

    def take(self, news: Sequence[TurnEntry]) -> list[TurnEvent[W]]:
        events: list[TurnEvent[W]] = []
        for came in news:
            rendered = self._render(came)
            if came.offset > self.offset:
                self._close(events)
                self._arrive(came, rendered, events)
            elif self._known.get(came.offset) != rendered.form.whole:
                self._alter(came, rendered, events)
        return events

    def close(self) -> list[TurnEvent[W]]:
        """Close the open action, if there is one."""
        events: list[TurnEvent[W]] = []
        self._close(events)
        return events

    def rest(self) -> list[TurnEvent[W]]:
        """The repeats that are still due when nothing more comes."""
        events: list[TurnEvent[W]] = []
        self._repeat_due((self.offset + 1, False), events, last=True)
        return events

    def _close(self, events: list[TurnEvent[W]]) -> None:
        rendered, self.open = self.open, None
        if rendered is not None:
            events.append(ActionClosed(self.offset, rendered))
            self._repeat_due((self.offset, True), events)

    def _arrive(self, came: TurnEntry, rendered: W, events: list[TurnEvent[W]]) -> None:
        self.offset = came.offset
        self._record(came, rendered)
        altered = self._changes.of(came.offset)
        if altered is not None and (altered.slot is None or altered.slot > self._latest):
            if came.offset <= self._after.behind:
                self.returned = True
                self._stale[came.offset] = EntryRepeated(
                    came, rendered, altered.text, altered.call, altered.outcome, True
                )
            elif self._repeats and altered.slot is not None:
                outcome = altered.outcome and altered.slot.place != (came.offset, False)
                self._stale[came.offset] = EntryRepeated(came, rendered, altered.text, altered.call, outcome, False)
        events.append(EntryAdded(came.offset, rendered))
        if rendered.is_action:
            self.open = rendered
        self._repeat_due((came.offset, self.open is None), events)
        if rendered.is_action and rendered.closed:
            self._close(events)

    def _alter(self, came: TurnEntry, rendered: W, events: list[TurnEvent[W]]) -> None:
        self._record(came, rendered)
        altered = self._changes.of(came.offset) or Alteration(True, True, True)
        is_last = self.open is not None and came.offset == self.offset
        # the outcome of the last action comes with ActionClosed
        outcome = altered.outcome and not is_last
        self._stale[came.offset] = EntryRepeated(came, rendered, altered.text, altered.call, outcome, False)
        events.append(EntryChanged(came.offset, rendered))
        if is_last:
            self.open = rendered
        self._repeat_due((self.offset, self.open is None), events)
        if is_last and rendered.closed:
            self._close(events)

    def _record(self, came: TurnEntry, rendered: W) -> None:
        self._changes.record(came.offset, rendered.form)
        self._known[came.offset] = rendered.form.whole
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def _repeat_due(self, place: tuple[int, bool], events: list[TurnEvent[W]], *, last: bool = False) -> None:
        """Add the repeats that are due at ``place``, of entries that the reader has in an older form."""
        at_front = self._changes.reach(place)
        due: list[tuple[Slot, int]] = []
        for offset in self._stale:
            slot = self._slot(offset, place, at_front=at_front and place >= self._after.place, last=last)
            if slot is not None and slot.place == place:
                due.append((slot, offset))
        for slot, offset in sorted(due):
            self._latest = slot
            events.append(self._stale.pop(offset)._replace(slot=slot))

    def _slot(self, offset: int, place: tuple[int, bool], *, at_front: bool, last: bool) -> Slot | None:
        """Where an entry is sent again: at the slot where others got it, if this reader has not passed that."""
        altered = self._changes.of(offset)
        if altered is None:
            return None
        slot = altered.slot
        if slot is not None and slot > self._latest and slot.place >= place:
            return slot
        return self._changes.take(altered, self._after, last=last) if at_front else None


class HoldingTeller(ABC, Generic[H]):
    """A ``Teller`` of bytes that holds back the last entry while the host is writing it, unless it is an action. The
    dialect renders new entries (``_added``), outcomes of actions (``_answered``) and repeats (``_repeated``).
    """

    claimed = 0
    """The last entry that the reader claims to have, for dialects whose readers can resume within a turn."""

    def __init__(
        self, render: Callable[[TurnEntry], H], changes: TurnChanges | None = None, *, repeats: bool = False
    ) -> None:
        self._telling: TurnTeller[H] = TurnTeller(render, changes, repeats=repeats)
        self._held: H | None = None

    def take(self, entries: Sequence[TurnEntry]) -> bytes:
        told = [*map(self._tell, self._telling.take(entries))]
        if self._held is not None and not self._held.open:
            told.append(self._release())
        return b"".join(told)

    def _tell(self, event: TurnEvent[H]) -> bytes:
        entry = event.rendered
        is_held = self._held is not None and self._held.offset == entry.offset
        match event:
            case EntryAdded():
                before = self._release()
                if entry.is_action:
                    return before + self._added(entry)
                self._held = entry
                return before
            case EntryChanged():
                self._held = entry if is_held else self._held
                return b""
            case ActionClosed():
                return self._answered(entry)
            case EntryRepeated():
                return b"" if is_held else self._repeated(event)

    def _release(self) -> bytes:
        """Send the entry that was held back, if there is one."""
        held, self._held = self._held, None
        if held is None:
            return b""
        # if it has become a closed action, no ActionClosed comes for it
        return self._added(held) + (self._answered(held) if held.is_action and held.closed else b"")

    @abstractmethod
    def _added(self, entry: H) -> bytes: ...

    def _answered(self, entry: H) -> bytes:
        return b""

    def _repeated(self, event: EntryRepeated[H]) -> bytes:
        return b""
