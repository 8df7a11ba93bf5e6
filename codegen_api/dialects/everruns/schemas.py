"""Request models of both generations, with all fields that their clients send, and the limits of what is stored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from codegen_api.conversations import checked
from codegen_api.dialects import Ignored
from codegen_api.errors import InvalidRequest
from codegen_api.runs import Json, to_json

MOST = 10**18

NEVER = "never"
"""Marks a field that cannot be supported."""

Object = dict[str, Any]
Tags = Annotated[list[str], Field(max_length=100)]
Wait = Annotated[bool, Query(description="Not offered: follow the events, or ask for the session until it is idle.")]
Timeout = Annotated[Any, Query(description="Of `wait`, and ignored.")]
Unsupported = Annotated[Any, NEVER, Field(description="Not offered: the host's agent has what it has.")]
UnsupportedQuery = Annotated[str | None, NEVER, Field(description="Not offered.")]


class _Request(BaseModel):
    """A request that may use fields marked ``NEVER``."""

    def not_offered(self) -> dict[str, Any]:
        """The values of the fields marked ``NEVER``, by their names on the wire."""
        fields = type(self).model_fields.items()
        return {field.alias or name: getattr(self, name) for name, field in fields if NEVER in field.metadata}


class _Configurable(_Request):
    """The configuration of an agent or a session, which the host determines."""

    capabilities: Unsupported = None
    tools: Unsupported = None
    initial_files: Unsupported = None
    mcp_servers: Annotated[Unsupported, Field(alias="mcpServers")] = None
    network_access: Unsupported = None
    max_iterations: Unsupported = None
    harness_id: Ignored = None
    harness_name: Ignored = None
    parallel_tool_calls: Ignored = None


class CreateAgent(_Configurable):
    """A new agent; with the `id` of one that exists, its new fields."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "assistant", "system_prompt": "You are concise.", "tags": ["example"]}]
        }
    )

    id: str | None = Field(None, description="`agent_` and 32 hexadecimal digits; one is made up by default.")
    name: Annotated[str, Field(min_length=1, description="Any name will do; several agents may have the same.")]
    system_prompt: str = Field(description="The host is told it at the beginning of a session.")
    display_name: str | None = None
    description: str | None = None
    default_model_id: str | None = Field(None, description="The name of a model, as the host knows it.")
    tags: Tags = []


class UpdateAgent(_Configurable):
    """The fields to change; what is null stays as it is."""

    name: Annotated[str, Field(min_length=1)] | None = None
    system_prompt: str | None = None
    display_name: str | None = None
    description: str | None = None
    default_model_id: str | None = None
    tags: Tags | None = None
    status: Literal["active", "archived"] | None = None


class CreateSessionBelow(_Configurable):
    """A new session with the agent that the path names."""

    title: str | None = None
    tags: Tags = []
    model_id: str | None = Field(None, description="The name of a model, as the host knows it; else the agent's.")
    agent_identity_id: Unsupported = None
    workspace_id: Unsupported = None
    hints: Ignored = None
    locale: Ignored = None


class CreateSession(CreateSessionBelow):
    """A new session, with an agent or with the host's own."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"agent_id": "agent_0190a5b0c0de7000800000000000cafe", "title": "A question"}]}
    )

    agent_id: str | None = None
    agent_name: str | None = Field(None, description="In its place; of several with this name the newest.")
    system_prompt: str | None = Field(None, description="Goes behind the agent's.")


class UpdateSession(_Request):
    """The fields to change; what is null stays as it is."""

    title: str | None = None
    tags: Tags | None = None
    agent_identity_id: Unsupported = None
    locale: Ignored = None


class Input(BaseModel):
    """The user's input."""

    role: str | None = Field(None, description="Is not looked at: the user speaks.")
    content: list[Object] = Field(
        min_length=1,
        max_length=100,
        description='`{"type": "text", "text"}` and `{"type": "image", "base64", "media_type"}`.',
    )


class CreateMessage(_Request):
    """A message to the agent."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"message": {"content": [{"type": "text", "text": "What is 2 + 2?"}]}}]}
    )

    message: Input
    controls: Object | None = Field(None, description="`model_id` counts for the first message of a session.")
    metadata: Object | None = Field(
        None, description="Given back with the message. That of a session's first message the host keeps with the run."
    )
    addressed_participant_id: Unsupported = None
    external_actor: Ignored = None
    tags: Ignored = None


class StreamQuery(_Request):
    """Which live events."""

    since_id: str | None = Field(
        None, description="The id of the last event seen, whatever its form. `Last-Event-ID` goes before it."
    )
    after_sequence: Annotated[int, Field(ge=0, le=MOST)] | None = Field(
        None, description="The same by number; 0 for everything from the beginning."
    )
    types: Annotated[list[str], Field(max_length=100)] = Field([], description="Only these; may be repeated.")
    exclude: Annotated[list[str], Field(max_length=100)] = Field([], description="Not these; may be repeated.")


class EventsQuery(StreamQuery):
    """Which events, of those that there are by now."""

    before_sequence: Annotated[int, Field(ge=0, le=MOST)] | None = Field(None, description="Only those before this.")
    limit: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="At most so many: the last, or behind `since_id` or `after_sequence` the first."
    )
    turn_id: str | None = Field(None, description="Only those of this turn.")
    order_desc: bool = Field(False, description="Newest first.")
    around: UnsupportedQuery = None
    window: UnsupportedQuery = None
    from_ts: UnsupportedQuery = None
    to_ts: UnsupportedQuery = None
    exec_id: UnsupportedQuery = None
    trace_id: UnsupportedQuery = None
    tags: UnsupportedQuery = None
    tool_name: UnsupportedQuery = None
    q: UnsupportedQuery = None

    def list_options(self) -> dict[str, Any]:
        """The fields that have a meaning for lists only."""
        return {
            "before_sequence": self.before_sequence is not None,
            "limit": self.limit,
            "turn_id": self.turn_id,
            "order_desc": self.order_desc,
        }


# -- limits -----------------------------------------------------------------------------------------------------------


SIZES: Mapping[str, int] = {
    "name": 2 * 1024,
    "display_name": 2 * 1024,
    "title": 2 * 1024,
    "model_id": 2 * 1024,
    "default_model_id": 2 * 1024,
    "description": 10 * 1024,
    "system_prompt": 1024 * 1024,
    "tags": 16 * 1024,
    "controls": 64 * 1024,
    "metadata": 64 * 1024,
}
"""Maximum bytes of each field: of its text, or of its JSON."""


def check_storable(**given: Json) -> None:
    """Check values that a client wants stored, by the names of their fields.

    Raises:
        InvalidRequest: one is too large.
        Rejected: one cannot be stored.
    """
    for name, value in given.items():
        checked(value)
        size = len(value.encode()) if isinstance(value, str) else 0 if value is None else len(to_json(value))
        if size > SIZES[name]:
            raise InvalidRequest(f"{name} must have at most {SIZES[name]} bytes.")
