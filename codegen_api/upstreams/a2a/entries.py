"""What a task says, in our words: the run, its log, and what an entry of it means.

The log is the task's history, then the message of its status, which moves to the end of the history when the next
status comes and so keeps its number, and at the end of the task its artifacts, which grow until then.
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

_THE_LOG = ("history", "artifacts")
"""What of a task is not in the description of the run."""

UNREADABLE = placeholder(kind="unreadable", text="The gateway could not read this entry.")


def run_of(task: Object, *, listed: bool = False) -> Run:
    """A task as a run. Its ``status`` is the word of the task's state; it has no time of creation. One that is
    ``listed`` comes without its artifacts, so what its result is cannot be said.
    """
    status = object_in(task, "status")
    raw = text_in(status, "state")
    word = _word(raw)
    common = _STATUSES.get(word, RunStatus.UNKNOWN)
    metadata, marks = _metadata(task)
    fields: dict[str, Json] = {key: value for key, value in task.items() if key not in _THE_LOG}
    own = fields.get("metadata")
    if isinstance(own, dict):  # some servers keep what is theirs alone under names with underscores
        fields["task_metadata"] = {key: value for key, value in own.items() if not key.startswith("_")}
    fields |= {
        "organization_id": ONLY,
        "status": raw,
        "created_at": None,
        "updated_at": rfc3339(status.get("timestamp")),
        "metadata": metadata,
    }
    if not listed and common is RunStatus.COMPLETED and (result := _result(task)):
        fields["result"] = result
    ref = RunRef(ONLY, member(task, "id", str))
    return Run(ref, common, raw, fields, marks, _REASONS.get(word), final=common.ended)


def task_sent(answer: Object) -> Run | None:
    """The task that a message began or went to; None where the agent answers with a message."""
    task = answer if answer.get("kind") == "task" else answer.get("task")
    if task is not None:
        return run_of(as_object(task))
    if answer.get("kind") == "message" or "message" in answer:
        return None
    raise errors.UpstreamError("The host's answer has neither a task nor a message.")


def log_of(task: Object) -> list[LogEntry]:
    """The whole log.

    Raises:
        Unsupported: the agent keeps no history, and the task has not ended, after which only its outcome is there.
    """
    run = run_of(task)
    history = _items(task, "history")
    if not history and run.status is RunStatus.WAITING:
        raise errors.Unsupported("This agent keeps no history of its tasks, so the gateway cannot read their logs.")
    latest, ended = _latest(task), run.status.ended
    artifacts = _items(task, "artifacts") if ended else []
    if latest is not None:
        name, names = text_in(latest, "messageId"), [_id(item, "messageId") for item in history]
        if ended and name and names[-1:] == [name]:
            history = history[:-1]  # some servers put it there at once
        elif name and name in names:
            latest = None
    entries = [_message(item) for item in history]
    if latest is not None and (history or ended):
        entries.append(_message(latest, run, alone=not artifacts))
    return [*entries, *(_artifact(item) for item in artifacts)]


def pending_of(task: Object) -> tuple[PendingRequest, ...]:
    """What a task waits for: an answer to the message of its status."""
    run = run_of(task)
    if run.reason is None:
        return ()
    asked = _latest(task) or {}
    name = text_in(asked, "messageId") or str(run.fields["updated_at"] or run.raw_status)
    shown = {key: value for key, value in asked.items() if key != "metadata"}
    return (PendingRequest(name, run.reason, _text(asked, "\n"), fields=shown),)


def place_of(task: Object) -> Object:
    """Where a message to a task goes: agents make another context for one that names the task alone."""
    return {"taskId": member(task, "id", str), "contextId": task.get("contextId")}


def step_of(entry: LogEntry) -> Step:
    """What an entry means: nothing but its role, and for the last message how the task ended, says so."""
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
    """The message of the status."""
    return object_in(object_in(task, "status"), "message") or None


def _metadata(task: Object) -> tuple[Json, Mapping[str, str] | None]:
    """The metadata and the marks of the message that began the task; unknown where the history is not told."""
    first = next(iter(_items(task, "history")), None)
    if not isinstance(first, dict):
        return None, None
    return unmarked(first.get("metadata")) if _is_user(first) else (None, {})


def _is_user(message: Object) -> bool:
    return str(message.get("role")).lower().removeprefix("role_") == "user"


def _message(item: Json, ended: Run | None = None, *, alone: bool = False) -> LogEntry:
    """A message. What is in the history has the same form as while it was that of the status, unless that is the last
    status of the task, ``ended``: its message says so, and is the answer where it is ``alone``, without artifacts.
    """
    if not isinstance(item, dict):
        return UNREADABLE
    metadata, _ = unmarked(item.get("metadata"))
    fields: dict[str, Json] = {**item, "kind": "message", "metadata": metadata}
    if ended is not None and ended.status.ended:
        fields["state"] = ended.raw_status
    user = _is_user(item)
    answers = ended is not None and ended.status is RunStatus.COMPLETED and alone and not user
    said = _text(item, "\n") if user else None
    return lasting_entry(fields, UNREADABLE, said=said, answers=answers, name=_id(item, "messageId"))


def _artifact(item: Json) -> LogEntry:
    if not isinstance(item, dict):
        return UNREADABLE
    return lasting_entry({**item, "kind": "artifact"}, UNREADABLE, answers=True, name=_id(item, "artifactId"))


def _id(item: Json, key: str) -> str | None:
    return text_in(item, key) or None if isinstance(item, dict) else None


def _result(task: Object) -> str:
    """The text of the artifacts, or of the last message where there are none."""
    if artifacts := objects_in(task, "artifacts"):
        return "\n\n".join(filter(None, (_text(item, "") for item in artifacts)))
    return _text(_latest(task) or {}, "\n")


def _text(item: Object, between: str) -> str:
    """The texts of its parts; those of an artifact are pieces of one, as it was streamed. Else the data, or what the
    files are called.
    """
    parts = objects_in(item, "parts")
    texts = [text for part in parts if (text := text_in(part, "text"))]
    return between.join(texts) if texts else "\n".join(filter(None, map(_shown, parts)))


def _shown(part: Object) -> str:
    if part.get("data") is not None:
        with suppress(ValueError):  # nested too deeply
            return to_json(part["data"]).decode()
    file = object_in(part, "file")
    named = (part.get("filename"), part.get("url"), file.get("name"), file.get("uri"))
    return next((str(name) for name in named if name), "")
