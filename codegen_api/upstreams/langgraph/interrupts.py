"""What a graph waits for: its interrupts as requests, and decisions as the values with which it goes on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from codegen_api.errors import Rejected
from codegen_api.runs import Json, WaitReason, to_json
from codegen_api.upstreams import Decision, PendingRequest
from codegen_api.upstreams.host_json import Object, objects_in, rejected, text_in


@dataclass(frozen=True, slots=True)
class Interrupt:
    """One of them. The graph's author chooses its ``value``."""

    id: str
    value: Json

    @property
    def fields(self) -> Object:
        return self.value if isinstance(self.value, dict) else {"value": self.value}

    @property
    def calls(self) -> list[Object]:
        """The calls of tools that somebody has to approve, where LangChain's human-in-the-loop middleware asks."""
        return objects_in(self.fields, "action_requests")

    @property
    def reason(self) -> WaitReason:
        return WaitReason.APPROVAL if self.calls else WaitReason.QUESTION

    @property
    def request(self) -> PendingRequest:
        """Calls that were asked for together are one request: the host takes one answer to all."""
        if not self.calls:
            question = text_in(self.fields, "question" if isinstance(self.value, dict) else "value")
            text = _json(self.value) if question is None else question
            return PendingRequest(self.id, self.reason, text, fields=self.fields)
        inputs = [call.get("args", call.get("arguments")) for call in self.calls]
        names = [str(call.get("name") or "unknown") for call in self.calls]
        texts = [
            call.get("description") or f"{name} {_json(given)}"
            for call, name, given in zip(self.calls, names, inputs, strict=True)
        ]
        return PendingRequest(
            self.id,
            self.reason,
            "\n".join(str(text) for text in texts),
            ", ".join(names),
            inputs[0] if len(inputs) == 1 else inputs,
            fields=self.fields,
        )

    def resume(self, decision: Decision) -> Json:
        """What to go on with. It names the interrupt, so that it can never be taken for the answer to another one.

        Raises:
            Rejected: the verdict does not suit the request.
        """
        value = self._decided(decision) if self.calls else _answer(decision)
        return {self.id: value} if re.fullmatch("[0-9a-f]{32}", self.id) else value

    def _decided(self, decision: Decision) -> Json:
        kind = "respond" if decision.verdict == "answer" else decision.verdict
        allowed = [review.get("allowed_decisions") for review in objects_in(self.fields, "review_configs")]
        if any(isinstance(kinds, list) and kind not in kinds for kinds in allowed):
            raise _unsuited(f"This request does not allow it: {kind}.")
        if kind == "respond" and not allowed:
            raise _unsuited("Approve or reject it.")
        message = {} if decision.text is None or kind == "approve" else {"message": decision.text}
        return {"decisions": [{"type": kind, **message}] * len(self.calls)}


def interrupts_of(state: Object) -> list[Interrupt]:
    """Those in a state, in the order of its tasks. They stay there while the graph goes on, and after a cancel."""
    found: dict[str, Interrupt] = {}
    tasks = [item for task in objects_in(state, "tasks") for item in objects_in(task, "interrupts")]
    for item in tasks or objects_in(state, "interrupts"):
        name = text_in(item, "id") or "interrupt"  # old hosts name none
        found.setdefault(name, Interrupt(name, item.get("value")))
    return list(found.values())


def answered_by(prompt: str, interrupts: Sequence[Interrupt]) -> Json:
    """What to go on with where somebody just says something: it is the answer to the oldest question; and a call that
    is to be approved is rejected with it, because nobody has approved it.
    """
    first = interrupts[0]
    return first.resume(Decision("reject" if first.calls else "answer", prompt))


def _answer(decision: Decision) -> Json:
    if decision.verdict != "answer" or decision.text is None:
        raise _unsuited("This is a question: answer it, with a text.")
    return decision.text


def _unsuited(message: str) -> Rejected:
    return rejected(message, "verdict", "body", "verdict")


def _json(value: Json) -> str:
    return to_json(value).decode()
