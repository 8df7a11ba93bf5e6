"""Events in the words of each family: their kinds, by which clients choose some, and how they are written, in lists and
in streams.

A kind that nobody ever sends is refused: whoever waited for it would wait for ever.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from codegen_api.conversations import RenderCache, TurnEntry
from codegen_api.dialects.everruns.events import EntryAsEvents, SessionEvent, Style
from codegen_api.dialects.everruns.families import FLAT, NESTED, Family, Spot, event_hex
from codegen_api.dialects.everruns.messages import Role, message_fields
from codegen_api.errors import Detail, InvalidRequest
from codegen_api.runs import Json, LogEntry, Step, to_json
from codegen_api.sse import frame
from codegen_api.stores import Turn


def _kinds(of: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{what}.{happened}" for what, kinds in of.items() for happened in kinds.split())


TOLD = _kinds(
    {
        "input": "message",
        "output.message": "started delta completed",
        "session": "activated idled",
        "tool": "started completed",
        "turn": "started completed failed cancelled",
    }
)
"""What the present family is told of."""

ELSEWHERE = _kinds(
    {
        "act": "started completed",
        "budget": "warning paused exhausted resumed",
        "capability": "usage",
        "context": "compacting compacted compaction.skipped compaction.failed",
        "file": "written",
        "llm": "generation",
        "output.message": "replaced",
        "reason": "started completed recovered item thinking.started thinking.delta thinking.completed",
        "schedule": "triggered",
        "session": "started title.updated model.changed",
        "tool": "progress output.delta call_requested call_repaired",
        "transcript": "repaired",
        "turn": "sealed",
        "voice": "session.started session.ended session.failed input_transcript.delta input_transcript.completed"
        " output_transcript.delta output_transcript.completed",
    }
)
"""What Everruns tells of besides: its clients leave out some of it, or ask for all that there is."""

BELOW = {Role.USER: "message.user", Role.AGENT: "message.assistant", Role.TOOL_RESULT: "message.tool_result"}
"""What the nested family is told of."""

BELOW_ELSEWHERE = frozenset({"message.tool_call"})
"""What it knows besides: a call, which is a part of the agent's message here."""


def kind_in(family: Family, event: SessionEvent) -> str | None:
    """What a family calls an event; None when it does not know it."""
    if family is not NESTED:
        return event.kind
    return None if event.message is None else BELOW[event.message.role]


def chosen(family: Family, **kinds: list[str]) -> None:
    """The kinds that a client wants or does not want, by the name of the parameter.

    Raises:
        InvalidRequest: one is no kind of event.
    """
    known = BELOW_ELSEWHERE.union(BELOW.values()) if family is NESTED else TOLD | ELSEWHERE
    for name, given in kinds.items():
        if not known.issuperset(given):
            raise InvalidRequest(
                f"`{name}` names a type of event that there is not.",
                details=[Detail(("query", name), f"Must be among {', '.join(sorted(known))}.", "enum")],
            )


# -- in lists ---------------------------------------------------------------------------------------------------------


def event_fields(event: SessionEvent) -> dict[str, Json]:
    """An event as the flat family knows it, in streams and in lists."""
    turn = event.turn
    context = {name: event.data[name] for name in ("turn_id", "input_message_id") if name in event.data}
    return {
        "id": f"event_{event_hex(turn.conversation, event.spot)}",
        "type": event.kind,
        "ts": event.at,
        "session_id": FLAT.id("session", turn.conversation),
        "sequence": event.spot.number,
        "context": {"turn_id": FLAT.id("turn", turn.id), **context},
        "data": event.data,
    }


def payload_below(event: SessionEvent) -> dict[str, Json]:
    """What the nested family is told of a message."""
    assert event.message is not None  # noqa: S101 - it knows no other events
    fields = message_fields(NESTED, event.turn.conversation, event.message)
    return {
        "message_id": fields["id"],
        "role": fields["role"],
        "content": fields["content"],
        "controls": fields.get("controls"),
        "metadata": fields.get("metadata"),
        "tags": [],
    }


def event_fields_below(event: SessionEvent) -> dict[str, Json]:
    """A message as the nested family has it in lists of events."""
    return {
        "id": str(uuid.UUID(event_hex(event.turn.conversation, event.spot))),
        "session_id": NESTED.id("session", event.turn.conversation),
        "sequence": event.spot.number,
        "event_type": kind_in(NESTED, event),
        "data": payload_below(event),
        "created_at": event.at,
    }


def event_fields_in(family: Family, event: SessionEvent) -> dict[str, Json]:
    return event_fields_below(event) if family is NESTED else event_fields(event)


# -- in streams -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventFrame:
    """An event as it goes over the wire; with no ``frame`` where the family does not know it."""

    spot: Spot
    kind: str
    frame: bytes


class FrameStyle(Style[EventFrame]):
    """As server-sent events for a family, each made once for all who listen."""

    def __init__(self, family: Family, step: Callable[[LogEntry], Step], cache: RenderCache) -> None:
        super().__init__(step, partial(written, family))
        self._family = family
        self._cache = cache

    def entry(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[EventFrame]:
        key, entry = (self._family.name, turn.id, came.offset), super().entry
        return self._cache.of(key, came.entry, lambda: entry(turn, came), _size)


def written(family: Family, event: SessionEvent) -> EventFrame:
    """An event in the words of a family. The nested one counts its events, and has a name for messages only."""
    kind = kind_in(family, event)
    if kind is None:
        return EventFrame(event.spot, event.kind, b"")
    if family is NESTED:
        return EventFrame(event.spot, kind, frame(kind, to_json(payload_below(event)), event.spot.number))
    fields = event_fields(event)
    return EventFrame(event.spot, kind, frame(kind, to_json(fields), str(fields["id"])))


def _size(found: EntryAsEvents[EventFrame]) -> int:
    return 400 + sum(len(each.frame) for each in (*found.at_once, *found.at_close))
