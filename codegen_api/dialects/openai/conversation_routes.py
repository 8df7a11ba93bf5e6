"""Conversations: which there are, and what was said in them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Body, Path, Query, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, Stretch, checked, new_id, pending_of
from codegen_api.dialects.openai import responses, schemas
from codegen_api.dialects.openai.dependencies import MyConversations, routes_about
from codegen_api.dialects.openai.inputs import heard
from codegen_api.dialects.openai.items import CONVERSATION, Item, input_items
from codegen_api.dialects.openai.lists import ListQuery, listed
from codegen_api.dialects.openai.streams import items_of
from codegen_api.dialects.openai.turns import behind, last_known
from codegen_api.dialects.openai.wire import OWN, own
from codegen_api.errors import Conflict, ConversationBusy, NotFound
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Conversation
from codegen_api.unknown_names import warn
from codegen_api.web import json_response, operation
from codegen_api.worker_thread import encoded

router = routes_about("conversations")

ConversationPath = Annotated[str, Path(description="The conversation's id.")]
GIVEN = responses.answers(200, responses.OpenAIConversation, "The conversation.", 409)


@router.post("/v1/conversations", **operation("Create a conversation", WRITE, GIVEN))
async def create_conversation(
    request: Request,
    conversations: MyConversations,
    body: Annotated[schemas.CreateConversation | None, Body()] = None,
) -> Response:
    """Create a conversation. What is said in it goes on in one run."""
    body = body or schemas.CreateConversation()
    checked(body.metadata)
    now = conversations.clock()
    made = Conversation(new_id(), now, now, metadata=_kept(body.metadata))
    await conversations.add_conversation(made)
    if body.items:
        await _take_in(request, conversations, made, body.items)
    return _shown(made)


@router.get("/v1/conversations/{conversation_id}", **operation("Get a conversation", READ, GIVEN))
async def get_conversation(conversations: MyConversations, conversation_id: ConversationPath) -> Response:
    """A conversation, which may be one of another API of this gateway."""
    return _shown(await _conversation(conversations, conversation_id))


@router.post("/v1/conversations/{conversation_id}", **operation("Update a conversation", WRITE, GIVEN))
async def update_conversation(
    conversations: MyConversations,
    conversation_id: ConversationPath,
    body: Annotated[schemas.UpdateConversation, Body()],
) -> Response:
    """Keep other `metadata` with a conversation."""
    checked(body.metadata)
    there = await _conversation(conversations, conversation_id)
    changed = await conversations.change_conversation(
        there.id, lambda then: replace(then, metadata={**then.metadata, **_kept(body.metadata)})
    )
    return _shown(NotFound.unless(changed, "Conversation", conversation_id))


@router.delete(
    "/v1/conversations/{conversation_id}",
    **operation("Delete a conversation", WRITE, responses.answers(200, responses.Deleted, "It is gone.", 409)),
)
async def delete_conversation(conversations: MyConversations, conversation_id: ConversationPath) -> Response:
    """Forget a conversation and its responses. What is under way in it is stopped, where the host can."""
    there = await _conversation(conversations, conversation_id)
    await conversations.delete_conversation(there.id)
    gone: Json = {"id": f"{CONVERSATION}{there.id}", "object": "conversation.deleted", "deleted": True}
    return json_response(to_json(gone))


@router.get(
    "/v1/conversations/{conversation_id}/items",
    **operation("List items", READ, responses.answers(200, responses.ItemList, "What was said and done.")),
)
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


@router.post(
    "/v1/conversations/{conversation_id}/items",
    **operation("Add items", WRITE, responses.answers(200, responses.ItemList, "What the conversation has now.", 409)),
)
async def add_items(
    request: Request,
    conversations: MyConversations,
    conversation_id: ConversationPath,
    body: Annotated[schemas.AddItems, Body()],
) -> Response:
    """Let a conversation go on behind a response, by the ids of its items: it then has what led to that. Nothing else
    can be added, and is left out.
    """
    there = await _conversation(conversations, conversation_id)
    items = await _take_in(request, conversations, there, body.items)
    return json_response(await encoded(listed(items, ListQuery(limit=100, order="asc"))))


async def _take_in(
    request: Request, conversations: CallerConversations, there: Conversation, given: list[dict[str, Any]]
) -> list[Item]:
    """The items of the response behind which a conversation goes on from now on.

    Raises:
        Conflict: it has gone on by itself.
    """
    turn, _ = await last_known(conversations, heard(given, "items"))
    if turn is None:
        warn(request, "none of these is an item of a response here, and nothing was added", "body", "items")
        return []
    turn = await conversations.find_turn(turn.id)
    if turn.state.active:
        raise ConversationBusy
    if turn.conversation != there.id:
        if await conversations.turns(there.id, limit=1):
            raise Conflict("Responses were made in this conversation: it cannot go on behind another one.")
        await conversations.change_conversation(there.id, lambda then: replace(then, parent=str(behind(turn))))
    return [*input_items(turn), *await items_of(conversations, Stretch(turn, None))]


async def _conversation(conversations: CallerConversations, conversation_id: str) -> Conversation:
    """
    Raises:
        NotFound: there is none.
    """
    name = conversation_id.removeprefix(CONVERSATION)
    return NotFound.unless(await conversations.conversation(name), "Conversation", conversation_id)


def _kept(metadata: Mapping[str, str] | None) -> dict[str, Json]:
    return {OWN: {"metadata": metadata or {}}}


def _shown(there: Conversation) -> Response:
    return json_response(
        to_json(
            {
                "id": f"{CONVERSATION}{there.id}",
                "object": "conversation",
                "created_at": int(there.created),
                "metadata": own(there.metadata).get("metadata") or {},
            }
        )
    )
