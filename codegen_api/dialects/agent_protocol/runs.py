"""Runs after their start: list, read, join, stop and delete them, by their thread and id or by the id alone."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Query
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects import not_offered, rejected
from codegen_api.dialects.agent_protocol import responses, schemas
from codegen_api.dialects.agent_protocol.create_runs import Modes
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.events import MODES
from codegen_api.dialects.agent_protocol.run_responses import Responder, RunResponder, states_with_status
from codegen_api.dialects.agent_protocol.state import turn_values
from codegen_api.dialects.agent_protocol.threads import find_thread
from codegen_api.dialects.agent_protocol.wire import selected
from codegen_api.errors import Conflict, NotFound, NotOffered
from codegen_api.http.sse import LastEventId
from codegen_api.http.web import json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState

router = routes_about("runs")
published = routes_about("agents and runs")

Flag = Annotated[str | None, Query()]
Action = Annotated[str, Query(description="`interrupt`; `rollback` is not offered.")]
TRUE = ("1", "true", "True")

MOST_CANCELLED = 100
"""Maximum runs that one request may name: each is looked up at the host."""


async def in_thread(thread_id: str, run_id: str) -> None:
    """Documents the parameters of the path, which ``_requested_run`` reads."""


async def by_id(run_id: str) -> None:
    """The same for paths without the thread."""


RUN, IN_THREAD, BY_ID = "/threads/{thread_id}/runs/{run_id}", [Depends(in_thread)], [Depends(by_id)]


@router.get("/threads/{thread_id}/runs", **operation("List runs", READ, responses.RUNS))
async def list_runs(
    responder: Responder,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    status: Annotated[str | None, Query(description="Only runs with this status.")] = None,
    select: Annotated[list[str] | None, Query(description="The fields that are wanted; all by default.")] = None,
) -> Response:
    """The runs of a thread, newest first. What came of them is told by `GET` of each."""
    await find_thread(responder.conversations, thread_id)
    await responder.conversations.latest(thread_id)
    states = states_with_status(responder.statuses, status, "query")
    turns = await responder.conversations.turns(thread_id, states=states, limit=limit, offset=offset)
    return json_response(to_json([selected(responder.fields(turn), select) for turn in turns]))


@published.post("/runs/search", **operation("Search runs", READ, responses.RUNS))
async def search_runs(responder: Responder, body: schemas.SearchRuns | None = None) -> Response:
    """The caller's runs, of one thread or of all, the newest first, as they were when somebody last looked."""
    params = body or schemas.SearchRuns()
    not_offered(metadata=params.metadata, agent_id=params.agent_id)
    if params.thread_id is not None:
        await find_thread(responder.conversations, params.thread_id)
    states = states_with_status(responder.statuses, params.status, "body")
    turns = await responder.conversations.turns(
        params.thread_id, states=states, limit=params.limit, offset=params.offset
    )
    return json_response(to_json([responder.fields(turn) for turn in turns]))


@published.get(
    "/runs/{run_id}",
    dependencies=BY_ID,
    name="get_run_by_id",
    description="A run as it is now, for who does not know its thread.",
    **operation("Get a run by id", READ, responses.RUN),
)
@router.get(RUN, dependencies=IN_THREAD, **operation("Get a run", READ, responses.RUN))
async def get_run(responder: Responder) -> Response:
    """A run as it is now; with the state of its thread at its end as `output`."""
    turn = await _requested_run(responder)
    output: Json = None
    if turn.state in (TurnState.COMPLETED, TurnState.WAITING):
        output = await turn_values(responder.conversations, turn)
    elif turn.state.over:
        output = {}
    return json_response(to_json({**responder.fields(turn), "output": output}))


@router.get(f"{RUN}/join", dependencies=IN_THREAD, **operation("Wait for a run's result", READ, responses.JOINED))
async def join_run(responder: Responder, cancel_on_disconnect: Flag = None) -> Response:
    """The thread's state at the end of a run."""
    turn = await _requested_run(responder, settled=False)
    await responder.conversations.require_right(turn)
    return responder.outcome(turn, stop_on_disconnect=cancel_on_disconnect in TRUE)


@published.get(
    "/runs/{run_id}/wait", dependencies=BY_ID, **operation("Wait for a run's result by id", READ, responses.JOINED)
)
async def wait_by_id(responder: Responder) -> Response:
    """The thread's state at the end of a run."""
    return await join_run(responder)


@published.get(
    "/runs/{run_id}/stream",
    dependencies=BY_ID,
    name="stream_by_id",
    description="The events of a run behind the last one seen, then those that come.",
    **operation("Stream a run by id (by GET)", READ, responses.FOLLOWED),
)
@router.get(f"{RUN}/stream", dependencies=IN_THREAD, **operation("Stream a run", READ, responses.FOLLOWED))
async def join_stream(
    responder: Responder,
    last_event_id: LastEventId,
    stream_mode: Annotated[Modes | None, Query(description="Else those that the run was started with.")] = None,
    cancel_on_disconnect: Flag = None,
) -> Response:
    """The events of a run behind the last one seen, then those that come. Without a position, and with one that is none
    of this run, all of them; also when the run is over, for as long as the host keeps it.
    """
    turn = await _requested_run(responder, settled=False)
    await responder.conversations.require_right(turn)
    modes = stream_mode or []
    unknown = [mode for mode in modes if mode not in (*MODES, "run_modes")]
    if unknown:
        raise NotOffered(f"The gateway does not know the stream mode {unknown[0][:100]}.")
    modes = [mode for mode in modes if mode in MODES]
    stop = cancel_on_disconnect in TRUE
    return responder.events(turn, modes=modes, last_event_id=last_event_id, stop_on_disconnect=stop)


@router.post("/runs/{run_id}/stream", dependencies=BY_ID, **operation("Stream a run by id", READ, responses.FOLLOWED))
async def follow_run(responder: Responder, last_event_id: LastEventId) -> Response:
    """The events of a run, for who does not know its thread."""
    return await join_stream(responder, last_event_id)


# -- stopping ---------------------------------------------------------------------------------------------------------


@published.post(
    "/runs/{run_id}/cancel",
    dependencies=BY_ID,
    name="cancel_by_id",
    **operation("Cancel a run by id", WRITE, responses.STOPPED),
)
@router.post(f"{RUN}/cancel", dependencies=IN_THREAD, **operation("Cancel a run", WRITE, responses.STOPPED))
async def cancel_run(responder: Responder, wait: Flag = None, action: Action = "interrupt") -> Response:
    """Stop a run, where the host can; one that is over stays as it is."""
    _refuse_rollback(action)
    turn = await responder.conversations.stop(await _requested_run(responder), wait=wait in TRUE)
    return json_response(to_json(responder.fields(turn)))


@router.post("/runs/cancel", **operation("Cancel runs", WRITE, responses.ALL_STOPPED), status_code=204)
async def cancel_runs(conversations: MyConversations, body: schemas.ManyRuns, action: Action = "interrupt") -> Response:
    """Stop the named runs of a thread, or all that are under way."""
    _refuse_rollback(action)
    if body.run_ids is not None:
        if len(body.run_ids) > MOST_CANCELLED:
            raise rejected(f"There may be {MOST_CANCELLED} runs at most.", "too_long", "body", "run_ids")
        turns: Sequence[Turn] = [await _find_run(conversations, body.thread_id, run) for run in body.run_ids]
    else:
        states = {"pending": [TurnState.QUEUED, TurnState.STARTING], "running": [TurnState.RUNNING]}
        wanted = states.get(body.status or "all", [state for state in TurnState if not state.over])
        turns = await conversations.turns(body.thread_id, states=wanted)
    for turn in turns:  # first, or one of them would begin when another turn ends
        if turn.state is TurnState.QUEUED:
            await conversations.stop(turn)
    await asyncio.gather(*(conversations.stop(turn) for turn in turns if turn.state is not TurnState.QUEUED))
    return Response(status_code=204)


@published.delete(
    "/runs/{run_id}",
    dependencies=BY_ID,
    name="delete_by_id",
    **operation("Delete a run by id", WRITE, responses.FORGOTTEN),
    status_code=204,
)
@router.delete(RUN, dependencies=IN_THREAD, **operation("Delete a run", WRITE, responses.FORGOTTEN), status_code=204)
async def delete_run(responder: Responder, force: Flag = None) -> Response:
    """Forget a run that is over; with `force` it is stopped before."""
    turn = await _requested_run(responder)
    if not turn.state.over and force in TRUE:
        turn = await responder.conversations.stop(turn, wait=True)
    if not turn.state.over:
        raise Conflict("The run is under way, or waits: stop it first.")
    await responder.conversations.remove_turn(turn.id)
    return Response(status_code=204)


def _refuse_rollback(action: str) -> None:
    if action != "interrupt":
        raise NotOffered(f"The gateway cannot do this when it stops a run: {action[:100]}.")


async def _requested_run(responder: RunResponder, *, settled: bool = True) -> Turn:
    """The run that the path names: as it is now (``settled``), or as last stored.

    Raises:
        NotFound: there is no such run, or it is another user's.
    """
    path = responder.request.path_params
    return await _find_run(responder.conversations, path.get("thread_id"), path["run_id"], settled=settled)


async def _find_run(conversations: CallerConversations, thread: str | None, run: str, *, settled: bool = True) -> Turn:
    turn = await conversations.find_turn(run, settled=settled)
    if thread is not None and turn.conversation != thread:
        raise NotFound.named("Run", run)
    return turn
