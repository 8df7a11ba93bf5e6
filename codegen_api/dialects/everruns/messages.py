"""What was said in a session, as messages: pure functions from steps and stored messages to JSON and back.

Ids and numbers are made of the turn and the entry, so whoever reads a turn again gets the same ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from codegen_api.conversations import EventLayout, arguments_of, content_of, is_own_prompt
from codegen_api.dialects import EMPTY, heard_image, is_blank, rejected
from codegen_api.dialects.everruns.families import MOST_PLACES, Family, Spot, as_uuid, derived_id
from codegen_api.runs import Json, LogEntry, Step, StepKind
from codegen_api.stores import Turn
from codegen_api.web import timestamp

_DATA_URI = re.compile(r"data:([\w.+-]{1,100}/[\w.+-]{1,100});base64,", re.ASCII)

OPEN = "The host shows no output of this call yet."


class Role(StrEnum):
    USER = "user"
    AGENT = "agent"
    TOOL_RESULT = "tool_result"


@dataclass(frozen=True, slots=True)
class SessionMessage:
    """``id`` is a UUID, ``created`` a time as it goes over the wire. ``extra`` is what else it carries."""

    id: str
    role: Role
    content: Sequence[Json]
    created: str
    spot: Spot
    extra: Mapping[str, Json] = field(default_factory=dict)


LAYOUT = EventLayout(meanwhile=256, block=8)


class EventSpot:
    """Where an event stands among those of its entry. Before the first entry stand the user's messages."""

    MESSAGE_STARTED, MESSAGE_DELTA, MESSAGE, TOOL_STARTED = range(4)
    MOST_INPUTS = 250
    ACTIVATED, TURN_STARTED = 251, 252
    TOOL_COMPLETED = LAYOUT.closed
    TURN_OVER, IDLED = MOST_PLACES - 2, MOST_PLACES - 1


def inputs(turn: Turn) -> list[SessionMessage]:
    """What the user said in a turn."""
    return [_input(turn, message, place) for place, message in enumerate(turn.messages[: EventSpot.MOST_INPUTS])]


def said(turn: Turn, offset: int, entry: LogEntry, step: Step) -> tuple[SessionMessage | None, SessionMessage | None]:
    """What the ``offset``-th entry of a turn amounts to: a message, and what the tool that was called answered."""
    created = moment(turn, entry)
    if is_own_prompt(turn, offset, step):
        return None, None
    if step.kind is StepKind.USER:
        return _message(turn, offset, Role.USER, [_text(step.text)], created), None
    about: Json = {"kind": step.kind.value, "host_kind": step.raw_kind}
    texts = [_text(step.text)] if step.text else []
    if step.kind is not StepKind.ACTION:
        return _message(turn, offset, Role.AGENT, texts, created, metadata=about) if texts else None, None
    call = f"call_{derived_id(turn.id, offset, 'call').replace('-', '')}"
    made: Json = {"type": "tool_call", "id": call, "name": step.tool, "arguments": arguments_of(step)}
    # always with a result: clients look for it without asking whether there is one
    answered: dict[str, Json] = {"type": "tool_result", "tool_call_id": call, "result": step.output}
    if not step.closed:
        answered["error"] = OPEN
    id, spot = derived_id(turn.id, offset, "result"), Spot(turn.number, offset, EventSpot.TOOL_COMPLETED)  # noqa: A001
    result = SessionMessage(id, Role.TOOL_RESULT, [answered], created, spot)
    return _message(turn, offset, Role.AGENT, [*texts, made], created, metadata=about), result


def answer(turn: Turn) -> SessionMessage | None:
    """What the host says at the end of a turn, and its log does not tell."""
    if not turn.answer:
        return None
    about: Json = {"kind": StepKind.ANSWER.value, "host_kind": None}
    return _message(turn, turn.length + 1, Role.AGENT, [_text(turn.answer)], timestamp(turn.updated), metadata=about)


def moment(turn: Turn, entry: LogEntry) -> str:
    """When an entry was made; where the host does not say so in a way we know, when its turn was."""
    return timestamp(turn.created) if entry.created is None else timestamp(entry.created, "microseconds")


def message_fields(family: Family, session: str, message: SessionMessage) -> dict[str, Json]:
    """A message as it goes over the wire."""
    return {
        "id": family.id("message", message.id),
        "session_id": family.id("session", session),
        "sequence": message.spot.number,
        "role": family.agent_role if message.role is Role.AGENT else message.role.value,
        "content": message.content,
        "created_at": message.created,
        **message.extra,
    }


def heard(content: Sequence[Mapping[str, Json]]) -> list[Json]:
    """What a client sent as the content of a message, as it is kept: parts with a text, or the data URI of an image.

    Raises:
        Rejected: a part is nothing that the host could be told, or there is none.
    """
    parts = [_heard_part(part, index) for index, part in enumerate(content)]
    if all(is_blank(str(part.get("url") or part.get("text", ""))) for part in parts):
        raise rejected(EMPTY, "too_short", "body", "message", "content")
    return list(parts)


def _input(turn: Turn, message: Mapping[str, Json], place: int) -> SessionMessage:
    shown = [_shown(part) for part in content_of(message)]
    extra = {name: message[name] for name in ("controls", "metadata") if message.get(name) is not None}
    spot = Spot(turn.number, 0, place)
    return SessionMessage(as_uuid(str(message.get("id"))), Role.USER, shown, timestamp(turn.created), spot, extra)


def _shown(part: Mapping[str, Json]) -> Json:
    url = part.get("url")
    if part.get("type") != "image" or not isinstance(url, str):
        return part
    found = _DATA_URI.match(url)
    if found is None:
        return {"type": "image", "url": url}
    return {"type": "image", "base64": url[found.end() :], "media_type": found[1]}


def _heard_part(part: Mapping[str, Json], index: int) -> dict[str, Json]:
    where = ("body", "message", "content", index)
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return dict(_text(str(part["text"])))
        case "image":
            data, kind = part.get("base64"), part.get("media_type") or "image/png"
            url = f"data:{kind};base64,{data}" if isinstance(data, str) and data else part.get("url")
            return heard_image(url, *where)
        case _:
            raise rejected("Must be a text or an image.", "content_not_supported", *where)


def _message(
    turn: Turn, offset: int, role: Role, content: Sequence[Json], created: str, **extra: Json
) -> SessionMessage:
    spot = Spot(turn.number, offset, EventSpot.MESSAGE)
    return SessionMessage(derived_id(turn.id, offset, "message"), role, content, created, spot, extra)


def _text(text: str) -> Mapping[str, Json]:
    return {"type": "text", "text": text}
