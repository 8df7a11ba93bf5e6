"""What the OpenAPI document shows of responses."""

from typing import Any

from pydantic import BaseModel, Field

from codegen_api.dialects.openai.wire import error_fields
from codegen_api.errors import ConversationBusy, Detail, NotOffered
from codegen_api.http.openapi import Answers

JsonObject = dict[str, Any]


class OpenAIError(BaseModel):
    """An error."""

    error: dict[str, str | None] = Field(description="`message`, `type`, `param` and `code`.")


class OpenAIResponse(BaseModel, extra="allow"):
    """A response: what has come of a request."""

    id: str
    status: str = Field(description="`queued`, `in_progress`, `completed`, `failed` or `cancelled`.")
    model: str = Field(description="As it was sent.")
    output: list[JsonObject] = Field(description="Items: `reasoning`, `mcp_call` and `message`.")
    metadata: dict[str, str] = Field(description="The client's, and what else is to be known of the run.")


answers = Answers(
    OpenAIError,
    error_fields,
    meanings={
        400: (
            NotOffered(details=[Detail(("body", "tools"), "Is not offered here.", "unsupported")]),
            "The request asks for what is not offered here, or cannot be understood; `param` says where.",
        ),
        409: (ConversationBusy(), "The agent works on what was said before, or a repeat came too early."),
    },
)

CREATED = answers(200, OpenAIResponse, "The response, or its events.", 402, 409, 501)
FOUND = answers(200, OpenAIResponse, "The response as it is now, or its events.")
CANCELLED = answers(200, OpenAIResponse, "The response.", 409, 501)
DELETED = answers(200, JsonObject, "It is gone.", 409)
LISTED = answers(200, JsonObject, "A part of the list: `data`, `first_id`, `last_id` and `has_more`.")
CONVERSATION = answers(200, JsonObject, "The conversation: `id`, `object`, `created_at` and `metadata`.")
MODELS = answers(200, JsonObject, "A model: `id`, `object`, `created` and `owned_by`; or, as `data`, all of them.")
COMPLETED = answers(200, JsonObject, "The completion, or its chunks and `[DONE]`.", 402, 409, 501)

_EVENT = {"type": "object", "description": "A server-sent event with JSON.", "required": ["data"]}
for _streamed in (CREATED, FOUND, COMPLETED):
    _streamed[200]["content"] = {"text/event-stream": {"schema": _EVENT}}
