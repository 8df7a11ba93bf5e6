"""What was said in a turn, as LangChain's messages, and what its run waits for, as interrupts: pure functions from what
is kept to JSON and back.

Ids are made of the turn's and the entry's number, so whoever reads a turn again gets the same ones.
"""

from collections.abc import Mapping, Sequence

from codegen_api.conversations import arguments_of, content_of, is_own_prompt, output_of
from codegen_api.dialects import MAX_ITEMS, heard_image, rejected
from codegen_api.errors import Detail, NotOffered, Rejected
from codegen_api.runs import Json, Step, StepKind, WaitReason, to_json
from codegen_api.stores import Turn
from codegen_api.upstreams import Decision, PendingRequest

Message = dict[str, Json]

WHERE = ("body", "command", "resume")
YES, NO = ("approve", "accept"), ("reject", "ignore")
"""The words of LangChain's middleware for people in the loop, and those before them."""


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
    if len(content) > MAX_ITEMS:
        raise rejected(f"There may be {MAX_ITEMS} parts at most.", "too_long", *where)
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


# -- what a run waits for ---------------------------------------------------------------------------------------------


def interrupts(turn: Turn, pending: Sequence[PendingRequest]) -> list[Json]:
    """The interrupts of a turn that waits: one for each request, or one that says no more than that."""
    if not pending:
        return [_interrupt(f"{turn.id}-interrupt", {"reason": "The agent waits for an answer.", "run_id": turn.id})]
    return [_interrupt(each.id, _value(turn, each)) for each in pending]


def decisions_of(answer: Json, pending: Sequence[PendingRequest]) -> list[tuple[str, Decision]]:
    """What ``answer`` decides, by the ids of requests: a value for the only one; LangChain's ``decisions``, one for
    each in their order; or an object with a value for each id that it names.

    Raises:
        Rejected: it does not say which of several is meant.
        NotOffered: an input cannot be edited here.
    """
    if isinstance(answer, Mapping):
        known = {each.id: each for each in pending}
        if answer and answer.keys() <= known.keys():
            return [(id_, _decision(value, known[id_])) for id_, value in answer.items()]
        decisions = answer.get("decisions")
        if isinstance(decisions, Sequence) and not isinstance(decisions, str):
            if len(decisions) != len(pending):
                said = f"There must be a decision for each of the {len(pending)} interrupts."
                raise rejected(said, "ambiguous", *WHERE)
            return [(each.id, _decision(value, each)) for value, each in zip(decisions, pending, strict=True)]
    if len(pending) != 1:
        said = "There are several interrupts: give an object with a value for each id."
        raise rejected(said, "ambiguous", *WHERE)
    return [(pending[0].id, _decision(answer, pending[0]))]


def text_of_answer(answer: Json) -> str:
    return answer if isinstance(answer, str) else to_json(answer).decode()


def _interrupt(id_: str, value: Json) -> Json:
    return {"id": id_, "value": value, "resumable": True, "ns": ["agent"], "when": "during"}


def _value(turn: Turn, pending: PendingRequest) -> Json:
    value: dict[str, Json] = {
        "reason": pending.text,
        "run_id": turn.id,
        "waiting_for": pending.reason.value,
        "tool": pending.tool,
        "input": pending.input,
        "choices": pending.choices,
    }
    if pending.reason is not WaitReason.APPROVAL:
        return value
    name = pending.tool or "agent"
    arguments = pending.input if isinstance(pending.input, Mapping) else {}
    # chat interfaces know the approvals of LangChain's middleware by these
    return {
        **value,
        "action_requests": [{"name": name, "args": arguments, "description": pending.text}],
        "review_configs": [{"action_name": name, "allowed_decisions": ["approve", "reject"]}],
    }


def _decision(answer: Json, pending: PendingRequest) -> Decision:
    if pending.reason is not WaitReason.APPROVAL:
        return Decision("answer", text_of_answer(answer))
    if isinstance(answer, Mapping):
        given = answer.get("decisions")
        if isinstance(given, list) and len(given) == 1:
            return _decision(given[0], pending)
        word, said = answer.get("type"), answer.get("message")
        if word not in (*YES, *NO):
            raise NotOffered(
                "Of approvals there are `approve` and `reject` here.",
                details=[Detail((*WHERE, "type"), "Must be `approve` or `reject`.", "unsupported")],
            )
        return Decision("approve" if word in YES else "reject", said if isinstance(said, str) and said else None)
    if answer is True or answer in YES:
        return Decision("approve")
    if answer is False or answer in NO:
        return Decision("reject")
    return Decision("answer", text_of_answer(answer))
