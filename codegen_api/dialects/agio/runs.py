"""Runs: which there are, what has come of them, and how they are paused, resumed and cancelled."""

from typing import Annotated

from fastapi import Body, Path, Query, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects.agio import controls, responses, schemas
from codegen_api.dialects.agio.agents import Known, Limit, Offset
from codegen_api.dialects.agio.chat import answered
from codegen_api.dialects.agio.dependencies import MyConversations, routes_about
from codegen_api.dialects.agio.events import BEGINNING, EventPosition
from codegen_api.dialects.agio.executions import STATUSES, Execution, every_run, find_run, length_of, user_of
from codegen_api.dialects.agio.streams import Reader, metrics
from codegen_api.dialects.agio.wire import done, event_fields, metrics_fields, page, run_fields
from codegen_api.errors import InvalidCursor, NotOffered
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.sse import LastEventId
from codegen_api.unknown_names import warn
from codegen_api.web import json_response, operation

router = routes_about("runs")

RunId = Annotated[str, Path(description="The id of a run, as `run_started` tells it.")]
STOPPED = responses.answers(200, responses.Done, "It is done.", 409, 501)
RESUMED = responses.answers(200, responses.Done, "It goes on.", 402, 409)


@router.get("/api/runs", **operation("List runs", READ, responses.answers(200, responses.RunPage, "The runs.")))
async def list_runs(
    request: Request,
    conversations: MyConversations,
    agent_id: Annotated[str | None, Query(description="Only runs of this agent.")] = None,
    user_id: Annotated[str | None, Query(description="Only runs that named this user.")] = None,
    session_id: Annotated[str | None, Query(description="Only runs of this session.")] = None,
    status: Annotated[str | None, Query(description="Only runs with this status.")] = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> Response:
    """The caller's runs, newest first. `total` counts all that match, among their newest 10,000.

    What only the log tells is null here: `response_content`, and some of the `metrics`.
    """
    found = [
        run
        for run in await every_run(conversations)
        if agent_id in (None, run.first.agent)
        and user_id in (None, user_of(run.first))
        and session_id in (None, run.first.conversation)
        and status in (None, run.status)
    ]
    if status is not None and not found and status not in STATUSES:
        warn(request, f"no run has this status; there are {', '.join(STATUSES)}", "query", "status")
    items = [run_fields(run, None, metrics_fields(None, None, _steps(run))) for run in found[offset : offset + limit]]
    return page(items, len(found), limit, offset)


@router.get("/api/runs/{run_id}", **operation("Get a run", READ, responses.answers(200, responses.AgioRun, "The run.")))
async def get_run(conversations: MyConversations, run_id: RunId) -> Response:
    """A run as it is now, with what the agent has said by now."""
    run = await find_run(conversations, run_id)
    await conversations.require_right(run.first)
    reader = Reader(conversations, run)
    await reader.so_far()
    return json_response(to_json(run_fields(run, reader.teller.response, metrics(run, reader.teller))))


@router.get(
    "/api/runs/{run_id}/events",
    **operation(
        "List or stream the events of a run",
        READ,
        responses.streamed(
            responses.Events,
            "With `Accept: text/event-stream` the same stream as that of the chat, from the position on; else what has"
            " come by now.",
        ),
    ),
)
async def get_run_events(
    request: Request,
    conversations: MyConversations,
    run_id: RunId,
    last_event_id: LastEventId,
    limit: Limit = 1000,
    offset: Offset = 0,
) -> Response:
    """The events of a run, live or by now. A stream that broke off goes on behind the last id, with nothing twice.

    Listed, each tool's answer stands behind its call, so a list of a run that goes on may grow in the middle.
    """
    run = await find_run(conversations, run_id)
    await conversations.require_right(run.first)
    if "text/event-stream" in request.headers.get("accept", ""):
        if {"limit", "offset"} & set(request.query_params):
            raise NotOffered("`limit` and `offset` are for lists. A stream goes on behind a last event id.")
        after = BEGINNING if last_event_id is None else EventPosition.of(last_event_id)
        await _require_position(conversations, run, after)
        return answered(request, conversations, run, after=after)
    events = await Reader(conversations, run).so_far()
    shown = [event_fields(event) for event in events[offset : offset + limit]]
    body: dict[str, Json] = {"run_id": run.id, "total": len(events), "events": shown, "limit": limit, "offset": offset}
    return json_response(to_json(body))


@router.post("/api/runs/{run_id}/pause", **operation("Pause a run", WRITE, STOPPED))
async def pause_run(conversations: MyConversations, run_id: RunId) -> Response:
    """Stop a run at the host, meaning to go on. Streams of it stay open and are silent."""
    return done("paused", await controls.pause(conversations, await find_run(conversations, run_id)))


@router.post("/api/runs/{run_id}/resume", **operation("Resume a run", WRITE, RESUMED))
async def resume_run(agents: Known, run_id: RunId, body: Annotated[schemas.Resume | None, Body()] = None) -> Response:
    """Go on with a run that was paused, or whose agent waits for an answer. Without a `message` the agent is told
    `Go on.`
    """
    run = await find_run(agents.conversations, run_id)
    return done("resumed", await controls.resume(agents, run, None if body is None else body.message))


@router.post("/api/runs/{run_id}/cancel", **operation("Cancel a run", WRITE, STOPPED))
async def cancel_run(conversations: MyConversations, run_id: RunId) -> Response:
    """Stop a run at the host for good. What it has done stays."""
    return done("cancelled", await controls.cancel(conversations, await find_run(conversations, run_id)))


def _steps(run: Execution) -> int:
    return sum(length_of(stretch) or 0 for stretch in run.stretches)


async def _require_position(conversations: CallerConversations, run: Execution, position: EventPosition) -> None:
    """
    Raises:
        InvalidCursor: the run has no such step.
    """
    left = position.step
    for stretch in run.stretches:
        length = length_of(stretch)
        if left == 0 or (length is None and await conversations.has(stretch.turn, left)):
            return
        left -= min(left, length or 0)
    if left:
        raise InvalidCursor("This run has no such event; read it from its beginning.")
