"""The routes of responses and conversations. A response can be streamed, waited for, or fetched later."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, checked, new_id, pending_of
from codegen_api.dialects import not_offered
from codegen_api.dialects.openai import responses, schemas
from codegen_api.dialects.openai.dependencies import MyConversations, OnlyOnce, routes_about
from codegen_api.dialects.openai.events import described, events, items_of, outcome
from codegen_api.dialects.openai.items import CONVERSATION, RESPONSE, Item, input_items
from codegen_api.dialects.openai.turns import begin, find_turn
from codegen_api.dialects.openai.wire import OWN, own, response_fields
from codegen_api.errors import NotFound
from codegen_api.http.sse import lasting
from codegen_api.http.web import WantedOrganization, json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Conversation, Turn
from codegen_api.worker_thread import encoded

router, talks = routes_about("responses"), routes_about("conversations")

ResponsePath = Annotated[str, Path(description="The response's id.")]
ConversationPath = Annotated[str, Path(description="The conversation's id.")]


class ListQuery(BaseModel):
    """Which part of a list, and in which order."""

    limit: int = Field(20, ge=1, le=100, description="At most so many.")
    order: Literal["asc", "desc"] = Field("desc", description="The oldest first, or the newest.")
    after: Annotated[str, Field(max_length=600)] | None = Field(None, description="The id behind which to go on.")
    include: Any = Field(None, description="Has no meaning here, and is ignored.")


@router.post("/v1/responses", **operation("Create a response", WRITE, responses.CREATED))
async def create_response(
    request: Request, once: OnlyOnce, wanted: WantedOrganization, body: schemas.CreateResponse
) -> Response:
    """Say something to the agent. With `stream` the answer is its events, with `background` the response as it begins;
    else it is the response when it is over, with white space before it as a sign of life. The agent goes on when the
    client leaves.

    A request that is sent again, with the same `Idempotency-Key` or by an SDK on its own, begins nothing again.
    """
    conversations = once.conversations
    turn = await once.begin(body.model_dump(mode="json"), lambda ids: begin(conversations, wanted, body, ids))
    if body.stream:
        return streamed(request, conversations, turn)
    if not body.background:
        whole = outcome(conversations, turn, lambda over: described(conversations, over))
        return lasting(request, whole, "application/json")
    response = response_fields(turn, turn.state, []) if turn.state.active else await described(conversations, turn)
    return json_response(await encoded(response))


@router.get("/v1/responses/{response_id}", **operation("Get a response", READ, responses.FOUND))
async def get_response(
    request: Request,
    conversations: MyConversations,
    response_id: ResponsePath,
    stream: Annotated[bool, Query(description="Whether the answer is the events, live or again.")] = False,
    starting_after: Annotated[
        int | None, Query(ge=0, le=10**15, description="The `sequence_number` of the last event that the client has.")
    ] = None,
    include: Annotated[list[str] | None, Query(description="Has no meaning here, and is ignored.")] = None,
) -> Response:
    """A response with what has come of it by now. With `stream` its events from the beginning on, or, live or later,
    those behind `starting_after`.
    """
    turn = await find_turn(conversations, response_id)
    if stream:
        return streamed(request, conversations, turn, -1 if starting_after is None else starting_after)
    return json_response(await encoded(await described(conversations, turn)))


@router.post("/v1/responses/{response_id}/cancel", **operation("Cancel a response", WRITE, responses.CANCELLED))
async def cancel_response(conversations: MyConversations, response_id: ResponsePath) -> Response:
    """Stop the agent. A response that is over stays as it is."""
    turn = await conversations.stop(await find_turn(conversations, response_id), wait=True)
    return json_response(await encoded(await described(conversations, turn)))


@router.delete("/v1/responses/{response_id}", **operation("Delete a response", WRITE, responses.DELETED))
async def delete_response(conversations: MyConversations, response_id: ResponsePath) -> Response:
    """Forget a response. If the agent works on it, it is stopped, where the host can. Its run stays at the host."""
    turn = await find_turn(conversations, response_id)
    if conversations.can_stop:
        await conversations.stop(turn)
    await conversations.remove_turn(turn.id)
    kept = await conversations.conversation(turn.conversation)
    # a conversation that was made for its responses is removed with the last of them
    if kept is not None and OWN not in kept.metadata and not await conversations.turns(kept.id, limit=1):
        await conversations.remove_conversation(kept.id)
    return json_response(to_json({"id": f"{RESPONSE}{turn.id}", "object": "response", "deleted": True}))


@router.get("/v1/responses/{response_id}/input_items", **operation("List input items", READ, responses.LISTED))
async def list_input_items(
    conversations: MyConversations, response_id: ResponsePath, query: Annotated[ListQuery, Query()]
) -> Response:
    """What the user said for this response, the last of it first."""
    items = input_items(await find_turn(conversations, response_id))
    return json_response(await encoded(listed(items, query)))


def streamed(request: Request, conversations: CallerConversations, turn: Turn, after: int = -1) -> Response:
    """Stream the events of a response after number ``after``."""
    return lasting(request, events(conversations, turn, after), "text/event-stream; charset=utf-8")


@talks.post("/v1/conversations", **operation("Create a conversation", WRITE, responses.CONVERSATION))
async def create_conversation(
    conversations: MyConversations, body: schemas.CreateConversation | None = None
) -> Response:
    """Create a conversation. What is said in it goes on in one run."""
    body = body or schemas.CreateConversation()
    not_offered(items=body.items)
    checked(body.metadata)
    now = conversations.clock()
    made = Conversation(new_id(), now, now, metadata={OWN: {"metadata": body.metadata or {}}})
    await conversations.add_conversation(made)
    return _shown(made)


@talks.get("/v1/conversations/{conversation_id}", **operation("Get a conversation", READ, responses.CONVERSATION))
async def get_conversation(conversations: MyConversations, conversation_id: ConversationPath) -> Response:
    """A conversation, which may be one of another API of this gateway."""
    return _shown(await _conversation(conversations, conversation_id))


@talks.delete("/v1/conversations/{conversation_id}", **operation("Delete a conversation", WRITE, responses.DELETED))
async def delete_conversation(conversations: MyConversations, conversation_id: ConversationPath) -> Response:
    """Forget a conversation and its responses. What is under way in it is stopped, where the host can."""
    conversation = await _conversation(conversations, conversation_id)
    await conversations.delete_conversation(conversation.id)
    gone: Json = {"id": f"{CONVERSATION}{conversation.id}", "object": "conversation.deleted", "deleted": True}
    return json_response(to_json(gone))


@talks.get("/v1/conversations/{conversation_id}/items", **operation("List items", READ, responses.LISTED))
async def list_items(
    conversations: MyConversations, conversation_id: ConversationPath, query: Annotated[ListQuery, Query()]
) -> Response:
    """What was said and done in a conversation, the last of it first."""
    conversation = await _conversation(conversations, conversation_id)
    await conversations.latest(conversation.id)  # brings it up to date
    items: list[Item] = []
    for stretch in await conversations.path(conversation.id):
        items += input_items(stretch.turn)
        items += await items_of(conversations, stretch, await pending_of(conversations, stretch.turn))
    return json_response(await encoded(listed(items, query)))


async def _conversation(conversations: CallerConversations, conversation_id: str) -> Conversation:
    """A conversation by its id. Raises ``NotFound`` if there is none."""
    name = conversation_id.removeprefix(CONVERSATION)
    return NotFound.unless(await conversations.conversation(name), "Conversation", conversation_id)


def _shown(conversation: Conversation) -> Response:
    name, metadata = f"{CONVERSATION}{conversation.id}", own(conversation.metadata).get("metadata") or {}
    about: dict[str, Json] = {"id": name, "created_at": int(conversation.created), "metadata": metadata}
    return json_response(to_json({**about, "object": "conversation"}))


def listed(items: Sequence[Item], query: ListQuery) -> dict[str, Json]:
    """The page of ``items``, oldest first, that a query asks for. Raises ``NotFound`` if its ``after`` is not there."""
    ordered = list(items if query.order == "asc" else items[::-1])
    ids = [item["id"] for item in ordered]
    if query.after is not None and query.after not in ids:
        raise NotFound.named("Item", query.after)
    begin = 0 if query.after is None else ids.index(query.after) + 1
    end = begin + query.limit
    ends: Item = {"first_id": next(iter(ids[begin:end]), None), "last_id": next(iter(ids[begin:end][::-1]), None)}
    return {"object": "list", "data": ordered[begin:end], **ends, "has_more": end < len(ordered)}
