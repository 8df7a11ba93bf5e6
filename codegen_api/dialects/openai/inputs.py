"""Parses the input of a response: which items are new, which were said before, and of which turn they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codegen_api.conversations import new_id, text_of, with_transcript
from codegen_api.dialects import EMPTY, MAX_ITEMS, heard_image, is_blank, rejected
from codegen_api.dialects.openai.items import turn_of_item
from codegen_api.errors import Detail, NotOffered
from codegen_api.runs import Json
from codegen_api.upstreams import Decision

USER, ASSISTANT, INSTRUCTIONS = "user", "assistant", ("system", "developer")

TEXTS = ("input_text", "output_text", "text")
UNTOLD = ("reasoning", "mcp_call", "mcp_list_tools", "mcp_approval_request", "item_reference")
"""Types of items that are not sent to the host. What the agent did is in the log."""


@dataclass(frozen=True, slots=True)
class InputItem:
    """One item: a message of ``role``, or a ``decision``. ``turn`` is the turn that its id names. For an item that is
    only referred to, ``reference`` is that id.
    """

    role: str
    content: Sequence[Mapping[str, Json]] = ()
    turn: str | None = None
    reference: str | None = None
    decision: tuple[str, Decision] | None = None

    @property
    def text(self) -> str:
        return text_of({"content": self.content})


@dataclass(frozen=True, slots=True)
class NewWords:
    """What is new in an input: the user's ``messages``, and the ``text`` for the host."""

    messages: Sequence[Mapping[str, Json]]
    text: str
    instructions: str | None
    decisions: Sequence[tuple[str, Decision]]


def parse_items(given: str | Sequence[Mapping[str, Any]], name: str = "input") -> list[InputItem]:
    """Parse the items of an input, which is the field ``name`` of a body. Raises ``NotOffered`` for an item that cannot
    be sent to the host, and ``Rejected`` for a malformed one, or an image that the host would have to fetch.
    """
    if isinstance(given, str):
        return [InputItem(USER, [{"type": "text", "text": given}])]
    return [_parse_item(item, "body", name, place) for place, item in enumerate(given)]


def new_words(items: Sequence[InputItem], instructions: str | None, name: str = "input") -> NewWords:
    """What to send to the agent of ``items``, none of which the gateway knows. ``name`` is their field. Raises
    ``Rejected`` if there is nothing to send, or too much.
    """
    system = [item.text for item in items if item.role in INSTRUCTIONS]
    decisions = [item.decision for item in items if item.decision is not None]
    spoken = [item for item in items if item.role in (USER, ASSISTANT)]
    end = next((place for place in range(len(spoken), 0, -1) if spoken[place - 1].role == ASSISTANT), 0)
    earlier, said = spoken[:end], spoken[end:]
    if not decisions and all(part["type"] == "text" and is_blank(str(part["text"])) for part in _parts(said)):
        what = EMPTY if said else "The last one must be a message of the user."
        raise rejected(what, "too_short", "body", name)
    if decisions and said:
        raise rejected("Nothing can be said beside a decision: give a `reason` with it.", "decision", "body", name)
    if len(_parts(said)) > MAX_ITEMS:
        raise rejected(f"There may be {MAX_ITEMS} new parts at most.", "too_long", "body", name)
    text = "\n\n".join(item.text for item in said)
    if earlier:
        text = with_transcript([(item.role.capitalize(), item.text) for item in earlier], text)
    return NewWords(
        [{"id": new_id(), "content": list(item.content)} for item in said],
        text,
        "\n\n".join(each for each in (instructions, *system) if each and each.strip()) or None,
        decisions,
    )


def _parts(items: Sequence[InputItem]) -> list[Mapping[str, Json]]:
    return [part for item in items for part in item.content]


def _parse_item(item: Mapping[str, Any], *where: str | int) -> InputItem:
    role, kind = item.get("role"), item.get("type", "message")
    turn = turn_of_item(item_id := str(item.get("id")))
    if kind == "message" and role in (USER, ASSISTANT, *INSTRUCTIONS):
        return InputItem(str(role), _content(item.get("content"), *where), turn)
    if kind == "mcp_approval_response":
        request, verdict, reason = item.get("approval_request_id"), item.get("approve"), item.get("reason")
        if not isinstance(request, str) or not isinstance(verdict, bool):
            raise rejected("Must have an `approval_request_id`, and `approve`.", "missing", *where)
        said = reason if isinstance(reason, str) and reason else None
        return InputItem("", decision=(request, Decision("approve" if verdict else "reject", said)))
    if kind in UNTOLD:
        return InputItem("", turn=turn, reference=item_id if kind == "item_reference" else None)
    raise NotOffered(details=[Detail(where, "Is nothing that the agent can be told.", "unsupported")])


def _content(content: Json, *where: str | int) -> list[Mapping[str, Json]]:
    if isinstance(content, str) or content is None:
        return [{"type": "text", "text": content or ""}]
    if not isinstance(content, list):
        raise rejected("Must be a text, or a list of parts.", "list_type", *where, "content")
    return [_part(part, *where, "content", number) for number, part in enumerate(content)]


def _part(part: Json, *where: str | int) -> Mapping[str, Json]:
    fields = part if isinstance(part, Mapping) else {}
    match fields.get("type"):
        case str() as kind if kind in TEXTS and isinstance(fields.get("text"), str):
            return {"type": "text", "text": fields["text"]}
        case "refusal":
            return {"type": "text", "text": str(fields.get("refusal", ""))}
        case "input_image" | "image_url":
            image = fields.get("image_url")
            return heard_image(image.get("url") if isinstance(image, Mapping) else image, *where, "image_url")
    raise NotOffered(details=[Detail(where, "Must be a text or an image.", "unsupported")])
