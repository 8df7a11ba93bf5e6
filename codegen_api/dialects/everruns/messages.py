"""The messages of a session: pure functions from steps and stored messages to JSON and back.

Ids and numbers are derived from the turn and the entry, so all readers of a turn get the same ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from codegen_api.conversations import EventLayout, arguments_of, content_of, is_own_prompt
from codegen_api.dialects import EMPTY, heard_image, is_blank, rejected
from codegen_api.dialects.everruns.families import MOST_PLACES, Family, Spot, as_uuid, derived_id
from codegen_api.http.web import timestamp
from codegen_api.runs import Json, LogEntry, Step, StepKind
from codegen_api.stores import Turn

_DATA_URI = re.compile(r"data:([\w.+-]{1,100}/[\w.+-]{1,100});base64,", re.ASCII)

NO_OUTPUT_YET = "The host shows no output of this call yet."


class Role(StrEnum):
    USER = "user"
    AGENT = "agent"
    TOOL_RESULT = "tool_result"


@dataclass(frozen=True, slots=True)
class SessionMessage:
    """A message: ``id`` is a UUID, ``created`` a time as on the wire, and ``extra`` has further fields."""

    id: str
    role: Role
    content: Sequence[Json]
    created: str
    spot: Spot
    extra: Mapping[str, Json] = field(default_factory=dict)


LAYOUT = EventLayout(meanwhile=256, block=8)


class EventSpot:
    """The places of events among those of their entry. Before the first entry, the user's messages begin at 0."""

    MESSAGE_STARTED, MESSAGE_DELTA, MESSAGE, TOOL_STARTED = range(4)
    MOST_INPUTS = 250
    ACTIVATED, TURN_STARTED = 251, 252
    TOOL_COMPLETED = LAYOUT.closed
    TURN_OVER, IDLED = MOST_PLACES - 2, MOST_PLACES - 1


def user_messages(turn: Turn) -> list[SessionMessage]:
    """The user's messages in a turn."""
    return [_user_message(turn, message, place) for place, message in enumerate(turn.messages[: EventSpot.MOST_INPUTS])]


def entry_messages(
    turn: Turn, offset: int, entry: LogEntry, step: Step
) -> tuple[SessionMessage | None, SessionMessage | None]:
    """The messages of the ``offset``-th entry of a turn: the agent's or the user's, and the result of a called tool."""
    created = entry_time(turn, entry)
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
    # always with a result: clients read it without checking that it exists
    answered: dict[str, Json] = {"type": "tool_result", "tool_call_id": call, "result": step.output}
    if not step.closed:
        answered["error"] = NO_OUTPUT_YET
    id, spot = derived_id(turn.id, offset, "result"), Spot(turn.number, offset, EventSpot.TOOL_COMPLETED)  # noqa: A001
    result = SessionMessage(id, Role.TOOL_RESULT, [answered], created, spot)
    return _message(turn, offset, Role.AGENT, [*texts, made], created, metadata=about), result


def answer_message(turn: Turn) -> SessionMessage | None:
    """The host's answer at the end of a turn whose log does not have it."""
    if not turn.answer:
        return None
    about: Json = {"kind": StepKind.ANSWER.value, "host_kind": None}
    return _message(turn, turn.length + 1, Role.AGENT, [_text(turn.answer)], timestamp(turn.updated), metadata=about)


def entry_time(turn: Turn, entry: LogEntry) -> str:
    """The time of an entry; that of its turn, if the host gives none that can be read."""
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


def parse_content(content: Sequence[Mapping[str, Json]]) -> list[Json]:
    """The content of a client's message, as it is stored: parts with a text, or with the data URI of an image.

    Raises:
        Rejected: a part is neither text nor an image for the host, or all parts are empty.
    """
    parts = [_parse_part(part, index) for index, part in enumerate(content)]
    if all(is_blank(str(part.get("url") or part.get("text", ""))) for part in parts):
        raise rejected(EMPTY, "too_short", "body", "message", "content")
    return list(parts)


def _user_message(turn: Turn, message: Mapping[str, Json], place: int) -> SessionMessage:
    shown = [_public_part(part) for part in content_of(message)]
    extra = {name: message[name] for name in ("controls", "metadata") if message.get(name) is not None}
    spot = Spot(turn.number, 0, place)
    return SessionMessage(as_uuid(str(message.get("id"))), Role.USER, shown, timestamp(turn.created), spot, extra)


def _public_part(part: Mapping[str, Json]) -> Json:
    url = part.get("url")
    if part.get("type") != "image" or not isinstance(url, str):
        return part
    found = _DATA_URI.match(url)
    if found is None:
        return {"type": "image", "url": url}
    return {"type": "image", "base64": url[found.end() :], "media_type": found[1]}


def _parse_part(part: Mapping[str, Json], index: int) -> dict[str, Json]:
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
