"""Requests and responses of the hosted API's routes for the OpenAPI document, named as the host names them.

Only request models are used for parsing. Responses are the host's own data, so their models describe and never filter
them.
"""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from codegen_api.dialects import Ignored, Images, Prompt
from codegen_api.dialects.codegen.wire import error_fields, with_host_times
from codegen_api.http import openapi

T = TypeVar("T")

RUN_EXAMPLE = with_host_times(openapi.RUN)
ENTRY_EXAMPLE = with_host_times(openapi.ENTRY)
LOG_EXAMPLE: dict[str, Any] = {
    **{key: RUN_EXAMPLE[key] for key in ("id", "organization_id", "status", "created_at", "web_url", "result")},
    "metadata": None,
    "logs": [ENTRY_EXAMPLE],
    "total_logs": 25,
    "page": 1,
    "size": 100,
    "pages": 1,
}
USER_EXAMPLE: dict[str, Any] = {
    "id": 1001,
    "email": "alice@example.com",
    "github_user_id": "583231",
    "github_username": "alice",
    "avatar_url": None,
    "full_name": "Alice Archer",
    "role": "ADMIN",
    "is_admin": True,
}
ORGANIZATION_EXAMPLE: dict[str, Any] = {
    "id": 323,
    "name": "Shared Works",
    "settings": {"enable_pr_creation": True, "enable_rules_detection": True},
}
REPOSITORY_EXAMPLE: dict[str, Any] = {
    "id": 3231,
    "name": "example-website",
    "full_name": "sandbox/example-website",
    "description": None,
    "github_id": "3231",
    "organization_id": 323,
    "visibility": "private",
    "archived": False,
    "setup_status": "NOT_SETUP",
    "language": "Python",
}


def _shown(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="allow", json_schema_extra={"examples": list(examples)})


def _page(item: dict[str, Any]) -> ConfigDict:
    return _shown({"items": [item], "total": 1, "page": 1, "size": 100, "pages": 1})


RUN_ID = Field(ge=0, lt=10**18, description="Which run.")
NOT_PASSED_ON = Field(None, description="Not offered: the gateway does not pass this on.")


class CreateAgentRunInput(BaseModel):
    """A new run."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Create a Python function", "metadata": {"source": "api"}}]}
    )

    prompt: Prompt = Field(description="What the agent is to do.")
    images: Images | None = Field(None, description="Base64 data URIs.")
    metadata: dict[str, Any] | None = Field(None, description="Anything; it comes back with the run.")
    repo_id: int | None = Field(None, description="The repository to work in.")
    model: str | None = Field(None, description="The model; else the organization's default.")
    agent_type: str | None = Field(None, description="`codegen` or `claude_code`; else the organization's default.")
    webhooks: list[Any] | None = NOT_PASSED_ON


class ResumeAgentRunInput(BaseModel):
    """The run to resume, and how."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"agent_run_id": 12345, "prompt": "Now add tests."}]})

    agent_run_id: int = RUN_ID
    prompt: Prompt = Field(description="What the agent is to do next.")
    images: Images | None = Field(None, description="Base64 data URIs.")
    model: str | None = NOT_PASSED_ON
    webhooks: list[Any] | None = NOT_PASSED_ON


class StopAgentRunInput(BaseModel):
    """A run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"agent_run_id": 12345}]})

    agent_run_id: int = RUN_ID
    before_card_order_id: Ignored = None
    after_card_order_id: Ignored = None


class AgentRunResponse(BaseModel):
    """A run, as the host gives it."""

    model_config = _shown(RUN_EXAMPLE)

    id: int
    organization_id: int
    status: str | None = None
    created_at: str | None = None
    web_url: str | None = None
    result: str | None = None
    summary: str | None = None
    source_type: str | None = None
    github_pull_requests: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] | None = None


class AgentRunLogResponse(BaseModel):
    """A log entry, as the host gives it."""

    model_config = _shown(ENTRY_EXAMPLE)

    agent_run_id: int
    created_at: str | None = None
    tool_name: str | None = None
    message_type: str | None = None
    thought: str | None = None
    observation: Any = None
    tool_input: Any = None
    tool_output: Any = None


class AgentRunWithLogsResponse(BaseModel):
    """A run with a page of its log."""

    model_config = _shown(LOG_EXAMPLE)

    id: int
    organization_id: int
    status: str | None = None
    created_at: str | None = None
    web_url: str | None = None
    result: str | None = None
    metadata: dict[str, Any] | None = None
    logs: list[AgentRunLogResponse]
    total_logs: int | None
    page: int | None
    size: int | None
    pages: int | None


class UserResponse(BaseModel):
    """A user."""

    model_config = _shown(USER_EXAMPLE)

    id: int
    github_user_id: str
    github_username: str
    email: str | None = None
    avatar_url: str | None = None
    full_name: str | None = None
    role: str | None = None
    is_admin: bool | None = None


class OrganizationResponse(BaseModel):
    """An organization."""

    model_config = _shown(ORGANIZATION_EXAMPLE)

    id: int
    name: str
    settings: dict[str, Any]


class RepositoryResponse(BaseModel):
    """A repository, as the host gives it."""

    model_config = _shown(REPOSITORY_EXAMPLE)

    id: int
    name: str
    full_name: str
    description: str | None
    github_id: str
    organization_id: int
    visibility: str | None
    archived: bool | None
    setup_status: str
    language: str | None


class _Page(BaseModel, Generic[T]):
    total: int
    page: int
    size: int
    pages: int
    items: list[T]


class PageOfAgentRuns(_Page[AgentRunResponse]):
    model_config = _page(RUN_EXAMPLE)


class PageOfUsers(_Page[UserResponse]):
    model_config = _page(USER_EXAMPLE)


class PageOfOrganizations(_Page[OrganizationResponse]):
    model_config = _page(ORGANIZATION_EXAMPLE)


class PageOfRepositories(_Page[RepositoryResponse]):
    model_config = _page(REPOSITORY_EXAMPLE)


class BanResponse(BaseModel):
    """Whether the run is banned now. The host's own answer has no known shape; this one is the gateway's."""

    model_config = _shown({"agent_run_id": 12345, "banned": True})

    agent_run_id: int
    banned: bool


class Place(BaseModel):
    """Where a request was wrong."""

    loc: list[int | str]
    msg: str
    type: str


class HostedError(BaseModel):
    """Any error: what the host's clients look for under either of its names, and two fields of the gateway's."""

    detail: str | list[Place] = Field(description="The same as `message`; with 422 a list of places.")
    message: str = Field(description="A sentence for people.")
    status_code: int
    code: str = Field(description="Stable, for machines.")
    request_id: str | None


answers = openapi.Answers(HostedError, error_fields)
"""The host answers 200 whatever it did."""

ME = answers(200, UserResponse, "The user.")
USER = answers(200, UserResponse, "The user.", 501)
USERS = answers(200, PageOfUsers, "The users.", 501)
ORGANIZATIONS = answers(200, PageOfOrganizations, "The organizations.", 501)
REPOSITORIES = answers(200, PageOfRepositories, "The repositories.", 501)
RUN = answers(200, AgentRunResponse, "The run.", 501)
RUNS = answers(200, PageOfAgentRuns, "The runs.", 501)
LOGS = answers(200, AgentRunWithLogsResponse, "The run and the stretch of its log.", 501)
BAN = answers(200, BanResponse, "It is done.", 501)
DONE = answers(200, AgentRunResponse, "The run.", 402, 409, 501)
DONE[200]["headers"] = openapi.REPLAYED
