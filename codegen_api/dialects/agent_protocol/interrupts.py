"""What a run waits for, as interrupts, and what ``command.resume`` says of it."""

from collections.abc import Mapping, Sequence

from codegen_api.dialects import rejected
from codegen_api.errors import Detail, NotOffered
from codegen_api.runs import Json, WaitReason, to_json
from codegen_api.stores import Turn
from codegen_api.upstreams import Decision, PendingRequest

WHERE = ("body", "command", "resume")
YES, NO = ("approve", "accept"), ("reject", "ignore")
"""The words of LangChain's middleware for people in the loop, and those before them."""


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
