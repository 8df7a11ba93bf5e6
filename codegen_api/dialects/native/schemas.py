"""What the native routes take and give, as the OpenAPI document tells it.

Only the request models are used to parse; answers are written from the host's own data, so the models here describe
them and never cut them down.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from codegen_api.dialects import Images, Prompt
from codegen_api.runs import RunStatus
from codegen_api.web import ANYWHERE, COMMON, MEANINGS, WAITS, Responses, described_error

RUN_EXAMPLE: dict[str, Any] = {
    "id": 12345,
    "organization_id": 323,
    "status": "ACTIVE",
    "created_at": "2025-06-21T11:20:04.338398Z",
    "web_url": "https://codegen.com/agent/trace/12345",
    "result": None,
    "summary": None,
    "source_type": "API",
    "github_pull_requests": [],
    "metadata": {"source": "api"},
    "run_status": "running",
    "ended": False,
}
ENTRY_EXAMPLE: dict[str, Any] = {
    "agent_run_id": 12345,
    "created_at": "2025-06-21T11:20:09.108894Z",
    "tool_name": "ripgrep_search",
    "message_type": "ACTION",
    "thought": "Look for the function first.",
    "observation": None,
    "tool_input": {"query": "def fibonacci"},
    "tool_output": {"matches": 1},
    "position": 25,
}
STREAM_EXAMPLE = """\
retry: 2000
event: status
data: {"id":12345,"organization_id":323,"status":"ACTIVE","run_status":"running","ended":false}

event: log
data: {"agent_run_id":12345,"message_type":"ACTION","tool_name":"ripgrep_search","tool_output":null,"position":1}
id: 1~1Vhu

event: log.amended
data: {"agent_run_id":12345,"message_type":"ACTION","tool_output":{"matches":1},"position":1}
id: 1-1.1~Sx0Q

event: notice
data: {"code":"upstream_unavailable","retry_in":2.1}

event: notice
data: {"code":"recovered","retry_in":null}

:

event: log
data: {"agent_run_id":12345,"message_type":"FINAL_ANSWER","observation":"Done.","position":2}
id: 2~Sx0QbZ7m

event: end
data: {"id":12345,"organization_id":323,"status":"COMPLETE","run_status":"completed","ended":true,"total_logs":2}
id: 2.end

"""
LINES_EXAMPLE = """\
{"event":"status","id":null,"data":{"id":12345,"status":"ACTIVE","run_status":"running","ended":false}}
{"event":"log","id":"1~1Vhu","data":{"agent_run_id":12345,"message_type":"ACTION","position":1}}
{"event":"heartbeat"}
{"event":"end","id":"1.end","data":{"id":12345,"status":"COMPLETE","ended":true,"total_logs":1}}
"""


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class CreateRun(BaseModel):
    """What to start."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Create a Python function", "metadata": {"source": "api"}}]}
    )

    prompt: Prompt = Field(description="What the agent is to do.")
    metadata: dict[str, Any] | None = Field(None, description="Anything; it comes back with the run.")
    images: Images | None = Field(None, description="Base64 data URIs.")
    repo_id: int | None = Field(None, description="The repository to work in.")
    model: str | None = Field(None, description="The model; else the organization's default.")
    agent_type: str | None = Field(None, description="`codegen` or `claude_code`; else the organization's default.")


class ResumeRun(BaseModel):
    """How to go on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Now add tests."}]})

    prompt: Prompt = Field(description="What the agent is to do next.")
    images: Images | None = Field(None, description="Base64 data URIs.")


class RunOut(_Open):
    """A run: the host's fields as they are, times in RFC 3339 (UTC), and two of ours."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [RUN_EXAMPLE]})

    id: int
    organization_id: int
    status: str | None = Field(None, description="The host's own word.")
    created_at: str | None = None
    web_url: str | None = None
    result: str | None = Field(None, description="The answer, in Markdown.")
    summary: str | None = None
    source_type: str | None = None
    github_pull_requests: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] | None = None
    run_status: RunStatus = Field(description="The status in the gateway's words.")
    ended: bool = Field(description="Nothing more comes unless somebody resumes the run.")


class EntryOut(_Open):
    """One thing the agent did: the host's fields as they are, and its position."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [ENTRY_EXAMPLE]})

    agent_run_id: int
    created_at: str | None = None
    tool_name: str | None = None
    message_type: str | None = None
    thought: str | None = None
    observation: Any = None
    tool_input: Any = None
    tool_output: Any = Field(None, description="Null while the tool runs: the host fills it in later.")
    position: int | None = Field(description="Counted from 1; the id of the entry's event in the live log.")


class Page(BaseModel):
    """The host's own account of a list, any of which may be unknown, and where it goes on."""

    total: int | None
    page: int | None
    size: int | None
    pages: int | None
    next_skip: int | None = Field(
        None, description="The `skip` to go on with; null at the end of the list. A short page is no end."
    )


class RunsOut(Page):
    items: list[RunOut]


class OrganizationOut(_Open):
    id: int
    name: str
    settings: dict[str, Any] | None = None


class OrganizationsOut(Page):
    items: list[OrganizationOut]


class UserOut(_Open):
    id: int | str = Field(description="The host's number, or a JWT's `sub`, or a key's name.")
    github_user_id: str | None = None
    github_username: str | None = None
    email: str | None = None
    avatar_url: str | None = None
    full_name: str | None = None


class LogsOut(RunOut):
    """A run with a stretch of its log."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{**RUN_EXAMPLE, "logs": [ENTRY_EXAMPLE], "total_logs": 25, "page": 1, "size": 100, "pages": 1}]
        },
    )

    logs: list[EntryOut]
    total_logs: int | None
    page: int | None
    size: int | None
    pages: int | None


class EndOut(RunOut):
    """The whole run, and how many entries its log has."""

    total_logs: int


class NoticeOut(BaseModel):
    """The log is late, not lost; or the gateway ends the stream, and the client is to come back."""

    code: Annotated[str, Field(examples=["upstream_unavailable", "rate_limited", "recovered", "reconnect"])]
    retry_in: float | None = Field(description="Seconds.")
    last_event_id: str | None = Field(None, description="With `reconnect`: where to go on.")


class ResyncOut(BaseModel):
    """The position asked for is not in this log; it goes on from the event's id."""

    requested: int
    log_length: int


class ErrorOut(BaseModel):
    """The one shape of every error."""

    error: str = Field(
        description="A sentence for people.", examples=["Authentication failed: the token is not valid."]
    )
    code: str = Field(description="Stable, for machines.", examples=["invalid_token"])
    status_code: int = Field(examples=[401])
    request_id: str | None = Field(examples=["5f0c0f2a2f6f4d3e9b7e"])
    details: list[Any] | None = Field(None, description="Where a request was wrong, or what it could choose from.")
    retry_after: int | None = Field(None, description="Seconds.")


class HealthOut(BaseModel):
    """How the process is."""

    status: Annotated[str, Field(pattern="^(healthy|degraded)$")]
    version: str
    timestamp: str
    uptime_seconds: float
    upstream: dict[str, Any] = Field(
        description="`trouble` says what came last instead of an answer of use, `since` when that began.",
        examples=[
            {"name": "codegen", "reachable": True, "checked_at": "2026-11-20T12:00:00Z", "trouble": None, "since": None}
        ],
    )
    issuer: str | dict[str, Any] = Field(
        description="Whoever signs JWTs, where these are taken.",
        examples=[
            "not configured",
            {"name": "https://login.example.com/", "reachable": True, "checked_at": "2026-11-20T12:00:00Z"},
        ],
    )
    store: str | dict[str, Any] = Field(
        description="The database, where there is one, as `upstream`.",
        examples=[
            "not configured",
            {"reachable": True, "checked_at": "2026-11-20T12:00:00Z", "trouble": None, "since": None},
        ],
    )
    redis: str = Field(examples=["not configured"])
    runs_followed: int
    viewers: int


class ReadyOut(BaseModel):
    status: str = Field(examples=["ready"])


class TicketOut(BaseModel):
    """What an `EventSource` needs to read one run's live log."""

    ticket: str = Field(examples=["q0c2Wq3cM5y6mYb5RlDnqk6kNfZlPnC"])
    url: str = Field(
        description="The path to open, ticket included.",
        examples=["/agent-runs/12345/logs/stream?ticket=q0c2Wq3cM5y6mYb5RlDnqk6kNfZlPnC"],
    )
    expires_at: str = Field(examples=["2026-11-20T13:00:00Z"])


STREAM_EVENTS: dict[str, type[BaseModel]] = {
    "status": RunOut,
    "log": EntryOut,
    "log.amended": EntryOut,
    "notice": NoticeOut,
    "resync": ResyncOut,
    "failure": ErrorOut,
    "end": EndOut,
}

EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One event. `data` is JSON, of the shape that goes with the event.",
    "properties": {
        "event": {"type": "string", "enum": list(STREAM_EVENTS)},
        "id": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}

_NO_TICKETS = ("tickets_not_configured", "This deployment has no key to seal and open tickets with.")
_OVER = ("run_ended", "The run is over: there is nothing to stop any more.")


def _responses(status: int, model: type[BaseModel], description: str, *errors: int) -> Responses:
    return {
        status: {"model": model, "description": description},
        **{code: _error(code) for code in sorted({*COMMON, *errors})},
    }


def _error(status: int, said: tuple[str, str] | None = None) -> dict[str, Any]:
    code, sentence = said or MEANINGS[status]
    example: dict[str, Any] = {"error": sentence, "code": code, "status_code": status, "request_id": "5f0c0f2a2f6f"}
    if status in WAITS:
        example["retry_after"] = 10
    return described_error(status, ErrorOut, sentence, example)


ME = _responses(200, UserOut, "The user.")
ORGANIZATIONS = _responses(200, OrganizationsOut, "The organizations.")
RUNS = _responses(200, RunsOut, "The runs.")
RUN = _responses(200, RunOut, "The run.", 402)
_REPLAYED = {"schema": {"type": "string"}, "description": "`true` where a repeat is answered as the first time."}
RESUMED = _responses(200, RunOut, "The run.", 402, 409)
RESUMED[200]["headers"] = {"Idempotent-Replayed": _REPLAYED}
CANCELLED = _responses(200, RunOut, "The run, stopped.", 409, 501)
CANCELLED[409] = _error(409, _OVER)
LOGS = _responses(200, LogsOut, "The run and the stretch of its log.")
LOGS[200]["headers"] = {
    "Link": {"schema": {"type": "string"}, "description": '`<path>; rel="next"` while there is more.'}
}
TICKET = _responses(201, TicketOut, "The ticket.")
TICKET[501] = _error(501, _NO_TICKETS)
CREATED = _responses(201, RunOut, "The run.", 402, 409)
CREATED[201]["headers"] = {
    "Location": {"schema": {"type": "string"}, "description": "The run's path."},
    "Idempotent-Replayed": _REPLAYED,
}
HEALTH: Responses = {
    200: {"model": HealthOut, "description": "How the process is."},
    **{code: _error(code) for code in ANYWHERE},
}
READY: Responses = {
    200: {"model": ReadyOut, "description": "Yes."},
    **{code: _error(code) for code in ANYWHERE},
    503: {"model": ReadyOut, "description": "Not yet, or not any more."},
}
STREAM: Responses = {
    200: {
        "description": "The live log. Its events and the shape of their data: "
        + ", ".join(f"`{name}` (`{model.__name__}`)" for name, model in STREAM_EVENTS.items())
        + ". A comment line is a sign of life. With `Accept: application/x-ndjson` each event is a line of JSON.",
        "content": {
            "text/event-stream": {"schema": EVENT, "example": STREAM_EXAMPLE},
            "application/x-ndjson": {"schema": {"type": "string"}, "example": LINES_EXAMPLE},
        },
    },
    204: {"description": "The end is known to the caller already (`Last-Event-ID: 25.end`), and it is still the end."},
    **{code: _error(code) for code in sorted(COMMON)},
    501: _error(501, _NO_TICKETS),
}


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the data of the stream's events among its components, which no route gives as a
    body.
    """
    kinds: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (model, "serialization") for model in dict.fromkeys(STREAM_EVENTS.values())
    ]
    _, described = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in described.get("$defs", {}).items():
        schemas.setdefault(name, schema)
    return document
