"""A turn as events: which there are, in which order, and with which ids. Pure functions.

Everything is a function of the turn and its log, so all instances send the same, live or later. A tool's answer comes
when its action is closed, before anything of the next entry. What changes after it was sent is sent again, after what
has come by then: see ``conversations.turn_events``.
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
    NO_OUTPUT_YET,
    EventSpot,
    Role,
    SessionMessage,
    answer_message,
    entry_messages,
    message_fields,
    user_messages,
)
from codegen_api.http.web import timestamp
from codegen_api.runs import Json, LogEntry, Step, StepKind
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest

DELTA = "output.message.delta"


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An event of a turn. ``at`` is a time as on the wire. ``kind`` and ``data`` are the flat family's; the nested one
    only gets messages, from ``message``.
    """

    turn: Turn
    spot: Spot
    kind: str
    at: str
    data: Mapping[str, Json]
    message: SessionMessage | None = None


class Placed(Protocol):
    """An event in any form."""

    @property
    def spot(self) -> Spot: ...


T = TypeVar("T", bound=Placed)


@dataclass(frozen=True, slots=True)
class EntryAsEvents(Generic[T]):
    """The events of an entry: those that are sent at once, and those that are sent when it is closed."""

    form: Form
    at_once: tuple[T, ...] = ()
    at_close: tuple[T, ...] = ()
    closed: bool = True

    @property
    def is_action(self) -> bool:
        return bool(self.at_close)


@dataclass
class EventRenderer(Generic[T]):
    """How events are rendered: ``render`` renders one. ``step`` interprets an entry."""

    step: Callable[[LogEntry], Step]
    render: Callable[[SessionEvent], T]

    def render_entry(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[T]:
        """The rendered events of an entry."""
        found = self.events_of(turn, came)
        at_once, at_close = tuple(map(self.render, found.at_once)), tuple(map(self.render, found.at_close))
        return EntryAsEvents(found.form, at_once, at_close, found.closed)

    def events_of(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[SessionEvent]:
        """The same events, not rendered."""
        return entry_events(turn, came.offset, came.entry, self.step(came.entry))


def unrendered(event: SessionEvent) -> SessionEvent:
    return event


def opening_events(turn: Turn) -> list[SessionEvent]:
    """The events before the first entry."""
    at, messages = timestamp(turn.created), user_messages(turn)
    about: dict[str, Json] = {"input_message_id": FLAT.id("message", messages[0].id)} if messages else {}
    return [
        *(_input_event(turn, message) for message in messages),
        _event(turn, 0, EventSpot.ACTIVATED, "session.activated", at, **about),
        _event(turn, 0, EventSpot.TURN_STARTED, "turn.started", at, **about),
    ]


def entry_events(turn: Turn, offset: int, entry: LogEntry, step: Step) -> EntryAsEvents[SessionEvent]:
    """The events of the ``offset``-th entry of a turn."""
    form, (message, answered) = Form.of(entry, step), entry_messages(turn, offset, entry, step)
    if message is None:
        return EntryAsEvents(form)
    if message.role is Role.USER:
        return EntryAsEvents(form, (_input_event(turn, message),))
    events = _output_events(turn, message)
    if answered is None:
        return EntryAsEvents(form, tuple(events))
    call = message.content[-1]
    assert step.kind is StepKind.ACTION  # noqa: S101 - only actions have a result
    assert isinstance(call, Mapping)  # noqa: S101 - made by entry_messages
    made = {name: call[name] for name in ("id", "name", "arguments")}
    events.append(_event(turn, offset, EventSpot.TOOL_STARTED, "tool.started", message.created, tool_call=made))
    completed: dict[str, Json] = {
        "tool_call_id": made["id"],
        "tool_name": step.tool,
        "success": step.closed,
        "status": "success" if step.closed else "timeout",
        "result": [{"type": "text", "text": output_of(step)}] if step.closed else [],
    }
    if not step.closed:
        completed["error"] = NO_OUTPUT_YET
    at = message.created
    result = _event(turn, offset, EventSpot.TOOL_COMPLETED, "tool.completed", at, answered, **completed)
    return EntryAsEvents(form, tuple(events), (result,), step.closed)


def closing_events(turn: Turn, offset: int) -> list[SessionEvent]:
    """The events after the last entry, the ``offset``-th, of a turn that is over."""
    at, last, message = timestamp(turn.updated), offset + 1, answer_message(turn)
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
        *([] if message is None else _output_events(turn, message)),
        _event(turn, last, EventSpot.TURN_OVER, kind, at, **data),
        _event(turn, last, EventSpot.IDLED, "session.idled", at),
    ]


def last_spot(turn: Turn) -> Spot:
    """The spot of the last event of a turn that is over."""
    return Spot(turn.number, turn.length + 1, EventSpot.IDLED)


class SessionTeller(Generic[T]):
    """The events of a turn after ``after``, in order, as its log comes. ``changes`` were seen in it."""

    def __init__(
        self, turn: Turn, renderer: EventRenderer[T], changes: TurnChanges | None = None, after: Spot = START
    ) -> None:
        self.claimed = after.offset if after.turn == turn.number else 0
        slot = LAYOUT.slot(after.offset, after.place) if after.turn == turn.number else LAYOUT.slot(0, 0)
        # lists have the same events as live streams
        self._teller: TurnTeller[EntryAsEvents[T]] = TurnTeller(
            lambda came: renderer.render_entry(turn, came), changes, slot, repeats=True
        )
        self._after = after
        self._turn = turn
        self._renderer = renderer
        self._begun = False

    def begin(self) -> Iterator[T]:
        """The events before the first entry, once."""
        return self._unseen(self._opening())

    def take(self, news: Sequence[TurnEntry]) -> Iterator[T]:
        """The events of these entries."""
        return self._unseen(chain(self._opening(), self._expand(self._teller.take(news))))

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> Iterator[T]:
        """The events after the last entry. A turn that the host never began has none.

        Raises:
            ReaderAhead: the reader has an event after that.
        """
        if self._after.turn == turn.number and self._after > last_spot(turn):
            raise ReaderAhead
        if not heard_of(turn):
            return iter(())
        events = [*self._opening(), *self._expand(self._teller.close())]
        last = map(self._renderer.render, closing_events(turn, self._teller.offset))
        events += sorted([*self._expand(self._teller.rest()), *last], key=lambda event: event.spot)
        return self._unseen(events)

    def _opening(self) -> Iterator[T]:
        if not self._begun:
            self._begun = True
            yield from map(self._renderer.render, opening_events(self._turn))

    def _unseen(self, events: Iterable[T]) -> Iterator[T]:
        return (event for event in events if event.spot > self._after)

    def _expand(self, events: Iterable[TurnEvent[EntryAsEvents[T]]]) -> Iterator[T]:
        for each in events:
            match each:
                case EntryAdded(rendered=found):
                    yield from found.at_once
                case ActionClosed(rendered=found):
                    yield from found.at_close
                case EntryRepeated():
                    yield from map(self._renderer.render, self._repeat(each))
                case EntryChanged():
                    pass

    def _repeat(self, again: EntryRepeated[EntryAsEvents[T]]) -> Iterator[SessionEvent]:
        """The events of an entry as it is now, at their new spots."""
        first = LAYOUT.first(again.slot)
        found = self._renderer.events_of(self._turn, again.came)
        for lacks, events in ((again.words, found.at_once), (again.outcome, found.at_close)):
            if lacks and events and not (again.earlier and events[0].spot > self._after):
                for event in events:
                    spot = Spot(self._turn.number, again.slot.behind, first + min(event.spot.place, LAYOUT.block - 1))
                    yield replace(event, spot=spot)


def _input_event(turn: Turn, message: SessionMessage) -> SessionEvent:
    """The event of a message of the user."""
    data = {"message": _flat_fields(turn, message)}
    return SessionEvent(turn, message.spot, "input.message", message.created, data, message)


def _output_events(turn: Turn, message: SessionMessage) -> list[SessionEvent]:
    """The events of a message of the agent, with its text in one piece."""
    fields, offset, at = _flat_fields(turn, message), message.spot.offset, message.created
    ids: dict[str, Json] = {"message_id": fields["id"]}
    events = [_event(turn, offset, EventSpot.MESSAGE_STARTED, "output.message.started", at, **ids)]
    text = text_of({"content": message.content})
    if text:
        events.append(_event(turn, offset, EventSpot.MESSAGE_DELTA, DELTA, at, **ids, delta=text, accumulated=text))
    events.append(_event(turn, offset, EventSpot.MESSAGE, "output.message.completed", at, message, message=fields))
    return events


def _event(
    turn: Turn, offset: int, place: int, kind: str, at: str, message: SessionMessage | None = None, /, **data: Json
) -> SessionEvent:
    named = {"turn_id": FLAT.id("turn", turn.id), **data}
    return SessionEvent(turn, Spot(turn.number, offset, place), kind, at, named, message)


def _flat_fields(turn: Turn, message: SessionMessage) -> dict[str, Json]:
    return message_fields(FLAT, turn.conversation, message)
