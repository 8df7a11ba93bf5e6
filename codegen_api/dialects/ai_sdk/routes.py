"""The routes of chats. A turn is streamed to the page that sent its message, and again to pages that reconnect."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, frames
from codegen_api.dialects.ai_sdk import responses, schemas
from codegen_api.dialects.ai_sdk.turns import messages_of, turn_for
from codegen_api.dialects.ai_sdk.wire import ChatEntry, ChatTeller, broken
from codegen_api.errors import NotFound
from codegen_api.http.parts import conversations_of
from codegen_api.http.request_bodies import CallerFirst
from codegen_api.http.sse import STREAM_HEADERS, lasting
from codegen_api.http.web import WantedOrganization, authenticate_lenient, bearer, json_response, named, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import to_json
from codegen_api.stores import Turn

MyConversations = Annotated[CallerConversations, conversations_of(authenticate_lenient)]
ChatPath = Annotated[str, Path(description="The chat's id, which the client chose.")]

HEADERS = {**STREAM_HEADERS, "X-Vercel-AI-UI-Message-Stream": "v1"}

router = APIRouter(
    route_class=CallerFirst,
    tags=["AI SDK"],
    dependencies=[Depends(bearer)],
    generate_unique_id_function=named("ai_sdk_"),
)


@router.post("/ui/chat", **operation("Send a message", WRITE, responses.STREAMED))
async def send_message(
    request: Request,
    conversations: MyConversations,
    wanted: WantedOrganization,
    body: schemas.SendMessages,
) -> Response:
    """Say something to the agent, and watch what comes of it. The agent goes on when the client leaves.

    A message that was sent before, by its id, is not said again: its turn is streamed. One with the same id and other
    words was edited, and with `regenerate-message` the last is said again: both go on from before that, in a new run.
    """
    return streamed(request, conversations, await turn_for(conversations, wanted, body))


@router.get("/ui/chat/{chat_id}/stream", **operation("Resume the stream of a chat", READ, responses.RESUMED))
async def resume_stream(request: Request, conversations: MyConversations, chat_id: ChatPath) -> Response:
    """Watch the turn that is under way in a chat. Any number of pages can."""
    turn = await conversations.latest(chat_id)
    if turn is None or turn.state.over:
        return Response(status_code=204)
    return streamed(request, conversations, turn)


@router.post("/ui/chat/{chat_id}/stop", **operation("Stop a chat", WRITE, responses.STOPPED))
async def stop_chat(conversations: MyConversations, chat_id: ChatPath) -> Response:
    """Stop what the agent does. The client's own `stop` only stops watching."""
    NotFound.unless(await conversations.conversation(chat_id), "Chat", chat_id)
    stopped = await conversations.clear(chat_id)
    return json_response(to_json({"stopped": stopped is not None}))


@router.get("/ui/chat/{chat_id}", **operation("Get a chat", READ, responses.CHAT))
async def get_chat(conversations: MyConversations, chat_id: ChatPath) -> Response:
    """The messages of a chat, for `useChat({messages})`. A chat in which nothing was said yet has none."""
    kept = await conversations.conversation(chat_id)
    messages = [] if kept is None else await messages_of(conversations, chat_id)
    return json_response(to_json({"id": chat_id, "title": None if kept is None else kept.title, "messages": messages}))


@router.delete("/ui/chat/{chat_id}", **operation("Delete a chat", WRITE, responses.DELETED), status_code=204)
async def delete_chat(conversations: MyConversations, chat_id: ChatPath) -> Response:
    """Delete a chat. What is under way in it is stopped, where the host can. Its runs stay at the host."""
    if not await conversations.delete_conversation(chat_id):
        raise NotFound.named("Chat", chat_id)
    return Response(status_code=204)


def streamed(request: Request, conversations: CallerConversations, turn: Turn) -> Response:
    """Stream a turn from its beginning. A stream that breaks off has no last chunk, so the client notices."""
    render = conversations.rendered.of_turn("ai_sdk", turn, ChatEntry.of, conversations.step)

    def teller(_: bool) -> ChatTeller:
        return ChatTeller(turn, conversations.step, render, conversations.changes_of(turn))

    chunks = frames(conversations, turn, teller, failed=broken)
    return lasting(request, chunks, "text/event-stream; charset=utf-8", HEADERS)
