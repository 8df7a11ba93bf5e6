"""Runs that were started: listed, described, joined, stopped, forgotten."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Body, Query
from pydantic import BaseModel
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects.agent_protocol import responses, schemas
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.events import MODES
from codegen_api.dialects.agent_protocol.run_requests import Modes
from codegen_api.dialects.agent_protocol.run_responses import Answers, states_called
from codegen_api.dialects.agent_protocol.state import turn_values
from codegen_api.dialects.agent_protocol.threads import thread_of
from codegen_api.dialects.agent_protocol.wire import selected
from codegen_api.errors import Conflict, NotFound, NotOffered
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.sse import LastEventId
from codegen_api.stores import Turn, TurnState
from codegen_api.web import json_response, operation

router = routes_about("runs")

Flag = Annotated[str | None, Query()]
Action = Annotated[str, Query(description="`interrupt`; `rollback` is not offered.")]
SET = ("1", "true", "True")


async def _find(conversations: CallerConversations, thread: str | None, run: str, *, settled: bool = True) -> Turn:
    turn = await conversations.find_turn(run, settled=settled)
    if thread is not None and turn.conversation != thread:
        raise NotFound.named("Run", run)
    return turn


@router.get("/threads/{thread_id}/runs", **operation("List runs", READ, responses.RUNS))
async def list_runs(
    answers: Answers,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    status: Annotated[str | None, Query(description="Only runs with this status.")] = None,
    select: Annotated[list[str] | None, Query(description="The fields that are wanted; all by default.")] = None,
) -> Response:
    """The runs of a thread, newest first. What came of them is told by `GET` of each."""
    await thread_of(answers.conversations, thread_id)
    await answers.conversations.latest(thread_id)
    states = states_called(answers.statuses, status, "query")
    turns = await answers.conversations.turns(thread_id, states=states, limit=limit, offset=offset)
    return json_response(to_json([selected(answers.fields(turn), select) for turn in turns]))


@router.get("/threads/{thread_id}/runs/{run_id}", **operation("Get a run", READ, responses.RUN))
async def get_run(answers: Answers, thread_id: str, run_id: str) -> Response:
    """A run as it is now; with the state of its thread at its end as `output`."""
    turn = await _find(answers.conversations, thread_id, run_id)
    output: Json = None
    if turn.state in (TurnState.COMPLETED, TurnState.WAITING):
        output = await turn_values(answers.conversations, turn)
    elif turn.state.over:
        output = {}
    return json_response(to_json({**answers.fields(turn), "output": output}))


@router.get("/threads/{thread_id}/runs/{run_id}/join", **operation("Wait for a run's result", READ, responses.JOINED))
async def join_run(answers: Answers, thread_id: str, run_id: str, cancel_on_disconnect: Flag = None) -> Response:
    """The thread's state at the end of a run."""
    turn = await _find(answers.conversations, thread_id, run_id, settled=False)
    await answers.conversations.require_right(turn)
    return answers.outcome(turn, stops=cancel_on_disconnect in SET)


@router.get("/threads/{thread_id}/runs/{run_id}/stream", **operation("Stream a run", READ, responses.FOLLOWED))
async def join_stream(
    answers: Answers,
    thread_id: str,
    run_id: str,
    last_event_id: LastEventId,
    stream_mode: Annotated[list[str] | None, Query(description="Else those that the run was started with.")] = None,
    cancel_on_disconnect: Flag = None,
) -> Response:
    """The events of a run behind the last one seen, then those that come. Without a position, and with one that is none
    of this run, all of them; also when the run is over, for as long as the host keeps it.
    """
    turn = await _find(answers.conversations, thread_id, run_id, settled=False)
    await answers.conversations.require_right(turn)
    modes = _wanted_modes(stream_mode)
    return answers.events(turn, modes=modes, last_event_id=last_event_id, stops=cancel_on_disconnect in SET)


@router.post("/runs/{run_id}/stream", **operation("Stream a run by id", READ, responses.FOLLOWED))
async def follow_run(answers: Answers, run_id: str, last_event_id: LastEventId) -> Response:
    """The events of a run, for who does not know its thread."""
    turn = await _find(answers.conversations, None, run_id, settled=False)
    await answers.conversations.require_right(turn)
    return answers.events(turn, last_event_id=last_event_id)


def _wanted_modes(given: list[str] | None) -> list[str]:
    modes = ModeList.model_validate({"modes": given}).modes
    unknown = [mode for mode in modes if mode not in (*MODES, "run_modes")]
    if unknown:
        raise NotOffered(f"The gateway does not know the stream mode {unknown[0][:100]}.")
    return [mode for mode in modes if mode in MODES]


class ModeList(BaseModel):
    modes: Modes


# -- stopping ---------------------------------------------------------------------------------------------------------


@router.post("/threads/{thread_id}/runs/{run_id}/cancel", **operation("Cancel a run", WRITE, responses.STOPPED))
async def cancel_run(
    answers: Answers, thread_id: str, run_id: str, wait: Flag = None, action: Action = "interrupt"
) -> Response:
    """Stop a run, where the host can; one that is over stays as it is."""
    _refuse_rollback(action)
    turn = await _find(answers.conversations, thread_id, run_id)
    turn = await answers.conversations.stop(turn, wait=wait in SET)
    return json_response(to_json(answers.fields(turn)))


class ManyRuns(BaseModel):
    """The runs to cancel."""

    thread_id: str | None = None
    run_ids: schemas.Names | None = None
    status: Literal["pending", "running", "all"] | None = None


@router.post("/runs/cancel", **operation("Cancel runs", WRITE, responses.ALL_STOPPED), status_code=204)
async def cancel_runs(
    conversations: MyConversations, body: Annotated[ManyRuns, Body()], action: Action = "interrupt"
) -> Response:
    """Stop the named runs of a thread, or all that are under way."""
    _refuse_rollback(action)
    if body.run_ids is not None:
        turns: Sequence[Turn] = [await _find(conversations, body.thread_id, run) for run in body.run_ids[:100]]
    else:
        states = {"pending": [TurnState.QUEUED, TurnState.STARTING], "running": [TurnState.RUNNING]}
        wanted = states.get(body.status or "all", [state for state in TurnState if not state.over])
        turns = await conversations.turns(body.thread_id, states=wanted)
    for turn in turns:  # before any other ends, and one of these begins
        if turn.state is TurnState.QUEUED:
            await conversations.stop(turn)
    await asyncio.gather(*(conversations.stop(turn) for turn in turns if turn.state is not TurnState.QUEUED))
    return Response(status_code=204)


@router.delete(
    "/threads/{thread_id}/runs/{run_id}", **operation("Delete a run", WRITE, responses.FORGOTTEN), status_code=204
)
async def delete_run(conversations: MyConversations, thread_id: str, run_id: str, force: Flag = None) -> Response:
    """Forget a run that is over; with `force` it is stopped before."""
    turn = await _find(conversations, thread_id, run_id)
    if not turn.state.over and force in SET:
        turn = await conversations.stop(turn, wait=True)
    if not turn.state.over:
        raise Conflict("The run is under way, or waits: stop it first.")
    await conversations.remove_turn(turn.id)
    return Response(status_code=204)


def _refuse_rollback(action: str) -> None:
    if action != "interrupt":
        raise NotOffered(f"The gateway cannot do this when it stops a run: {action[:100]}.")
