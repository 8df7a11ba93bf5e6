"""A turn's messages as LangChain's messages, and its pending requests as interrupts: pure functions to JSON and back.

Ids are derived from the turn and the number of the entry, so all readers of a turn get the same ones.
"""

from collections.abc import Mapping, Sequence

from codegen_api.conversations import arguments_of, content_of, is_own_prompt, output_of
from codegen_api.dialects import MAX_ITEMS, heard_image, rejected
from codegen_api.errors import Detail, NotOffered, Rejected
from codegen_api.runs import Json, Step, StepKind, WaitReason, to_json
from codegen_api.stores import Turn
from codegen_api.upstreams import Decision, PendingRequest

Message = dict[str, Json]

RESUME_PATH = ("body", "command", "resume")
APPROVALS, REJECTIONS = ("approve", "accept"), ("reject", "ignore")
"""The words of LangChain's human-in-the-loop middleware, and the older ones."""


def entry_messages(turn: Turn, offset: int, step: Step) -> tuple[Message | None, Message | None]:
    """The messages of the ``offset``-th entry of a turn: the agent's or the user's, and the answer of a called tool."""
    turn_id = turn.id
    if is_own_prompt(turn, offset, step):
        return None, None
    if step.kind is StepKind.USER:
        return human_message({"id": f"{turn_id}-{offset}", "content": _text_parts(step.text)}), None
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


def answer_message(turn_id: str, text: str) -> Message:
    """The host's answer at the end of a turn whose log does not have it."""
    return _ai(turn_id, "answer", Step(StepKind.ANSWER, None, text), [])


def message_chunk(message: Message) -> Message:
    """A message as a piece of a stream: each comes in a single piece."""
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


def removal_message(turn_id: str, offset: int) -> Message:
    """Makes clients that assemble messages from pieces drop the message of an entry."""
    about: Message = {"content": "", "additional_kwargs": {}, "response_metadata": {}, "name": None}
    return {"id": f"{turn_id}-{offset}", "type": "remove", **about}


def human_message(message: Mapping[str, Json]) -> Message:
    """A stored message of the user, for clients."""
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


def parse_content(content: Json, where: tuple[str | int, ...]) -> list[Json]:
    """The content of a client's message, as it is stored: parts with a text, or with the data URI of an image.

    Raises:
        Rejected: a part is neither text nor an image for the host.
    """
    if isinstance(content, str):
        return _text_parts(content)
    if not isinstance(content, list):
        raise _unsupported_content(where)
    if len(content) > MAX_ITEMS:
        raise rejected(f"There may be {MAX_ITEMS} parts at most.", "too_long", *where)
    return [part for index, item in enumerate(content) for part in _parse_part(item, (*where, index))]


def _parse_part(item: Json, where: tuple[str | int, ...]) -> list[Json]:
    if isinstance(item, str):
        return _text_parts(item)
    if not isinstance(item, Mapping):
        raise _unsupported_content(where)
    match item.get("type"):
        case "text" if isinstance(item.get("text"), str):
            return _text_parts(str(item["text"]))
        case "image_url":
            given = item.get("image_url")
            url = given.get("url") if isinstance(given, Mapping) else given
        case "image":
            kind = item.get("mime_type") or item.get("mimeType") or item.get("media_type")
            data = item.get("data") or item.get("base64")
            url = f"data:{kind};base64,{data}" if data else item.get("url")
        case _:
            raise _unsupported_content(where)
    return [heard_image(url, *where)]


def _unsupported_content(where: tuple[str | int, ...]) -> Rejected:
    return rejected("Must be text, or an image as a data URI.", "content_not_supported", *where)


def _text_parts(text: str) -> list[Json]:
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


# -- interrupts -------------------------------------------------------------------------------------------------------


def interrupts(turn: Turn, pending: Sequence[PendingRequest]) -> list[Json]:
    """The interrupts of a waiting turn: one for each request; without requests, a general one."""
    if not pending:
        return [_interrupt(f"{turn.id}-interrupt", {"reason": "The agent waits for an answer.", "run_id": turn.id})]
    return [_interrupt(each.id, _interrupt_value(turn, each)) for each in pending]


def decisions_of(answer: Json, pending: Sequence[PendingRequest]) -> list[tuple[str, Decision]]:
    """The decisions in ``answer``, each with the id of its request. An answer is a value for the only request;
    LangChain's ``decisions``, one for each request in order; or an object of values by the ids of requests.

    Raises:
        Rejected: it leaves open which of several requests it answers.
        NotOffered: it edits the input of a tool.
    """
    if isinstance(answer, Mapping):
        known = {each.id: each for each in pending}
        if answer and answer.keys() <= known.keys():
            return [(id_, _decision(value, known[id_])) for id_, value in answer.items()]
        decisions = answer.get("decisions")
        if isinstance(decisions, Sequence) and not isinstance(decisions, str):
            if len(decisions) != len(pending):
                fault = f"There must be a decision for each of the {len(pending)} interrupts."
                raise rejected(fault, "ambiguous", *RESUME_PATH)
            return [(each.id, _decision(value, each)) for value, each in zip(decisions, pending, strict=True)]
    if len(pending) != 1:
        fault = "There are several interrupts: give an object with a value for each id."
        raise rejected(fault, "ambiguous", *RESUME_PATH)
    return [(pending[0].id, _decision(answer, pending[0]))]


def text_of_answer(answer: Json) -> str:
    return answer if isinstance(answer, str) else to_json(answer).decode()


def _interrupt(id_: str, value: Json) -> Json:
    return {"id": id_, "value": value, "resumable": True, "ns": ["agent"], "when": "during"}


def _interrupt_value(turn: Turn, pending: PendingRequest) -> Json:
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
    # chat interfaces recognize approvals of LangChain's middleware by these
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
        word, comment = answer.get("type"), answer.get("message")
        if word not in (*APPROVALS, *REJECTIONS):
            raise NotOffered(
                "Of approvals there are `approve` and `reject` here.",
                details=[Detail((*RESUME_PATH, "type"), "Must be `approve` or `reject`.", "unsupported")],
            )
        return Decision(
            "approve" if word in APPROVALS else "reject", comment if isinstance(comment, str) and comment else None
        )
    if answer is True or answer in APPROVALS:
        return Decision("approve")
    if answer is False or answer in REJECTIONS:
        return Decision("reject")
    return Decision("answer", text_of_answer(answer))
