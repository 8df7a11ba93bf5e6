"""Starting runs: a run is a turn of a thread, or of one that is made for it."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Body, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.agents import agent_for
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.run_requests import RunBody, ask_of, refuse_what_is_not_offered
from codegen_api.dialects.agent_protocol.run_responses import (
    events_of,
    nothing,
    outcome_of,
    places_of,
    run_fields,
    statuses_of,
)
from codegen_api.dialects.agent_protocol.storage import keepable
from codegen_api.dialects.agent_protocol.streams import Abandoning, Ending
from codegen_api.dialects.agent_protocol.threads import begin_thread, remember_assistant, thread_of
from codegen_api.errors import Rejected
from codegen_api.identity import WRITE
from codegen_api.runs import to_json
from codegen_api.sse import Begins
from codegen_api.stores import Turn, TurnState
from codegen_api.web import WantedOrganization, json_response, operation

router = routes_about("runs")


@router.post("/threads/{thread_id}/runs", **operation("Start a run", WRITE, responses.STARTED))
async def create_run(
    request: Request,
    conversations: MyConversations,
    wanted: WantedOrganization,
    thread_id: str,
    body: Annotated[RunBody, Body()],
) -> Response:
    """Start a run in a thread, which is made if it is not there. It goes on by itself."""
    turn = await _begin(conversations, wanted, thread_id, body)
    return json_response(to_json(run_fields(turn, statuses_of(request))), headers=places_of(turn, "stream"))


@router.post("/threads/{thread_id}/runs/stream", **operation("Start a run and follow it", WRITE, responses.STREAMED))
async def stream_run(
    request: Request,
    conversations: MyConversations,
    _: Begins,
    wanted: WantedOrganization,
    thread_id: str,
    body: Annotated[RunBody, Body()],
) -> Response:
    """Start a run in a thread and send its events. It goes on without its client, but for `on_disconnect: cancel`."""
    turn = await _begin(conversations, wanted, thread_id, body)
    return events_of(request, conversations, turn, abandoning=_leaving(conversations, turn, body.on_disconnect))


@router.post("/threads/{thread_id}/runs/wait", **operation("Start a run and wait for it", WRITE, responses.WAITED))
async def wait_for_run(
    request: Request,
    conversations: MyConversations,
    wanted: WantedOrganization,
    thread_id: str,
    body: Annotated[RunBody, Body()],
) -> Response:
    """Start a run in a thread and give the thread's state at its end. White space comes first, as a sign of life."""
    turn = await _begin(conversations, wanted, thread_id, body)
    return outcome_of(request, conversations, turn, abandoning=_leaving(conversations, turn, body.on_disconnect))


@router.post("/runs", **operation("Start a stateless run", WRITE, responses.STARTED))
async def create_stateless_run(
    request: Request, conversations: MyConversations, wanted: WantedOrganization, body: Annotated[RunBody, Body()]
) -> Response:
    """Start a run in a thread that is made for it, or in the one that `thread_id` names."""
    turn = await _begin(conversations, wanted, body.thread_id, body)
    return json_response(to_json(run_fields(turn, statuses_of(request))), headers=places_of(turn, "stream"))


@router.post("/runs/stream", **operation("Start a stateless run and follow it", WRITE, responses.STREAMED))
async def stream_stateless_run(
    request: Request,
    conversations: MyConversations,
    _: Begins,
    wanted: WantedOrganization,
    body: Annotated[RunBody, Body()],
) -> Response:
    """The thread is removed when the end has been sent, but for `on_completion: keep`."""
    turn = await _begin(conversations, wanted, body.thread_id, body)
    forget, leaving = _forgetting(conversations, body), _leaving(conversations, turn, body.on_disconnect)
    return events_of(request, conversations, turn, at_end=forget, abandoning=leaving)


@router.post("/runs/wait", **operation("Start a stateless run and wait for it", WRITE, responses.WAITED))
async def wait_for_stateless_run(
    request: Request, conversations: MyConversations, wanted: WantedOrganization, body: Annotated[RunBody, Body()]
) -> Response:
    """The thread is removed when the outcome has been sent, but for `on_completion: keep`."""
    turn = await _begin(conversations, wanted, body.thread_id, body)
    forget, leaving = _forgetting(conversations, body), _leaving(conversations, turn, body.on_disconnect)
    return outcome_of(request, conversations, turn, at_end=forget, abandoning=leaving)


@router.post("/runs/batch", **operation("Start several stateless runs", WRITE, responses.BATCH))
async def create_batch(
    request: Request,
    conversations: MyConversations,
    wanted: WantedOrganization,
    bodies: Annotated[list[RunBody], Body(max_length=20)],
) -> Response:
    """Start runs, each in a thread of its own. The first that cannot be started ends it; those before it go on."""
    turns = [await _begin(conversations, wanted, body.thread_id, body) for body in bodies]
    return json_response(to_json([run_fields(turn, statuses_of(request)) for turn in turns]))


async def _begin(
    conversations: CallerConversations,
    wanted: str | None,
    thread: str | None,
    body: RunBody,
) -> Turn:
    """A new turn of the thread, or of one that is made for it."""
    refuse_what_is_not_offered(body)
    if body.thread_id not in (None, thread):
        raise Rejected("`thread_id` names another thread than the path.")
    keepable(metadata=body.metadata, config=body.config, context=body.context)
    agent = await agent_for(conversations, body.agent)
    known: Sequence[Turn] = ()
    if thread is not None:
        if body.if_not_exists == "reject":
            await thread_of(conversations, thread)
        await conversations.latest(thread)
        turns = await conversations.turns(thread)
        known = [turn for turn in turns if turn.state is not TurnState.WITHDRAWN]  # nothing of those was ever said
    ask = ask_of(body, agent, known)
    found, _ = await begin_thread(conversations, thread, {})
    await remember_assistant(conversations, found, agent, ask.messages)
    return await conversations.begin(wanted, found.id, ask)


def _leaving(conversations: CallerConversations, turn: Turn, asked: str | None) -> Abandoning | None:
    return Abandoning(conversations, turn) if asked == "cancel" else None


def _forgetting(conversations: CallerConversations, body: RunBody) -> Ending:
    """What happens at the end of a run: a thread that was made for it goes."""
    if body.thread_id is not None or body.on_completion == "keep":
        return nothing

    async def forget(turn: Turn) -> None:
        await conversations.remove_conversation(turn.conversation)

    return forget
