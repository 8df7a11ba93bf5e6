"""The bodies of requests, with the fields that are read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from codegen_api.dialects import Ignored

Name = Annotated[str, Field(min_length=1, max_length=150)]
Short = Annotated[str, Field(max_length=600)]
ConversationName = Annotated[dict[Literal["id"], Short], Field(min_length=1)]
Items = Annotated[list[dict[str, Any]], Field(max_length=10_000, fail_fast=True)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]

NOT_OFFERED = ("tools", "prompt", "max_output_tokens", "max_tool_calls")
"""Fields that would change what an answer means, wherever they hold anything."""


class CreateResponse(BaseModel, json_schema_extra={"examples": [{"model": "default", "input": "Say hello"}]}):
    """What to do, and how it is to be answered."""

    model: Name = Field("default", description="`default`, an agent's id, or a model that the host knows.")
    input: Annotated[str, Field(min_length=1)] | Items = Field(
        description="A text, or items. What was said before, by the ids of items, is not said again."
    )
    instructions: str | None = Field(None, description="What a new run is told beside the input.")
    stream: bool | None = Field(False, description="Whether the answer is a stream of events.")
    background: bool | None = Field(False, description="Whether the answer comes at once, while the agent works.")
    previous_response_id: Short | None = Field(None, description="The response behind which to go on.")
    conversation: Short | ConversationName | None = Field(None, description="The conversation in which to go on.")
    metadata: Metadata | None = Field(None, description="Kept with the response, and with a new run at the host.")

    temperature: float | None = Field(None, description="Has no meaning here, and is repeated in the response.")
    top_p: float | None = Field(None, description="As `temperature`.")
    parallel_tool_calls: bool | None = Field(None, description="As `temperature`.")
    truncation: Literal["auto", "disabled"] | None = Field(None, description="As `temperature`.")
    service_tier: Short | None = Field(None, description="As `temperature`.")
    user: Short | None = Field(None, description="As `temperature`.")

    tools: list[Any] | None = Field(None, description="Must be empty: the agent has its own.")
    tool_choice: Any = Field(None, description="`auto` or `none`.")
    text: dict[str, Any] | None = Field(None, description="Its `format` must be `text`.")
    prompt: Any = Field(None, description="Is not offered here.")
    max_output_tokens: int | None = Field(None, description="Is not offered here.")
    max_tool_calls: int | None = Field(None, description="Is not offered here.")

    include: Ignored = None
    reasoning: Ignored = None
    store: Ignored = None
    stream_options: Ignored = None
    top_logprobs: Ignored = None
    prompt_cache_key: Ignored = None
    safety_identifier: Ignored = None

    @property
    def conversation_id(self) -> str | None:
        given = self.conversation
        return given["id"] if isinstance(given, dict) else given

    def not_offered(self) -> dict[str, Any]:
        kind = (self.text or {}).get("format")
        wants_format = kind is not None and not (isinstance(kind, dict) and kind.get("type") == "text")
        return {
            **{name: getattr(self, name) for name in NOT_OFFERED},
            "tool_choice": self.tool_choice not in (None, "auto", "none"),
            "text.format": wants_format,
        }


class CreateConversation(BaseModel):
    """A conversation in which nothing was said."""

    items: list[Any] | None = Field(None, description="Must be empty: responses are made in it.")
    metadata: Metadata | None = None


class CreateCompletion(BaseModel, extra="allow"):
    """What was said in a chat. Other fields than these have no meaning."""

    model: Name = Field("default", description="As for a response.")
    messages: Annotated[Items, Field(min_length=1)] = Field(description="All of the chat: `role` and `content`.")
    stream: bool | None = Field(False, description="Whether the answer is a stream of chunks.")
    stream_options: dict[str, Any] | None = Field(None, description="`include_usage` asks for a last chunk about it.")
    metadata: Metadata | None = Field(None, description="Kept with a new run at the host.")
    tools: list[Any] | None = Field(None, description="Must be empty: the agent has its own.")
    tool_choice: Any = Field(None, description="`auto` or `none`.")
    response_format: dict[str, Any] | None = Field(None, description="Its `type` must be `text`.")
    n: int | None = Field(None, description="Must be 1.")

    def not_offered(self) -> dict[str, Any]:
        wants_format = (self.response_format or {}).get("type", "text") != "text"
        wants_tool = self.tool_choice not in (None, "auto", "none")
        named = {"tool_choice": wants_tool, "response_format": wants_format, "n": self.n not in (None, 1)}
        return {"tools": self.tools, **named}
