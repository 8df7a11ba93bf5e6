"""What was said in a turn, as LangChain's messages: pure functions from steps and stored messages to JSON and back.

Ids are made of the turn's and the entry's number, so whoever reads a turn again gets the same ones.
"""

from collections.abc import Mapping

from codegen_api.conversations import arguments_of, content_of, is_own_prompt, output_of
from codegen_api.dialects import MOST_SAID, heard_image, rejected
from codegen_api.errors import Rejected
from codegen_api.runs import Json, Step, StepKind, to_json
from codegen_api.stores import Turn

Message = dict[str, Json]


def said(turn: Turn, offset: int, step: Step) -> tuple[Message | None, Message | None]:
    """What the ``offset``-th entry of a turn amounts to: what was said, and what the tool that was called answered."""
    turn_id = turn.id
    if is_own_prompt(turn, offset, step):
        return None, None
    if step.kind is StepKind.USER:
        return human({"id": f"{turn_id}-{offset}", "content": _parts(step.text)}), None
    if step.kind is not StepKind.ACTION:
        return _ai(turn_id, offset, step, []) if step.text else None, None
    call = f"call_{turn_id}_{offset}"
    called: Json = {"name": step.tool, "args": arguments_of(step), "id": call, "type": "tool_call"}
    tool: Message = {
        "id": f"{turn_id}-{offset}-tool",
        "type": "tool",
        "content": output_of(step),
        "name": step.tool,
        "tool_call_id": call,
        "status": "success",
        "artifact": None,
        "additional_kwargs": {},
        "response_metadata": {},
    }
    return _ai(turn_id, offset, step, [called]), tool


def answer(turn_id: str, text: str) -> Message:
    """What the host says at the end of a turn, and its log does not tell."""
    return _ai(turn_id, "answer", Step(StepKind.ANSWER, None, text), [])


def chunk(message: Message) -> Message:
    """A message as a stream of pieces gives it: here each comes in one."""
    if message["type"] != "ai":
        return message
    calls = message["tool_calls"]
    pieces: list[Json] = [
        {
            "name": call["name"],
            "args": to_json(call["args"]).decode(),
            "id": call["id"],
            "index": 0,
            "type": "tool_call_chunk",
        }
        for call in (calls if isinstance(calls, list) else [])
        if isinstance(call, dict)
    ]
    return {**message, "type": "AIMessageChunk", "tool_call_chunks": pieces}


def removal(turn_id: str, offset: int) -> Message:
    """What takes the message of an entry away from who puts messages together from pieces."""
    about: Message = {"content": "", "additional_kwargs": {}, "response_metadata": {}, "name": None}
    return {"id": f"{turn_id}-{offset}", "type": "remove", **about}


def human(message: Mapping[str, Json]) -> Message:
    """What a user said, as it is kept, for clients."""
    shown: list[Json] = [
        {"type": "image_url", "image_url": {"url": part.get("url")}} if part.get("type") == "image" else dict(part)
        for part in content_of(message)
    ]
    only = shown[0] if len(shown) == 1 else None
    return {
        "id": message.get("id"),
        "type": "human",
        "content": only["text"] if isinstance(only, dict) and only.get("type") == "text" else shown,
        "additional_kwargs": {},
        "response_metadata": {},
        "name": None,
        "example": False,
    }


def heard(content: Json, where: tuple[str | int, ...]) -> list[Json]:
    """What a client sent as the content of a message, as it is kept: parts with a text, or the data URI of an image.

    Raises:
        Rejected: a part is nothing that the host could be told.
    """
    if isinstance(content, str):
        return _parts(content)
    if not isinstance(content, list):
        raise _unheard(where)
    if len(content) > MOST_SAID:
        raise rejected(f"There may be {MOST_SAID} parts at most.", "too_long", *where)
    return [part for index, item in enumerate(content) for part in _heard_part(item, (*where, index))]


def _heard_part(item: Json, where: tuple[str | int, ...]) -> list[Json]:
    if isinstance(item, str):
        return _parts(item)
    if not isinstance(item, Mapping):
        raise _unheard(where)
    match item.get("type"):
        case "text" if isinstance(item.get("text"), str):
            return _parts(str(item["text"]))
        case "image_url":
            given = item.get("image_url")
            url = given.get("url") if isinstance(given, Mapping) else given
        case "image":
            kind = item.get("mime_type") or item.get("mimeType") or item.get("media_type")
            data = item.get("data") or item.get("base64")
            url = f"data:{kind};base64,{data}" if data else item.get("url")
        case _:
            raise _unheard(where)
    return [heard_image(url, *where)]


def _unheard(where: tuple[str | int, ...]) -> Rejected:
    return rejected("Must be text, or an image as a data URI.", "content_not_supported", *where)


def _parts(text: str) -> list[Json]:
    return [{"type": "text", "text": text}]


def _ai(turn_id: str, offset: int | str, step: Step, calls: list[Json]) -> Message:
    return {
        "id": f"{turn_id}-{offset}",
        "type": "ai",
        "content": step.text,
        "additional_kwargs": {},
        "response_metadata": {"kind": step.kind.value, "host_kind": step.raw_kind},
        "name": None,
        "tool_calls": calls,
        "invalid_tool_calls": [],
        "usage_metadata": None,
        "example": False,
    }
