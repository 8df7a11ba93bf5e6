"""What the OpenAPI document shows of responses."""

from typing import Any

from pydantic import BaseModel, Field

from codegen_api.conversations import PING, TurnChanges, TurnEntry
from codegen_api.dialects.ai_sdk.wire import ChatEntry, ChatTeller, error_text
from codegen_api.errors import ConversationBusy
from codegen_api.http.openapi import Answers
from codegen_api.http.web import Responses
from codegen_api.runs import LogEntry, RunRef, Step, StepKind
from codegen_api.stores import Turn, TurnState

TURN = "0b3c5f3e-6d0f-4c3c-9a53-6f2b8c3a7d11"


def _stream_example() -> str:
    turn = Turn(TURN, "c-1", 0.0, 12.6, TurnState.COMPLETED, run=RunRef("323", "12345"), end=1)
    looked = Step(StepKind.ACTION, None, "A look is enough.", "list_files", {"path": "."}, ["README.md"])
    teller = ChatTeller(turn, lambda _: looked, lambda came: ChatEntry.of(turn, came, looked), TurnChanges())
    entry = TurnEntry(2, LogEntry(b"{}", None, open=False, amendable=False))
    return b"".join([teller.begin(), PING, teller.begin(), teller.take([entry]), teller.over(turn)]).decode()


class UiChat(BaseModel):
    """A chat."""

    id: str
    title: str | None = Field(description="The beginning of what was said first. Null where nothing was said yet.")
    messages: list[dict[str, Any]] = Field(
        description="As the client keeps them. That of a turn which is under way has what has come by now."
    )


class Stopped(BaseModel):
    """Whether anything was stopped."""

    stopped: bool


answers = Answers(
    None,
    error_text,
    meanings={409: (ConversationBusy(), "The agent works on what was said before, or there is nothing to say again.")},
    media_type="text/plain",
)


EVENT: dict[str, Any] = {
    "type": "object",
    "description": "A server-sent event, without a name and an id.",
    "required": ["data"],
    "properties": {"data": {"type": "string", "description": "One chunk, as JSON. `[DONE]` in the last one."}},
}


def _streamed(description: str, *errors: int) -> Responses:
    found = answers(200, None, description, *errors)
    found[200]["content"] = {"text/event-stream": {"schema": EVENT, "example": _stream_example()}}
    return found


NOTHING: Responses = {204: {"description": "No turn is under way, or there is no such chat."}}
STREAMED = _streamed("The turn, from its beginning to its end.", 402, 409, 501)
RESUMED = _streamed("The turn that is under way, from its beginning.") | NOTHING
STOPPED = answers(200, Stopped, "Done.", 409, 501)
CHAT = answers(200, UiChat, "The chat and its messages.")
DELETED = answers(204, None, "It is gone.", 409)
