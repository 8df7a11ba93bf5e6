"""Translates LangGraph's messages and threads to log entries, steps, runs and pending requests."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codegen_api import errors
from codegen_api.runs import Json, LogEntry, Run, RunStatus, Step, StepKind, WaitReason, from_json, to_json
from codegen_api.upstreams import Decision, PendingRequest
from codegen_api.upstreams.host_json import (
    UNREADABLE,
    Object,
    as_object,
    lasting_entry,
    object_in,
    objects_in,
    run_told,
    text_in,
    uuid_in,
)

HIDDEN = ("values", "config")
"""Fields of threads that are not shown: the state, which is the log, and the graph's settings, which may be secret."""

_LISTED = {"idle": RunStatus.COMPLETED, "busy": RunStatus.RUNNING, "error": RunStatus.FAILED}


def messages_of(state: Object) -> list[Json]:
    """The messages in a state; none if the graph keeps none."""
    messages = object_in(state, "values").get("messages")
    return messages if isinstance(messages, list) else []


def between(messages: Sequence[Json], start: int, stop: int) -> tuple[LogEntry, ...]:
    """The messages from index ``start`` to ``stop`` as entries. Results of tools get the input, which the host has only
    in an earlier message.
    """
    inputs: dict[str, Json] = {}
    for message in messages[:stop]:
        inputs |= {str(call.get("id")): call.get("args") for call in _calls(message)}
    return tuple(_entry_of(message, inputs) for message in messages[start:stop])


def _entry_of(message: Json, inputs: Mapping[str, Json]) -> LogEntry:
    if not isinstance(message, dict):
        return UNREADABLE
    call = text_in(message, "tool_call_id")
    shown = {**message, "tool_input": inputs[call]} if call is not None and call in inputs else message
    said = text_of(message.get("content")) if message.get("type") == "human" else None
    return lasting_entry(shown, UNREADABLE, said=said, answers=_answers(message), entry_id=text_in(message, "id"))


def step_of(entry: LogEntry) -> Step:
    """What a message means. A tool call is a thought: its result, which follows, is the action, with the input."""
    message = as_object(from_json(entry.json))
    raw, text = text_in(message, "type"), text_of(message.get("content"))
    if raw == "human":
        return Step(StepKind.USER, raw, text)
    if raw == "tool":
        tool = text_in(message, "name") or "unknown"
        return Step(StepKind.ACTION, raw, "", tool, message.get("tool_input"), message.get("content"))
    if raw == "ai":
        return Step(StepKind.ANSWER if entry.answers else StepKind.THOUGHT, raw, text)
    return Step(StepKind.OTHER, raw, text)


def answer_of(messages: Sequence[Json]) -> str | None:
    """The last message, if it is the agent's answer."""
    last = messages[-1] if messages else None
    return text_of(last.get("content")) if isinstance(last, dict) and _answers(last) else None


def text_of(content: Json) -> str:
    """The text in a message's content, which is a text or a list of parts."""
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _answers(message: Object) -> bool:
    return message.get("type") == "ai" and not _calls(message) and text_of(message.get("content")) != ""


def _calls(message: Json) -> list[Object]:
    return objects_in(message, "tool_calls") if isinstance(message, dict) else []


def is_active(newest: Object | None) -> bool:
    return newest is not None and newest.get("status") in ("pending", "running")


def waits(thread: Object) -> bool:
    """Whether a thread whose newest run is over waits for somebody.

    A thread with a cancelled run has an ``error`` at LangGraph, and is idle at Aegra.
    """
    return thread.get("status") == "interrupted" and not thread.get("error")


def stopped_short(newest: Object | None, state: Object) -> bool:
    """Whether a run that is a ``success`` has not finished the graph: it asks something, or stopped at a breakpoint.

    A state without questions may belong to a run that was started after ``newest`` was read.
    """
    if newest is None or newest.get("status") != "success":
        return False
    origin = state.get("metadata")
    own = isinstance(origin, dict) and origin.get("run_id") == newest.get("run_id")
    return bool(interrupts_of(state)) or (own and bool(state.get("next")))


def status_of(newest: Object | None, *, waiting: bool) -> RunStatus:
    """The status of a thread, by its newest run. ``waiting``: whether it waits for somebody if that run is over.

    A run in which the graph asks somebody is a ``success`` at LangGraph, and ``interrupted`` at Aegra. Cancelled runs
    are ``interrupted`` at both.
    """
    match None if newest is None else newest.get("status"):
        case None | "pending":
            return RunStatus.PENDING
        case "running":
            return RunStatus.RUNNING
        case "error" | "timeout":
            return RunStatus.FAILED
        case "success":
            return RunStatus.WAITING if waiting else RunStatus.COMPLETED
        case "interrupted":
            return RunStatus.WAITING if waiting else RunStatus.CANCELLED
    return RunStatus.UNKNOWN


def listed_run(thread: Object) -> Run:
    """A thread in a list, which does not show its runs. Before the first run it has no ``graph_id``."""
    word = text_in(thread, "status")
    status = _LISTED.get(word or "", RunStatus.UNKNOWN)
    if word == "interrupted":  # Aegra lists no interrupts, but has this status only for threads that wait
        status = RunStatus.WAITING if thread.get("interrupts", True) else RunStatus.CANCELLED
    elif word == "idle" and not object_in(thread, "metadata").get("graph_id"):
        status = RunStatus.PENDING
    return run_of(thread, status)


def run_of(thread: Object, status: RunStatus, reason: WaitReason | None = None, result: str | None = None) -> Run:
    """A thread as a run. Its status is ours, since the host uses one word for several."""
    fields = {key: value for key, value in thread.items() if key not in HIDDEN}
    return run_told(uuid_in(thread, "thread_id"), fields, status, reason, result)


def whole_run(thread: Object, status: RunStatus, state: Object) -> Run:
    """A run with what its state adds: the answer, or the reason why it waits."""
    interrupts = interrupts_of(state) if status is RunStatus.WAITING else []
    reason = interrupts[0].reason if interrupts else None
    return run_of(thread, status, reason, answer_of(messages_of(state)) if status is RunStatus.COMPLETED else None)


# -- pending requests -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A request of the graph to a person. The graph's author chooses its ``value``."""

    id: str
    value: Json

    @property
    def fields(self) -> Object:
        return self.value if isinstance(self.value, dict) else {"value": self.value}

    @property
    def calls(self) -> list[Object]:
        """The tool calls that need approval, if LangChain's human-in-the-loop middleware made the request."""
        return objects_in(self.fields, "action_requests")

    @property
    def reason(self) -> WaitReason:
        return WaitReason.APPROVAL if self.calls else WaitReason.QUESTION

    @property
    def request(self) -> PendingRequest:
        """The request to show. Calls that need approval together are one: the host takes one answer to all."""
        if not self.calls:
            question = text_in(self.fields, "question" if isinstance(self.value, dict) else "value")
            text = _json(self.value) if question is None else question
            return PendingRequest(self.id, self.reason, text, fields=self.fields)
        inputs = [call.get("args", call.get("arguments")) for call in self.calls]
        names = [str(call.get("name") or "unknown") for call in self.calls]
        texts = [
            call.get("description") or f"{name} {_json(arguments)}"
            for call, name, arguments in zip(self.calls, names, inputs, strict=True)
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
        """The value to resume the graph with. It names the interrupt, so it cannot be taken as an answer to another.
        Raises ``Rejected`` for a verdict that does not fit the request.
        """
        value: Json = decision.text
        if self.calls:
            value = self._decisions(decision)
        elif decision.verdict != "answer" or decision.text is None:
            raise errors.rejected("This is a question: answer it, with a text.", "verdict", "body", "verdict")
        return {self.id: value} if re.fullmatch("[0-9a-f]{32}", self.id) else value

    def _decisions(self, decision: Decision) -> Json:
        kind = "respond" if decision.verdict == "answer" else decision.verdict
        allowed = [review.get("allowed_decisions") for review in objects_in(self.fields, "review_configs")]
        if any(isinstance(kinds, list) and kind not in kinds for kinds in allowed):
            raise errors.rejected(f"This request does not allow it: {kind}.", "verdict", "body", "verdict")
        if kind == "respond" and not allowed:
            raise errors.rejected("Approve or reject it.", "verdict", "body", "verdict")
        message = {} if decision.text is None or kind == "approve" else {"message": decision.text}
        return {"decisions": [{"type": kind, **message}] * len(self.calls)}


def interrupts_of(state: Object) -> list[Interrupt]:
    """The interrupts in a state, in the order of its tasks. They remain while the graph runs on, and after a cancel."""
    interrupts: dict[str, Interrupt] = {}
    of_tasks = [item for task in objects_in(state, "tasks") for item in objects_in(task, "interrupts")]
    for item in of_tasks or objects_in(state, "interrupts"):
        interrupt_id = text_in(item, "id") or "interrupt"  # old hosts give no ids
        interrupts.setdefault(interrupt_id, Interrupt(interrupt_id, item.get("value")))
    return list(interrupts.values())


def answered_by(prompt: str, interrupts: Sequence[Interrupt]) -> Json:
    """The value to resume the graph with for a prompt: the answer to the oldest question. If that asks to approve
    calls, the prompt rejects them, since nobody has approved them.
    """
    first = interrupts[0]
    return first.resume(Decision("reject" if first.calls else "answer", prompt))


def _json(value: Json) -> str:
    return to_json(value).decode()
