"""The routes of the older generation of clients: sessions below their agents."""

from typing import Annotated

from fastapi import Body, Depends, Path, Query, Request
from starlette.responses import Response

from codegen_api.dialects import not_offered
from codegen_api.dialects.everruns import message_routes, responses, schemas, sessions
from codegen_api.dialects.everruns.agents import AgentId, Limit, Offset, agent_of
from codegen_api.dialects.everruns.dependencies import CurrentClient, WantedOrganization, routes_about
from codegen_api.dialects.everruns.families import NESTED
from codegen_api.dialects.everruns.schemas import Timeout, Wait
from codegen_api.identity import READ, WRITE
from codegen_api.sse import LastEventId
from codegen_api.web import IdempotencyKey, operation

router = routes_about("sessions below agents", "/v1/agents/{agent_id}/sessions")

SessionId = Annotated[str, Path(description="A UUID, or `session_` and 32 hexadecimal digits.")]


async def session_here(client: CurrentClient, agent_id: AgentId, session_id: SessionId) -> sessions.Here:
    """The session that the path names, if it has this agent."""
    return await sessions.session_at(client, NESTED, session_id, agent_id)


Here = Annotated[sessions.Here, Depends(session_here)]


@router.post(
    "",
    **operation("Create a session of an agent", WRITE, responses.made(responses.SessionBelow, "The session.", 409)),
    status_code=201,
)
async def create_session_below(
    client: CurrentClient,
    wanted: WantedOrganization,
    agent_id: AgentId,
    body: Annotated[schemas.CreateSessionBelow, Body()],
    key: IdempotencyKey = None,
) -> Response:
    """Begin a session. The host is not told until something is said."""
    agent = await agent_of(client.conversations, agent_id)
    return await sessions.begin_session(client, NESTED, wanted, body, agent, key, agent_id)


@router.get(
    "",
    **operation(
        "List sessions of an agent",
        READ,
        responses.answers(200, responses.SessionsBelow, "The sessions, newest first."),
    ),
)
async def list_sessions_below(
    client: CurrentClient, agent_id: AgentId, offset: Offset = 0, limit: Limit = 100
) -> Response:
    """Sessions, newest first; each as of when somebody last looked at it."""
    agent = await agent_of(client.conversations, agent_id)
    return await sessions.list_sessions(client, NESTED, offset, limit, agent=agent.id, agent_id=agent_id)


@router.get(
    "/{session_id}",
    **operation("Get a session of an agent", READ, responses.answers(200, responses.SessionBelow, "The session.")),
)
async def get_session_below(here: Here) -> Response:
    """A session as it is now: `running` from before a message is answered until its answer can be read."""
    return await sessions.get_session(here)


@router.patch(
    "/{session_id}",
    **operation(
        "Update a session of an agent", WRITE, responses.answers(200, responses.SessionBelow, "The session.", 409)
    ),
)
async def update_session_below(here: Here, body: Annotated[schemas.UpdateSession, Body()]) -> Response:
    """Give a session another title, or other tags."""
    return await sessions.update_session(here, body)


@router.delete(
    "/{session_id}",
    **operation("Delete a session of an agent", WRITE, responses.answers(204, None, "It is gone.", 409)),
    status_code=204,
)
async def delete_session_below(here: Here) -> Response:
    """Delete a session. What is under way in it is stopped, where the host can; there, its log stays."""
    return await sessions.delete_session(here)


@router.post(
    "/{session_id}/messages",
    **operation(
        "Create a message in a session of an agent",
        WRITE,
        responses.made(responses.EverrunsMessage, "What was said.", 402, 409),
    ),
    status_code=201,
)
async def create_message_below(
    here: Here,
    body: Annotated[schemas.CreateMessage, Body()],
    wait: Wait = False,
    timeout_ms: Timeout = None,
    key: IdempotencyKey = None,
) -> Response:
    """Say something to the agent, whose turn it then is. While it is, 409."""
    not_offered(wait=wait)
    return await message_routes.say(here, body, key)


@router.get(
    "/{session_id}/messages",
    **operation(
        "List messages in a session of an agent",
        READ,
        responses.answers(200, responses.EverrunsMessages, "What was said by now, oldest first."),
    ),
)
async def list_messages_below(here: Here) -> Response:
    """What the user, the assistant and its tools have said by now."""
    return await message_routes.list_messages(here)


@router.get(
    "/{session_id}/events",
    **operation(
        "List or stream events of a session of an agent",
        READ,
        responses.streamed("What was said by now; with `Accept: text/event-stream` live.", responses.EventsBelow),
    ),
)
async def events_below(
    request: Request, here: Here, last_event_id: LastEventId, query: Annotated[schemas.EventsQuery, Query()]
) -> Response:
    """Live events for who accepts `text/event-stream`: everything from the beginning, then as it comes. Else a list."""
    if message_routes.wants_stream(request):
        return message_routes.listen(request, here, query, last_event_id)
    return await message_routes.list_events(here, query)


@router.get(
    "/{session_id}/events/list",
    **operation(
        "List events of a session of an agent",
        READ,
        responses.answers(200, responses.EventsBelow, "What was said by now, as events."),
    ),
)
async def list_events_below(here: Here, query: Annotated[schemas.EventsQuery, Query()]) -> Response:
    """What was said by now, as events."""
    return await message_routes.list_events(here, query)


@router.get(
    "/{session_id}/sse",
    **operation("Stream events of a session of an agent", READ, responses.streamed("Events, live.")),
    response_class=Response,
)
async def stream_events_below(
    request: Request, here: Here, last_event_id: LastEventId, query: Annotated[schemas.StreamQuery, Query()]
) -> Response:
    """Everything from the beginning, or from behind the last event seen, then as it comes."""
    return message_routes.listen(request, here, query, last_event_id)


@router.post(
    "/{session_id}/cancel",
    **operation(
        "Cancel the current turn in a session of an agent",
        WRITE,
        responses.answers(200, responses.Cancelled, "What came of it.", 409, 501),
    ),
)
async def cancel_turn_below(here: Here) -> Response:
    """Stop what the agent does, if it does anything."""
    return await message_routes.cancel(here)
