"""Conversations as runs: the words for how they stand, and what is kept in their tags."""

import re
import uuid
from collections.abc import Mapping, Sequence

from codegen_api.runs import Json, Run, RunRef, RunStatus, WaitReason, from_json, to_json
from codegen_api.upstreams.openhands.entries import is_prompt, is_standing, message_of
from codegen_api.upstreams.over_http import ONLY, Object, member, rfc3339, unmarked

DOUBTFUL = ("paused", "error")
"""Statuses that say how a conversation stands only together with its last events."""

_HIDDEN = (
    "agent",
    "agent_state",
    "client_tools",
    "hook_config",
    "launched_agent_profile",
    "persistence_dir",
    "secret_registry",
    "tool_module_qualnames",
)
"""Of a conversation: how the host has set up its agent, with its keys."""

_STATUSES = {
    "idle": RunStatus.PENDING,
    "running": RunStatus.RUNNING,
    "waiting_for_confirmation": RunStatus.WAITING,
    "paused": RunStatus.PAUSED,
    "finished": RunStatus.COMPLETED,
    "error": RunStatus.FAILED,
    "stuck": RunStatus.FAILED,
}

_TAG = re.compile(r"codegengateway([0-9]+)")
_LENGTH = 256
"""Characters of a tag, by the host's own limit."""


def tags_of(metadata: Mapping[str, Json] | None) -> dict[str, str]:
    """Tags that keep metadata, with the marks in it: pieces of its JSON, since the host takes short texts only.

    Raises:
        ValueError: it is nested too deeply.
    """
    text = "" if metadata is None else to_json(metadata).decode()
    pieces = [text[start : start + _LENGTH] for start in range(0, len(text), _LENGTH)]
    return {f"codegengateway{index}": piece for index, piece in enumerate(pieces)}


def _kept(tags: Json) -> tuple[Object, Json]:
    """The tags of others, and the metadata that is kept in ours."""
    tags = tags if isinstance(tags, dict) else {}
    ours = {int(found[1]): text for key, text in tags.items() if (found := _TAG.fullmatch(key))}
    others = {key: text for key, text in tags.items() if not _TAG.fullmatch(key)}
    try:
        return others, from_json("".join(str(ours[index]) for index in sorted(ours)).encode()) if ours else None
    except ValueError:
        return others, None


def run_of(conversation: Object, newest: Sequence[Object] | None = None, result: str | None = None) -> Run:
    """A conversation; ``newest`` are its last events, the newest first, where they were looked for. The status is
    ours, because the host's does not tell all of them apart.
    """
    name = run_name(member(conversation, "id", str))
    others, metadata = _kept(conversation.get("tags"))
    metadata, marks = unmarked(metadata)
    status = status_of(conversation, newest or ())
    fields: dict[str, Json] = {key: value for key, value in conversation.items() if key not in _HIDDEN}
    fields |= {key: rfc3339(value) for key, value in conversation.items() if key.endswith("_at")}
    fields |= {"stats": _without_lists(conversation.get("stats")), "tags": others, "metadata": metadata}
    fields |= {"id": name, "organization_id": ONLY, "status": status.value, "result": result}
    reason = WaitReason.APPROVAL if status is RunStatus.WAITING else None
    return Run(RunRef(ONLY, name), status, status.value, fields, marks, reason)


def resumed_run(ref: RunRef) -> Run:
    """A run that has just been told to go on, as far as that says."""
    status = RunStatus.PENDING
    fields: Object = {"id": ref.id, "organization_id": ONLY, "status": status.value, "result": None}
    return Run(ref, status, status.value, fields)


def run_name(text: str) -> str:
    """A conversation's id in its one form. Raises ``ValueError`` for what is none."""
    return str(uuid.UUID(text))


def word_of(conversation: Object) -> str:
    return member(conversation, "execution_status", str)


def status_of(conversation: Object, newest: Sequence[Object]) -> RunStatus:
    """How a conversation stands, by the host's word and by what has happened last.

    A prompt leaves the words of an earlier stop or failure as they are until the agent begins with it. One that was
    interrupted is ``paused``, and so is one that somebody has told to rest after its present step: nobody was at work
    in it if it was not ``running`` before.
    """
    word = word_of(conversation)
    status = _STATUSES.get(word, RunStatus.UNKNOWN)
    if word not in DOUBTFUL:
        return status
    if unbegun(newest) is not None:
        return RunStatus.PENDING
    words = [event.get("value") for event in newest if is_standing(event)]
    for event in newest:
        if event.get("kind") == "InterruptEvent":
            return RunStatus.CANCELLED
        if event.get("kind") == "PauseEvent":
            return RunStatus.PAUSED if words[1:2] == ["running"] else RunStatus.CANCELLED
        if is_standing(event):
            break
    return status


def unbegun(newest: Sequence[Object]) -> str | None:
    """The last prompt, if nothing has come of it yet."""
    for event in newest:
        if is_prompt(event):
            return message_of(event)
        if is_standing(event) or event.get("kind") in ("InterruptEvent", "PauseEvent"):
            break
    return None


def _without_lists(stats: Json) -> Json:
    """What was used, without the lists of every call of a model, which grow."""
    if not isinstance(stats, dict):
        return stats
    return {
        key: [] if isinstance(value, list) else _without_lists(value) if isinstance(value, dict) else value
        for key, value in stats.items()
    }
