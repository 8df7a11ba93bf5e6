"""The routes of chat and runs: they start runs, show them, and pause, resume and cancel them.

A pause stops the run at the host, which can be resumed there; the run keeps its id. Pausing a paused run or cancelling
a cancelled one is no error. What a run's status does not allow is a conflict.
"""

from collections.abc import Mapping
from typing import Annotated

from fastapi import Path, Query, Request
from starlette.responses import Response

from codegen_api.conversations import Ask, CallerConversations, checked, new_id
from codegen_api.dialects import TITLE_CHARACTERS
from codegen_api.dialects.agio import responses, schemas
from codegen_api.dialects.agio.agents import Known, Limit, Offset, is_enabled
from codegen_api.dialects.agio.dependencies import MyConversations, routes_about
from codegen_api.dialects.agio.events import BEGINNING, EventPosition, SharedEvents
from codegen_api.dialects.agio.executions import OWN, AgioStatus, Execution, every_run, find_run, note, user_of
from codegen_api.dialects.agio.streams import Reader, frames, metrics, outcome
from codegen_api.dialects.agio.wire import metrics_fields, page, run_fields
from codegen_api.errors import Conflict, ConversationBusy, GatewayError, NotOffered, Unsupported, UpstreamFailure
from codegen_api.http.parts import parts_of
from codegen_api.http.sse import STREAM_HEADERS, LastEventId, NoReconnect, lasting
from codegen_api.http.unknown_names import warn
from codegen_api.http.web import WantedOrganization, json_response, operation, timestamp
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Conversation, TurnState
from codegen_api.upstreams import NewRun, require_few_bytes

chats, router = routes_about("chat"), routes_about("runs")

RunId = Annotated[str, Path(description="The id of a run, as `run_started` tells it.")]


@chats.post("/api/chat", **operation("Chat with an agent", WRITE, responses.CHAT))
async def chat(
    request: Request, _: NoReconnect, wanted: WantedOrganization, agents: Known, body: schemas.Chat
) -> Response:
    """Say something to an agent. The run goes on when the client leaves: `GET /api/runs/{run_id}/events` goes on with
    the stream.

    An `EventSource` can only GET: read the stream with `fetch`.
    """
    agent = await agents.get(body.agent_id)
    if not is_enabled(agent):
        raise Conflict(f"Agent '{agent.id}' is disabled.")
    require_few_bytes(body.metadata)
    session_id = body.session_id or new_id()
    checked([session_id, body.message])
    now = agents.conversations.clock()
    session = Conversation(session_id, now, now, agent=agent.id, title=body.message[:TITLE_CHARACTERS])
    is_new = await agents.conversations.add_conversation(session)
    last = [] if is_new else await agents.conversations.turns(session_id, limit=1)
    own: dict[str, Json] = {} if body.user_id is None else {"user_id": body.user_id}
    ask = Ask(
        [message_of(body.message)],
        body.message,
        agent=agent,
        run=NewRun("", metadata=body.metadata),
        fresh=any(turn.agent != agent.id for turn in last),  # the session was with another agent
        options={OWN: own},
    )
    turn = await agents.conversations.begin(wanted, session_id, ask)
    return answered(request, agents.conversations, Execution((turn,)), stream=body.stream)


def answered(
    request: Request,
    conversations: CallerConversations,
    run: Execution,
    *,
    after: EventPosition = BEGINNING,
    stream: bool = True,
) -> Response:
    """The response with a run: its events as they come, or its outcome."""
    reader = Reader(conversations, run, after, parts_of(request).kept("agio_shared", SharedEvents))
    headers = {**STREAM_HEADERS, "Location": f"{request.scope.get('root_path', '')}/api/runs/{run.id}"}
    if stream:
        return lasting(request, frames(reader.events()), "text/event-stream; charset=utf-8", headers)
    return lasting(request, outcome(reader), "application/json", headers)


def message_of(text: str) -> Mapping[str, Json]:
    """A user's message, as it is stored."""
    return {"id": new_id(), "content": [{"type": "text", "text": text}]}


@router.get("/api/runs", **operation("List runs", READ, responses.RUNS))
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
    if status is not None and not found and status not in list(AgioStatus):
        warn(request, f"no run has this status; there are {', '.join(AgioStatus)}", "query", "status")
    items = [run_fields(run, None, metrics_fields(None, None, run.steps)) for run in found[offset : offset + limit]]
    return page(items, len(found), limit, offset)


@router.get("/api/runs/{run_id}", **operation("Get a run", READ, responses.RUN_NOW))
async def get_run(conversations: MyConversations, run_id: RunId) -> Response:
    """A run as it is now, with what the agent has said by now."""
    run = await find_run(conversations, run_id)
    await conversations.require_right(run.first)
    reader = Reader(conversations, run)
    await reader.so_far()
    return json_response(to_json(run_fields(run, reader.teller.response, metrics(run, reader.teller))))


@router.get("/api/runs/{run_id}/events", **operation("List or stream the events of a run", READ, responses.HAPPENED))
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
        await run.require_step(conversations, after.step)
        return answered(request, conversations, run, after=after)
    events = await Reader(conversations, run).so_far()
    shown: list[Json] = []
    for event in events[offset : offset + limit]:
        created = None if event.created is None else timestamp(event.created)
        shown.append({"id": event.id, "type": event.name, "timestamp": created, "data": event.data})
    body: dict[str, Json] = {"run_id": run.id, "total": len(events), "events": shown, "limit": limit, "offset": offset}
    return json_response(to_json(body))


@router.post("/api/runs/{run_id}/pause", **operation("Pause a run", WRITE, responses.STOPPED))
async def pause_run(conversations: MyConversations, run_id: RunId) -> Response:
    """Stop a run at the host, meaning to go on. Streams of it stay open and are silent."""
    run = await _stoppable(conversations, run_id, "pause")
    if run.latest.state is TurnState.QUEUED:
        raise Conflict(f"Cannot pause run '{run.id}': it waits for another one.")
    if run.latest.state.active:
        # noted before it is stopped, so that readers who see it stop know that it is paused
        turn = await note(conversations, run.latest.id, paused=True)
        try:
            await _stop(conversations, run.updated(turn))
        except GatewayError as error:
            if not isinstance(error, ConversationBusy | UpstreamFailure):  # after those it may still stop
                await note(conversations, turn.id, paused=None)
            raise
        run = await find_run(conversations, run.id)
    return done("paused", _require("pause", run, AgioStatus.PAUSED))


@router.post("/api/runs/{run_id}/resume", **operation("Resume a run", WRITE, responses.RESUMED))
async def resume_run(agents: Known, run_id: RunId, body: schemas.Resume | None = None) -> Response:
    """Go on with a run that was paused, or whose agent waits for an answer. Without a `message` the agent is told
    `Go on.`
    """
    run = _require("resume", await find_run(agents.conversations, run_id), AgioStatus.PAUSED)
    message = None if body is None else body.message
    ask = Ask(
        [] if message is None else [message_of(message)],
        message or "",
        agent=await agents.known(run.first.agent),
        options={OWN: {"continues": run.id}},
    )
    turn = await agents.conversations.begin(run.latest.organization or None, run.first.conversation, ask)
    return done("resumed", Execution((*run.turns, turn)))


@router.post("/api/runs/{run_id}/cancel", **operation("Cancel a run", WRITE, responses.STOPPED))
async def cancel_run(conversations: MyConversations, run_id: RunId) -> Response:
    """Stop a run at the host for good. What it has done stays."""
    run = await _stoppable(conversations, run_id, "cancel", AgioStatus.CANCELLED)
    if run.is_paused:
        run = run.updated(await note(conversations, run.latest.id, paused=None))
    if not run.latest.state.over:
        await _stop(conversations, run)
    elif run.latest.state is TurnState.WAITING:  # the turn is over, but not its run at the host
        await conversations.cancel_run(run.latest)
        await note(conversations, run.latest.id, cancelled=True)
    return done("cancelled", _require("cancel", await find_run(conversations, run.id), AgioStatus.CANCELLED))


async def _stoppable(conversations: CallerConversations, run_id: str, what: str, *also: AgioStatus) -> Execution:
    run = await find_run(conversations, run_id)
    if not conversations.can_stop:
        raise Unsupported("The host cannot stop a run.")
    return _require(what, run, AgioStatus.STARTING, AgioStatus.RUNNING, AgioStatus.PAUSED, *also)


def _require(what: str, run: Execution, *statuses: AgioStatus) -> Execution:
    if run.status not in statuses:
        raise Conflict(f"Cannot {what} run '{run.id}': it is {run.status}.")
    return run


def done(what: str, run: Execution) -> Response:
    message = f"Run '{run.id}' {what} successfully"
    return json_response(to_json({"success": True, "message": message, "run_id": run.id, "status": run.status}))


async def _stop(conversations: CallerConversations, run: Execution) -> None:
    turn = await conversations.stop(run.latest, wait=True)
    if turn.state.active:
        raise ConversationBusy("The run was told to stop, and has not ended yet; ask again.")
