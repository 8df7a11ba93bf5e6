"""Requests and responses of the native routes for the OpenAPI document.

Only request models are used for parsing. Responses are written from the host's data, so their models describe and never
filter it.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticCustomError

from codegen_api.dialects import EMPTY, Images, Prompt, is_blank
from codegen_api.dialects.native import examples
from codegen_api.dialects.native.wire import error_fields
from codegen_api.errors import Conflict, RunEnded, RunFinal, TicketsNotConfigured
from codegen_api.http.openapi import ANYWHERE, COMMON, REPLAYED, Answers, header
from codegen_api.http.web import Responses
from codegen_api.runs import RunStatus, WaitReason

HostId = int | str
"""An id, as the host gives it."""


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class CreateRun(BaseModel):
    """A new run."""

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
    """How to resume a run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Now add tests."}]})

    prompt: Prompt = Field(description="What the agent is to do next.")
    images: Images | None = Field(None, description="Base64 data URIs.")


def _answered(text: str | None, info: ValidationInfo) -> str | None:
    if info.data.get("decision") == "answer" and (text is None or is_blank(text)):
        raise PydanticCustomError("empty", EMPTY)
    return text


class Decide(BaseModel):
    """A decision on what a run waits for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"decision": "approve"}]})

    decision: Literal["approve", "reject", "answer"] = Field(
        description="Whether the agent may do it; or `answer`, to a question."
    )
    text: Annotated[str | None, AfterValidator(_answered)] = Field(
        None, description="The answer, or what the agent is told with a rejection.", validate_default=True
    )


class RunOut(_Open):
    """A run: the host's fields as they are, times in RFC 3339 (UTC), and some of ours."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.RUN]})

    id: HostId
    organization_id: HostId | None = None
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
    waiting_for: WaitReason | None = Field(None, description="What a waiting run waits for, where the host says so.")
    final: bool | None = Field(None, description="`true` where a run has ended for good, and cannot be resumed.")


class PendingOut(BaseModel):
    """What a run waits for."""

    id: str = Field(description="Tells it from others of this run.")
    reason: WaitReason
    text: str = Field(description="For people: the question, or what the agent wants to do.")
    tool: str | None = Field(description="What is to be approved.")
    input: Any = Field(description="The tool's input.")
    choices: list[str] = Field(description="What the agent offers as answers.")
    fields: dict[str, Any] = Field(description="The host's own fields.")


class PendingListOut(BaseModel):
    """What a run waits for, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [examples.PENDING]}]})

    items: list[PendingOut]


class EntryOut(_Open):
    """A log entry: the host's fields as they are, and its position."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.ENTRY]})

    agent_run_id: HostId | None = None
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
    id: HostId
    name: str
    settings: dict[str, Any] | None = None


class OrganizationsOut(Page):
    items: list[OrganizationOut]


class UserOut(_Open):
    id: HostId = Field(description="The host's id, or a JWT's `sub`, or a key's name.")
    github_user_id: str | None = None
    github_username: str | None = None
    email: str | None = None
    avatar_url: str | None = None
    full_name: str | None = None


class LogsOut(RunOut):
    """A run with a page of its log."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.LOG]})

    logs: list[EntryOut]
    total_logs: int | None
    page: int | None
    size: int | None
    pages: int | None


class EndOut(RunOut):
    """The run, and the length of its log."""

    total_logs: int


class NoticeOut(BaseModel):
    """The log is late, not lost; or the run begins to wait; or the gateway ends the stream, and the client is to come
    back.
    """

    code: Annotated[str, Field(examples=["upstream_unavailable", "rate_limited", "recovered", "waiting", "reconnect"])]
    retry_in: float | None = Field(description="Seconds.")
    reason: WaitReason | None = Field(None, description="With `waiting`: for what.")
    last_event_id: str | None = Field(None, description="With `reconnect`: where to go on.")


class ResyncOut(BaseModel):
    """The position asked for is not in this log; it goes on from the event's id."""

    requested: int
    log_length: int


class FeedListOut(BaseModel):
    """The runs of the feed, newest first. All others are to be forgotten."""

    ids: list[HostId]


class FeedRemovedOut(BaseModel):
    """A run that is not in the feed any more."""

    id: HostId


class ErrorOut(BaseModel):
    """An error."""

    error: str = Field(
        description="A sentence for people.", examples=["Authentication failed: the token is not valid."]
    )
    code: str = Field(description="Stable, for machines.", examples=["invalid_token"])
    status_code: int = Field(examples=[401])
    request_id: str | None = Field(examples=["5f0c0f2a2f6f4d3e9b7e"])
    details: list[Any] | None = Field(None, description="Where a request was wrong, or what it could choose from.")
    retry_after: int | None = Field(None, description="Seconds.")


class HealthOut(BaseModel):
    """The health of the process."""

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
    redis: str = Field(
        description="`connected`, or `unavailable (fallback to memory)`, where instances share a Redis.",
        examples=["not configured", "connected", "unavailable (fallback to memory)"],
    )
    runs_followed: int
    viewers: int
    http_version: str = Field(description="In which this request arrived.", examples=["1.1"])
    stream_heartbeat_seconds: float = Field(description="How long a live log is silent at most.", examples=[15.0])


class ReadyOut(BaseModel):
    status: str = Field(examples=["ready"])


class TicketOut(BaseModel):
    """A ticket, with which an `EventSource` can read one run's live log."""

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

FEED_EVENTS: dict[str, type[BaseModel]] = {
    "list": FeedListOut,
    "run": RunOut,
    "removed": FeedRemovedOut,
    "notice": NoticeOut,
    "failure": ErrorOut,
}


answers = Answers(ErrorOut, error_fields)
_NO_TICKETS = answers.error(501, (TicketsNotConfigured(), "This deployment has no key to seal and open tickets with."))

ME = answers(200, UserOut, "The user.")
ORGANIZATIONS = answers(200, OrganizationsOut, "The organizations.")
RUNS = answers(200, RunsOut, "The runs.")
RUN = answers(200, RunOut, "The run.", 402)
PENDING = answers(200, PendingListOut, "What the run waits for.", 501)
DECIDED = answers(200, RunOut, "The run, decided upon.", 409, 501)
DECIDED[409] = answers.error(409, (Conflict(), "The state of the run is against it."))
RESUMED = answers(200, RunOut, "The run.", 402, 409)
RESUMED[409] = answers.error(
    409, (RunFinal(), "The run has ended for good; or a request with this `Idempotency-Key` is not answered yet.")
)
RESUMED[200]["headers"] = REPLAYED
CANCELLED = answers(200, RunOut, "The run, stopped.", 409, 501)
CANCELLED[409] = answers.error(409, (RunEnded(), "The run is over: there is nothing to stop any more."))
LOGS = answers(200, LogsOut, "The run and the stretch of its log.")
LOGS[200]["headers"] = {"Link": header('`<path>; rel="next"` while there is more.')}
TICKET = answers(201, TicketOut, "The ticket.")
TICKET[501] = _NO_TICKETS
CREATED = answers(201, RunOut, "The run.", 402, 409)
CREATED[201]["headers"] = {"Location": header("The run's path."), **REPLAYED}
HEALTH: Responses = {200: {"model": HealthOut, "description": "How the process is."}, **answers.errors(*ANYWHERE)}
READY: Responses = {
    200: {"model": ReadyOut, "description": "Yes."},
    **answers.errors(*ANYWHERE),
    503: {"model": ReadyOut, "description": "Not yet, or not any more."},
}


def _stream(what: str, events: dict[str, type[BaseModel]], example: str, lines: str, also: Responses) -> Responses:
    """The responses of a route that streams these events."""
    event = {
        "type": "object",
        "description": "One event. `data` is JSON, of the shape that goes with the event.",
        "properties": {
            "event": {"type": "string", "enum": list(events)},
            "id": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "retry": {"type": "integer"},
        },
    }
    stream = {
        "description": f"{what} Its events and the shape of their data: "
        + ", ".join(f"`{name}` (`{model.__name__}`)" for name, model in events.items())
        + ". A comment line is a sign of life. With `Accept: application/x-ndjson` each event is a line of JSON.",
        "content": {
            "text/event-stream": {"schema": event, "example": example},
            "application/x-ndjson": {"schema": {"type": "string"}, "example": lines},
        },
    }
    return {200: stream, **also, **answers.errors(*COMMON), 501: _NO_TICKETS}


_TOLD = {"description": "The end is known to the caller already (`Last-Event-ID: 25.end`), and it is still the end."}
STREAM = _stream("The live log.", STREAM_EVENTS, examples.STREAM, examples.STREAM_LINES, {204: _TOLD})
FEED = _stream("The feed.", FEED_EVENTS, examples.FEED, examples.FEED_LINES, {})


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the models of stream events to the components of the document, since no route has them as its body."""
    kinds: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (model, "serialization") for model in dict.fromkeys([*STREAM_EVENTS.values(), *FEED_EVENTS.values()])
    ]
    _, described = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in described.get("$defs", {}).items():
        schemas.setdefault(name, schema)
    return document
