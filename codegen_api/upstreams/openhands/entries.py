"""What the agent server's events say, in our words: log entries, steps, what is waited for."""

from collections.abc import Iterable, Mapping, Sequence

from codegen_api.runs import Json, LogEntry, Step, StepKind, WaitReason, from_json, to_json
from codegen_api.upstreams import PendingRequest
from codegen_api.upstreams.over_http import Object, as_object, member

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


def name_of(event: Object) -> str:
    return member(event, "id", str)


# -- log entries ------------------------------------------------------------------------------------------------------


def inputs_in(events: Iterable[Object]) -> dict[str, Json]:
    """What tools were called with, by the id of the event that says so."""
    return {name_of(event): event.get("action") for event in events if event.get("kind") == "ActionEvent"}


def call_of(event: Object) -> str | None:
    """The event of the call that this is the result of, if it is one."""
    call = event.get("action_id")
    return call if event.get("kind") in _RESULTS and isinstance(call, str) else None


def entry_of(event: Object, inputs: Mapping[str, Json]) -> LogEntry:
    shown = {key: value for key, value in event.items() if key not in _HIDDEN}
    if event.get("kind") == "ConversationStateUpdateEvent" and event.get("key") not in _STATES:
        shown.pop("value", None)
    if (call := call_of(event)) is not None:
        shown[INPUT] = inputs.get(call)
    try:
        encoded = to_json(shown)
    except ValueError:
        return placeholder()
    return LogEntry(
        encoded,
        None,  # the host gives the time of its own zone, and does not say which that is
        open=False,
        amendable=False,
        said=message_of(event) if is_prompt(event) else None,
        answers=_answer(event) is not None,
        id=name_of(event),
    )


def placeholder() -> LogEntry:
    """An entry in the place of one that cannot be had."""
    unreadable = {"kind": "gateway.unreadable"}
    return LogEntry(to_json(unreadable), None, open=False, amendable=True, absent=True)


def step_of(entry: LogEntry) -> Step:
    """What an event means. Calls of tools are thoughts: the result, which follows, is the action, with its input."""
    event = as_object(from_json(entry.json))
    kind = event.get("kind")
    raw = kind if isinstance(kind, str) else None
    if entry.said is not None:
        return Step(StepKind.USER, raw, entry.said)
    if (answer := _answer(event)) is not None:
        return Step(StepKind.ANSWER, raw, answer)
    if kind == "ActionEvent":
        return Step(StepKind.THOUGHT, raw, _thought(event))
    if kind in _RESULTS and event.get("tool_name") not in _OWN_TOOLS:
        tool = event.get("tool_name")
        name = tool if isinstance(tool, str) and tool else "unknown"
        return Step(StepKind.ACTION, raw, "", name, event.get(INPUT), _output(event))
    if raw in _ERRORS:
        said = event.get(_ERRORS[raw])
        return Step(StepKind.ERROR, raw, said if isinstance(said, str) else "")
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
    action = event.get("action")
    if event.get("kind") == "ActionEvent" and isinstance(action, dict) and action.get("kind") == "FinishAction":
        said = action.get("message")
        return said if isinstance(said, str) else ""
    return None


def _thought(event: Object) -> str:
    """What the agent says with a call, or what it thinks by one, or else its reasoning."""
    action, reasoning = event.get("action"), event.get("reasoning_content")
    own = action.get("thought") if isinstance(action, dict) and action.get("kind") == "ThinkAction" else None
    said = (_text(event.get("thought")), own, reasoning)
    return next((text for text in said if isinstance(text, str) and text), "")


def _output(event: Object) -> Json:
    """What a tool said: its text, if that is all."""
    if event.get("kind") == "UserRejectObservation":
        return event.get("rejection_reason")
    observation = event.get("observation")
    content = observation.get("content") if isinstance(observation, dict) else None
    if not isinstance(content, list) or not content:
        return observation
    texts = [part for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return _text(content) if len(texts) == len(content) else content


def message_of(event: Object) -> str:
    message = event.get("llm_message")
    return _text(message.get("content")) if isinstance(message, dict) else ""


def _text(content: Json) -> str:
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


# -- what is waited for -----------------------------------------------------------------------------------------------


def pending_in(newest: Sequence[Object]) -> tuple[PendingRequest, ...]:
    """What a conversation waits for, by its last events, newest first: one decision on all calls without result."""
    done = {event.get(key) for event in newest for key in ("action_id", "tool_call_id") if not _is_call(event)} - {None}
    calls = [event for event in newest if _is_call(event) and not {event.get("id"), event.get("tool_call_id")} & done]
    calls.reverse()
    if not calls:
        return ()
    text = "\n".join(_wanted(event) for event in calls)
    tool, alone = calls[0].get("tool_name"), len(calls) == 1
    return (
        PendingRequest(
            name_of(calls[0]),
            WaitReason.APPROVAL,
            text,
            tool if alone and isinstance(tool, str) else None,
            calls[0].get("action") if alone else None,
            fields={"actions": [{key: event.get(key) for key in _ASKED} for event in calls]},
        ),
    )


def _is_call(event: Object) -> bool:
    return event.get("kind") == "ActionEvent" and event.get("action") is not None


def _wanted(event: Object) -> str:
    said = (event.get("summary"), event.get("tool_name"))
    return next((text for text in said if isinstance(text, str) and text), "something")
