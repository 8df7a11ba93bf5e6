"""Translates a task: the run, its log, and what an entry of it means.

The log is the task's history, followed by the message of its status, which keeps its number since it moves to the end
of the history with the next status. Artifacts follow when the task has ended, since they grow until then.
"""

from collections.abc import Mapping
from contextlib import suppress

from codegen_api import errors
from codegen_api.runs import Json, LogEntry, Run, RunRef, RunStatus, Step, StepKind, WaitReason, from_json, to_json
from codegen_api.upstreams import PendingRequest
from codegen_api.upstreams.host_json import (
    ONLY,
    Object,
    as_object,
    lasting_entry,
    member,
    object_in,
    objects_in,
    placeholder,
    rfc3339,
    text_in,
    unmarked,
)

_STATUSES = {
    "SUBMITTED": RunStatus.PENDING,
    "WORKING": RunStatus.RUNNING,
    "INPUT_REQUIRED": RunStatus.WAITING,
    "AUTH_REQUIRED": RunStatus.WAITING,
    "COMPLETED": RunStatus.COMPLETED,
    "FAILED": RunStatus.FAILED,
    "REJECTED": RunStatus.FAILED,
    "CANCELED": RunStatus.CANCELLED,
}
_REASONS = {"INPUT_REQUIRED": WaitReason.QUESTION, "AUTH_REQUIRED": WaitReason.SIGN_IN}

_LOG_FIELDS = ("history", "artifacts")
"""Fields of a task that are its log, and so not in the description of the run."""

UNREADABLE = placeholder(kind="unreadable", text="The gateway could not read this entry.")


def run_of(task: Object, *, listed: bool = False) -> Run:
    """A task as a run, whose ``raw_status`` is the task's state. It has no time of creation. A ``listed`` task lacks
    its artifacts, so its result is unknown.
    """
    status = object_in(task, "status")
    raw = text_in(status, "state")
    word = _word(raw)
    run_status = _STATUSES.get(word, RunStatus.UNKNOWN)
    metadata, marks = _metadata(task)
    fields: dict[str, Json] = {key: value for key, value in task.items() if key not in _LOG_FIELDS}
    own = fields.get("metadata")
    if isinstance(own, dict):  # some servers keep private values under names with underscores
        fields["task_metadata"] = {key: value for key, value in own.items() if not key.startswith("_")}
    fields |= {
        "organization_id": ONLY,
        "status": raw,
        "created_at": None,
        "updated_at": rfc3339(status.get("timestamp")),
        "metadata": metadata,
    }
    if not listed and run_status is RunStatus.COMPLETED and (result := _result(task)):
        fields["result"] = result
    ref = RunRef(ONLY, member(task, "id", str))
    return Run(ref, run_status, raw, fields, marks, _REASONS.get(word), final=run_status.ended)


def task_sent(answer: Object) -> Run | None:
    """The task that a message started or continued; None if the agent answers with a message."""
    task = answer if answer.get("kind") == "task" else answer.get("task")
    if task is not None:
        return run_of(as_object(task))
    if answer.get("kind") == "message" or "message" in answer:
        return None
    raise errors.UpstreamError("The host's answer has neither a task nor a message.")


def log_of(task: Object) -> list[LogEntry]:
    """The whole log. If the agent keeps no history, that is only the outcome, once the task has ended.

    Raises:
        Unsupported: the agent keeps no history, and the task waits for an answer.
    """
    run = run_of(task)
    history = _items(task, "history")
    if not history and run.status is RunStatus.WAITING:
        raise errors.Unsupported("This agent keeps no history of its tasks, so the gateway cannot read their logs.")
    latest, ended = _latest(task), run.status.ended
    artifacts = _items(task, "artifacts") if ended else []
    if latest is not None:
        message_id, known = text_in(latest, "messageId"), [_id(item, "messageId") for item in history]
        if ended and message_id and known[-1:] == [message_id]:
            history = history[:-1]  # some servers put it there at once
        elif message_id and message_id in known:
            latest = None
    entries = [_message(item) for item in history]
    if latest is not None and (history or ended):
        entries.append(_message(latest, run, alone=not artifacts))
    return [*entries, *(_artifact(item) for item in artifacts)]


def pending_of(task: Object) -> tuple[PendingRequest, ...]:
    """What a task waits for: an answer to its status message."""
    run = run_of(task)
    if run.reason is None:
        return ()
    question = _latest(task) or {}
    request_id = text_in(question, "messageId") or str(run.fields["updated_at"] or run.raw_status)
    shown = {key: value for key, value in question.items() if key != "metadata"}
    return (PendingRequest(request_id, run.reason, _text(question, "\n"), fields=shown),)


def place_of(task: Object) -> Object:
    """The ids that a message to a task must name: without ``contextId`` agents make another context."""
    return {"taskId": member(task, "id", str), "contextId": task.get("contextId")}


def step_of(entry: LogEntry) -> Step:
    """What an entry means, by its role, and for the last message also by how the task ended."""
    fields = as_object(from_json(entry.json))
    raw = text_in(fields, "kind")
    if entry.said is not None:
        return Step(StepKind.USER, raw, entry.said)
    if raw == "artifact":
        return Step(StepKind.ANSWER, raw, _text(fields, ""))
    text = _text(fields, "\n")
    if entry.answers:
        return Step(StepKind.ANSWER, raw, text)
    failed = _STATUSES.get(_word(text_in(fields, "state"))) is RunStatus.FAILED
    return Step(StepKind.ERROR if failed else StepKind.THOUGHT if raw == "message" else StepKind.OTHER, raw, text)


def _word(state: str | None) -> str:
    """``TASK_STATE_INPUT_REQUIRED`` and ``input-required`` are ``INPUT_REQUIRED``."""
    return (state or "").strip().upper().replace("-", "_").removeprefix("TASK_STATE_")


def _items(task: Object, key: str) -> list[Json]:
    items = task.get(key)
    return items if isinstance(items, list) else []


def _latest(task: Object) -> Object | None:
    """The message in the task's status."""
    return object_in(object_in(task, "status"), "message") or None


def _metadata(task: Object) -> tuple[Json, Mapping[str, str] | None]:
    """The metadata and marks of the message that started the task; None if there is no history."""
    first = next(iter(_items(task, "history")), None)
    if not isinstance(first, dict):
        return None, None
    return unmarked(first.get("metadata")) if _is_user(first) else (None, {})


def _is_user(message: Object) -> bool:
    return str(message.get("role")).lower().removeprefix("role_") == "user"


def _message(item: Json, run: Run | None = None, *, alone: bool = False) -> LogEntry:
    """A message of the history. With a ``run``, the message of its status, which has the same form unless the run has
    ended: then it says so, and is the answer if it is ``alone``, without artifacts.
    """
    if not isinstance(item, dict):
        return UNREADABLE
    metadata, _ = unmarked(item.get("metadata"))
    fields: dict[str, Json] = {**item, "kind": "message", "metadata": metadata}
    if run is not None and run.status.ended:
        fields["state"] = run.raw_status
    user = _is_user(item)
    answers = run is not None and run.status is RunStatus.COMPLETED and alone and not user
    said = _text(item, "\n") if user else None
    return lasting_entry(fields, UNREADABLE, said=said, answers=answers, entry_id=_id(item, "messageId"))


def _artifact(item: Json) -> LogEntry:
    if not isinstance(item, dict):
        return UNREADABLE
    return lasting_entry({**item, "kind": "artifact"}, UNREADABLE, answers=True, entry_id=_id(item, "artifactId"))


def _id(item: Json, key: str) -> str | None:
    return text_in(item, key) or None if isinstance(item, dict) else None


def _result(task: Object) -> str:
    """The text of the artifacts, or of the last message where there are none."""
    if artifacts := objects_in(task, "artifacts"):
        return "\n\n".join(filter(None, (_text(item, "") for item in artifacts)))
    return _text(_latest(task) or {}, "\n")


def _text(item: Object, between: str) -> str:
    """The texts of the parts, joined; those of an artifact are pieces of one text, as it was streamed. Without texts,
    the data, or the names of files.
    """
    parts = objects_in(item, "parts")
    texts = [text for part in parts if (text := text_in(part, "text"))]
    return between.join(texts) if texts else "\n".join(filter(None, map(_shown, parts)))


def _shown(part: Object) -> str:
    if part.get("data") is not None:
        with suppress(ValueError):  # nested too deeply
            return to_json(part["data"]).decode()
    file = object_in(part, "file")
    names = (part.get("filename"), part.get("url"), file.get("name"), file.get("uri"))
    return next((str(name) for name in names if name), "")
