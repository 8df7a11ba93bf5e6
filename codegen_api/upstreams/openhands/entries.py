"""Translates the agent server's events to log entries and steps, and its conversations to runs."""

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
"""The key in a tool's result for its input, which the host has only in the event of the call."""

_HIDDEN = ("system_prompt", "dynamic_context", "tools", "log_data")
"""Fields of events that are not shown: the setup of the agent, and what it sent to the model."""
_STATES = ("execution_status", "last_user_message_id", "leaf_event_id", "stats", "title")
"""Keys of state changes whose values are shown; others could contain the agent with its keys."""
_RESULTS = ("ObservationEvent", "UserRejectObservation")
_OWN_TOOLS = ("finish", "think")
"""Tools with which the agent only says something; their calls contain it."""
_ERRORS = {"AgentErrorEvent": "error", "ConversationErrorEvent": "detail", "ServerErrorEvent": "detail"}
_ASKED = ("id", "tool_name", "tool_call_id", "action", "security_risk", "summary")
AMBIGUOUS = ("paused", "error")
"""The host's words whose meaning depends on the last events."""

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
"""Fields of conversations that are not shown: the setup of the agent, with its keys."""

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
"""Maximum characters of a tag at the host."""

UNREADABLE = placeholder(kind="gateway.unreadable")


def id_of(event: Object) -> str | None:
    return text_in(event, "id")


# -- log entries ------------------------------------------------------------------------------------------------------


def inputs_in(events: Iterable[Object]) -> dict[str, Json]:
    """The inputs of tool calls, by the id of the event of the call."""
    calls = (event for event in events if event.get("kind") == "ActionEvent")
    return {event_id: event.get("action") for event in calls if (event_id := id_of(event)) is not None}


def call_of(event: Object) -> str | None:
    """The id of the event of the call of which this is the result, if it is one."""
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
    # without a time: the host gives local times without their zone
    return lasting_entry(shown, UNREADABLE, said=said, answers=_answer(event) is not None, entry_id=id_of(event))


def step_of(entry: LogEntry) -> Step:
    """What an event means. A tool call is a thought: its result, which follows, is the action, with the input."""
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


def is_status_change(event: Object) -> bool:
    """Whether the event changes the status of the conversation."""
    return event.get("kind") == "ConversationStateUpdateEvent" and event.get("key") == "execution_status"


def _answer(event: Object) -> str | None:
    """The text of an event with which the agent ends its turn: a message, or a call of the tool ``finish``."""
    if event.get("kind") == "MessageEvent" and event.get("source") == "agent":
        return message_of(event)
    action = object_in(event, "action")
    if event.get("kind") == "ActionEvent" and action.get("kind") == "FinishAction":
        return text_in(action, "message") or ""
    return None


def _thought(event: Object) -> str:
    """What the agent says with a tool call, else the thought in a call of ``think``, else its reasoning."""
    action = object_in(event, "action")
    own = text_in(action, "thought") if action.get("kind") == "ThinkAction" else None
    return _text_in(event, "thought") or own or text_in(event, "reasoning_content") or ""


def _output(event: Object) -> Json:
    """The output of a tool: its text, if it has nothing else."""
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


# -- pending requests -------------------------------------------------------------------------------------------------


def pending_in(newest: Sequence[Object]) -> tuple[PendingRequest, ...]:
    """The pending request in the last events, newest first: one decision on all calls without a result.

    Raises:
        UpstreamError: an event cannot be read. It may be a call, which nobody should approve unseen.
    """
    if not all(newest):
        raise errors.UpstreamError("The host has an event that cannot be read, so what it waits for is not known.")
    done = {event.get(key) for event in newest for key in ("action_id", "tool_call_id") if not _is_call(event)} - {None}
    calls = [event for event in newest if _is_call(event) and not {event.get("id"), event.get("tool_call_id")} & done]
    calls.reverse()
    if not calls:
        return ()
    texts = (text_in(event, "summary") or text_in(event, "tool_name") or "something" for event in calls)
    alone = len(calls) == 1
    return (
        PendingRequest(
            member(calls[0], "id", str),
            WaitReason.APPROVAL,
            "\n".join(texts),
            text_in(calls[0], "tool_name") if alone else None,
            calls[0].get("action") if alone else None,
            fields={"actions": [{key: event.get(key) for key in _ASKED} for event in calls]},
        ),
    )


def _is_call(event: Object) -> bool:
    return event.get("kind") == "ActionEvent" and event.get("action") is not None


# -- conversations -----------------------------------------------------------------------------------------------------


def tags_of(metadata: Mapping[str, Json] | None) -> dict[str, str]:
    """Tags that store metadata with its marks: pieces of its JSON, since tags are short. Raises ``Rejected`` if it is
    nested too deeply.
    """
    try:
        text = "" if metadata is None else to_json(metadata).decode()
    except ValueError as error:
        raise errors.rejected("Nested too deeply.", "recursion_loop", "body", "metadata") from error
    pieces = [text[start : start + _LENGTH] for start in range(0, len(text), _LENGTH)]
    return {f"codegengateway{index}": piece for index, piece in enumerate(pieces)}


def _split_tags(tags: Object) -> tuple[Object, Json]:
    """The tags of others, and the metadata stored in ours."""
    ours = {int(found[1]): text for key, text in tags.items() if (found := _TAG.fullmatch(key))}
    others = {key: text for key, text in tags.items() if not _TAG.fullmatch(key)}
    try:
        return others, from_json("".join(str(ours[index]) for index in sorted(ours)).encode()) if ours else None
    except ValueError:
        return others, None


def run_of(answer: Json, newest: Sequence[Object] = (), result: str | None = None) -> Run:
    """A conversation as a run; ``newest`` are its last events, newest first, if they were looked up."""
    conversation = as_object(answer)
    others, metadata = _split_tags(object_in(conversation, "tags"))
    status = status_of(conversation, newest)
    fields: dict[str, Json] = {key: value for key, value in conversation.items() if key not in _HIDDEN_SETTINGS}
    fields |= {"stats": _without_lists(conversation.get("stats")), "tags": others, "metadata": metadata}
    reason = WaitReason.APPROVAL if status is RunStatus.WAITING else None
    return run_told(uuid_in(conversation, "id"), fields, status, reason, result)


def word_of(conversation: Object) -> str:
    return member(conversation, "execution_status", str)


def status_of(conversation: Object, newest: Sequence[Object]) -> RunStatus:
    """The status of a conversation, by the host's word and the last events.

    After a prompt, the word still says how an earlier turn stopped or failed, until the agent begins. ``paused`` means
    that the conversation was interrupted, or told to pause after the current step; if it was not ``running`` before,
    no agent was working on it.
    """
    word = word_of(conversation)
    status = _STATUSES.get(word, RunStatus.UNKNOWN)
    if word not in AMBIGUOUS:
        return status
    if unanswered_prompt(newest) is not None:
        return RunStatus.PENDING
    words = [event.get("value") for event in newest if is_status_change(event)]
    for event in newest:
        if event.get("kind") == "InterruptEvent":
            return RunStatus.CANCELLED
        if event.get("kind") == "PauseEvent":
            return RunStatus.PAUSED if words[1:2] == ["running"] else RunStatus.CANCELLED
        if is_status_change(event):
            break
    return status


def unanswered_prompt(newest: Sequence[Object]) -> str | None:
    """The last prompt, if the agent has not begun with it."""
    for event in newest:
        if is_prompt(event):
            return message_of(event)
        if is_status_change(event) or event.get("kind") in ("InterruptEvent", "PauseEvent"):
            break
    return None


def _without_lists(stats: Json) -> Json:
    """Usage statistics without their lists, which grow with every call of a model."""
    if not isinstance(stats, dict):
        return stats
    return {
        key: [] if isinstance(value, list) else _without_lists(value) if isinstance(value, dict) else value
        for key, value in stats.items()
    }
