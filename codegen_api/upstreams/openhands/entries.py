"""What the agent server says, in our words: its events as log entries and steps, its conversations as runs."""

import re
from collections.abc import Iterable, Mapping, Sequence

from codegen_api import errors
from codegen_api.runs import Json, LogEntry, Run, RunStatus, Step, StepKind, WaitReason, from_json, to_json
from codegen_api.upstreams import PendingRequest
from codegen_api.upstreams.host_json import (
    Object,
    as_object,
    lasting_entry,
    member,
    object_in,
    objects_in,
    placeholder,
    run_told,
    text_in,
    uuid_in,
)

INPUT = "tool_input"
"""Where the result of a tool says what the tool was called with; the host says that only in the event before."""

_HIDDEN = ("system_prompt", "dynamic_context", "tools", "log_data")
"""Of events: how the host has set up its agent, and what it said to the model."""
_STATES = ("execution_status", "last_user_message_id", "leaf_event_id", "stats", "title")
"""Of the conversation, what a change of it may tell; others could be the agent, with its keys."""
_RESULTS = ("ObservationEvent", "UserRejectObservation")
_OWN_TOOLS = ("finish", "think")
"""Tools by which the agent only says something: that is in their calls."""
_ERRORS = {"AgentErrorEvent": "error", "ConversationErrorEvent": "detail", "ServerErrorEvent": "detail"}
_ASKED = ("id", "tool_name", "tool_call_id", "action", "security_risk", "summary")
DOUBTFUL = ("paused", "error")
"""Statuses that say how a conversation stands only together with its last events."""

_HIDDEN_SETTINGS = (
    "agent",
    "agent_state",
    "client_tools",
    "hook_config",
    "launched_agent_profile",
    "persistence_dir",
    "secret_registry",
    "tool_module_qualnames",
)
"""Of conversations: how the host has set up its agent, with its keys."""

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

UNREADABLE = placeholder(kind="gateway.unreadable")


def name_of(event: Object) -> str | None:
    return text_in(event, "id")


# -- log entries ------------------------------------------------------------------------------------------------------


def inputs_in(events: Iterable[Object]) -> dict[str, Json]:
    """What tools were called with, by the id of the event that says so."""
    calls = (event for event in events if event.get("kind") == "ActionEvent")
    return {name: event.get("action") for event in calls if (name := name_of(event)) is not None}


def call_of(event: Object) -> str | None:
    """The event of the call that this is the result of, if it is one."""
    return text_in(event, "action_id") if event.get("kind") in _RESULTS else None


def entry_of(event: Object, inputs: Mapping[str, Json]) -> LogEntry:
    if not event:
        return UNREADABLE
    shown = {key: value for key, value in event.items() if key not in _HIDDEN}
    if event.get("kind") == "ConversationStateUpdateEvent" and event.get("key") not in _STATES:
        shown.pop("value", None)
    if (call := call_of(event)) is not None:
        shown[INPUT] = inputs.get(call)
    said = message_of(event) if is_prompt(event) else None
    # without a time: the host gives that of its own zone, and does not say which that is
    return lasting_entry(shown, UNREADABLE, said=said, answers=_answer(event) is not None, name=name_of(event))


def step_of(entry: LogEntry) -> Step:
    """What an event means. Calls of tools are thoughts: the result, which follows, is the action, with its input."""
    event = as_object(from_json(entry.json))
    raw = text_in(event, "kind")
    if entry.said is not None:
        return Step(StepKind.USER, raw, entry.said)
    if (answer := _answer(event)) is not None:
        return Step(StepKind.ANSWER, raw, answer)
    if raw == "ActionEvent":
        return Step(StepKind.THOUGHT, raw, _thought(event))
    tool = text_in(event, "tool_name")
    if raw in _RESULTS and tool not in _OWN_TOOLS:
        return Step(StepKind.ACTION, raw, "", tool or "unknown", event.get(INPUT), _output(event))
    if raw in _ERRORS:
        return Step(StepKind.ERROR, raw, text_in(event, _ERRORS[raw]) or "")
    return Step(StepKind.OTHER, raw, "")


def is_prompt(event: Object) -> bool:
    return event.get("kind") == "MessageEvent" and event.get("source") == "user"


def is_standing(event: Object) -> bool:
    """Whether it says how the conversation stands from then on."""
    return event.get("kind") == "ConversationStateUpdateEvent" and event.get("key") == "execution_status"


def _answer(event: Object) -> str | None:
    """The text of an event by which the agent ends its turn: a message, or a call of the tool for that."""
    if event.get("kind") == "MessageEvent" and event.get("source") == "agent":
        return message_of(event)
    action = object_in(event, "action")
    if event.get("kind") == "ActionEvent" and action.get("kind") == "FinishAction":
        return text_in(action, "message") or ""
    return None


def _thought(event: Object) -> str:
    """What the agent says with a call, or what it thinks by one, or else its reasoning."""
    action = object_in(event, "action")
    own = text_in(action, "thought") if action.get("kind") == "ThinkAction" else None
    return _text_in(event, "thought") or own or text_in(event, "reasoning_content") or ""


def _output(event: Object) -> Json:
    """What a tool said: its text, if that is all."""
    if event.get("kind") == "UserRejectObservation":
        return event.get("rejection_reason")
    observation = object_in(event, "observation")
    content = observation.get("content")
    if not isinstance(content, list) or not content:
        return event.get("observation")
    texts = [part for part in objects_in(observation, "content") if text_in(part, "text") is not None]
    return _text_in(observation, "content") if len(texts) == len(content) else content


def message_of(event: Object) -> str:
    return _text_in(object_in(event, "llm_message"), "content")


def _text_in(event: Object, key: str) -> str:
    texts = (text_in(part, "text") for part in objects_in(event, key))
    return "\n".join(text for text in texts if text is not None)


# -- what is waited for -----------------------------------------------------------------------------------------------


def pending_in(newest: Sequence[Object]) -> tuple[PendingRequest, ...]:
    """What a conversation waits for, by its last events, newest first: one decision on all calls without result.

    Raises:
        UpstreamError: one of the events cannot be read: nobody may approve a call that is not shown.
    """
    if not all(newest):
        raise errors.UpstreamError("The host has an event that cannot be read, so what it waits for is not known.")
    done = {event.get(key) for event in newest for key in ("action_id", "tool_call_id") if not _is_call(event)} - {None}
    calls = [event for event in newest if _is_call(event) and not {event.get("id"), event.get("tool_call_id")} & done]
    calls.reverse()
    if not calls:
        return ()
    wanted = (text_in(event, "summary") or text_in(event, "tool_name") or "something" for event in calls)
    alone = len(calls) == 1
    return (
        PendingRequest(
            member(calls[0], "id", str),
            WaitReason.APPROVAL,
            "\n".join(wanted),
            text_in(calls[0], "tool_name") if alone else None,
            calls[0].get("action") if alone else None,
            fields={"actions": [{key: event.get(key) for key in _ASKED} for event in calls]},
        ),
    )


def _is_call(event: Object) -> bool:
    return event.get("kind") == "ActionEvent" and event.get("action") is not None


# -- conversations -----------------------------------------------------------------------------------------------------


def tags_of(metadata: Mapping[str, Json] | None) -> dict[str, str]:
    """Tags that keep metadata, with the marks in it: pieces of its JSON, since the host takes short texts only. Raises
    ``Rejected`` for what is nested too deeply.
    """
    try:
        text = "" if metadata is None else to_json(metadata).decode()
    except ValueError as error:
        raise errors.rejected("Nested too deeply.", "recursion_loop", "body", "metadata") from error
    pieces = [text[start : start + _LENGTH] for start in range(0, len(text), _LENGTH)]
    return {f"codegengateway{index}": piece for index, piece in enumerate(pieces)}


def _kept(tags: Object) -> tuple[Object, Json]:
    """The tags of others, and the metadata that is kept in ours."""
    ours = {int(found[1]): text for key, text in tags.items() if (found := _TAG.fullmatch(key))}
    others = {key: text for key, text in tags.items() if not _TAG.fullmatch(key)}
    try:
        return others, from_json("".join(str(ours[index]) for index in sorted(ours)).encode()) if ours else None
    except ValueError:
        return others, None


def run_of(answer: Json, newest: Sequence[Object] = (), result: str | None = None) -> Run:
    """A conversation; ``newest`` are its last events, the newest first, where they were looked for."""
    conversation = as_object(answer)
    others, metadata = _kept(object_in(conversation, "tags"))
    status = status_of(conversation, newest)
    told: dict[str, Json] = {key: value for key, value in conversation.items() if key not in _HIDDEN_SETTINGS}
    told |= {"stats": _without_lists(conversation.get("stats")), "tags": others, "metadata": metadata}
    reason = WaitReason.APPROVAL if status is RunStatus.WAITING else None
    return run_told(uuid_in(conversation, "id"), told, status, reason, result)


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
