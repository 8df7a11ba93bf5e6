"""Response models and descriptions for the OpenAPI document."""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from codegen_api.conversations import RenderCache, TurnEntry
from codegen_api.dialects.everruns.events import SessionTeller
from codegen_api.dialects.everruns.families import Family, Spot, event_hex
from codegen_api.dialects.everruns.messages import EventSpot
from codegen_api.dialects.everruns.rendering import FrameRenderer
from codegen_api.dialects.everruns.streams import CONNECTED
from codegen_api.dialects.everruns.wire import PROBLEM, error_fields
from codegen_api.errors import ConversationBusy
from codegen_api.http.openapi import Answers
from codegen_api.http.web import Responses
from codegen_api.runs import LogEntry, Step, StepKind
from codegen_api.stores import Turn, TurnState

T = TypeVar("T")

COMPONENTS = "#/components/schemas/"
TIME = "2026-11-20T12:00:00.000000Z"
EVENT_STREAM = "text/event-stream"

_TURN = Turn(
    "0190a5b0-c0de-7000-8000-00000000beef",
    "0190a5b0-c0de-7000-8000-00000000cafe",
    1795176000.0,
    1795176012.6,
    TurnState.COMPLETED,
    number=1,
    messages=[{"id": "0190a5b0-c0de-7000-8000-00000000f00d", "content": [{"type": "text", "text": "What is 2 + 2?"}]}],
    end=1,
)


class _Told(BaseModel):
    """Fields that are null are left out."""

    model_config = ConfigDict(extra="allow")


class _Linked(_Told):
    self_url: str = Field(description="Where it is to be found.", examples=["http://127.0.0.1:8000/v1/..."])
    view_url: str = Field(description="The same: there are no pages.")
    ui_link: str = Field(description="The same.")


class EverrunsAgent(_Linked):
    """An agent."""

    id: str = Field(examples=["agent_0190a5b0c0de7000800000000000cafe"])
    name: str
    display_name: str | None = None
    description: str | None = None
    system_prompt: str
    default_model_id: str | None = None
    tags: list[str]
    status: str = Field(pattern="^(active|archived)$")
    harness_id: str = Field(description="The same for all: the host has one agent at work.")
    capabilities: list[Any]
    created_at: str = Field(examples=[TIME])
    updated_at: str = Field(examples=[TIME])
    archived_at: str | None = None
    session_count: int = Field(description="How many sessions there are with it.")
    app_count: int = Field(description="0: there are no apps.")


class _Listed(BaseModel):
    total: int


class _Paged(_Listed):
    offset: int
    limit: int


class _Both(BaseModel, Generic[T]):
    data: list[T]
    items: list[T]


class EverrunsAgents(_Both[EverrunsAgent], _Paged):
    """A list of agents, under both of its names."""


class _Session(_Told):
    id: str
    agent_id: str | None = None
    title: str | None = None
    tags: list[str]
    model_id: str | None = None
    created_at: str = Field(examples=[TIME])
    updated_at: str = Field(examples=[TIME])
    started_at: str | None = None
    finished_at: str | None = None


class SessionBelow(_Session):
    """A session, as the older clients expect it."""

    id: str = Field(examples=["0190a5b0-c0de-7000-8000-00000000cafe"])
    status: str = Field(pattern="^(pending|running|failed)$")


class EverrunsSession(_Session, _Linked):
    """A session."""

    id: str = Field(examples=["session_0190a5b0c0de7000800000000000cafe"])
    status: str = Field(pattern="^(started|active|idle)$")
    organization_id: str
    owner_principal_id: str = Field(description="Stands for the caller, whatever token they use.")
    workspace_id: str = Field(description="The session's id once more: it shares its place with no other.")
    harness_id: str
    capabilities: list[Any]
    features: list[Any]


class SessionsBelow(_Both[SessionBelow], _Paged):
    """A list of sessions, under both of its names."""


class EverrunsSessions(_Both[EverrunsSession], _Paged):
    """A list of sessions, under both of its names."""

    next_page_token: str | None = Field(None, description="For `page_token`, where there are more.", examples=["100"])


class EverrunsMessage(_Told):
    """A message of the user, the agent or a tool."""

    id: str
    session_id: str
    sequence: int
    role: str = Field(pattern="^(user|agent|assistant|tool_result)$")
    content: list[dict[str, Any]]
    created_at: str = Field(examples=[TIME])
    controls: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class EverrunsMessages(_Both[EverrunsMessage], _Listed):
    """A list of messages, under both of its names."""


class EverrunsEvent(_Told):
    """An event of a session."""

    id: str = Field(examples=[f"event_{event_hex(_TURN.conversation, Spot(1, 1, EventSpot.MESSAGE))}"])
    type: str = Field(examples=["output.message.completed"])
    ts: str = Field(examples=[TIME])
    session_id: str
    sequence: int
    context: dict[str, Any]
    data: dict[str, Any]


class EverrunsEvents(_Both[EverrunsEvent], _Listed):
    """A page of events, under both of its names."""


class EventBelow(_Told):
    """An event, as the older clients expect it."""

    id: str
    session_id: str
    sequence: int
    event_type: str = Field(pattern="^message[.](user|assistant|tool_result)$")
    data: dict[str, Any]
    created_at: str = Field(examples=[TIME])


class EventsBelow(_Both[EventBelow], _Listed):
    """A list of events, under both of its names."""


class Cancelled(BaseModel):
    """The result of a cancellation."""

    status: str = Field(pattern="^(cancelled|no_op)$")
    message: str


class Coded(BaseModel):
    """An error for clients that look for it in `error`."""

    code: str = Field(description="Stable, for machines.", examples=["not_found"])
    message: str


class EverrunsProblem(_Told):
    """An error, for both generations of clients."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="A sentence for people.")
    code: str = Field(description="Stable, for machines.", examples=["not_found"])
    error: Coded
    status_code: int = Field(description="The same as `status`.", examples=[404])
    request_id: str | None = Field(examples=["5f0c0f2a2f6f4d3e9b7e"])
    details: list[Any] | None = Field(None, description="Where a request was wrong, or what it could choose from.")
    retry_after_seconds: int | None = None


EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One event. `data` is JSON.",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}


def _stream_example(family: Family) -> str:
    """The stream of a turn in which the agent answers at once."""
    teller = SessionTeller(_TURN, FrameRenderer(family, lambda _: Step(StepKind.ANSWER, None, "4."), RenderCache(0)))
    entry = TurnEntry(1, LogEntry(b"{}", None, open=False, amendable=False))
    events = [*teller.begin(), *teller.take([entry]), *teller.over(_TURN)]
    return b"".join([CONNECTED, *(event.frame for event in events)]).decode()


answers = Answers(
    EverrunsProblem,
    error_fields,
    meanings={409: (ConversationBusy(), "A turn of the session is under way, or others are changing the same.")},
    media_type=PROBLEM,
)


def _made(model: type[BaseModel], description: str, *errors: int) -> Responses:
    """The same for a request with an ``Idempotency-Key``."""
    found = answers(201, model, description, *errors)
    sentence = "`true` where a repeat is answered as the first time."
    found[201]["headers"] = {"Idempotent-Replayed": {"schema": {"type": "string"}, "description": sentence}}
    return found


def streamed(family: Family, description: str, model: type[BaseModel] | None = None) -> Responses:
    """The same for live events; with a ``model``, for a list of them where no stream is asked for."""
    found = answers(200, model, description)
    found[200]["content"] = {EVENT_STREAM: {"schema": EVENT, "example": _stream_example(family)}}
    return found


AGENT = answers(200, EverrunsAgent, "The agent.")
AGENT_CHANGED = answers(200, EverrunsAgent, "The agent.", 409)
AGENT_PUT: Responses = {
    **answers(201, EverrunsAgent, "The agent.", 409),
    200: {"model": EverrunsAgent, "description": "The agent that there was, changed."},
}
AGENTS = answers(200, EverrunsAgents, "The agents that are not archived, newest first.")
ARCHIVED = answers(204, None, "It is archived.", 409)
SESSION_MADE = _made(EverrunsSession, "The session.", 409)
SESSION_MADE_BELOW = _made(SessionBelow, "The session.", 409)
SESSIONS = answers(200, EverrunsSessions, "The sessions, newest first.")
SESSIONS_BELOW = answers(200, SessionsBelow, "The sessions, newest first.")
GONE = answers(204, None, "It is gone.", 409)
SAID = _made(EverrunsMessage, "What was said.", 402, 409)
MESSAGES = answers(200, EverrunsMessages, "What was said by now, oldest first.")
EXPORTED: Responses = {
    **answers(200, None, ""),
    200: {"description": "The messages, each on a line.", "content": {"application/x-ndjson": {}}},
}
STOPPED = answers(200, Cancelled, "What came of it.", 409, 501)
EVENTS_BELOW = answers(200, EventsBelow, "What was said by now, as events.")


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the model of errors to the components of the OpenAPI document, where no route puts it."""
    shape = EverrunsProblem.model_json_schema(ref_template=f"{COMPONENTS}{{model}}")
    document["components"]["schemas"] |= {**shape.pop("$defs"), EverrunsProblem.__name__: shape}
    return document
