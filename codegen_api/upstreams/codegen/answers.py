"""Translates the host's answers: runs, log entries, pages of lists."""

import re
from collections.abc import Iterator

from codegen_api.runs import Json, LogEntry, Paging, Run, RunRef, RunStatus, Step, StepKind, from_json, to_json
from codegen_api.upstreams.host_json import Object, as_object, member, placeholder, text_in, unmarked, with_times

_WORDS = {
    RunStatus.PENDING: "PENDING QUEUED",
    RunStatus.RUNNING: "ACTIVE RUNNING EVALUATION IN_PROGRESS",
    RunStatus.PAUSED: "PAUSED",
    RunStatus.COMPLETED: "COMPLETE COMPLETED",
    RunStatus.FAILED: "ERROR FAILED TIMEOUT MAX_ITERATIONS_REACHED OUT_OF_TOKENS",
    RunStatus.CANCELLED: "CANCELLED CANCELED STOPPED",
}
"""ACTIVE, COMPLETE and ERROR were seen on the wire; the others are in the host's own clients or its prose."""

_STATUSES = {word: status for status, words in _WORDS.items() for word in words.split()}

_NEVER_AMENDED = re.compile(
    "PLAN_EVALUATION|FINAL_ANSWER|ERROR|USER_MESSAGE|USER_GITHUB_ISSUE_COMMENT|INITIAL_PR_GENERATION|DETECT_PR_ERRORS"
    "|FIX_PR_ERRORS|PR_CREATION_FAILED|PR_EVALUATION|COMMIT_EVALUATION|AGENT_RUN_LINK"
)
"""The kinds of log entries in the host's prose that are complete when they appear: all but ACTION, a tool call."""

_KINDS = {
    "USER_MESSAGE": StepKind.USER,
    "PLAN_EVALUATION": StepKind.THOUGHT,
    "ACTION": StepKind.ACTION,
    "FINAL_ANSWER": StepKind.ANSWER,
    "ERROR": StepKind.ERROR,
}


def id_of(answer: Object, key: str = "id") -> str:
    return str(member(answer, key, int))


def paging_of(answer: Object, total: str) -> Paging:
    values = (answer.get(key) for key in (total, "page", "size", "pages"))
    return Paging(*(value if type(value) is int else None for value in values))


def at_end(skip: int, count: int, limit: int, paging: Paging) -> bool:
    """Whether nothing follows a page of ``count`` items that began at ``skip``. A short page alone does not prove it,
    since hosts may give fewer items than they are asked for; nor does the host's total, which may lag behind.
    """
    return count == 0 or (count < limit and skip + count == paging.total)


def run_of(answer: Json) -> Run:
    fields = with_times(as_object(answer))
    pulls = fields.get("github_pull_requests")
    if isinstance(pulls, list):
        fields["github_pull_requests"] = [with_times(pull) if isinstance(pull, dict) else pull for pull in pulls]
    raw = text_in(fields, "status")
    word = (raw or "").strip().upper()
    status = RunStatus.WAITING if word.startswith("WAITING") else _STATUSES.get(word, RunStatus.UNKNOWN)
    marks = None
    if "metadata" in fields:
        fields["metadata"], marks = unmarked(fields["metadata"])
    return Run(RunRef(id_of(fields, "organization_id"), id_of(fields)), status, raw, fields, marks)


def entry_of(item: Json, ref: RunRef) -> LogEntry:
    """One entry, or a placeholder if it cannot be read or written again, because positions must not shift."""
    entry = with_times(item) if isinstance(item, dict) else {}
    created_at, tool = text_in(entry, "created_at"), text_in(entry, "tool_name")
    word = (text_in(entry, "message_type") or "").strip().upper()
    # An unknown kind with a tool is taken for a tool call; a user's message has user_input (wire, June 2025).
    amendable = word == "ACTION" or (tool not in (None, "", "user_input") and not _NEVER_AMENDED.fullmatch(word))
    try:
        encoded = to_json(entry) if isinstance(item, dict) else None
    except ValueError:
        encoded = None
    if encoded is None:
        encoded = unreadable(ref, created_at).json
    said = "\n".join(_texts(entry)) if word == "USER_MESSAGE" else None
    return LogEntry(
        encoded, created_at, amendable and entry.get("tool_output") is None, amendable, said, word == "FINAL_ANSWER"
    )


def unreadable(ref: RunRef, created_at: str | None = None) -> LogEntry:
    """The entry in the place of one that cannot be read, of a kind that the host does not have."""
    return placeholder(
        agent_run_id=int(ref.id),
        created_at=created_at,
        message_type="UNREADABLE",
        observation="The gateway could not read this entry.",
    )


def step_of(entry: LogEntry) -> Step:
    """What an entry means. By the host's prose a plan has a thought, an answer or error an observation, and an action
    the name of its tool. None of this is certain, so any field with a text is used.
    """
    fields = as_object(from_json(entry.json))
    raw, tool = text_in(fields, "message_type"), text_in(fields, "tool_name")
    thought, observation = fields.get("thought"), fields.get("observation")
    kind = _KINDS.get((raw or "").strip().upper(), StepKind.ACTION if entry.amendable else StepKind.OTHER)
    if kind is StepKind.USER:
        return Step(kind, raw, entry.said or "")
    if kind is StepKind.ACTION:
        output = fields.get("tool_output")
        output = observation if output is None else output
        return Step(
            kind, raw, _text(thought), tool or "unknown", fields.get("tool_input"), output, closed=not entry.open
        )
    first, second = (thought, observation) if kind is StepKind.THOUGHT else (observation, thought)
    return Step(kind, raw, _text(first) or _text(second), tool)


def _text(value: Json) -> str:
    """A field as text: itself, the message in it, or all of it as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return text_in(value, "message") or (to_json(value).decode() if value else "")
    return "" if value is None else to_json(value).decode()


def _texts(entry: Object) -> Iterator[str]:
    """Every text in a user's message: which field has it is not known (one payload, June 2025, cut short)."""
    waiting: list[Json] = [entry.get(key) for key in ("observation", "thought", "tool_input", "tool_output")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
