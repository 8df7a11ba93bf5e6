"""The routes of sessions, for both generations of clients: beside their agents (flat) and below them (nested)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from codegen_api.dialects import not_offered
from codegen_api.dialects.everruns import message_routes, responses, schemas, sessions
from codegen_api.dialects.everruns.agents import AgentId, Limit, Offset, agent_called, agent_of
from codegen_api.dialects.everruns.dependencies import CurrentClient, WantedOrganization, routes_about
from codegen_api.dialects.everruns.families import FLAT, NESTED, Family
from codegen_api.dialects.everruns.ids import kept_id
from codegen_api.dialects.everruns.schemas import Timeout, Wait
from codegen_api.dialects.everruns.sessions import Here
from codegen_api.identity import READ, WRITE
from codegen_api.sse import LastEventId
from codegen_api.web import IdempotencyKey, Responses, operation

flat = routes_about("sessions", "/v1/sessions")
nested = routes_about("sessions below agents", "/v1/agents/{agent_id}/sessions")

SessionId = Annotated[str, Path(description="`session_` and 32 hexadecimal digits, or a UUID.")]

Endpoint = Callable[..., Awaitable[Response]]

LISTED = responses.answers(200, responses.EverrunsMessages, "What was said by now, oldest first.")
SAID = responses.made(responses.EverrunsMessage, "What was said.", 402, 409)
STOPPED = responses.answers(200, responses.Cancelled, "What came of it.", 409, 501)
EXPORTED = "The messages, each on a line."


# -- what both have ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Routes:
    """The routes of one generation. ``here`` finds the session that a path names; ``suffix`` tells the names of its
    operations from the other's, ``of_session`` their summaries. ``session`` and ``events`` are what it is answered.
    """

    family: Family
    router: APIRouter
    here: Callable[..., Awaitable[Here]]
    session: type[BaseModel]
    events: type[BaseModel]
    streamed: str
    suffix: str = ""
    of_agent: str = ""
    of_session: str = ""

    def add(
        self, endpoint: Endpoint, method: str, path: str, summary: str, scope: str, well: Responses, **more: Any
    ) -> None:
        summary = summary.format(of_agent=self.of_agent, of_session=self.of_session)
        name = more.pop("name", endpoint.__name__ + self.suffix)
        self.router.add_api_route(
            "/{session_id}" + path, endpoint, methods=[method], name=name, **operation(summary, scope, well), **more
        )

    def add_all(self) -> None:
        self._add_sessions()
        self._add_messages()
        self._add_events()

    def _add_sessions(self) -> None:
        async def get_session(here: Annotated[Here, Depends(self.here)]) -> Response:
            """A session as it is now: `active` (nested: `running`) from before a message is answered until its answer
            can be read.
            """
            return await sessions.get_session(here)

        async def update_session(here: Annotated[Here, Depends(self.here)], body: schemas.UpdateSession) -> Response:
            """Give a session another title, or other tags."""
            return await sessions.update_session(here, body)

        async def delete_session(here: Annotated[Here, Depends(self.here)]) -> Response:
            """Delete a session. What is under way in it is stopped, where the host can; there, its log stays."""
            return await sessions.delete_session(here)

        found = responses.answers(200, self.session, "The session.")
        changed = responses.answers(200, self.session, "The session.", 409)
        gone = responses.answers(204, None, "It is gone.", 409)
        self.add(get_session, "GET", "", "Get a session{of_agent}", READ, found)
        self.add(update_session, "PATCH", "", "Update a session{of_agent}", WRITE, changed)
        self.add(delete_session, "DELETE", "", "Delete a session{of_agent}", WRITE, gone, status_code=204)

    def _add_messages(self) -> None:
        async def create_message(
            here: Annotated[Here, Depends(self.here)],
            body: schemas.CreateMessage,
            wait: Wait = False,
            timeout_ms: Timeout = None,
            key: IdempotencyKey = None,
        ) -> Response:
            """Say something to the agent, whose turn it then is. While it is, 409."""
            not_offered(wait=wait)
            return await message_routes.say(here, body, key)

        async def list_messages(here: Annotated[Here, Depends(self.here)]) -> Response:
            """What the user, the agent and its tools have said by now."""
            return await message_routes.list_messages(here)

        async def cancel_turn(here: Annotated[Here, Depends(self.here)]) -> Response:
            """Stop what the agent does, if it does anything."""
            return await message_routes.cancel(here)

        self.add(create_message, "POST", "/messages", "Create a message{of_session}", WRITE, SAID, status_code=201)
        self.add(list_messages, "GET", "/messages", "List messages{of_session}", READ, LISTED)
        self.add(cancel_turn, "POST", "/cancel", "Cancel the current turn{of_session}", WRITE, STOPPED)

    def _add_events(self) -> None:
        async def list_events(
            request: Request,
            here: Annotated[Here, Depends(self.here)],
            last_event_id: LastEventId,
            query: Annotated[schemas.EventsQuery, Query()],
        ) -> Response:
            """What has happened by now, a list; live events for who accepts `text/event-stream`."""
            if message_routes.wants_stream(request):
                return message_routes.listen(request, here, query, last_event_id)
            return await message_routes.list_events(here, query)

        async def stream_events(
            request: Request,
            here: Annotated[Here, Depends(self.here)],
            last_event_id: LastEventId,
            query: Annotated[schemas.StreamQuery, Query()],
        ) -> Response:
            return message_routes.listen(request, here, query, last_event_id)

        either = responses.streamed(
            self.family, "What has happened by now; with `Accept: text/event-stream` live.", self.events
        )
        live = responses.streamed(self.family, "Events, live.")
        name = "events" + self.suffix if self.suffix else "list_events"
        self.add(list_events, "GET", "/events", "List or stream events{of_session}", READ, either, name=name)
        live_form = {"response_class": Response, "description": self.streamed}
        self.add(stream_events, "GET", "/sse", "Stream events{of_session}", READ, live, **live_form)


# -- beside agents ----------------------------------------------------------------------------------------------------


async def session_beside(client: CurrentClient, session_id: SessionId) -> Here:
    """The session that the path names."""
    return await sessions.session_at(client, FLAT, session_id)


@flat.post(
    "",
    **operation("Create a session", WRITE, responses.made(responses.EverrunsSession, "The session.", 409)),
    status_code=201,
)
async def create_session(
    client: CurrentClient,
    wanted: WantedOrganization,
    body: schemas.CreateSession,
    key: IdempotencyKey = None,
) -> Response:
    """Begin a session, with an agent or with the host's own. The host is not told until something is said."""
    agent = None
    if body.agent_id is not None:
        agent = await agent_of(client.conversations, body.agent_id)
    elif body.agent_name is not None:
        agent = await agent_called(client.conversations, body.agent_name)
    return await sessions.begin_session(client, FLAT, wanted, body, agent, key)


@flat.get(
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


@flat.get(
    "/{session_id}/export",
    **operation(
        "Export messages",
        READ,
        {
            **responses.answers(200, None, EXPORTED),
            200: {"description": EXPORTED, "content": {"application/x-ndjson": {}}},
        },
    ),
    response_class=Response,
)
async def export_messages(here: Annotated[Here, Depends(session_beside)]) -> Response:
    """The messages as lines of JSON."""
    return await message_routes.export(here)


Routes(
    FLAT,
    flat,
    session_beside,
    responses.EverrunsSession,
    responses.EverrunsEvents,
    "Events behind `since_id`, and then as they come, turn after turn. Without it those of the last turn come first."
    "\n\nAn id that nobody knows gets everything from the beginning. `disconnecting` says that the gateway ends the"
    " stream.",
).add_all()


# -- below agents -----------------------------------------------------------------------------------------------------


async def session_below(client: CurrentClient, agent_id: AgentId, session_id: SessionId) -> Here:
    """The session that the path names, if it has this agent."""
    return await sessions.session_at(client, NESTED, session_id, agent_id)


@nested.post(
    "",
    **operation("Create a session of an agent", WRITE, responses.made(responses.SessionBelow, "The session.", 409)),
    status_code=201,
)
async def create_session_below(
    client: CurrentClient,
    wanted: WantedOrganization,
    agent_id: AgentId,
    body: schemas.CreateSessionBelow,
    key: IdempotencyKey = None,
) -> Response:
    """Begin a session. The host is not told until something is said."""
    agent = await agent_of(client.conversations, agent_id)
    return await sessions.begin_session(client, NESTED, wanted, body, agent, key, agent_id)


@nested.get(
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


@nested.get(
    "/{session_id}/events/list",
    **operation(
        "List events in a session of an agent",
        READ,
        responses.answers(200, responses.EventsBelow, "What was said by now, as events."),
    ),
)
async def list_events_below(
    here: Annotated[Here, Depends(session_below)], query: Annotated[schemas.EventsQuery, Query()]
) -> Response:
    """What was said by now, as events."""
    return await message_routes.list_events(here, query)


Routes(
    NESTED,
    nested,
    session_below,
    responses.SessionBelow,
    responses.EventsBelow,
    "Everything from the beginning, or from behind the last event seen, then as it comes.",
    suffix="_below",
    of_agent=" of an agent",
    of_session=" in a session of an agent",
).add_all()
