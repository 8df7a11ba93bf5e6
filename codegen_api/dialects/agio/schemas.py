"""What clients send, as far as it is heard: fields that are not known are passed over."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

ID = r"[^/]*[^/.][^/]*"
"""What can stand in a path as it is."""

Name = Annotated[str, Field(min_length=1, max_length=150)]
Text = Annotated[str, Field(max_length=200_000)]
Said = Annotated[str, Field(pattern=r"\S")]
"""What a user says: something."""
Words = Annotated[list[Name], Field(max_length=100)]


class CreateAgioAgent(BaseModel):
    """Somebody to talk to."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "reviewer", "system_prompt": "You review code.", "tags": ["team"]}]}
    )

    name: Name
    description: Text | None = None
    model: Name | None = Field(
        None, description="A model that the host knows; `default` or none leaves it to the host."
    )
    tools: Words = Field([], description="Kept and given back. Which tools an agent has is the host's business.")
    system_prompt: Text | None = Field(None, description="Told before what the user says first.")
    tags: Words = []
    enabled: bool = Field(True, description="Whether one can talk to it.")


class UpdateAgioAgent(BaseModel):
    """What is to be otherwise; what is not sent stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"system_prompt": "You review code with care."}]})

    name: Name | None = None
    description: Text | None = None
    model: Name | None = None
    tools: Words | None = None
    system_prompt: Text | None = None
    tags: Words | None = None
    enabled: bool | None = None


class Chat(BaseModel):
    """What somebody says to an agent."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"agent_id": "assistant", "message": "Hello!", "stream": True}]}
    )

    agent_id: str
    message: Said
    user_id: Name | None = Field(None, description="Kept with the run. It opens nothing: the token says who is asking.")
    session_id: Annotated[str, Field(max_length=150)] | None = Field(
        None, description="The conversation to go on with, or to begin under this id; else a new one."
    )
    stream: bool = Field(True, description="The answer as server-sent events, or whole when it is there.")
    metadata: dict[str, Any] | None = Field(None, description="Kept with the run at the host.")


class Resume(BaseModel):
    """How to go on."""

    message: Said | None = Field(None, description="What to tell the agent; else `Go on.`")


class NewCheckpoint(BaseModel):
    """What to call the place where the run is."""

    description: Annotated[str, Field(max_length=1000)] | None = None
    tags: Annotated[list[Name], Field(max_length=20)] = []


class Message(BaseModel):
    """Something that was said."""

    role: str
    content: Any = None


class Modifications(BaseModel):
    """What is to be otherwise than it was."""

    modified_query: Said | None = Field(None, description="What the user says instead.")
    modified_messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="All that was said until then, instead."
    )
    system_prompt: Text | None = Field(None, description="Instead of the agent's.")


class Fork(BaseModel):
    """How to go on elsewhere."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"modifications": {"system_prompt": "Answer in one sentence."}}]}
    )

    modifications: Modifications | None = None
    description: Annotated[str, Field(max_length=1000)] | None = None


class Restore(Fork):
    """How to go on from there."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"create_new_run": True, "modifications": {"modified_query": "Do it without tests."}}]
        }
    )

    create_new_run: bool = Field(True, description="A new run; else the same one goes on from there.")
