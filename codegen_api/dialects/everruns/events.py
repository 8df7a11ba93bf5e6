"""A turn as events: which there are, in which order, and with which ids. Pure functions.

Everything is made of the turn and its log, so that each instance tells the same, live or again. An action is closed
when its output is there, a later entry has come, or the turn is over; what its tool answered is told then, before
anything of the next entry. What changes after it was told is told again, behind what has come by then, as far as
``conversations.late`` has room.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from codegen_api.conversations import Came, Change, Changes, heard_of
from codegen_api.dialects.everruns.families import FLAT
from codegen_api.dialects.everruns.ids import START, Spot
from codegen_api.dialects.everruns.messages import (
    OPEN,
    Message,
    Place,
    Role,
    answer,
    as_text,
    inputs,
    length,
    message_fields,
    moment,
    plain_text,
    said,
)
from codegen_api.runs import Json, LogEntry, Step, StepKind
from codegen_api.stores import Turn, TurnState
from codegen_api.web import timestamp

DELTA = "output.message.delta"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a turn. ``at`` is a time as it goes over the wire. ``kind`` and ``data`` are the flat
    family's; the nested one is only told of messages, by ``message``.
    """

    turn: Turn
    spot: Spot
    kind: str
    at: str
    data: Mapping[str, Json]
    message: Message | None = None


class Placed(Protocol):
    """An event in some form."""

    @property
    def spot(self) -> Spot: ...


T = TypeVar("T", bound=Placed)

REMEMBERED = 100
"""Of so many entries, the last ones, it is remembered what was told of them."""


@dataclass(frozen=True, slots=True)
class Happened(Generic[T]):
    """What one entry amounts to: what is told at once, and what when it is closed."""

    at_once: tuple[T, ...]
    at_close: tuple[T, ...]
    closed: bool


class Telling(Protocol[T]):
    """In what form events are told."""

    def event(self, event: Event) -> T: ...

    def entry(self, turn: Turn, came: Came) -> Happened[T]:
        """What an entry amounts to."""
        ...

    def again(self, turn: Turn, came: Came, spot: Spot) -> T | None:
        """What has changed in an entry, at another spot."""
        ...


class Plainly:
    """As they are. ``step`` says what an entry means."""

    def __init__(self, step: Callable[[LogEntry], Step]) -> None:
        self._step = step

    def event(self, event: Event) -> Event:
        return event

    def entry(self, turn: Turn, came: Came) -> Happened[Event]:
        return happened(turn, came.offset, came.entry, self._step(came.entry))

    def again(self, turn: Turn, came: Came, spot: Spot) -> Event | None:
        return changed(self.entry(turn, came), spot)


def changed(found: Happened[Event], spot: Spot) -> Event | None:
    """Of what an entry amounts to, what may change: what came of it; or, where nothing does, what was said."""
    for event in (*found.at_close, *found.at_once):
        if event.message is not None:
            return replace(event, spot=spot)
    return None


def begun(turn: Turn) -> list[Event]:
    """What comes before the first entry."""
    at = timestamp(turn.created)
    about = _about(turn)
    told = [
        Event(turn, message.spot, "input.message", at, {"message": _flat(turn, message)}, message)
        for message in inputs(turn)
    ]
    return [
        *told,
        Event(turn, Spot(turn.number, 0, Place.ACTIVATED), "session.activated", at, about),
        Event(turn, Spot(turn.number, 0, Place.TURN_STARTED), "turn.started", at, about),
    ]


def happened(turn: Turn, offset: int, entry: LogEntry, step: Step) -> Happened[Event]:
    """What an entry amounts to, the ``offset``-th of its turn."""
    heard = said(turn, offset, entry, step)
    if heard.message is None:
        return Happened((), (), closed=True)
    at = moment(turn, entry)
    if heard.message.role is Role.USER:
        data: dict[str, Json] = {"message": _flat(turn, heard.message)}
        return Happened((Event(turn, heard.message.spot, "input.message", at, data, heard.message),), (), closed=True)
    told = list(_output(turn, at, heard.message))
    if heard.result is None:
        return Happened(tuple(told), (), closed=True)
    call = heard.message.content[-1]
    assert step.kind is StepKind.ACTION  # noqa: S101 - nothing else has a result
    assert isinstance(call, Mapping)  # noqa: S101 - it is made there
    made = {name: call[name] for name in ("id", "name", "arguments")}
    started = Spot(turn.number, offset, Place.TOOL_STARTED)
    told.append(Event(turn, started, "tool.started", at, {"turn_id": _turn_id(turn), "tool_call": made}))
    completed: dict[str, Json] = {
        "turn_id": _turn_id(turn),
        "tool_call_id": made["id"],
        "tool_name": step.tool,
        "success": step.closed,
        "status": "success" if step.closed else "timeout",
        "result": [{"type": "text", "text": as_text(step.output)}] if step.closed else [],
    }
    if not step.closed:
        completed["error"] = OPEN
    result = Event(turn, heard.result.spot, "tool.completed", at, completed, heard.result)
    return Happened(tuple(told), (result,), step.closed)


def over(turn: Turn, offset: int) -> list[Event]:
    """What comes behind the last entry, the ``offset``-th, of a turn that is over."""
    at, last = timestamp(turn.updated), offset + 1
    told: list[Event] = []
    message = answer(turn)
    if message is not None:
        told += _output(turn, at, message)
    data: dict[str, Json] = {"turn_id": _turn_id(turn)}
    match turn.state:
        case TurnState.FAILED | TurnState.UNKNOWN:
            kind = "turn.failed"
            code = "outcome_unknown" if turn.state is TurnState.UNKNOWN else "run_failed"
            data |= {"error": turn.error or "The run has failed.", "error_code": code}
        case TurnState.CANCELLED:
            kind = "turn.cancelled"
            data["reason"] = "The run was stopped."
        case _:
            kind = "turn.completed"
            data |= {"iterations": offset, "duration_ms": max(0, round((turn.updated - turn.created) * 1000))}
    return [
        *told,
        Event(turn, Spot(turn.number, last, Place.TURN_OVER), kind, at, data),
        Event(turn, Spot(turn.number, last, Place.IDLED), "session.idled", at, {"turn_id": _turn_id(turn)}),
    ]


def last_spot(turn: Turn) -> Spot:
    """Where the last event of a turn that is over stands."""
    return Spot(turn.number, length(turn) + 1, Place.IDLED)


class Teller(Generic[T]):
    """Tells the events of a turn in order, as its log comes, to who has those up to ``after``. ``changes`` are what was
    seen to change in it.
    """

    def __init__(
        self,
        turn: Turn,
        telling: Telling[T],
        changes: Changes | None = None,
        after: Spot = START,
    ) -> None:
        self._changes = changes or Changes()
        self._changed: set[Change] = set()
        self._known: dict[int, int] = {}
        self._had: dict[int, Came] = {}
        self._due: dict[int, Came] = {}
        self._after = after
        self._turn = turn
        self._telling = telling
        self._offset = 0
        self._begun = False
        self._open: tuple[T, ...] = ()

    def begin(self) -> Iterator[T]:
        """What comes before the first entry, if that has not been told."""
        if not self._begun:
            self._begun = True
            yield from map(self._telling.event, begun(self._turn))

    def take(self, news: Sequence[Came]) -> Iterator[T]:
        """What these entries amount to."""
        yield from self.begin()
        for came in news:
            new, printed = came.offset > self._offset, hash(came.entry.json)
            if not new and self._known.get(came.offset) == printed:
                continue
            if new:
                yield from self._close()
            found = self._telling.entry(self._turn, came)
            self._known[came.offset] = printed
            if new:
                self._offset = came.offset
                self._recall(came, found)
                yield from found.at_once
            else:
                is_open = bool(self._open)
                change = self._changes.see(self._changed, came.offset, self._offset, is_open=is_open)
                if change is not None:
                    yield from self._again(change, came)
                if not (is_open and came.offset == self._offset):
                    continue
            self._open = found.at_close
            if self._open:
                yield from self._tell_changes()
            if found.closed:
                yield from self._close()
        self._changes.told(self._offset, is_open=bool(self._open))

    def over(self, turn: Turn) -> Iterator[T]:
        """What comes behind the last entry. Of a turn that the host never began there is nothing to tell."""
        if heard_of(turn):
            yield from self.begin()
            yield from self._close()
            yield from map(self._telling.event, over(turn, self._offset))

    def _close(self) -> Iterator[T]:
        """The open action, if there is one, has had its time."""
        told, self._open = self._open, ()
        yield from told
        yield from self._tell_changes()

    def _recall(self, came: Came, found: Happened[T]) -> None:
        """Whether an entry has changed since it was told to somebody, or while nobody was there."""
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        if self._changes.of(came.offset):
            self._had[came.offset] = came
        elif not found.closed:
            self._changes.left_open(came.offset)
        elif came.offset in self._changes.unanswered and any(each.spot <= self._after for each in found.at_close):
            self._due[came.offset] = came

    def _tell_changes(self) -> Iterator[T]:
        """Those that were seen when so much had come."""
        is_open = bool(self._open)
        for change in [*self._changes.seen] if self._had else []:
            here = (change.behind, change.is_open) == (self._offset, is_open)
            if here and change.offset in self._had and change not in self._changed:
                yield from self._again(change, self._had[change.offset])
        if self._due and (self._offset, not is_open) >= self._changes.front:
            due, self._due = self._due, {}
            for offset, came in due.items():
                new = self._changes.see(self._changed, offset, self._offset, is_open=is_open)
                if new is not None:
                    yield from self._again(new, came)

    def _again(self, change: Change, came: Came) -> Iterator[T]:
        """An entry, as it is now, behind what has come."""
        self._changed.add(change)
        if change.is_open and change.offset == change.behind:
            return  # what came of it is about to be told
        place = (Place.MEANWHILE if change.is_open else Place.AFTERWARDS) + change.number
        event = self._telling.again(self._turn, came, Spot(self._turn.number, change.behind, place))
        if event is not None:
            yield event


def _output(turn: Turn, at: str, message: Message) -> Iterator[Event]:
    """The agent says something: it comes whole, in one piece."""
    fields = _flat(turn, message)
    ids: dict[str, Json] = {"turn_id": _turn_id(turn), "message_id": fields["id"]}
    turn_number, offset, _ = message.spot
    yield Event(turn, Spot(turn_number, offset, Place.MESSAGE_STARTED), "output.message.started", at, ids)
    text = plain_text(message)
    if text:
        data: dict[str, Json] = {**ids, "delta": text, "accumulated": text}
        yield Event(turn, Spot(turn_number, offset, Place.MESSAGE_DELTA), DELTA, at, data)
    completed: dict[str, Json] = {"turn_id": _turn_id(turn), "message": fields}
    yield Event(turn, message.spot, "output.message.completed", at, completed, message)


def _about(turn: Turn) -> dict[str, Json]:
    """The turn and what the user said, as they are named in events."""
    said_first = next(iter(inputs(turn)), None)
    about: dict[str, Json] = {"turn_id": _turn_id(turn)}
    if said_first is not None:
        about["input_message_id"] = FLAT.id("message", said_first.id)
    return about


def _turn_id(turn: Turn) -> str:
    return FLAT.id("turn", turn.id)


def _flat(turn: Turn, message: Message) -> dict[str, Json]:
    return message_fields(FLAT, turn.conversation, message)
