"""Response models and descriptions for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from codegen_api.dialects.agent_protocol.wire import error_fields
from codegen_api.errors import AlreadyExists, Unsupported
from codegen_api.http.openapi import ANYWHERE, Answers
from codegen_api.http.web import Responses

TIME = "2026-11-20T12:00:00.000000Z"


class _Selected(BaseModel):
    """Clients select fields, so any may be missing."""

    model_config = ConfigDict(extra="allow")


class Assistant(_Selected):
    """An agent."""

    assistant_id: str = ""
    graph_id: str = "agent"
    name: str = ""
    description: str | None = None
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    version: int = Field(1, description="Counts the changes. Only the latest version is kept.")
    created_at: str = Field("", examples=[TIME])
    updated_at: str = Field("", examples=[TIME])


class Assistants(BaseModel):
    """A list of assistants."""

    assistants: list[Assistant]
    total: int


class Schemas(BaseModel):
    """The input and output of a graph, as JSON Schema."""

    graph_id: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    state_schema: dict[str, Any]
    config_schema: dict[str, Any]
    context_schema: dict[str, Any]


class ProtocolAgent(BaseModel):
    """An assistant, as the published protocol has it."""

    agent_id: str
    name: str
    description: str
    metadata: dict[str, Any]
    capabilities: dict[str, bool] = Field(examples=[{"ap.io.messages": True}])


class AgentSchemas(BaseModel):
    """The input and output of an agent, as JSON Schema."""

    agent_id: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    state_schema: dict[str, Any]
    config_schema: dict[str, Any]
    context_schema: dict[str, Any]


class Graph(BaseModel):
    """A graph: its nodes and edges."""

    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


class Thread(_Selected):
    """A conversation."""

    thread_id: str = ""
    created_at: str = Field("", examples=[TIME])
    updated_at: str = Field("", examples=[TIME])
    metadata: dict[str, Any] = {}
    status: str = Field("idle", pattern="^(idle|busy|interrupted|error)$")
    values: dict[str, Any] | None = Field(
        None,
        description="What was said, `{messages: [...]}`. In lists, only what the user said first and last.",
    )
    interrupts: dict[str, list[Any]] = {}


class State(BaseModel):
    """The state of a thread at a checkpoint."""

    values: dict[str, Any] = Field(description="What was said, `{messages: [...]}`.")
    next: list[str] = Field(description="What comes next; nothing when the thread waits for its user.")
    tasks: list[dict[str, Any]]
    interrupts: list[dict[str, Any]]
    metadata: dict[str, Any]
    created_at: str | None = Field(examples=["2026-11-20T12:00:00.000Z"])
    checkpoint: dict[str, Any] | None
    parent_checkpoint: dict[str, Any] | None
    checkpoint_id: str | None
    parent_checkpoint_id: str | None


class ThreadRun(BaseModel):
    """A run of a thread."""

    run_id: str
    thread_id: str
    assistant_id: str | None
    agent_id: str | None = Field(description="The same, as the published protocol calls it.")
    status: str = Field(
        description="`pending`, `running`, `success`, `error` or `interrupted`; where the deployment says so, the words"
        " of older documents: `completed`, `failed` and `cancelled`."
    )
    created_at: str = Field(examples=[TIME])
    updated_at: str = Field(examples=[TIME])
    metadata: dict[str, Any]
    multitask_strategy: str
    input: dict[str, Any]
    output: dict[str, Any] | None = Field(description="The state at its end; told of single runs only.")
    error_message: str | None
    config: dict[str, Any]
    context: dict[str, Any]
    given: dict[str, Any] = Field(
        serialization_alias="kwargs", description="`input`, `config` and `context` once more, where some look for them."
    )


class Pruned(BaseModel):
    """How many threads were deleted."""

    pruned_count: int


class StoreItem(BaseModel):
    """A value under a key in a namespace."""

    namespace: list[str]
    key: str
    value: dict[str, Any]
    created_at: str = Field(examples=[TIME])
    updated_at: str = Field(examples=[TIME])


class FoundItem(StoreItem):
    """An item found by a search, with its score."""

    score: float | None = Field(None, description="From -1 to 1, the nearest; only where it was found by meaning.")


class StoreItems(BaseModel):
    """A list of items."""

    items: list[FoundItem]
    searched_by: Literal["meaning", "words"] | None = Field(None, description="How, where there was a `query`.")


class Namespaces(BaseModel):
    """A list of namespaces."""

    namespaces: list[list[str]]


class Info(BaseModel):
    """The server's version and capabilities."""

    name: str
    version: str
    description: str
    status: str = Field(examples=["running"])
    langgraph_py_version: str = Field(description="Whose messages and events these are.")
    flags: dict[str, bool]
    metadata: dict[str, Any]


class Ok(BaseModel):
    """Yes."""

    ok: bool


class AgentProtocolError(BaseModel):
    """An error."""

    error: str = Field(description="What kind of error it is.", examples=["unauthorized"])
    message: str = Field(description="A sentence for people.")
    detail: str = Field(description="The same, for clients that look for it here.")
    details: list[Any] | None = Field(description="Where a request was wrong, or what it could choose from.")
    code: str = Field(description="Stable, for machines.", examples=["invalid_token"])
    status_code: int = Field(examples=[401])
    request_id: str | None = Field(examples=["5f0c0f2a2f6f4d3e9b7e"])
    retry_after: int | None = Field(None, description="Seconds.")


answers = Answers(
    AgentProtocolError,
    error_fields,
    meanings={
        409: (AlreadyExists(), "The id is taken, or a run is under way that is in the way."),
        501: (Unsupported(), "Neither the host nor the gateway does this."),
    },
)


def _with_headers(described: Responses, headers: dict[str, Any]) -> Responses:
    described[200]["headers"] = headers
    return described


def _streamed(description: str, media_type: str, schema: dict[str, Any], *errors: int) -> Responses:
    """The same for a response that is streamed."""
    described = answers(200, None, description, *errors)
    described[200] = {"description": description, "content": {media_type: {"schema": schema}}}
    return described


def _events(*errors: int) -> Responses:
    return _with_headers(_streamed("The events.", "text/event-stream", _EVENT, *errors), _LOCATIONS)


PUBLIC_ERRORS = answers.errors(*ANYWHERE)
UNREADABLE = answers.errors(422)

_PAGING = {
    "X-Pagination-Next": {
        "schema": {"type": "string"},
        "description": "The offset of what follows, if there is more.",
    },
    "X-Pagination-Total": {"schema": {"type": "string"}, "description": "How many there are in all."},
}
_LOCATIONS = {
    "Location": {"schema": {"type": "string"}, "description": "Where to follow it, without the gateway's own prefix."},
    "Content-Location": {"schema": {"type": "string"}, "description": "The run, without the gateway's own prefix."},
}
_EVENT = {
    "type": "object",
    "description": "One event: `metadata` first, then those of the stream modes, then `end`. `data` is JSON.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}, "id": {"type": "string"}},
}
_OUTCOME = {"type": "object", "description": "The state of the thread, or `__error__`."}

COUNT = answers(200, int, "How many there are.")
GONE = answers(204, None, "It is gone.", 409)

ASSISTANT = answers(200, Assistant, "The assistant.")
ASSISTANT_PUT = answers(200, Assistant, "The assistant.", 409)
ASSISTANTS = answers(200, Assistants, "The assistants.")
ASSISTANTS_FOUND = _with_headers(answers(200, list[Assistant], "The assistants."), _PAGING)
VERSIONS = answers(200, list[Assistant], "The latest version, which is the only one kept.")
SCHEMAS = answers(200, Schemas, "The schemas.")
GRAPH = answers(200, Graph, "The graph.")
SUBGRAPHS = answers(200, dict[str, Schemas], "The subgraphs.")
AGENT = answers(200, ProtocolAgent, "The agent.")
AGENTS = _with_headers(answers(200, list[ProtocolAgent], "The agents."), _PAGING)
AGENT_SCHEMAS = answers(200, AgentSchemas, "The schemas.")

THREAD = answers(200, Thread, "The thread.")
THREAD_PUT = answers(200, Thread, "The thread.", 409)
THREAD_CHANGED = {**THREAD_PUT, 204: {"description": "Done, and the thread was not asked for."}}
THREADS = _with_headers(answers(200, list[Thread], "The threads."), _PAGING)
PRUNED = answers(200, Pruned, "How many are gone.", 409)
STATE = answers(200, State, "The state.")
HISTORY = answers(200, list[State], "The states, the newest first.")

RUN = answers(200, ThreadRun, "The run.")
RUNS = answers(200, list[ThreadRun], "The runs, the newest first.")
STARTED = _with_headers(answers(200, ThreadRun, "The run.", 402, 409), _LOCATIONS)
BATCH = answers(200, list[ThreadRun], "The runs.", 402, 409)
FOLLOWED, STREAMED = _events(), _events(402, 409)
JOINED = _streamed("The outcome.", "application/json", _OUTCOME)
WAITED = _streamed("The outcome.", "application/json", _OUTCOME, 402, 409)
STOPPED = answers(200, ThreadRun, "The run.", 409, 501)
ALL_STOPPED = answers(204, None, "They are stopped.", 409, 501)
FORGOTTEN = answers(204, None, "It is forgotten.", 409, 501)

ITEM = answers(200, StoreItem | None, "The item, or null.")
ITEM_PUT = answers(204, None, "It is kept.")
ITEM_GONE = answers(204, None, "It is gone, or was never there.")
ITEMS = _with_headers(answers(200, StoreItems, "The items."), _PAGING)
NAMESPACES = answers(200, Namespaces, "The namespaces.")
