"""What the OpenAPI document shows of responses."""

from typing import Any

from pydantic import BaseModel, Field

from codegen_api.conversations import PING, TurnEntry
from codegen_api.dialects.agio.events import RunTeller
from codegen_api.dialects.agio.executions import Execution
from codegen_api.dialects.agio.streams import ending
from codegen_api.dialects.agio.wire import error_fields, metrics_fields
from codegen_api.errors import Conflict
from codegen_api.http.openapi import ANYWHERE, Answers
from codegen_api.http.web import Responses
from codegen_api.runs import LogEntry, Step, StepKind
from codegen_api.stores import Turn, TurnState

MOMENT = "2026-11-20T12:00:00.000Z"
RUN = "0b3c5f3e-6d0f-4c3c-9a53-6f2b8c3a7d11"
METRICS: dict[str, Any] = metrics_fields(12.6, 6, 11)


def _stream_example() -> str:
    turn = Turn(RUN, "s-1", 0.0, 12.6, TurnState.COMPLETED, end=1)
    looked = Step(StepKind.ACTION, None, "A look is enough.", "list_files", {"path": "."}, ["README.md"])
    teller = RunTeller(RUN, lambda _: looked)
    entry = TurnEntry(1, LogEntry(b"{}", None, open=False, amendable=False))
    told = [*teller.begin(turn.conversation, "Hello!"), *teller.take([entry]), *teller.close(turn)]
    end = ending(Execution((turn,)), teller)
    return b"".join([*(event.frame for event in told), PING, end.frame]).decode()


EVENTS = "`run_started`, `content_delta`, `tool_call_started`, `tool_call_completed`, `tool_call_failed`"
ENDS = "`run_completed`, `run_cancelled` or `error`"
EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One event. `data` is JSON.",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string"},
    },
}


class Health(BaseModel):
    """The health of the process."""

    status: str = Field(examples=["healthy"])
    version: str
    timestamp: str = Field(examples=[MOMENT])


class AgioAgent(BaseModel):
    """An agent."""

    id: str = Field(examples=["assistant"])
    name: str = Field(examples=["assistant"])
    description: str | None
    model: str = Field(description="`default`: the host's own choice.", examples=["default"])
    tools: list[str]
    enabled: bool
    tags: list[str]
    system_prompt: str | None
    created_at: str | None = Field(description="Null for those that are built in.", examples=[MOMENT])


class _OffsetPage(BaseModel):
    total: int = Field(description="How many there are in all.")
    limit: int
    offset: int


class AgentPage(_OffsetPage):
    """A page of agents."""

    items: list[AgioAgent]


class Metrics(BaseModel, json_schema_extra={"examples": [METRICS]}):
    """The metrics of a run."""

    duration: float | None = Field(description="Seconds, by the host's clock. Null in lists: only the log tells.")
    tool_calls_count: int | None = Field(description="Null in lists.")
    total_steps: int = Field(description="How many entries its log has.")
    total_tokens: int | None = Field(description="Null: the host does not say.")


class AgioRun(BaseModel):
    """A run."""

    id: str = Field(examples=[RUN])
    agent_id: str | None
    user_id: str | None
    session_id: str
    status: str = Field(description="`starting`, `running`, `paused`, `completed`, `failed` or `cancelled`.")
    input_query: str
    response_content: str | None = Field(description="What the agent has said by now. Null in lists.")
    metrics: Metrics
    error: str | None
    created_at: str = Field(examples=[MOMENT])
    updated_at: str = Field(examples=[MOMENT])


class RunPage(_OffsetPage):
    """A page of runs."""

    items: list[AgioRun]


class Answer(BaseModel):
    """The answer to a chat message."""

    run_id: str = Field(examples=[RUN])
    session_id: str
    status: str = Field(examples=["completed"])
    response: str = Field(description="All that the agent has said.")
    metrics: Metrics
    error: str | None = Field(None, description="What went wrong, if anything did.")
    code: str | None = Field(None, description="The same, for machines.", examples=["run_failed"])


class ListedEvent(BaseModel):
    """An event, as the stream has it."""

    id: str | None
    type: str = Field(examples=["content_delta"])
    timestamp: str | None = Field(examples=[MOMENT])
    data: dict[str, Any]


class Events(BaseModel):
    """A page of a run's events."""

    run_id: str
    total: int
    events: list[ListedEvent]
    limit: int
    offset: int


class Done(BaseModel):
    """The result of an order."""

    success: bool
    message: str = Field(examples=[f"Run '{RUN}' paused successfully"])
    run_id: str
    status: str


class Checkpoint(BaseModel):
    """A checkpoint: a point in a run to which one can return."""

    id: str = Field(examples=[f"{RUN}.3"])
    run_id: str
    step_num: int
    description: str | None
    tags: list[str]
    created_at: str | None = Field(examples=[MOMENT])
    message_count: int = Field(description="How many messages the run has had by then, the user's first one included.")
    total_tokens: int | None = Field(description="Null: the host does not say.")


class CheckpointPage(_OffsetPage):
    """A page of checkpoints."""

    items: list[Checkpoint]


class NamedCheckpoint(Checkpoint):
    """A new checkpoint."""

    success: bool
    message: str


class Restored(BaseModel):
    """The result of a restore or fork."""

    success: bool
    message: str
    run_id: str = Field(description="The run that goes on from there.")
    new_run_id: str | None = Field(description="The same, if it is a new one.")
    session_id: str
    checkpoint_id: str


class AgioError(BaseModel):
    """An error."""

    detail: str | list[dict[str, Any]] = Field(
        description="A sentence for people; for a request of the wrong shape a list, `type`, `loc` and `msg`."
    )
    error: str = Field(description="A sentence for people.")
    code: str = Field(description="Stable, for machines.", examples=["invalid_token"])
    status_code: int = Field(examples=[401])
    request_id: str | None = Field(examples=["5f0c0f2a2f6f4d3e9b7e"])
    details: list[Any] | None = Field(None, description="What could have been chosen.")
    retry_after: int | None = Field(None, description="Seconds.")


answers = Answers(
    AgioError, error_fields, meanings={409: (Conflict(), "The state of things is against it: `detail` says which.")}
)


def _streamed(model: Any, description: str, *errors: int) -> Responses:
    """The same, where the answer is JSON or a stream."""
    found = answers(200, model, description, *errors)
    found[200]["content"] = {"text/event-stream": {"schema": EVENT, "example": _stream_example()}}
    return found


CHAT = _streamed(
    Answer,
    f"With `stream` a stream of {EVENTS}, and at last {ENDS}; else the whole answer, before which white space comes as"
    " a sign of life.",
    402,
    409,
)
CHAT[200]["headers"] = {"Location": {"schema": {"type": "string"}, "description": "The run's path."}}
HAPPENED = _streamed(
    Events,
    "With `Accept: text/event-stream` the same stream as that of the chat, from the position on; else what has come by"
    " now.",
)
AGENTS = answers(200, AgentPage, "The agents.")
AGENT = answers(200, AgioAgent, "The agent.")
CREATED = answers(201, AgioAgent, "The agent.", 409)
UPDATED = answers(200, AgioAgent, "The agent.", 409)
DELETED = answers(204, None, "It is gone; its runs stay.", 409)
RUNS = answers(200, RunPage, "The runs.")
RUN_NOW = answers(200, AgioRun, "The run.")
STOPPED = answers(200, Done, "It is done.", 409, 501)
RESUMED = answers(200, Done, "It goes on.", 402, 409)
PLACES = answers(200, CheckpointPage, "The checkpoints.")
PLACE = answers(200, Checkpoint, "The checkpoint.")
NAMED = answers(201, NamedCheckpoint, "The checkpoint.", 409)
RESTORED = answers(200, Restored, "A run goes on from there.", 402, 409)
HEALTH: Responses = {
    200: {"model": Health, "description": "How the process is."},
    **answers.errors(*ANYWHERE),
}
