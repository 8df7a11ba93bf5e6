"""The routes of the present generation of clients: sessions beside their agents."""

from typing import Annotated

from fastapi import Body, Depends, Path, Query, Request
from starlette.responses import Response

from codegen_api.dialects import not_offered
from codegen_api.dialects.everruns import message_routes, responses, schemas, sessions
from codegen_api.dialects.everruns.agents import Limit, Offset, agent_called, agent_of
from codegen_api.dialects.everruns.dependencies import CurrentClient, WantedOrganization, routes_about
from codegen_api.dialects.everruns.families import FLAT
from codegen_api.dialects.everruns.ids import kept_id
from codegen_api.dialects.everruns.schemas import Timeout, Wait
from codegen_api.identity import READ, WRITE
from codegen_api.sse import LastEventId
from codegen_api.web import IdempotencyKey, operation

router = routes_about("sessions", "/v1/sessions")

SessionId = Annotated[str, Path(description="`session_` and 32 hexadecimal digits, or a UUID.")]


async def session_here(client: CurrentClient, session_id: SessionId) -> sessions.Here:
    """The session that the path names."""
    return await sessions.session_at(client, FLAT, session_id)


Here = Annotated[sessions.Here, Depends(session_here)]


@router.post(
    "",
    **operation("Create a session", WRITE, responses.made(responses.EverrunsSession, "The session.", 409)),
    status_code=201,
)
async def create_session(
    client: CurrentClient,
    wanted: WantedOrganization,
    body: Annotated[schemas.CreateSession, Body()],
    key: IdempotencyKey = None,
) -> Response:
    """Begin a session, with an agent or with the host's own. The host is not told until something is said."""
    agent = None
    if body.agent_id is not None:
        agent = await agent_of(client.conversations, body.agent_id)
    elif body.agent_name is not None:
        agent = await agent_called(client.conversations, body.agent_name)
    return await sessions.begin_session(client, FLAT, wanted, body, agent, key)


@router.get(
    "",
    **operation(
        "List sessions", READ, responses.answers(200, responses.EverrunsSessions, "The sessions, newest first.")
    ),
)
async def list_sessions(
    client: CurrentClient,
    offset: Offset = 0,
    limit: Limit = 100,
    agent_id: Annotated[str | None, Query(description="Only those with this agent.")] = None,
    search: Annotated[str | None, Query(description="A part of the title, in either case.")] = None,
    page_token: Annotated[
        int | None, Query(ge=0, le=schemas.MOST, description="`next_page_token` of the page before, for `offset`.")
    ] = None,
) -> Response:
    """Sessions, newest first; each as of when somebody last looked at it."""
    agent = kept_id(agent_id, "agent") if agent_id else None
    offset = offset if page_token is None else page_token
    return await sessions.list_sessions(client, FLAT, offset, limit, agent=agent, search=search)


@router.get(
    "/{session_id}",
    **operation("Get a session", READ, responses.answers(200, responses.EverrunsSession, "The session.")),
)
async def get_session(here: Here) -> Response:
    """A session as it is now: `active` from before a message is answered until its answer can be read."""
    return await sessions.get_session(here)


@router.patch(
    "/{session_id}",
    **operation("Update a session", WRITE, responses.answers(200, responses.EverrunsSession, "The session.", 409)),
)
async def update_session(here: Here, body: Annotated[schemas.UpdateSession, Body()]) -> Response:
    """Give a session another title, or other tags."""
    return await sessions.update_session(here, body)


@router.delete(
    "/{session_id}",
    **operation("Delete a session", WRITE, responses.answers(204, None, "It is gone.", 409)),
    status_code=204,
)
async def delete_session(here: Here) -> Response:
    """Delete a session. What is under way in it is stopped, where the host can; there, its log stays."""
    return await sessions.delete_session(here)


@router.post(
    "/{session_id}/messages",
    **operation("Create a message", WRITE, responses.made(responses.EverrunsMessage, "What was said.", 402, 409)),
    status_code=201,
)
async def create_message(
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
        "List messages", READ, responses.answers(200, responses.EverrunsMessages, "What was said by now, oldest first.")
    ),
)
async def list_messages(here: Here) -> Response:
    """What the user, the agent and its tools have said by now."""
    return await message_routes.list_messages(here)


@router.get(
    "/{session_id}/export",
    **operation(
        "Export messages",
        READ,
        {
            **responses.answers(200, None, "The messages, each on a line."),
            200: {"description": "The messages, each on a line.", "content": {"application/x-ndjson": {}}},
        },
    ),
    response_class=Response,
)
async def export_messages(here: Here) -> Response:
    """The same as lines of JSON."""
    return await message_routes.export(here)


@router.get(
    "/{session_id}/events",
    **operation(
        "List events",
        READ,
        responses.streamed(
            "What has happened by now; with `Accept: text/event-stream` live.", responses.EverrunsEvents
        ),
    ),
)
async def list_events(
    request: Request, here: Here, last_event_id: LastEventId, query: Annotated[schemas.EventsQuery, Query()]
) -> Response:
    """What has happened by now, a list; live events for who accepts `text/event-stream`."""
    if message_routes.wants_stream(request):
        return message_routes.listen(request, here, query, last_event_id)
    return await message_routes.list_events(here, query)


@router.get(
    "/{session_id}/sse",
    **operation("Stream events", READ, responses.streamed("Events, live.")),
    response_class=Response,
)
async def stream_events(
    request: Request, here: Here, last_event_id: LastEventId, query: Annotated[schemas.StreamQuery, Query()]
) -> Response:
    """Events behind `since_id`, and then as they come, turn after turn. Without it those of the last turn come first.

    An id that nobody knows gets everything from the beginning. `disconnecting` says that the gateway ends the stream.
    """
    return message_routes.listen(request, here, query, last_event_id)


@router.post(
    "/{session_id}/cancel",
    **operation(
        "Cancel the current turn", WRITE, responses.answers(200, responses.Cancelled, "What came of it.", 409, 501)
    ),
)
async def cancel_turn(here: Here) -> Response:
    """Stop what the agent does, if it does anything."""
    return await message_routes.cancel(here)
