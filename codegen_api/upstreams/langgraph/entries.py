"""What LangGraph's messages and threads say, in our words: log entries, steps, statuses, runs."""

from collections.abc import Mapping, Sequence

from codegen_api.runs import Json, LogEntry, Run, RunStatus, Step, StepKind, WaitReason, from_json, to_json
from codegen_api.upstreams.host_json import (
    Object,
    as_object,
    member,
    object_in,
    objects_in,
    placeholder,
    run_told,
    run_uuid,
    text_in,
)
from codegen_api.upstreams.langgraph.interrupts import interrupts_of

HIDDEN = ("values", "config")
"""Of a thread: its whole state, which is the log, and the settings of its graph, where secrets may be."""

_LISTED = {"idle": RunStatus.COMPLETED, "busy": RunStatus.RUNNING, "error": RunStatus.FAILED}


def messages_of(state: Object) -> list[Json]:
    """The messages in a state. A graph that keeps none has none."""
    messages = object_in(state, "values").get("messages")
    return messages if isinstance(messages, list) else []


def entries_of(messages: Sequence[Json], start: int, stop: int) -> tuple[LogEntry, ...]:
    """The messages from index ``start`` to ``stop`` as entries. Tools get what they were called with, which the host
    says in the message before.
    """
    inputs: dict[str, Json] = {}
    for message in messages[:stop]:
        inputs |= {str(call.get("id")): call.get("args") for call in _calls(message)}
    return tuple(_entry_of(message, inputs) for message in messages[start:stop])


def _entry_of(message: Json, inputs: Mapping[str, Json]) -> LogEntry:
    if not isinstance(message, dict):
        return placeholder()
    call = text_in(message, "tool_call_id")
    shown = {**message, "tool_input": inputs[call]} if call is not None and call in inputs else message
    try:
        encoded = to_json(shown)
    except ValueError:
        return placeholder()
    return LogEntry(
        encoded,
        None,
        open=False,
        amendable=False,
        said=text_of(message.get("content")) if message.get("type") == "human" else None,
        answers=_answers(message),
        id=text_in(message, "id"),
    )


def step_of(entry: LogEntry) -> Step:
    """What a message means. Calls of tools are thoughts: the result, which follows, is the action, with its input."""
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
    """What the agent said last, if that is an answer."""
    last = messages[-1] if messages else None
    return text_of(last.get("content")) if isinstance(last, dict) and _answers(last) else None


def text_of(content: Json) -> str:
    """The text of a message, whose content is that, or parts."""
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

    A thread whose run was cancelled has an ``error`` at LangGraph, and is idle at Aegra.
    """
    return thread.get("status") == "interrupted" and not thread.get("error")


def stopped_short(newest: Object | None, state: Object) -> bool:
    """Whether a run, once it is a ``success``, has left something to do: it asks, or it has come to a breakpoint.

    A state without questions may be of a run that has begun since the newest one was asked for.
    """
    if newest is None or newest.get("status") != "success":
        return False
    origin = state.get("metadata")
    own = isinstance(origin, dict) and origin.get("run_id") == newest.get("run_id")
    return bool(interrupts_of(state)) or (own and bool(state.get("next")))


def status_of(newest: Object | None, *, waiting: bool) -> RunStatus:
    """What the newest run says of a thread that would be ``waiting``, or not, were that run over.

    A run in which the graph asks somebody is a ``success`` at LangGraph, and ``interrupted`` at Aegra, as are those
    at both that were cancelled.
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
    """A thread of a list, which says nothing of its runs. One in which there was none has no ``graph_id`` yet."""
    word = text_in(thread, "status")
    status = _LISTED.get(word or "", RunStatus.UNKNOWN)
    if word == "interrupted":  # Aegra never tells in a list what a thread waits for, but it does not say so of others
        status = RunStatus.WAITING if thread.get("interrupts", True) else RunStatus.CANCELLED
    elif word == "idle" and not object_in(thread, "metadata").get("graph_id"):
        status = RunStatus.PENDING
    return run_of(thread, status)


def run_of(thread: Object, status: RunStatus, reason: WaitReason | None = None, result: str | None = None) -> Run:
    """A run: the thread, with our status in the place of the host's, because that does not tell all of them apart."""
    told = {key: value for key, value in thread.items() if key not in HIDDEN}
    return run_told(run_uuid(member(thread, "thread_id", str)), told, status, reason, result)
