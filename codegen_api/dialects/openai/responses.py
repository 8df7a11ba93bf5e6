"""What clients get, as the OpenAPI document tells it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from codegen_api.conversations import TurnChanges, TurnEntry
from codegen_api.dialects.openai.events import ResponseTeller
from codegen_api.dialects.openai.items import ResponseEntry
from codegen_api.dialects.openai.wire import error_fields, last_event, response_fields
from codegen_api.errors import ConversationBusy, Detail, NotOffered
from codegen_api.openapi import Answers
from codegen_api.runs import LogEntry, RunRef, Step, StepKind, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.web import Responses

TURN = "0b3c5f3e-6d0f-4c3c-9a53-6f2b8c3a7d11"


def _stream_example() -> str:
    """A response of one step, as it is streamed."""
    turn = Turn(TURN, "c-1", 0.0, 12.6, TurnState.COMPLETED, run=RunRef("323", "12345"), end=1)
    step = Step(StepKind.ACTION, None, "A look is enough.", "list_files", {"path": "."}, "README.md")
    entry = TurnEntry(1, LogEntry(b"{}", None, open=False, amendable=False))
    rendered = ResponseEntry.of(turn, entry, step)
    teller = ResponseTeller(turn, lambda _: rendered, TurnChanges())
    told = [teller.begin(), teller.take([entry]), teller.over(turn)]
    response = to_json(response_fields(turn, turn.state, rendered.items))
    return b"".join([*told, last_event(teller.number, turn.state, response)]).decode()


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(BaseModel):
    """An error."""

    error: OpenAIError


answers = Answers(
    OpenAIErrorBody,
    error_fields,
    meanings={
        400: (
            NotOffered(details=[Detail(("body", "tools"), "Is not offered here.", "unsupported")]),
            "The request asks for what is not offered here, or cannot be understood; `param` says where.",
        ),
        409: (ConversationBusy(), "The agent works on what was said before, or a repeat came too early."),
    },
)


class OpenAIResponse(BaseModel):
    """A response: what has come of a request."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str = Field(description="`response`")
    created_at: int = Field(description="Seconds since 1970.")
    status: str = Field(description="`queued`, `in_progress`, `completed`, `failed` or `cancelled`.")
    model: str = Field(description="As it was sent.")
    output: list[dict[str, Any]] = Field(description="Items: `reasoning`, `mcp_call` and `message`.")
    metadata: dict[str, str] = Field(
        description="The client's, and `codegen_run`, `codegen_organization`; `codegen_status` is `waiting` where the"
        " agent waits for an answer, and `codegen_pending` has as JSON what it waits for."
    )
    error: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: dict[str, str] | None = None


class OpenAIConversation(BaseModel):
    """A conversation."""

    id: str
    object: str = Field(description="`conversation`")
    created_at: int = Field(description="Seconds since 1970.")
    metadata: dict[str, str]


class Deleted(BaseModel):
    """What is gone."""

    id: str
    object: str
    deleted: bool


class ItemList(BaseModel):
    """A part of a list."""

    object: str = Field(description="`list`")
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


EVENT: dict[str, Any] = {
    "type": "object",
    "description": "A server-sent event.",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "description": "The `type` of the data."},
        "data": {"type": "string", "description": "JSON with `type` and `sequence_number`."},
    },
}


def streamed(description: str, *errors: int) -> Responses:
    """What a route answers with a response, or with its stream."""
    found = answers(200, OpenAIResponse, description, *errors)
    found[200]["content"] = {"text/event-stream": {"schema": EVENT, "example": _stream_example()}}
    return found
