"""What the host's answers say, in our words: runs, log entries, lists, and what a refusal means."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from codegen_api import errors
from codegen_api.runs import Json, LogEntry, Paging, Run, RunRef, RunStatus, Step, StepKind, from_json, to_json
from codegen_api.upstreams import Listing

T = TypeVar("T")
Object = Mapping[str, Json]

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

MARKS = "codegen_gateway"
"""The key of a run's metadata under which the gateway's marks are kept; clients neither set nor see it."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)


def refusal(status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
    """The error that an answer means; ``answer`` is its JSON, None when it has none.

    The host has three shapes: ``message`` for its own errors, ``detail`` as a text (401, seen on the wire; unknown
    routes) and ``detail`` as a list (422). The text of anything else, such as a page of HTML, goes no further.
    """
    said = answer if isinstance(answer, dict) else {}
    detail = said.get("detail")
    sentence = _sentence(said.get("message"), token) or _sentence(detail, token)
    if status == 429:
        return errors.UpstreamRateLimited(sentence, retry_after=_seconds(retry_after))
    kind = _REFUSALS.get(status)
    if kind is None or not isinstance(answer, dict):
        # 413 is about the answer where something was read: some hosts may give so much and no more
        failure = errors.AnswerTooLong if status == 413 else errors.UpstreamError
        nothing = f"The host answered with status {status} and nothing of use."
        return failure(nothing, retry_after=_seconds(retry_after))
    if kind is errors.Rejected and isinstance(detail, list):
        return kind(sentence, details=[_detail(item, token) for item in detail[:50] if isinstance(item, dict)])
    return kind(sentence)


def _sentence(text: Json, token: str) -> str | None:
    """``text`` on one line of at most 500 characters, without the token; None when there is nothing to say."""
    if not isinstance(text, str):
        return None
    shown = (letter if letter.isprintable() else " " for letter in text.replace(token, "...")[:1000])
    return " ".join("".join(shown).split())[:500] or None


def _detail(item: Object, token: str) -> errors.Detail:
    """One fault of a 422; never its ``input``, which quotes the request."""
    way = item.get("loc")
    loc = [step if type(step) is int else _sentence(step, token) for step in way] if isinstance(way, list) else []
    msg, kind = _sentence(item.get("msg"), token), _sentence(item.get("type"), token)
    return errors.Detail(tuple(step for step in loc if step is not None), msg or "Not valid.", kind or "value_error")


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in either form, from 0 to an hour."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]+", retry_after):
        return min(float(retry_after), 3600.0)
    try:
        then = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    return min(max(then.replace(tzinfo=then.tzinfo or UTC).timestamp() - time.time(), 0.0), 3600.0)


def as_object(answer: Json) -> Object:
    if isinstance(answer, dict):
        return answer
    raise errors.UpstreamError("The host's answer is not the object that was expected.")


def member(answer: Object, key: str, kind: type[T]) -> T:
    value = answer.get(key)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise errors.UpstreamError(f"The host's answer lacks {key}, or has something else in its place.")


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
    marks = _unmarked(fields) if "metadata" in fields else None
    return Run(RunRef(id_of(answer, "organization_id"), id_of(answer)), status, raw, fields, marks)


def _unmarked(fields: dict[str, Json]) -> Mapping[str, str]:
    """Take the marks out of the metadata in ``fields``. A run whose client gave none has none again."""
    metadata = fields["metadata"]
    if not isinstance(metadata, dict) or MARKS not in metadata:
        return {}
    fields["metadata"] = {key: value for key, value in metadata.items() if key != MARKS} or None
    marks = metadata[MARKS]
    return {key: mark for key, mark in marks.items() if isinstance(mark, str)} if isinstance(marks, dict) else {}


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
    return {key: _rfc3339(value) if key.endswith("_at") else value for key, value in fields.items()}


def _rfc3339(value: Json) -> Json:
    """A time in UTC with ``T`` and ``Z``; what is none stays. The host's are naive, with a space (wire, June 2025)."""
    parts = _TIME.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return value
    day, clock, fraction, offset = parts.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{(offset or 'Z').upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return value
    return f"{moment.replace(tzinfo=None).isoformat()}{fraction or ''}Z"
