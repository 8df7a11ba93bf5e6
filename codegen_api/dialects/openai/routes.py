"""Responses: something is said, and what comes of it is streamed, waited for, or asked for later."""

from typing import Annotated

from fastapi import Body, Path, Query, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects.openai import responses, schemas
from codegen_api.dialects.openai.dependencies import AtOnce, MyConversations, routes_about
from codegen_api.dialects.openai.items import RESPONSE, input_items
from codegen_api.dialects.openai.lists import ListQuery, listed
from codegen_api.dialects.openai.streams import described, events, outcome
from codegen_api.dialects.openai.turns import begin, find_turn, forget
from codegen_api.dialects.openai.wire import response_fields
from codegen_api.identity import READ, WRITE
from codegen_api.runs import to_json
from codegen_api.sse import lasting
from codegen_api.stores import Turn
from codegen_api.web import WantedOrganization, json_response, operation
from codegen_api.worker_thread import encoded

router = routes_about("responses")

ResponsePath = Annotated[str, Path(description="The response's id.")]


@router.post("/v1/responses", **operation("Create a response", WRITE, responses.CREATED))
async def create_response(
    request: Request, once: AtOnce, wanted: WantedOrganization, body: Annotated[schemas.CreateResponse, Body()]
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
    await forget(conversations, turn)
    return json_response(to_json({"id": f"{RESPONSE}{turn.id}", "object": "response", "deleted": True}))


@router.get("/v1/responses/{response_id}/input_items", **operation("List input items", READ, responses.LISTED))
async def list_input_items(
    conversations: MyConversations, response_id: ResponsePath, query: Annotated[ListQuery, Query()]
) -> Response:
    """What the user said for this response, the last of it first."""
    items = input_items(await find_turn(conversations, response_id))
    return json_response(await encoded(listed(items, query)))


def streamed(request: Request, conversations: CallerConversations, turn: Turn, after: int = -1) -> Response:
    """The events of a response behind number ``after``, as they come."""
    return lasting(request, events(conversations, turn, after), "text/event-stream; charset=utf-8")
