"""Messages and events of a session, live or as lists, and all routes of sessions that both families have."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.params import Depends as Dependency
from pydantic import BaseModel
from starlette.responses import Response

from codegen_api.conversations import Ask, images_of, said_before, text_of
from codegen_api.dialects import not_offered, rejected
from codegen_api.dialects.everruns import responses, schemas
from codegen_api.dialects.everruns.agents import AgentId
from codegen_api.dialects.everruns.dependencies import CurrentClient
from codegen_api.dialects.everruns.events import DELTA, SessionEvent
from codegen_api.dialects.everruns.families import FLAT, NESTED, START, Family, Spot, id_for_key, parse_spot, stored_id
from codegen_api.dialects.everruns.messages import message_fields, parse_content, user_messages
from codegen_api.dialects.everruns.rendering import check_kinds, event_fields, kind_in
from codegen_api.dialects.everruns.responses import EVENT_STREAM
from codegen_api.dialects.everruns.schemas import check_storable
from codegen_api.dialects.everruns.sessions import (
    CurrentSession,
    delete_session,
    flat,
    get_session,
    nested,
    update_session,
)
from codegen_api.dialects.everruns.streams import EventFilter, Listener, events_of, messages_of
from codegen_api.dialects.everruns.wire import EverrunsClient, list_response, own, without_nulls
from codegen_api.http.sse import LastEventId, lasting
from codegen_api.http.web import REPLAYED, IdempotencyKey, Responses, json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Conversation, Turn, TurnState
from codegen_api.upstreams import NewRun

Endpoint = Callable[..., Awaitable[Response]]

MOST_EVENTS = 10_000
"""Maximum events in a list; `after_sequence` continues it."""


async def create_message(
    client: CurrentClient,
    session: CurrentSession,
    body: schemas.CreateMessage,
    wait: schemas.Wait = False,
    timeout_ms: schemas.Timeout = None,
    key: IdempotencyKey = None,
) -> Response:
    """Say something to the agent, whose turn it then is. While it is, 409."""
    # the answer comes when the host has the message, or may have it
    not_offered(wait=wait)
    not_offered(**body.not_offered())
    content = parse_content(body.message.content)
    check_storable(controls=body.controls, metadata=body.metadata)
    id = id_for_key(key, "message", client.conversations.owner, session.id)  # noqa: A001 - as everywhere
    message = {"id": id, "content": content, **without_nulls({"controls": body.controls, "metadata": body.metadata})}
    if key is not None:
        turn = await said_before(client.conversations, session.id, message)
        if turn is not None:
            return _message_created(client, turn, REPLAYED)
    settings = own(session.metadata)
    agent = None if session.agent is None else await client.conversations.agent(session.agent)
    prompts = [agent.system_prompt if agent is not None else None, _text(settings, "system_prompt")]
    ask = Ask(
        messages=[message],
        text=text_of(message),
        images=images_of(message),
        agent=agent,
        system_prompt="\n\n".join(prompt for prompt in prompts if prompt) or None,
        run=NewRun("", body.metadata, model=_model(body.controls) or _text(settings, "model_id")),
    )
    return _message_created(client, await client.conversations.begin(_text(settings, "organization"), session.id, ask))


async def list_messages(client: CurrentClient, session: CurrentSession) -> Response:
    """What the user, the agent and its tools have said by now."""
    messages = await _message_list(client, session)
    return list_response(messages, len(messages))


@flat.get("/{session_id}/export", **operation("Export messages", READ, responses.EXPORTED), response_class=Response)
async def export_messages(client: CurrentClient, session: CurrentSession) -> Response:
    """The messages as lines of JSON."""
    lines = [to_json(message) + b"\n" for message in await _message_list(client, session)]
    return Response(b"".join(lines), media_type="application/x-ndjson")


async def list_events(
    request: Request,
    client: CurrentClient,
    session: CurrentSession,
    last_event_id: LastEventId,
    query: Annotated[schemas.EventsQuery, Query()],
) -> Response:
    """What has happened by now, a list; live events for who accepts `text/event-stream`."""
    if EVENT_STREAM in request.headers.get("accept", "").lower():
        return await stream_events(request, client, session, last_event_id, query)
    return await list_events_below(client, session, query)


async def below(agent_id: AgentId) -> None:
    """Documents ``agent_id``, which ``client_of`` reads from the path."""


BELOW = [Depends(below)]


@nested.get(
    "/{session_id}/events/list",
    dependencies=BELOW,
    **operation("List events in a session of an agent", READ, responses.EVENTS_BELOW),
)
async def list_events_below(
    client: CurrentClient, session: CurrentSession, query: Annotated[schemas.EventsQuery, Query()]
) -> Response:
    """What was said by now, as events."""
    # pieces of messages are listed only on request
    not_offered(**query.not_offered())
    after = _last_seen(session, query.since_id, query.after_sequence)
    check_kinds(client.family, types=query.types, exclude=query.exclude)
    turn_id = None if query.turn_id is None else stored_id(query.turn_id, "turn")

    def is_wanted(event: SessionEvent) -> bool:
        kind = kind_in(client.family, event)
        wants = kind in query.types if query.types else kind not in (None, DELTA)
        return wants and kind not in query.exclude and turn_id in (None, event.turn.id)

    wanted = EventFilter(
        after or START,
        None if query.before_sequence is None else Spot.of(query.before_sequence),
        is_wanted,
        limit=query.limit or MOST_EVENTS,
        newest=query.limit is not None and after is None,
    )
    events = await events_of(client.conversations, session.id, wanted)
    items: list[Json] = [event_fields(client.family, event) for event in events]
    return list_response(items[::-1] if query.order_desc else items, len(items))


async def stream_events(
    request: Request,
    client: CurrentClient,
    session: CurrentSession,
    last_event_id: LastEventId,
    query: Annotated[schemas.StreamQuery, Query()],
) -> Response:
    """What happens from now on, and before that what the listener does not have yet."""
    not_offered(**query.not_offered(), **(query.list_options() if isinstance(query, schemas.EventsQuery) else {}))
    check_kinds(client.family, types=query.types, exclude=query.exclude)
    # a browser reconnects with its first URL; its position is in the header
    after = _last_seen(session, last_event_id or query.since_id, query.after_sequence)
    listener = Listener(client.conversations, client.family, session.id, after, query.types, query.exclude)
    return lasting(request, listener.frames(), f"{EVENT_STREAM}; charset=utf-8")


async def cancel_turn(client: CurrentClient, session: CurrentSession) -> Response:
    """Stop what the agent does, if it does anything."""
    stopped = await client.conversations.clear(session.id)
    status, message = "cancelled", "The turn was stopped."
    if stopped is None:
        status, message = "no_op", "Nothing is under way in this session."
    elif not stopped.state.active and stopped.state not in (TurnState.CANCELLED, TurnState.WITHDRAWN):
        status, message = "no_op", "Nothing is under way in this session any more."
    return json_response(to_json({"status": status, "message": message}))


def _last_seen(session: Conversation, event_id: str | None, sequence: int | None) -> Spot | None:
    """The last event that a client has. An unknown id counts as the beginning, so that nothing is missed."""
    if event_id:
        return parse_spot(session.id, event_id) or START
    return None if sequence is None else Spot.of(sequence)


async def _message_list(client: EverrunsClient, session: Conversation) -> list[Json]:
    """The messages so far, oldest first."""
    messages = await messages_of(client.conversations, session.id)
    return [message_fields(client.family, session.id, message) for message in messages]


def _message_created(client: EverrunsClient, turn: Turn, headers: Mapping[str, str] | None = None) -> Response:
    message = message_fields(client.family, turn.conversation, user_messages(turn)[0])
    return json_response(to_json(message), 201, headers)


def _text(settings: Mapping[str, Json], name: str) -> str | None:
    value = settings.get(name)
    return value if isinstance(value, str) else None


def _model(controls: Mapping[str, Json] | None) -> str | None:
    """
    Raises:
        Rejected: the model is not a text.
    """
    model = (controls or {}).get("model_id")
    if model is not None and not isinstance(model, str):
        raise rejected("Must be a text.", "string_type", "body", "controls", "model_id")
    return model


# -- routes of both families ------------------------------------------------------------------------------------------


def _add_routes(
    router: APIRouter,
    family: Family,
    session: type[BaseModel],
    events: type[BaseModel],
    streamed: str,
    within: list[Dependency] | None = None,
) -> None:
    """Add a family's routes. ``session`` and ``events`` are its response models, ``streamed`` describes its stream."""
    suffix, of_agent, of_session = "", "", ""
    if family is NESTED:
        suffix, of_agent, of_session = "_below", " of an agent", " in a session of an agent"

    def add(method: str, path: str, endpoint: Endpoint, summary: str, scope: str, well: Responses, **more: Any) -> None:
        named = {"name": endpoint.__name__ + suffix, "dependencies": within, "methods": [method], **more}
        router.add_api_route("/{session_id}" + path, endpoint, **named, **operation(summary, scope, well))

    answers, live = responses.answers, responses.streamed
    either = live(family, "What has happened by now; with `Accept: text/event-stream` live.", events)
    add("GET", "", get_session, f"Get a session{of_agent}", READ, answers(200, session, "The session."))
    add("PATCH", "", update_session, f"Update a session{of_agent}", WRITE, answers(200, session, "The session.", 409))
    add("DELETE", "", delete_session, f"Delete a session{of_agent}", WRITE, responses.GONE, status_code=204)
    add("POST", "/messages", create_message, f"Create a message{of_session}", WRITE, responses.SAID, status_code=201)
    add("GET", "/messages", list_messages, f"List messages{of_session}", READ, responses.MESSAGES)
    add("POST", "/cancel", cancel_turn, f"Cancel the current turn{of_session}", WRITE, responses.STOPPED)
    name = "events_below" if family is NESTED else "list_events"
    add("GET", "/events", list_events, f"List or stream events{of_session}", READ, either, name=name)
    shown = {"response_class": Response, "description": streamed}
    add("GET", "/sse", stream_events, f"Stream events{of_session}", READ, live(family, "Events, live."), **shown)


_add_routes(
    flat,
    FLAT,
    responses.EverrunsSession,
    responses.EverrunsEvents,
    "Events behind `since_id`, and then as they come, turn after turn. Without it those of the last turn come first."
    "\n\nAn id that nobody knows gets everything from the beginning. `disconnecting` says that the gateway ends the"
    " stream.",
)
_add_routes(
    nested,
    NESTED,
    responses.SessionBelow,
    responses.EventsBelow,
    "Everything from the beginning, or from behind the last event seen, then as it comes.",
    BELOW,
)

ROUTES = [*nested.routes, *flat.routes]
