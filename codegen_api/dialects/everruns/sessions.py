"""Sessions: conversations with an agent, with paths beside the agents (flat) or below them (nested)."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Path, Query
from starlette.responses import Response

from codegen_api.dialects import not_offered
from codegen_api.dialects.everruns import responses, schemas
from codegen_api.dialects.everruns.agents import AgentId, Limit, Offset, find_agent, find_agent_named
from codegen_api.dialects.everruns.dependencies import CurrentClient, WantedOrganization, routes_about
from codegen_api.dialects.everruns.families import FLAT, id_for_key, stored_id
from codegen_api.dialects.everruns.schemas import check_storable
from codegen_api.dialects.everruns.wire import OWN, EverrunsClient, list_response, session_fields, without_nulls
from codegen_api.errors import Conflict, IdempotencyKeyReused, NotFound
from codegen_api.http.web import REPLAYED, IdempotencyKey, json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Conversation
from codegen_api.stores import Query as StoreQuery

flat = routes_about("sessions", "/v1/sessions")
nested = routes_about("sessions below agents", "/v1/agents/{agent_id}/sessions")


async def find_session(
    client: CurrentClient,
    session_id: Annotated[str, Path(description="`session_` and 32 hexadecimal digits, or a UUID.")],
) -> Conversation:
    """The session that the path names.

    Raises:
        NotFound: there is none, or it is another user's, or its agent is not that of the path.
    """
    session = await client.conversations.conversation(stored_id(session_id, "session"))
    if session is None or (client.agent is not None and session.agent != stored_id(client.agent, "agent")):
        raise NotFound.named("Session", session_id)
    return session


CurrentSession = Annotated[Conversation, Depends(find_session)]


@flat.post("", **operation("Create a session", WRITE, responses.SESSION_MADE), status_code=201)
async def create_session(
    client: CurrentClient, wanted: WantedOrganization, body: schemas.CreateSession, key: IdempotencyKey = None
) -> Response:
    """Begin a session, with an agent or with the host's own. The host is not told until something is said."""
    agent = None
    if body.agent_id is not None:
        agent = await find_agent(client.conversations, body.agent_id)
    elif body.agent_name is not None:
        agent = await find_agent_named(client.conversations, body.agent_name)
    return await _create(client, wanted, body, agent, key)


@nested.post("", **operation("Create a session of an agent", WRITE, responses.SESSION_MADE_BELOW), status_code=201)
async def create_session_below(
    client: CurrentClient,
    wanted: WantedOrganization,
    agent_id: AgentId,
    body: schemas.CreateSessionBelow,
    key: IdempotencyKey = None,
) -> Response:
    """Begin a session. The host is not told until something is said."""
    return await _create(client, wanted, body, await find_agent(client.conversations, agent_id), key)


@flat.get("", **operation("List sessions", READ, responses.SESSIONS))
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
    agent = stored_id(agent_id, "agent") if agent_id else None
    offset = offset if page_token is None else page_token
    return await _list(client, offset, limit, agent, search)


@nested.get("", **operation("List sessions of an agent", READ, responses.SESSIONS_BELOW))
async def list_sessions_below(
    client: CurrentClient, agent_id: AgentId, offset: Offset = 0, limit: Limit = 100
) -> Response:
    """Sessions, newest first; each as of when somebody last looked at it."""
    agent = await find_agent(client.conversations, agent_id)
    return await _list(client, offset, limit, agent.id)


async def _create(
    client: EverrunsClient,
    wanted: str | None,
    body: schemas.CreateSessionBelow,
    agent: Agent | None,
    key: str | None,
) -> Response:
    """Create a session. Its runs will belong to the organization ``wanted``, or to the default one.

    Raises:
        Conflict: the agent is archived.
        IdempotencyKeyReused: a different session was created with this key.
    """
    not_offered(**body.not_offered())
    system_prompt = body.system_prompt if isinstance(body, schemas.CreateSession) else None
    check_storable(title=body.title, tags=body.tags, model_id=body.model_id, system_prompt=system_prompt)
    if agent is not None and agent.archived:
        raise Conflict("This agent is archived: begin no sessions with it, or take it back first.")
    organization = await client.conversations.organization(wanted)
    settings = {"organization": organization, "model_id": body.model_id, "system_prompt": system_prompt}
    now, owner = client.conversations.clock(), client.conversations.owner
    session = Conversation(
        id_for_key(key, "session", owner),
        created=now,
        updated=now,
        agent=None if agent is None else agent.id,
        title=body.title,
        tags=tuple(body.tags),
        metadata={OWN: without_nulls(settings)},
    )
    if not await client.conversations.add_conversation(session):
        existing = NotFound.unless(await client.conversations.conversation(session.id), "Session", session.id)
        if (session.agent, session.metadata) != (existing.agent, existing.metadata):
            raise IdempotencyKeyReused
        again = await get_session(client, existing)
        return json_response(bytes(again.body), 201, REPLAYED)
    return json_response(to_json(session_fields(client, session, None, None)), 201)


async def _list(
    client: EverrunsClient, offset: int, limit: int, agent: str | None, search: str | None = None
) -> Response:
    """Sessions, newest first, each as last seen. Running ones are then refreshed for the next request."""
    wanted = StoreQuery(limit, offset, metadata={OWN: {}}, agent=agent, name=search or None)
    found = await client.conversations.conversations(wanted)
    ends = await client.conversations.overview([session.id for session in found.items])
    items: list[Json] = [session_fields(client, each, *ends.get(each.id, (None, None))) for each in found.items]
    paging: dict[str, Json] = {"offset": offset, "limit": limit}
    if client.family is FLAT and items and offset + len(items) < found.total:
        paging["next_page_token"] = str(offset + len(items))
    return list_response(items, found.total, **paging)


async def get_session(client: CurrentClient, session: CurrentSession) -> Response:
    """A session as it is now: `active` (nested: `running`) from before a message is answered until its answer
    can be read.
    """
    first = latest = await client.conversations.latest(session.id)
    if latest is not None and latest.number > 1:
        first, _ = (await client.conversations.ends([session.id])).get(session.id, (None, None))
    return json_response(to_json(session_fields(client, session, first, latest)))


async def update_session(client: CurrentClient, session: CurrentSession, body: schemas.UpdateSession) -> Response:
    """Give a session another title, or other tags."""
    not_offered(**body.not_offered())
    check_storable(title=body.title, tags=body.tags)

    def change(current: Conversation) -> Conversation:
        title = current.title if body.title is None else body.title
        tags = current.tags if body.tags is None else tuple(body.tags)
        return replace(current, title=title, tags=tags, updated=client.conversations.clock())

    changed = await client.conversations.change_conversation(session.id, change)
    return await get_session(client, NotFound.unless(changed, "Session", session.id))


async def delete_session(client: CurrentClient, session: CurrentSession) -> Response:
    """Delete a session. What is under way in it is stopped, where the host can; there, its log stays."""
    if not await client.conversations.delete_conversation(session.id):
        raise NotFound.named("Session", session.id)
    return Response(status_code=204)
