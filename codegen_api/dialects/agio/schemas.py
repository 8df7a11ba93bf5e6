"""The bodies of requests. Every field in the documents of this API has a name here, even if it is not read."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from codegen_api.dialects import EMPTY, Prompt, is_blank

ID = r"[^/]*[^/.][^/]*"
"""What can stand in a path as it is."""

Name = Annotated[str, Field(min_length=1, max_length=150)]
Text = Annotated[str, Field(max_length=200_000)]
USER = ("user", "human")
Words = Annotated[list[Name], Field(max_length=100)]


class CreateAgioAgent(
    BaseModel,
    json_schema_extra={"examples": [{"name": "reviewer", "system_prompt": "You review code.", "tags": ["team"]}]},
):
    """An agent."""

    name: Name
    description: Text | None = None
    model: Name | None = Field(
        None, description="A model that the host knows; `default` or none leaves it to the host."
    )
    tools: Words = Field([], description="Kept and given back. Which tools an agent has is the host's business.")
    system_prompt: Text | None = Field(None, description="Told before what the user says first.")
    tags: Words = []
    enabled: bool = Field(True, description="Whether one can talk to it.")


class UpdateAgioAgent(BaseModel, json_schema_extra={"examples": [{"system_prompt": "You review code with care."}]}):
    """The fields to change; what is not sent stays as it is."""

    name: Name | None = None
    description: Text | None = None
    model: Name | None = None
    tools: Words | None = None
    system_prompt: Text | None = None
    tags: Words | None = None
    enabled: bool | None = None


class Chat(BaseModel, json_schema_extra={"examples": [{"agent_id": "assistant", "message": "Hello!", "stream": True}]}):
    """A message to an agent."""

    agent_id: str
    message: Prompt
    user_id: Name | None = Field(None, description="Kept with the run. It opens nothing: the token says who is asking.")
    session_id: Annotated[str, Field(max_length=150)] | None = Field(
        None, description="The conversation to go on with, or to begin under this id; else a new one."
    )
    stream: bool = Field(True, description="The answer as server-sent events, or whole when it is there.")
    metadata: dict[str, Any] | None = Field(None, description="Kept with the run at the host.")


class Resume(BaseModel):
    """How to resume a run."""

    message: Prompt | None = Field(None, description="What to tell the agent; else `Go on.`")


class NewCheckpoint(BaseModel):
    """A new checkpoint of a run."""

    description: Annotated[str, Field(max_length=1000)] | None = None
    tags: Annotated[list[Name], Field(max_length=20)] = []


class Message(BaseModel):
    """A message."""

    role: str
    content: Any = None

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.role in USER and _is_empty(self.content):
            raise PydanticCustomError("empty", f"content {EMPTY}")
        return self


class Modifications(BaseModel):
    """What to change before the run goes on."""

    modified_query: Prompt | None = Field(None, description="What the user says instead.")
    modified_messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="All that was said until then, instead."
    )
    system_prompt: Text | None = Field(None, description="Instead of the agent's.")


class Fork(
    BaseModel, json_schema_extra={"examples": [{"modifications": {"system_prompt": "Answer in one sentence."}}]}
):
    """How to fork from a checkpoint."""

    modifications: Modifications | None = None
    description: Annotated[str, Field(max_length=1000)] | None = None
    create_new_run: bool = Field(True, description="A fork always makes one.")


class Restore(
    Fork,
    json_schema_extra={
        "examples": [{"create_new_run": True, "modifications": {"modified_query": "Do it without tests."}}]
    },
):
    """How to restore a checkpoint."""

    create_new_run: bool = Field(True, description="A new run; else the same one goes on from there.")


def _is_empty(content: Any) -> bool:
    """Whether nothing is said: no text that can be seen, and no part of another kind."""
    match content:
        case None:
            return True
        case str():
            return is_blank(content)
        case list():
            texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
            return len(texts) == len(content) and all(isinstance(text, str) and is_blank(text) for text in texts)
    return False
