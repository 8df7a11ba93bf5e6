"""What opencode's events and sessions say, in our words: log entries, what they mean, runs and how they stand.

An event's number, ``durable.seq``, counts from 1 within its session and is the entry's position. Some numbers are used
up by changes that the history never shows, so an entry of our own stands there: ``hidden``.
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
"""Where the result of a tool says which ``tool`` was called and with what ``input``; the host says that only before."""

_PREFIX = "session.next."
_RESULTS = ("tool.success", "tool.failed")
_UNREADABLE = "gateway.unreadable"
_ASIDE = ("agent.", "compaction.", "context.", "model.", "moved", "revert.", "shell.", "synthetic", _UNREADABLE)
"""Events that say nothing about whether the agent works."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of a session's history; ``kind`` without the prefix that all have."""

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
        """Which call of a tool this is the result of, if it is one."""
        return text_in(self.data, "callID") if self.kind in _RESULTS else None


class History(NamedTuple):
    """Events in order. ``more``: there were others behind them."""

    events: Sequence[HistoryEvent]
    more: bool


class Standing(NamedTuple):
    """How a session stands: the host has no word for it, so this is ours."""

    status: RunStatus
    reason: WaitReason | None = None
    result: str | None = None


def history_of(after: Cursor, answer: Json) -> History:
    """The events behind number ``after``."""
    said = as_object(answer)
    events: list[HistoryEvent] = []
    for item in as_list(said.get("data")):
        events.append(_event_of(item, 1 + (events[-1].seq if events else after)))
    return History(events, bool(events) and said.get("hasMore") is True)


def _event_of(item: Json, following: Cursor) -> HistoryEvent:
    """An event; in the place of one that cannot be read, another. If it has no number, it gets the ``following`` one:
    the true one is no smaller, and whatever numbers are left between it and the next event are hidden ones.
    """
    fields = item if isinstance(item, dict) else {}
    seq, kind = object_in(fields, "durable").get("seq"), text_in(fields, "type")
    if type(seq) is int and kind is not None:
        return HistoryEvent(seq, kind.removeprefix(_PREFIX), object_in(fields, "data"), fields)
    seq = seq if type(seq) is int else following
    return HistoryEvent(seq, _UNREADABLE, {}, {"type": _UNREADABLE, "durable": {"seq": seq}})


# -- log entries ------------------------------------------------------------------------------------------------------


def calls_in(events: Sequence[HistoryEvent]) -> dict[str, Object]:
    """What was called, by the id of the call."""
    called = (event.data for event in events if event.kind == "tool.called")
    return {str(data.get("callID")): {"tool": data.get("tool"), "input": data.get("input")} for data in called}


def between(
    events: Sequence[HistoryEvent], calls: Mapping[str, Object], after: Cursor, last: Cursor
) -> Iterator[LogEntry]:
    """The entries at the positions behind ``after`` up to ``last``."""
    there = {event.seq: event for event in events}
    for seq in range(after + 1, last + 1):
        yield _entry_of(there[seq], calls) if seq in there else hidden(seq)


def _entry_of(event: HistoryEvent, calls: Mapping[str, Object]) -> LogEntry:
    fields = event.fields if event.call is None else {**event.fields, CALL: calls.get(event.call)}
    try:
        encoded = to_json(fields)
    except ValueError:
        encoded = _own(_UNREADABLE, event.seq)
    return LogEntry(
        encoded,
        moment(event.data.get("timestamp")),
        open=False,
        amendable=False,
        said=text_in(object_in(event.data, "prompt"), "text") if event.kind == "prompted" else None,
        answers=event.kind == "text.ended",
        id=text_in(event.fields, "id"),
    )


def hidden(seq: Cursor) -> LogEntry:
    """What stands for a number that the history does not show."""
    return LogEntry(_own("gateway.hidden", seq), None, open=False, amendable=False)


def _own(kind: str, seq: Cursor | None) -> bytes:
    return to_json({"type": kind, "durable": {"seq": seq}})


UNREADABLE = placeholder(type=_UNREADABLE, durable={"seq": None})


def step_of(entry: LogEntry) -> Step:
    """What an entry means. A call of a tool is an action when its result is there, which then says what was called."""
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
    """What a tool said: its text, if that is all."""
    content = data.get("content")
    if not isinstance(content, list) or not content:
        return data.get("structured")
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    words = [text.removesuffix("\n") for text in texts if isinstance(text, str)]
    return "\n".join(words) if len(words) == len(content) else content


# -- how a session stands ---------------------------------------------------------------------------------------------


def outlook(events: Sequence[HistoryEvent]) -> tuple[RunStatus, HistoryEvent] | None:
    """How the log's end reads, and the event that says so: ended, ``running`` in the middle of a turn, or ``pending``
    where a prompt waits. None if nothing in ``events`` tells.
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


def broken_off(events: Sequence[HistoryEvent]) -> RunStatus:
    """What became of a turn in the middle of which nobody works any more: somebody stopped it while a tool was at work,
    or the host has died.
    """
    for event in reversed(events):
        if event.kind == "step.started":
            break
        if event.kind == "tool.failed" and event.fault == "Tool execution interrupted":
            return RunStatus.CANCELLED
    return RunStatus.FAILED


def may_wait(events: Sequence[HistoryEvent]) -> bool:
    """Whether some tool has no result yet, so that a working agent may in truth be waiting for somebody. Requests
    themselves are not in the log.
    """
    done = {event.call for event in events}
    for event in reversed(events):
        if event.kind == "tool.called" and event.data.get("callID") not in done:
            return True
        if event.kind in ("step.started", "step.ended", "step.failed"):
            return False
    return True


def result_in(events: Sequence[HistoryEvent]) -> str | None:
    """The answer that a turn which is complete has come to."""
    for event in reversed(events):
        if event.kind == "prompted":
            break
        if event.kind == "text.ended" and (text := text_in(event.data, "text")) is not None:
            return text
    return None


# -- runs and what they wait for --------------------------------------------------------------------------------------


def run_of(session: Object, standing: Standing | None) -> Run:
    """A session as either of the host's two APIs describes it; ``standing`` is None where it was not looked for."""
    time = as_object(session.get("time"))
    times = {"created_at": moment(time.get("created")), "updated_at": moment(time.get("updated"))}
    told: Object = {**session, "metadata": session.get("metadata"), **times}  # without metadata it has no marks
    status, reason, result = standing or (None, None, None)
    return run_told(member(session, "id", str), told, status, reason, result)


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


def moment(milliseconds: Json) -> str | None:
    """A time of the host, RFC 3339 in UTC."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return None
    try:
        when = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return f"{when.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
