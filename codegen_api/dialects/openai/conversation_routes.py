"""Conversations: which there are, and what was said in them."""

from typing import Annotated

from fastapi import Body, Path, Query
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, checked, new_id, pending_of
from codegen_api.dialects import not_offered
from codegen_api.dialects.openai import responses, schemas
from codegen_api.dialects.openai.dependencies import MyConversations, routes_about
from codegen_api.dialects.openai.items import CONVERSATION, Item, input_items
from codegen_api.dialects.openai.lists import ListQuery, listed
from codegen_api.dialects.openai.streams import items_of
from codegen_api.dialects.openai.wire import OWN, own
from codegen_api.errors import NotFound
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Conversation
from codegen_api.web import json_response, operation
from codegen_api.worker_thread import encoded

router = routes_about("conversations")

ConversationPath = Annotated[str, Path(description="The conversation's id.")]


@router.post("/v1/conversations", **operation("Create a conversation", WRITE, responses.CONVERSATION))
async def create_conversation(
    conversations: MyConversations, body: Annotated[schemas.CreateConversation | None, Body()] = None
) -> Response:
    """Create a conversation. What is said in it goes on in one run."""
    body = body or schemas.CreateConversation()
    not_offered(items=body.items)
    checked(body.metadata)
    now = conversations.clock()
    made = Conversation(new_id(), now, now, metadata={OWN: {"metadata": body.metadata or {}}})
    await conversations.add_conversation(made)
    return _shown(made)


@router.get("/v1/conversations/{conversation_id}", **operation("Get a conversation", READ, responses.CONVERSATION))
async def get_conversation(conversations: MyConversations, conversation_id: ConversationPath) -> Response:
    """A conversation, which may be one of another API of this gateway."""
    return _shown(await _conversation(conversations, conversation_id))


@router.delete("/v1/conversations/{conversation_id}", **operation("Delete a conversation", WRITE, responses.DELETED))
async def delete_conversation(conversations: MyConversations, conversation_id: ConversationPath) -> Response:
    """Forget a conversation and its responses. What is under way in it is stopped, where the host can."""
    there = await _conversation(conversations, conversation_id)
    await conversations.delete_conversation(there.id)
    gone: Json = {"id": f"{CONVERSATION}{there.id}", "object": "conversation.deleted", "deleted": True}
    return json_response(to_json(gone))


@router.get("/v1/conversations/{conversation_id}/items", **operation("List items", READ, responses.LISTED))
async def list_items(
    conversations: MyConversations, conversation_id: ConversationPath, query: Annotated[ListQuery, Query()]
) -> Response:
    """What was said and done in a conversation, the last of it first."""
    there = await _conversation(conversations, conversation_id)
    await conversations.latest(there.id)  # which finds out how it is now
    items: list[Item] = []
    for stretch in await conversations.path(there.id):
        items += input_items(stretch.turn)
        items += await items_of(conversations, stretch, await pending_of(conversations, stretch.turn))
    return json_response(await encoded(listed(items, query)))


async def _conversation(conversations: CallerConversations, conversation_id: str) -> Conversation:
    """Raises ``NotFound``: there is none."""
    name = conversation_id.removeprefix(CONVERSATION)
    return NotFound.unless(await conversations.conversation(name), "Conversation", conversation_id)


def _shown(there: Conversation) -> Response:
    name, metadata = f"{CONVERSATION}{there.id}", own(there.metadata).get("metadata") or {}
    about: dict[str, Json] = {"id": name, "created_at": int(there.created), "metadata": metadata}
    return json_response(to_json({**about, "object": "conversation"}))
