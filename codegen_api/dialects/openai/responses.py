"""What clients get, as the OpenAPI document tells it."""

from typing import Any

from pydantic import BaseModel

from codegen_api.dialects.openai.wire import error_fields
from codegen_api.errors import ConversationBusy, Detail, Rejected
from codegen_api.openapi import Answers
from codegen_api.web import Responses


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(BaseModel):
    """An error."""

    error: OpenAIError


_answers = Answers(
    OpenAIErrorBody,
    error_fields,
    meanings={
        400: (
            Rejected(details=[Detail(("body", "input"), "Field required", "missing")]),
            "The request has the wrong shape, or asks for what is not offered here; `param` says where.",
        ),
        409: (ConversationBusy(), "The agent works on what was said before, or a repeat came too early."),
    },
)


def answers(status: int, model: Any, description: str, *errors: int) -> Responses:
    """The successful response, and the errors: the usual ones and those with the statuses ``errors``."""
    found = _answers(status, model, description, *errors)
    del found[422]  # is 400 here
    return found
