"""Translates opencode's events and sessions: log entries, their meanings, runs and their states.

An event's number, ``durable.seq``, counts from 1 within its session and is the entry's position. Some numbers are used
up by changes that the history never shows; the gateway puts an entry of its own there, ``hidden``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from codegen_api.runs import Cursor, Json, LogEntry, Run, RunStatus, Step, StepKind, WaitReason, from_json, to_json
from codegen_api.upstreams import PendingRequest
from codegen_api.upstreams.host_json import (
    Object,
    as_list,
    as_object,
    as_objects,
    member,
    object_in,
    objects_in,
    placeholder,
    run_told,
    text_in,
)

CALL = "gateway.call"
"""The key in a tool's result for the ``tool`` and its ``input``, which the host has only in an earlier event."""

_PREFIX = "session.next."
_RESULTS = ("tool.success", "tool.failed")
_UNREADABLE = "gateway.unreadable"
_ASIDE = ("agent.", "compaction.", "context.", "model.", "moved", "revert.", "shell.", "synthetic", _UNREADABLE)
"""Prefixes of events that do not show whether the agent is working."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of a session's history; ``kind`` is its type without the common prefix."""

    seq: Cursor
    kind: str
    data: Object
    fields: Object

    @property
    def timestamp(self) -> float:
        """In epoch seconds; 0 if the host gives none."""
        value = self.data.get("timestamp")
        return value / 1000 if isinstance(value, int | float) else 0.0

    @property
    def fault(self) -> str:
        return text_in(object_in(self.data, "error"), "message") or ""

    @property
    def call(self) -> str | None:
        """The id of the tool call of which this is the result, if it is one."""
        return text_in(self.data, "callID") if self.kind in _RESULTS else None


class History(NamedTuple):
    """Events in order; ``more``: others follow."""

    events: Sequence[HistoryEvent]
    more: bool


class SessionState(NamedTuple):
    """The state of a session, derived since the host has no word for it."""

    status: RunStatus
    reason: WaitReason | None = None
    result: str | None = None


def history_of(after: Cursor, answer: Json) -> History:
    """The events after number ``after``."""
    fields = as_object(answer)
    events: list[HistoryEvent] = []
    for item in as_list(fields.get("data")):
        events.append(_event_of(item, 1 + (events[-1].seq if events else after)))
    return History(events, bool(events) and fields.get("hasMore") is True)


def _event_of(item: Json, following: Cursor) -> HistoryEvent:
    """An event, or one of our own in the place of an unreadable one. If that has no number, it gets the ``following``
    one: the true number is no lower, and ``hidden`` entries fill those up to the next event.
    """
    fields = item if isinstance(item, dict) else {}
    seq, kind = object_in(fields, "durable").get("seq"), text_in(fields, "type")
    if type(seq) is int and kind is not None:
        return HistoryEvent(seq, kind.removeprefix(_PREFIX), object_in(fields, "data"), fields)
    seq = seq if type(seq) is int else following
    return HistoryEvent(seq, _UNREADABLE, {}, {"type": _UNREADABLE, "durable": {"seq": seq}})


# -- log entries ------------------------------------------------------------------------------------------------------


def calls_in(events: Sequence[HistoryEvent]) -> dict[str, Object]:
    """The tools that were called and their inputs, by the id of the call."""
    calls = (event.data for event in events if event.kind == "tool.called")
    return {str(data.get("callID")): {"tool": data.get("tool"), "input": data.get("input")} for data in calls}


def between(
    events: Sequence[HistoryEvent], calls: Mapping[str, Object], after: Cursor, last: Cursor
) -> Iterator[LogEntry]:
    """The entries at the positions after ``after`` up to ``last``."""
    by_seq = {event.seq: event for event in events}
    for seq in range(after + 1, last + 1):
        yield _entry_of(by_seq[seq], calls) if seq in by_seq else hidden(seq)


def _entry_of(event: HistoryEvent, calls: Mapping[str, Object]) -> LogEntry:
    fields = event.fields if event.call is None else {**event.fields, CALL: calls.get(event.call)}
    try:
        encoded = to_json(fields)
    except ValueError:
        encoded = _gateway_event(_UNREADABLE, event.seq)
    return LogEntry(
        encoded,
        time_of(event.data.get("timestamp")),
        open=False,
        amendable=False,
        said=text_in(object_in(event.data, "prompt"), "text") if event.kind == "prompted" else None,
        answers=event.kind == "text.ended",
        id=text_in(event.fields, "id"),
    )


def hidden(seq: Cursor) -> LogEntry:
    """The entry for a number that the history does not show."""
    return LogEntry(_gateway_event("gateway.hidden", seq), None, open=False, amendable=False)


def _gateway_event(kind: str, seq: Cursor) -> bytes:
    return to_json({"type": kind, "durable": {"seq": seq}})


UNREADABLE = placeholder(type=_UNREADABLE, durable={"seq": None})


def step_of(entry: LogEntry) -> Step:
    """What an entry means. Only the result of a tool call is an action; it contains the tool and its input."""
    fields = as_object(from_json(entry.json))
    word = text_in(fields, "type")
    event = HistoryEvent(0, (word or "").removeprefix(_PREFIX), object_in(fields, "data"), fields)
    match event.kind:
        case "prompted":
            return Step(StepKind.USER, word, entry.said or "")
        case "text.ended" | "reasoning.ended":
            kind = StepKind.ANSWER if event.kind == "text.ended" else StepKind.THOUGHT
            return Step(kind, word, text_in(event.data, "text") or "")
        case "step.failed":
            return Step(StepKind.ERROR, word, event.fault)
        case "tool.success" | "tool.failed":
            call, output = object_in(fields, CALL), event.fault if event.kind == "tool.failed" else _output(event.data)
            return Step(StepKind.ACTION, word, "", text_in(call, "tool") or "unknown", call.get("input"), output)
    return Step(StepKind.OTHER, word, "")


def _output(data: Object) -> Json:
    """The output of a tool: its text, if it has nothing else."""
    content = data.get("content")
    if not isinstance(content, list) or not content:
        return data.get("structured")
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    words = [text.removesuffix("\n") for text in texts if isinstance(text, str)]
    return "\n".join(words) if len(words) == len(content) else content


# -- the state of a session -------------------------------------------------------------------------------------------


def turn_status(events: Sequence[HistoryEvent]) -> tuple[RunStatus, HistoryEvent] | None:
    """The status of the last turn, and the event that shows it: ended, ``running`` in the middle of a turn, or
    ``pending`` if a prompt waits. None if no event in ``events`` shows it.
    """
    for event in reversed(events):
        match event.kind:
            case "step.ended" if event.data.get("finish") != "tool-calls":
                return RunStatus.FAILED if event.data.get("finish") == "error" else RunStatus.COMPLETED, event
            case "step.failed":
                return RunStatus.CANCELLED if event.fault == "Provider turn interrupted" else RunStatus.FAILED, event
            case "prompt.admitted" | "prompted":
                return RunStatus.PENDING, event
            case kind if not kind.startswith(_ASIDE):
                return RunStatus.RUNNING, event
    return None


def broken_off_status(events: Sequence[HistoryEvent]) -> RunStatus:
    """The status of an unfinished turn that no agent works on: somebody stopped it while a tool was running, or the
    host died.
    """
    for event in reversed(events):
        if event.kind == "step.started":
            break
        if event.kind == "tool.failed" and event.fault == "Tool execution interrupted":
            return RunStatus.CANCELLED
    return RunStatus.FAILED


def may_wait(events: Sequence[HistoryEvent]) -> bool:
    """Whether a tool has no result yet, so that an agent at work may be waiting for a decision. The log does not have
    the requests themselves.
    """
    done = {event.call for event in events}
    for event in reversed(events):
        if event.kind == "tool.called" and event.data.get("callID") not in done:
            return True
        if event.kind in ("step.started", "step.ended", "step.failed"):
            return False
    return True


def result_in(events: Sequence[HistoryEvent]) -> str | None:
    """The answer of a completed turn."""
    for event in reversed(events):
        if event.kind == "prompted":
            break
        if event.kind == "text.ended" and (text := text_in(event.data, "text")) is not None:
            return text
    return None


# -- runs and what they wait for --------------------------------------------------------------------------------------


def run_of(session: Object, state: SessionState | None) -> Run:
    """A session from either of the host's APIs as a run; ``state`` is None if it was not looked up."""
    time = as_object(session.get("time"))
    times = {"created_at": time_of(time.get("created")), "updated_at": time_of(time.get("updated"))}
    fields: Object = {**session, "metadata": session.get("metadata"), **times}  # without metadata it has no marks
    status, reason, result = state or (None, None, None)
    return run_told(member(session, "id", str), fields, status, reason, result)


def permission_of(request: Object) -> PendingRequest:
    tool, resources = text_in(request, "action"), request.get("resources")
    named = [text for text in resources if isinstance(text, str)] if isinstance(resources, list) else []
    text = f"{tool or 'something'}: {', '.join(named)}" if named else str(tool)
    asked: Object = {"resources": named}
    return PendingRequest(member(request, "id", str), WaitReason.APPROVAL, text, tool, asked, fields=request)


def question_of(request: Object) -> PendingRequest:
    asked = questions_in(request)
    text = "\n".join(str(each.get("question")) for each in asked)
    labels = [text_in(option, "label") for option in objects_in(asked[0], "options")] if len(asked) == 1 else []
    choices = tuple(label for label in labels if label is not None)
    return PendingRequest(member(request, "id", str), WaitReason.QUESTION, text, choices=choices, fields=request)


def questions_in(request: Object) -> list[Object]:
    return as_objects(request.get("questions"))


def time_of(milliseconds: Json) -> str | None:
    """A time of the host, in RFC 3339 and UTC; None for anything else."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return None
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
