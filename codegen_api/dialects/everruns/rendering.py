"""Events as each family gets them, in lists and in streams, and the kinds of events that clients can select.

Unknown kinds are refused: a client that selected one would wait for ever.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from codegen_api.conversations import RenderCache, TurnEntry
from codegen_api.dialects.everruns.events import EntryAsEvents, EventRenderer, SessionEvent
from codegen_api.dialects.everruns.families import FLAT, NESTED, Family, Spot, event_hex
from codegen_api.dialects.everruns.messages import Role, message_fields
from codegen_api.errors import Detail, InvalidRequest
from codegen_api.http.sse import frame
from codegen_api.runs import Json, LogEntry, Step, to_json
from codegen_api.stores import Turn


def _kinds(of: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{what}.{happened}" for what, kinds in of.items() for happened in kinds.split())


FLAT_KINDS = _kinds(
    {
        "input": "message",
        "output.message": "started delta completed",
        "session": "activated idled",
        "tool": "started completed",
        "turn": "started completed failed cancelled",
    }
)
"""The kinds of events that the flat family gets."""

OTHER_FLAT_KINDS = _kinds(
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
"""Further kinds of Everruns. They never occur here, but clients exclude some of them, or select all."""

NESTED_KINDS = {Role.USER: "message.user", Role.AGENT: "message.assistant", Role.TOOL_RESULT: "message.tool_result"}
"""The kinds of events that the nested family gets, by the role of the message."""

OTHER_NESTED_KINDS = frozenset({"message.tool_call"})
"""A further kind of that family. Here a call is a part of the agent's message."""


def kind_in(family: Family, event: SessionEvent) -> str | None:
    """The kind of an event in a family; None if the family does not have it."""
    if family is not NESTED:
        return event.kind
    return None if event.message is None else NESTED_KINDS[event.message.role]


def check_kinds(family: Family, **kinds: list[str]) -> None:
    """Check the kinds that a client selects or excludes, by the name of the parameter.

    Raises:
        InvalidRequest: one is unknown.
    """
    known = OTHER_NESTED_KINDS.union(NESTED_KINDS.values()) if family is NESTED else FLAT_KINDS | OTHER_FLAT_KINDS
    for name, given in kinds.items():
        if not known.issuperset(given):
            raise InvalidRequest(
                f"`{name}` names a type of event that there is not.",
                details=[Detail(("query", name), f"Must be among {', '.join(sorted(known))}.", "enum")],
            )


# -- in lists ---------------------------------------------------------------------------------------------------------


def flat_event_fields(event: SessionEvent) -> dict[str, Json]:
    """An event for the flat family, in streams and in lists."""
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


def nested_payload(event: SessionEvent) -> dict[str, Json]:
    """A message for the nested family."""
    assert event.message is not None  # noqa: S101 - that family has no other events
    fields = message_fields(NESTED, event.turn.conversation, event.message)
    return {
        "message_id": fields["id"],
        "role": fields["role"],
        "content": fields["content"],
        "controls": fields.get("controls"),
        "metadata": fields.get("metadata"),
        "tags": [],
    }


def nested_event_fields(event: SessionEvent) -> dict[str, Json]:
    """An event for the nested family, in lists."""
    return {
        "id": str(uuid.UUID(event_hex(event.turn.conversation, event.spot))),
        "session_id": NESTED.id("session", event.turn.conversation),
        "sequence": event.spot.number,
        "event_type": kind_in(NESTED, event),
        "data": nested_payload(event),
        "created_at": event.at,
    }


def event_fields(family: Family, event: SessionEvent) -> dict[str, Json]:
    return nested_event_fields(event) if family is NESTED else flat_event_fields(event)


# -- in streams -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventFrame:
    """An event as it goes over the wire. ``frame`` is empty if the family does not have it."""

    spot: Spot
    kind: str
    frame: bytes


class FrameRenderer(EventRenderer[EventFrame]):
    """Server-sent events of a family, rendered once for all listeners."""

    def __init__(self, family: Family, step: Callable[[LogEntry], Step], cache: RenderCache) -> None:
        super().__init__(step, partial(render_event, family))
        self._family = family
        self._cache = cache

    def render_entry(self, turn: Turn, came: TurnEntry) -> EntryAsEvents[EventFrame]:
        key, render = (self._family.name, turn.id, came.offset), super().render_entry
        return self._cache.of(key, came.entry, lambda: render(turn, came), _size)


def render_event(family: Family, event: SessionEvent) -> EventFrame:
    """An event for a family. In streams of the nested one, ids are numbers."""
    kind = kind_in(family, event)
    if kind is None:
        return EventFrame(event.spot, event.kind, b"")
    if family is NESTED:
        return EventFrame(event.spot, kind, frame(kind, to_json(nested_payload(event)), event.spot.number))
    fields = flat_event_fields(event)
    return EventFrame(event.spot, kind, frame(kind, to_json(fields), str(fields["id"])))


def _size(found: EntryAsEvents[EventFrame]) -> int:
    return 400 + sum(len(each.frame) for each in (*found.at_once, *found.at_close))
