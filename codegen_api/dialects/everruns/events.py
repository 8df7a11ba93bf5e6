"""A turn as events: which there are, in which order, and with which ids. Pure functions.

Everything is made of the turn and its log, so that each instance tells the same, live or again. What a tool answered is
told when the action is closed, before anything of the next entry. What changes after it was told is told again, behind
what has come by then: see ``conversations.turn_events``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Generic, Protocol, TypeVar

from codegen_api.conversations import (
    ActionClosed,
    EntryAdded,
    EntryChanged,
    EntryRepeated,
    Form,
    ReaderAhead,
    TurnChanges,
    TurnEntry,
    TurnEvent,
    TurnTeller,
    heard_of,
    output_of,
    text_of,
)
from codegen_api.dialects.everruns.families import FLAT, START, Spot
from codegen_api.dialects.everruns.messages import (
    LAYOUT,
    OPEN,
    EventSpot,
    Role,
    SessionMessage,
    answer,
    inputs,
    message_fields,
    said,
)
from codegen_api.runs import Json, LogEntry, Step, StepKind
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest
from codegen_api.web import timestamp

DELTA = "output.message.delta"


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that happened in a turn. ``at`` is a time as it goes over the wire. ``kind`` and ``data`` are the flat
    family's; the nested one is only told of messages, by ``message``.
    """

    turn: Turn
    spot: Spot
    kind: str
    at: str
    data: Mapping[str, Json]
    message: SessionMessage | None = None


class Placed(Protocol):
    """An event in some form."""

    @property
    def spot(self) -> Spot: ...


T = TypeVar("T", bound=Placed)


@dataclass(frozen=True, slots=True)
class EntryAsEvents(Generic[T]):
    """What one entry amounts to: what is told at once, and what when it is closed."""

    form: Form
    at_once: tuple[T, ...] = ()
    at_close: tuple[T, ...] = ()
    closed: bool = True

    @property
    def is_action(self) -> bool:
        return bool(self.at_close)


@dataclass
class Style(Generic[T]):
    """How events are written: ``event`` writes one. ``step`` says what an entry means."""

    step: Callable[[LogEntry], Step]
    event: Callable[[SessionEvent], T]

    def entry(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[T]:
        """What an entry amounts to."""
        found = self.unwritten(turn, came)
        at_once, at_close = tuple(map(self.event, found.at_once)), tuple(map(self.event, found.at_close))
        return EntryAsEvents(found.form, at_once, at_close, found.closed)

    def unwritten(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[SessionEvent]:
        """The same as it is."""
        return happened(turn, came.offset, came.entry, self.step(came.entry))


def as_it_is(event: SessionEvent) -> SessionEvent:
    return event


def begun(turn: Turn) -> list[SessionEvent]:
    """What comes before the first entry."""
    at, said_first = timestamp(turn.created), inputs(turn)
    about: dict[str, Json] = {"input_message_id": FLAT.id("message", said_first[0].id)} if said_first else {}
    return [
        *(_input(turn, message) for message in said_first),
        _event(turn, 0, EventSpot.ACTIVATED, "session.activated", at, **about),
        _event(turn, 0, EventSpot.TURN_STARTED, "turn.started", at, **about),
    ]


def happened(turn: Turn, offset: int, entry: LogEntry, step: Step) -> EntryAsEvents[SessionEvent]:
    """What an entry amounts to, the ``offset``-th of its turn."""
    form, (message, answered) = Form.of(entry, step), said(turn, offset, entry, step)
    if message is None:
        return EntryAsEvents(form)
    if message.role is Role.USER:
        return EntryAsEvents(form, (_input(turn, message),))
    told = _output(turn, message)
    if answered is None:
        return EntryAsEvents(form, tuple(told))
    call = message.content[-1]
    assert step.kind is StepKind.ACTION  # noqa: S101 - nothing else has a result
    assert isinstance(call, Mapping)  # noqa: S101 - it is made there
    made = {name: call[name] for name in ("id", "name", "arguments")}
    told.append(_event(turn, offset, EventSpot.TOOL_STARTED, "tool.started", message.created, tool_call=made))
    completed: dict[str, Json] = {
        "tool_call_id": made["id"],
        "tool_name": step.tool,
        "success": step.closed,
        "status": "success" if step.closed else "timeout",
        "result": [{"type": "text", "text": output_of(step)}] if step.closed else [],
    }
    if not step.closed:
        completed["error"] = OPEN
    at = message.created
    result = _event(turn, offset, EventSpot.TOOL_COMPLETED, "tool.completed", at, answered, **completed)
    return EntryAsEvents(form, tuple(told), (result,), step.closed)


def over(turn: Turn, offset: int) -> list[SessionEvent]:
    """What comes behind the last entry, the ``offset``-th, of a turn that is over."""
    at, last, message = timestamp(turn.updated), offset + 1, answer(turn)
    data: dict[str, Json]
    match turn.state:
        case TurnState.FAILED | TurnState.UNKNOWN:
            code = "outcome_unknown" if turn.state is TurnState.UNKNOWN else "run_failed"
            kind, data = "turn.failed", {"error": turn.error or "The run has failed.", "error_code": code}
        case TurnState.CANCELLED:
            kind, data = "turn.cancelled", {"reason": "The run was stopped."}
        case _:
            milliseconds = max(0, round((turn.updated - turn.created) * 1000))
            kind, data = "turn.completed", {"iterations": offset, "duration_ms": milliseconds}
    return [
        *([] if message is None else _output(turn, message)),
        _event(turn, last, EventSpot.TURN_OVER, kind, at, **data),
        _event(turn, last, EventSpot.IDLED, "session.idled", at),
    ]


def last_spot(turn: Turn) -> Spot:
    """Where the last event of a turn that is over stands."""
    return Spot(turn.number, turn.length + 1, EventSpot.IDLED)


class SessionTeller(Generic[T]):
    """Tells the events of a turn behind ``after`` in order, as its log comes. ``changes`` were seen in it."""

    def __init__(self, turn: Turn, style: Style[T], changes: TurnChanges | None = None, after: Spot = START) -> None:
        self.claimed = after.offset if after.turn == turn.number else 0
        slot = LAYOUT.slot(after.offset, after.place) if after.turn == turn.number else LAYOUT.slot(0, 0)
        # a list and what was heard live are the same events
        self._telling: TurnTeller[EntryAsEvents[T]] = TurnTeller(
            lambda came: style.entry(turn, came), changes, slot, repeats=True
        )
        self._after = after
        self._turn = turn
        self._style = style
        self._begun = False

    def begin(self) -> Iterator[T]:
        """What comes before the first entry, if that has not been told."""
        return self._behind(self._beginning())

    def take(self, news: Sequence[TurnEntry]) -> Iterator[T]:
        """What these entries amount to."""
        return self._behind(chain(self._beginning(), self._told(self._telling.take(news))))

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> Iterator[T]:
        """What comes behind the last entry. Of a turn that the host never began there is nothing to tell.

        Raises:
            ReaderAhead: the reader has something behind that.
        """
        if self._after.turn == turn.number and self._after > last_spot(turn):
            raise ReaderAhead
        if not heard_of(turn):
            return iter(())
        told = [*self._beginning(), *self._told(self._telling.close())]
        last = map(self._style.event, over(turn, self._telling.offset))
        told += sorted([*self._told(self._telling.rest()), *last], key=lambda event: event.spot)
        return self._behind(told)

    def _beginning(self) -> Iterator[T]:
        if not self._begun:
            self._begun = True
            yield from map(self._style.event, begun(self._turn))

    def _behind(self, events: Iterable[T]) -> Iterator[T]:
        return (event for event in events if event.spot > self._after)

    def _told(self, events: Iterable[TurnEvent[EntryAsEvents[T]]]) -> Iterator[T]:
        for each in events:
            match each:
                case EntryAdded(rendered=found):
                    yield from found.at_once
                case ActionClosed(rendered=found):
                    yield from found.at_close
                case EntryRepeated():
                    yield from map(self._style.event, self._again(each))
                case EntryChanged():
                    pass

    def _again(self, again: EntryRepeated[EntryAsEvents[T]]) -> Iterator[SessionEvent]:
        """An entry, as it is now, behind what has come."""
        first = LAYOUT.first(again.slot)
        found = self._style.unwritten(self._turn, again.came)
        for lacks, events in ((again.words, found.at_once), (again.outcome, found.at_close)):
            if lacks and events and not (again.earlier and events[0].spot > self._after):
                for event in events:
                    spot = Spot(self._turn.number, again.slot.behind, first + min(event.spot.place, LAYOUT.block - 1))
                    yield replace(event, spot=spot)


def _input(turn: Turn, message: SessionMessage) -> SessionEvent:
    """The user says something."""
    data = {"message": _flat(turn, message)}
    return SessionEvent(turn, message.spot, "input.message", message.created, data, message)


def _output(turn: Turn, message: SessionMessage) -> list[SessionEvent]:
    """The agent says something: it comes whole, in one piece."""
    fields, offset, at = _flat(turn, message), message.spot.offset, message.created
    ids: dict[str, Json] = {"message_id": fields["id"]}
    told = [_event(turn, offset, EventSpot.MESSAGE_STARTED, "output.message.started", at, **ids)]
    text = text_of({"content": message.content})
    if text:
        told.append(_event(turn, offset, EventSpot.MESSAGE_DELTA, DELTA, at, **ids, delta=text, accumulated=text))
    told.append(_event(turn, offset, EventSpot.MESSAGE, "output.message.completed", at, message, message=fields))
    return told


def _event(
    turn: Turn, offset: int, place: int, kind: str, at: str, told: SessionMessage | None = None, /, **data: Json
) -> SessionEvent:
    named = {"turn_id": FLAT.id("turn", turn.id), **data}
    return SessionEvent(turn, Spot(turn.number, offset, place), kind, at, named, told)


def _flat(turn: Turn, message: SessionMessage) -> dict[str, Json]:
    return message_fields(FLAT, turn.conversation, message)
