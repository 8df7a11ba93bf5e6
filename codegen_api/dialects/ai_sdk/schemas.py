"""The bodies of requests, with the fields that are read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

ChatId = Annotated[str, Field(min_length=1, max_length=150, pattern=r"^[^/]*[^/.][^/]*$")]
"""As it can stand in a path."""

Name = Annotated[str, Field(min_length=1, max_length=150)]

HELLO: dict[str, Any] = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Say hello"}]}


class UiMessage(BaseModel, extra="allow"):
    """A message as the client keeps it. Only what the user says last is heard."""

    id: Annotated[str, Field(max_length=150)] = ""
    role: str
    parts: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = []


class MadeDecision(BaseModel):
    """What somebody decided on what the agent waits for."""

    id: str = Field(description="The id of a request in `data-codegen-waiting`.")
    verdict: Literal["approve", "reject", "answer"]
    text: str | None = Field(None, description="The answer, or what the agent is told with a rejection.")


class SendMessages(BaseModel, json_schema_extra={"examples": [{"id": "Zk3vQ8pLw2sXy7Rb", "messages": [HELLO]}]}):
    """What `useChat` sends, and what an app can add with the option `body`."""

    id: ChatId = Field(description="The chat: the client's own id. It is made when something is first said in it.")
    messages: Annotated[list[UiMessage], Field(max_length=10_000, fail_fast=True)] = Field(
        description="All messages, or only the last: what was said before is known here, and the rest is not heard."
    )
    trigger: str = Field("submit-message", description="`submit-message` or `regenerate-message`.")
    messageId: str | None = Field(  # noqa: N815 - the protocol's own name
        None, description="Which message is to be regenerated, or was edited."
    )
    agent_id: Name | None = Field(None, description="An agent that was made with another API of this gateway.")
    model: Name | None = Field(None, description="A model that the host knows.")
    metadata: dict[str, Any] | None = Field(None, description="Kept with a new run at the host.")
    if_busy: Literal["reject", "interrupt"] = Field(
        "reject", description="What happens while the agent works: 409, or it is stopped first."
    )
    decisions: Annotated[list[MadeDecision], Field(max_length=100, fail_fast=True)] = Field(
        [], description="Decisions on what the agent waits for. Words alone answer the oldest question."
    )
