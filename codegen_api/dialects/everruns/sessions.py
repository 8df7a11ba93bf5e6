"""Sessions: conversations with an agent, and how they are. What was said in them is asked of the host."""

from dataclasses import dataclass, replace

from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects import not_offered
from codegen_api.dialects.everruns import schemas
from codegen_api.dialects.everruns.families import FLAT, Family
from codegen_api.dialects.everruns.ids import id_for, kept_id
from codegen_api.dialects.everruns.storage import keepable
from codegen_api.dialects.everruns.wire import OWN, EverrunsClient, listed, session_fields, told
from codegen_api.errors import Conflict, IdempotencyKeyReused, NotFound
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Conversation, Query
from codegen_api.web import REPLAYED, json_response


@dataclass(frozen=True, slots=True)
class Here:
    """A session as a client came to it. ``agent`` is what they call its agent, where they name it."""

    client: EverrunsClient
    family: Family
    session: Conversation
    agent: str | None = None

    @property
    def conversations(self) -> CallerConversations:
        return self.client.conversations


async def session_at(client: EverrunsClient, family: Family, session_id: str, agent_id: str | None = None) -> Here:
    """The session that a client means, below the agent that they name.

    Raises:
        NotFound: there is none, or it is somebody else's, or it has another agent.
    """
    session = await client.conversations.conversation(kept_id(session_id, "session"))
    if session is None or (agent_id is not None and session.agent != kept_id(agent_id, "agent")):
        raise NotFound.named("Session", session_id)
    return Here(client, family, session, agent_id)


async def begin_session(
    client: EverrunsClient,
    family: Family,
    wanted: str | None,
    body: schemas.CreateSessionBelow,
    agent: Agent | None,
    key: str | None,
    agent_id: str | None = None,
) -> Response:
    """Begin a session with an agent. Its runs are going to be in the organization that is ``wanted``, or meant.

    Raises:
        Conflict: the agent is archived.
        IdempotencyKeyReused: another one was begun with this key.
    """
    not_offered(**body.not_offered())
    system_prompt = body.system_prompt if isinstance(body, schemas.CreateSession) else None
    keepable(title=body.title, tags=body.tags, model_id=body.model_id, system_prompt=system_prompt)
    if agent is not None and agent.archived:
        raise Conflict("This agent is archived: begin no sessions with it, or take it back first.")
    organization = await client.conversations.organization(wanted)
    now, owner = client.conversations.clock(), client.conversations.owner
    session = Conversation(
        id_for(key, "session", owner),
        created=now,
        updated=now,
        agent=None if agent is None else agent.id,
        title=body.title,
        tags=tuple(body.tags),
        metadata={OWN: told({"organization": organization, "model_id": body.model_id, "system_prompt": system_prompt})},
    )
    if not await client.conversations.add_conversation(session):
        there = await session_at(client, family, session.id)
        if (session.agent, session.metadata) != (there.session.agent, there.session.metadata):
            raise IdempotencyKeyReused
        again = await get_session(replace(there, agent=agent_id))
        return json_response(bytes(again.body), 201, REPLAYED)
    return json_response(to_json(session_fields(family, session, client, agent_id, None, None)), 201)


async def list_sessions(
    client: EverrunsClient,
    family: Family,
    offset: int,
    limit: int,
    *,
    agent: str | None = None,
    agent_id: str | None = None,
    search: str | None = None,
) -> Response:
    """Sessions, newest first. Each is told as of when somebody last looked: who asks again soon gets it as it is."""
    wanted = Query(limit, offset, metadata={OWN: {}}, agent=agent, name=search or None)
    found = await client.conversations.conversations(wanted)
    ends = await client.conversations.overview([session.id for session in found.items])
    items: list[Json] = [
        session_fields(family, session, client, agent_id, *ends.get(session.id, (None, None)))
        for session in found.items
    ]
    paging: dict[str, Json] = {"offset": offset, "limit": limit}
    if family is FLAT and items and offset + len(items) < found.total:
        paging["next_page_token"] = str(offset + len(items))
    return listed(items, found.total, **paging)


async def get_session(here: Here) -> Response:
    """A session as it is now."""
    latest = await here.conversations.latest(here.session.id)
    first = latest
    if latest is not None and latest.number > 1:
        first, _ = (await here.conversations.ends([here.session.id])).get(here.session.id, (None, 0))
    return json_response(to_json(session_fields(here.family, here.session, here.client, here.agent, first, latest)))


async def update_session(here: Here, body: schemas.UpdateSession) -> Response:
    """Give a session another title, or other tags."""
    not_offered(**body.not_offered())
    keepable(title=body.title, tags=body.tags)

    def to(then: Conversation) -> Conversation:
        title = then.title if body.title is None else body.title
        tags = then.tags if body.tags is None else tuple(body.tags)
        return replace(then, title=title, tags=tags, updated=here.conversations.clock())

    changed = await here.conversations.change_conversation(here.session.id, to)
    session = NotFound.unless(changed, "Session", here.session.id)
    return await get_session(replace(here, session=session))


async def delete_session(here: Here) -> Response:
    """Delete a session. What is under way in it is stopped, where the host can; there, its log stays."""
    if not await here.conversations.delete_conversation(here.session.id):
        raise NotFound.named("Session", here.session.id)
    return Response(status_code=204)
