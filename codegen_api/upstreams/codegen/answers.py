"""What the host's answers say, in our words: runs, log entries, lists, and what a refusal means."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from codegen_api import errors
from codegen_api.runs import Json, LogEntry, Paging, Run, RunRef, RunStatus, Step, StepKind, from_json, to_json
from codegen_api.upstreams import Listing, over_http
from codegen_api.upstreams.over_http import Object, as_object, member, rfc3339, unmarked

T = TypeVar("T")

_WORDS = {
    RunStatus.PENDING: "PENDING QUEUED",
    RunStatus.RUNNING: "ACTIVE RUNNING EVALUATION IN_PROGRESS",
    RunStatus.PAUSED: "PAUSED",
    RunStatus.COMPLETED: "COMPLETE COMPLETED",
    RunStatus.FAILED: "ERROR FAILED TIMEOUT MAX_ITERATIONS_REACHED OUT_OF_TOKENS",
    RunStatus.CANCELLED: "CANCELLED CANCELED STOPPED",
}
"""The wire says ACTIVE, COMPLETE and ERROR; the rest is what the host's own clients know, or its prose spells."""

_STATUSES = {word: status for status, words in _WORDS.items() for word in words.split()}

_NEVER_AMENDED = re.compile(
    "PLAN_EVALUATION|FINAL_ANSWER|ERROR|USER_MESSAGE|USER_GITHUB_ISSUE_COMMENT|INITIAL_PR_GENERATION|DETECT_PR_ERRORS"
    "|FIX_PR_ERRORS|PR_CREATION_FAILED|PR_EVALUATION|COMMIT_EVALUATION|AGENT_RUN_LINK"
)
"""The kinds of log entries in the host's prose that are whole when they appear: all but ACTION, a tool call."""

_REFUSALS: Mapping[int, type[errors.GatewayError]] = {
    401: errors.InvalidToken,
    402: errors.QuotaExhausted,
    403: errors.Forbidden,
    404: errors.NotFound,
    422: errors.Rejected,
}

_KINDS = {
    "USER_MESSAGE": StepKind.USER,
    "PLAN_EVALUATION": StepKind.THOUGHT,
    "ACTION": StepKind.ACTION,
    "FINAL_ANSWER": StepKind.ANSWER,
    "ERROR": StepKind.ERROR,
}


def refusal(status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
    """The error that an answer means. The host has three shapes: ``message`` for its own errors, ``detail`` as a text
    (401, seen on the wire; unknown routes) and ``detail`` as a list (422).
    """
    return over_http.refusal(status, answer, retry_after, token, kinds=_REFUSALS)


def id_of(answer: Object, key: str = "id") -> str:
    return str(member(answer, key, int))


def paging_of(answer: Object, total: str) -> Paging:
    values = (answer.get(key) for key in (total, "page", "size", "pages"))
    return Paging(*(value if type(value) is int else None for value in values))


def at_end(skip: int, count: int, limit: int, paging: Paging) -> bool:
    """Whether nothing follows ``count`` items behind ``skip``. Hosts give fewer than they are asked for as they like,
    so a short page alone says nothing; nor does the host's own count, which may lag behind.
    """
    return count == 0 or (count < limit and skip + count == paging.total)


def listing_of(answer: Json, skip: int, limit: int, read: Callable[[Object], T]) -> Listing[T]:
    """A page of a list. What cannot be read in it is passed over, for the sake of the rest."""
    page = as_object(answer)
    found, paging = member(page, "items", list)[:limit], paging_of(page, "total")
    items: list[T] = []
    gaps: list[int] = []
    for index, item in enumerate(found):
        try:
            items.append(read(as_object(item)))
        except errors.UpstreamError:
            gaps.append(index)
            if len(gaps) == len(found):
                raise
    return Listing(tuple(items), paging, at_end(skip, len(found), limit, paging), tuple(gaps))


def run_of(answer: Object) -> Run:
    fields = _with_times(answer)
    pulls = fields.get("github_pull_requests")
    if isinstance(pulls, list):
        fields["github_pull_requests"] = [_with_times(pull) if isinstance(pull, dict) else pull for pull in pulls]
    raw = answer.get("status")
    raw = raw if isinstance(raw, str) else None
    word = (raw or "").strip().upper()
    status = RunStatus.WAITING if word.startswith("WAITING") else _STATUSES.get(word, RunStatus.UNKNOWN)
    marks = None
    if "metadata" in fields:
        fields["metadata"], marks = unmarked(fields["metadata"])
    return Run(RunRef(id_of(answer, "organization_id"), id_of(answer)), status, raw, fields, marks)


def entry_of(item: Json, ref: RunRef) -> LogEntry:
    """One entry; for what cannot be read or written again, another in its place, because positions must not shift."""
    entry = _with_times(item) if isinstance(item, dict) else {}
    known = {key: value for key, value in entry.items() if isinstance(value, str)}
    created_at, kind, tool = known.get("created_at"), known.get("message_type"), known.get("tool_name")
    word = (kind or "").strip().upper()
    # An unknown kind that names a tool is taken for a tool call; a user's message names user_input (wire, June 2025).
    amendable = word == "ACTION" or (tool not in (None, "", "user_input") and not _NEVER_AMENDED.fullmatch(word))
    try:
        encoded = to_json(entry) if isinstance(item, dict) else None
    except ValueError:
        encoded = None
    if encoded is None:
        encoded = _unreadable(ref, created_at)
    said = "\n".join(_texts(entry)) if word == "USER_MESSAGE" else None
    return LogEntry(
        encoded, created_at, amendable and entry.get("tool_output") is None, amendable, said, word == "FINAL_ANSWER"
    )


def placeholder(ref: RunRef) -> LogEntry:
    """An entry in the place of one that cannot be had, and so may differ from it."""
    return LogEntry(_unreadable(ref, None), None, open=False, amendable=True, absent=True)


def _unreadable(ref: RunRef, created_at: str | None) -> bytes:
    unreadable = {"agent_run_id": int(ref.id), "created_at": created_at, "message_type": "UNREADABLE"}
    return to_json({**unreadable, "observation": "The gateway could not read this entry."})


def step_of(entry: LogEntry) -> Step:
    """What an entry means. By the host's prose a plan has a thought, an answer and an error an observation, and an
    action names its tool; none of it is certain, so whatever has a text is heard.
    """
    fields = as_object(from_json(entry.json))
    known = {key: value for key, value in fields.items() if isinstance(value, str)}
    raw, tool = known.get("message_type"), known.get("tool_name")
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
    """What a field says: its text, the message in it, or all of it as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        message = value.get("message")
        return message if isinstance(message, str) and message else to_json(value).decode() if value else ""
    return "" if value is None else to_json(value).decode()


def _texts(entry: Object) -> Iterator[str]:
    """Every text in what a user said: where exactly it stands is not known (one payload, June 2025, cut short)."""
    waiting: list[Json] = [entry.get(key) for key in ("observation", "thought", "tool_input", "tool_output")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _with_times(fields: Object) -> dict[str, Json]:
    """With times as ``rfc3339``: the host's are naive, with a space (wire, June 2025)."""
    return {key: rfc3339(value) if key.endswith("_at") else value for key, value in fields.items()}
