"""What opencode's events and sessions say, in our words: log entries, what they mean, runs and how they stand.

An event's number, ``durable.seq``, counts from 1 within its session and is the entry's position. Some numbers are used
up by changes that the history never shows, so an entry of our own stands there: ``hidden``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from codegen_api.runs import (
    Cursor,
    Json,
    LogEntry,
    Run,
    RunRef,
    RunStatus,
    Step,
    StepKind,
    WaitReason,
    from_json,
    to_json,
)
from codegen_api.upstreams import PendingRequest
from codegen_api.upstreams.over_http import ONLY, Object, as_object, as_objects, member, unmarked

CALL = "gateway.call"
"""Where the result of a tool says which ``tool`` was called and with what ``input``; the host says that only before."""

_PREFIX = "session.next."
_RESULTS = ("tool.success", "tool.failed")
_ASIDE = ("agent.", "compaction.", "context.", "model.", "moved", "revert.", "shell.", "synthetic")
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
        error = self.data.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        return message if isinstance(message, str) else ""

    @property
    def call(self) -> str | None:
        """Which call of a tool this is the result of, if it is one."""
        call = self.data.get("callID")
        return call if self.kind in _RESULTS and isinstance(call, str) else None


@dataclass(frozen=True, slots=True)
class History:
    """Events in order. ``more``: there were others behind them."""

    events: Sequence[HistoryEvent]
    more: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How a session stands: the host has no word for it, so this is ours."""

    status: RunStatus
    reason: WaitReason | None = None
    result: str | None = None


def history_of(answer: Json) -> History:
    said = as_object(answer)
    return History([_event_of(item) for item in as_objects(said.get("data"))], said.get("hasMore") is True)


def _event_of(fields: Object) -> HistoryEvent:
    data = fields.get("data")
    seq = member(as_object(fields.get("durable")), "seq", int)
    kind = member(fields, "type", str).removeprefix(_PREFIX)
    return HistoryEvent(seq, kind, data if isinstance(data, dict) else {}, fields)


# -- log entries ------------------------------------------------------------------------------------------------------


def calls_in(events: Sequence[HistoryEvent]) -> dict[str, Object]:
    """What was called, by the id of the call."""
    called = (event.data for event in events if event.kind == "tool.called")
    return {str(data.get("callID")): {"tool": data.get("tool"), "input": data.get("input")} for data in called}


def entries_of(
    events: Sequence[HistoryEvent], calls: Mapping[str, Object], after: Cursor, last: Cursor
) -> Iterator[LogEntry]:
    """The entries at the positions behind ``after`` up to ``last``."""
    there = {event.seq: event for event in events}
    for seq in range(after + 1, last + 1):
        yield _entry_of(there[seq], calls) if seq in there else hidden(seq)


def _entry_of(event: HistoryEvent, calls: Mapping[str, Object]) -> LogEntry:
    id_, prompt = event.fields.get("id"), event.data.get("prompt")
    said = prompt.get("text") if event.kind == "prompted" and isinstance(prompt, dict) else None
    fields = event.fields if event.call is None else {**event.fields, CALL: calls.get(event.call)}
    try:
        encoded = to_json(fields)
    except ValueError:
        encoded = _own("gateway.unreadable", event.seq)
    return LogEntry(
        encoded,
        moment(event.data.get("timestamp")),
        open=False,
        amendable=False,
        said=said if isinstance(said, str) else None,
        answers=event.kind == "text.ended",
        id=id_ if isinstance(id_, str) else None,
    )


def hidden(seq: Cursor) -> LogEntry:
    """What stands for a number that the history does not show."""
    return LogEntry(_own("gateway.hidden", seq), None, open=False, amendable=False)


def placeholder() -> LogEntry:
    return LogEntry(_own("gateway.unreadable", None), None, open=False, amendable=True, absent=True)


def _own(kind: str, seq: Cursor | None) -> bytes:
    return to_json({"type": kind, "durable": {"seq": seq}})


def step_of(entry: LogEntry) -> Step:
    """What an entry means. A call of a tool is an action when its result is there, which then says what was called."""
    fields = as_object(from_json(entry.json))
    raw, data = fields.get("type"), fields.get("data")
    event = HistoryEvent(0, str(raw).removeprefix(_PREFIX), data if isinstance(data, dict) else {}, fields)
    word = raw if isinstance(raw, str) else None
    text = event.data.get("text")
    match event.kind:
        case "prompted":
            return Step(StepKind.USER, word, entry.said or "")
        case "text.ended":
            return Step(StepKind.ANSWER, word, text if isinstance(text, str) else "")
        case "reasoning.ended":
            return Step(StepKind.THOUGHT, word, text if isinstance(text, str) else "")
        case "step.failed":
            return Step(StepKind.ERROR, word, event.fault)
        case "tool.success" | "tool.failed":
            call = fields.get(CALL)
            call = call if isinstance(call, dict) else {}
            tool, output = call.get("tool"), event.fault if event.kind == "tool.failed" else _output(event.data)
            name = tool if isinstance(tool, str) and tool else "unknown"
            return Step(StepKind.ACTION, word, "", name, call.get("input"), output)
        case _:
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
        text = event.data.get("text")
        if event.kind == "text.ended" and isinstance(text, str):
            return text
    return None


# -- runs and what they wait for --------------------------------------------------------------------------------------


def run_of(session: Object, standing: Standing | None) -> Run:
    """A session as either of the host's two APIs describes it; ``standing`` is None where it was not looked for."""
    id_, time = member(session, "id", str), as_object(session.get("time"))
    metadata, marks = unmarked(session.get("metadata"))
    told = {**session, "metadata": metadata}
    times: Object = {"created_at": moment(time.get("created")), "updated_at": moment(time.get("updated"))}
    if standing is None:
        standing = Standing(RunStatus.UNKNOWN)
        shown: Object = {"id": id_, "organization_id": ONLY, "status": None}
    else:
        shown = status_fields(id_, standing)
    return Run(
        RunRef(ONLY, id_),
        standing.status,
        None if standing.status is RunStatus.UNKNOWN else standing.status.value,
        {**told, **times, **shown},
        marks,
        standing.reason,
    )


def status_fields(id_: str, standing: Standing) -> Object:
    return {"id": id_, "organization_id": ONLY, "status": standing.status.value, "result": standing.result}


def page_run(ref: RunRef, standing: Standing) -> Run:
    """A run as far as its log tells."""
    fields = status_fields(ref.id, standing)
    return Run(ref, standing.status, standing.status.value, fields, None, standing.reason)


def permission_of(request: Object) -> PendingRequest:
    action, resources = request.get("action"), request.get("resources")
    tool = action if isinstance(action, str) else None
    named = [text for text in resources if isinstance(text, str)] if isinstance(resources, list) else []
    text = f"{tool or 'something'}: {', '.join(named)}" if named else str(tool)
    asked: Object = {"resources": named}
    return PendingRequest(member(request, "id", str), WaitReason.APPROVAL, text, tool, asked, fields=request)


def question_of(request: Object) -> PendingRequest:
    asked = questions_in(request)
    text = "\n".join(str(each.get("question")) for each in asked)
    options = asked[0].get("options") if len(asked) == 1 else None
    labels = (
        [option.get("label") for option in options if isinstance(option, dict)] if isinstance(options, list) else []
    )
    choices = tuple(label for label in labels if isinstance(label, str))
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
