"""The events of a turn for one reader: its entries in order, the end of each action, and again what has changed.

An action is closed when its output is there, a later entry has come, or the turn is over. What changes after it was
told is told again, behind what has come by then. Who reads an entry for the first time is told of it as it is.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from cachetools import LRUCache

from codegen_api.conversations.late_changes import START, Alteration, Form, Slot, TurnChanges
from codegen_api.conversations.progress import TurnEntry
from codegen_api.runs import LogEntry, Step
from codegen_api.stores import Turn

REMEMBERED = 100
"""Of so many entries, the last ones, it is remembered in which form they were told."""


class RenderedEntry(Protocol):
    """What a dialect makes of an entry."""

    @property
    def form(self) -> Form: ...

    @property
    def is_action(self) -> bool: ...

    @property
    def closed(self) -> bool: ...


class HeldEntry(RenderedEntry, Protocol):
    """One that is told when the host writes it no longer."""

    @property
    def offset(self) -> int: ...

    @property
    def open(self) -> bool:
        """Whether the host is still writing it."""
        ...

    @property
    def size(self) -> int:
        """What holding it costs, in bytes."""
        ...


H = TypeVar("H", bound=HeldEntry)
R = TypeVar("R")
W = TypeVar("W", bound=RenderedEntry)


class RenderCache:
    """What dialects have made of entries lately, kept for all who read the same: ``max_bytes``, for all together."""

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[Hashable, tuple[LogEntry, Any, int]] = LRUCache(max_bytes, getsizeof=lambda kept: kept[2])

    def of(self, key: Hashable, entry: LogEntry, render: Callable[[], R], size: Callable[[R], int]) -> R:
        """What ``entry`` is rendered as under ``key``, which says by whom and how; it is rendered if that is not known.
        ``size`` says what holding it costs, in bytes.
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
        """What a dialect makes of the entries of a turn, if that is the same for all its clients."""

        def render(came: TurnEntry) -> H:
            key = (dialect, turn.id, came.offset)
            return self.of(key, came.entry, lambda: make(turn, came, step(came.entry)), lambda made: made.size)

        return render


class EntryAdded(NamedTuple, Generic[W]):
    """An entry is there; of an action what came of it is told later."""

    offset: int
    rendered: W


class EntryChanged(NamedTuple, Generic[W]):
    """An entry is another one than was told."""

    offset: int
    rendered: W


class ActionClosed(NamedTuple, Generic[W]):
    """Nothing more is waited for of the last entry, an action."""

    offset: int
    rendered: W


class EntryRepeated(NamedTuple, Generic[W]):
    """An entry as it is now is told again at ``slot``: its ``text``, what it calls, the ``outcome``, and whatever shows
    all of it. ``earlier``: the reader lacks only what was told before they came back.
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
    """Tells a turn to one who was told of everything up to ``after``. With ``repeats``, what others were told again is
    told again to who lacks nothing as well, so that all have the same events.
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
        """Whether something has changed that was told before the reader came back."""
        self._render = render
        self._changes = changes or TurnChanges()
        self._after = after
        self._latest = after._replace(number=after.number - 1)  # the reader may have a part of what is told there
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
        """The open action, if there is one, has had its time."""
        events: list[TurnEvent[W]] = []
        self._close(events)
        return events

    def rest(self) -> list[TurnEvent[W]]:
        """What is still to be told when nothing more comes."""
        events: list[TurnEvent[W]] = []
        self._tell_again((self.offset + 1, False), events, last=True)
        return events

    def _close(self, events: list[TurnEvent[W]]) -> None:
        rendered, self.open = self.open, None
        if rendered is not None:
            events.append(ActionClosed(self.offset, rendered))
            self._tell_again((self.offset, True), events)

    def _arrive(self, came: TurnEntry, rendered: W, events: list[TurnEvent[W]]) -> None:
        self.offset = came.offset
        self._tell(came, rendered)
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
        self._tell_again((came.offset, self.open is None), events)
        if rendered.is_action and rendered.closed:
            self._close(events)

    def _alter(self, came: TurnEntry, rendered: W, events: list[TurnEvent[W]]) -> None:
        self._tell(came, rendered)
        altered = self._changes.of(came.offset) or Alteration(True, True, True)
        is_last = self.open is not None and came.offset == self.offset
        # what came of the last action is about to be told by itself
        outcome = altered.outcome and not is_last
        self._stale[came.offset] = EntryRepeated(came, rendered, altered.text, altered.call, outcome, False)
        events.append(EntryChanged(came.offset, rendered))
        if is_last:
            self.open = rendered
        self._tell_again((self.offset, self.open is None), events)
        if is_last and rendered.closed:
            self._close(events)

    def _tell(self, came: TurnEntry, rendered: W) -> None:
        self._changes.tell(came.offset, rendered.form)
        self._known[came.offset] = rendered.form.whole
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def _tell_again(self, place: tuple[int, bool], events: list[TurnEvent[W]], *, last: bool = False) -> None:
        """Of what the reader has in an older form, that which is to be told at this place."""
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
        """Where an entry is told again: where others were told of it, if the reader is still to come there."""
        altered = self._changes.of(offset)
        if altered is None:
            return None
        slot = altered.slot
        if slot is not None and slot > self._latest and slot.place >= place:
            return slot
        return self._changes.take(altered, self._after, last=last) if at_front else None


class HoldingTeller(Generic[H]):
    """Tells a turn as bytes. The last entry is held back while the host may still be writing it, unless it is an
    action. What is told of entries, and of what is told again, is for the dialect to say.
    """

    claimed = 0
    """Up to which entry the reader says to have been told, who may come back to the middle."""

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
                return b"" if is_held else self._again(event)

    def _release(self) -> bytes:
        """What was held back: the host writes it no longer."""
        held, self._held = self._held, None
        if held is None:
            return b""
        # it may have become an action, and one that is done, which then nothing else tells
        return self._added(held) + (self._answered(held) if held.is_action and held.closed else b"")

    def _added(self, entry: H) -> bytes:
        raise NotImplementedError

    def _answered(self, entry: H) -> bytes:
        return b""

    def _again(self, event: EntryRepeated[H]) -> bytes:
        return b""
