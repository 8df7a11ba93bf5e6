"""What clients get, as the OpenAPI document tells it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from codegen_api.dialects.agent_protocol.wire import KINDS
from codegen_api.web import ANYWHERE, COMMON, MEANINGS, WAITS, described_error

Responses = dict[int | str, dict[str, Any]]

NEXT = {
    "X-Pagination-Next": {
        "schema": {"type": "string"},
        "description": "The offset of what follows, if there is more.",
    },
    "X-Pagination-Total": {"schema": {"type": "string"}, "description": "How many there are in all."},
}


class _Selected(BaseModel):
    """Any field may be missing where a client has selected others."""

    model_config = ConfigDict(extra="allow")


class Assistant(_Selected):
    """Somebody to talk to."""

    assistant_id: str = ""
    graph_id: str = "agent"
    name: str = ""
    description: str | None = None
    config: dict[str, Any] = {}
    context: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    version: int = Field(1, description="Counts the changes. Only the latest version is kept.")
    created_at: str = Field("", examples=["2026-11-20T12:00:00.000000Z"])
    updated_at: str = Field("", examples=["2026-11-20T12:00:00.000000Z"])


class Assistants(BaseModel):
    """A list of assistants."""

    assistants: list[Assistant]
    total: int


class Schemas(BaseModel):
    """What a graph takes and gives, as JSON schemas."""

    graph_id: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    state_schema: dict[str, Any]
    config_schema: dict[str, Any]
    context_schema: dict[str, Any]


class Graph(BaseModel):
    """The parts of a graph and what leads from one to the other."""

    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


class Thread(_Selected):
    """A conversation."""

    thread_id: str = ""
    created_at: str = Field("", examples=["2026-11-20T12:00:00.000000Z"])
    updated_at: str = Field("", examples=["2026-11-20T12:00:00.000000Z"])
    metadata: dict[str, Any] = {}
    status: str = Field("idle", pattern="^(idle|busy|interrupted|error)$")
    values: dict[str, Any] | None = Field(
        None,
        description="What was said, `{messages: [...]}`. In lists, only what the user said first and last.",
    )
    interrupts: dict[str, list[Any]] = {}


class Pruned(BaseModel):
    """How many threads are gone."""

    pruned_count: int


class StoreItem(BaseModel):
    """A value under a key in a namespace."""

    namespace: list[str]
    key: str
    value: dict[str, Any]
    created_at: str = Field(examples=["2026-11-20T12:00:00.000000Z"])
    updated_at: str = Field(examples=["2026-11-20T12:00:00.000000Z"])


class StoreItems(BaseModel):
    """A list of items."""

    items: list[StoreItem]


class Namespaces(BaseModel):
    """A list of namespaces."""

    namespaces: list[list[str]]


class Info(BaseModel):
    """What this is."""

    name: str
    version: str
    description: str
    status: str = Field(examples=["running"])
    flags: dict[str, bool]


class Ok(BaseModel):
    """Yes."""

    ok: bool


class AgentProtocolError(BaseModel):
    """The one shape of every error."""

    error: str = Field(description="What kind of error it is.", examples=["unauthorized"])
    message: str = Field(description="A sentence for people.")
    detail: str = Field(description="The same, for clients that look for it here.")
    details: list[Any] | None = Field(description="Where a request was wrong, or what it could choose from.")
    code: str = Field(description="Stable, for machines.", examples=["invalid_token"])
    status_code: int = Field(examples=[401])
    request_id: str | None = Field(examples=["5f0c0f2a2f6f4d3e9b7e"])
    retry_after: int | None = Field(None, description="Seconds.")


_SENTENCES = {
    409: ("already_exists", "The id is taken, or a run is under way that is in the way."),
    501: ("unsupported", "Neither the host nor the gateway does this."),
}


def answers(status: int, model: Any, description: str, *errors: int) -> Responses:
    """What may be answered: if all is well, and else."""
    return {
        status: {"description": description, **({} if model is None else {"model": model})},
        **{code: _error(code) for code in sorted({*COMMON, *errors})},
    }


def not_offered(why: str) -> Responses:
    """The same for what is never done."""
    return {**answers(501, AgentProtocolError, why), 501: {**_error(501), "description": why}}


def listed(model: Any, description: str) -> Responses:
    """The same for a stretch of a list."""
    found = answers(200, list[model], description)
    found[200]["headers"] = NEXT
    return found


def _error(status: int) -> dict[str, Any]:
    code, sentence = _SENTENCES.get(status) or MEANINGS[status]
    example: dict[str, Any] = {
        "error": KINDS[status],
        "message": sentence,
        "detail": sentence,
        "details": None,
        "code": code,
        "status_code": status,
        "request_id": "5f0c0f2a2f6f",
    }
    if status in WAITS:
        example["retry_after"] = 10
    return described_error(status, AgentProtocolError, sentence, example)


PUBLIC_ERRORS: Responses = {status: _error(status) for status in ANYWHERE}
