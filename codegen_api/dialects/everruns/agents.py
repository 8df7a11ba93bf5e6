"""Agents, which both families share. Deleting one archives it: it is hidden from lists, and can still be read."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from fastapi import Path, Query, Request
from starlette.responses import RedirectResponse, Response

from codegen_api import stores
from codegen_api.conversations import CallerConversations, new_id
from codegen_api.dialects import not_offered
from codegen_api.dialects.everruns import responses, schemas
from codegen_api.dialects.everruns.dependencies import CurrentClient, MyConversations, routes_about
from codegen_api.dialects.everruns.families import is_id, stored_id
from codegen_api.dialects.everruns.schemas import check_storable
from codegen_api.dialects.everruns.wire import OWN, EverrunsClient, agent_fields, list_response, own, without_nulls
from codegen_api.errors import NotFound
from codegen_api.http.web import json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent

router = routes_about("agents")

NAMES_AT_A_TIME = 100

AgentId = Annotated[
    str, Path(description="`agent_` and 32 hexadecimal digits, or a UUID.", examples=["agent_0190a5b0"])
]
NamedAgent = Annotated[str, Path(description="The same, or a name: of several agents with it the newest is meant.")]
Offset = Annotated[int, Query(ge=0, le=schemas.MOST, description="How many to pass over.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many to give at most.")]
Search = Annotated[str | None, Query(description="A part of the name, in either case.")]
Archived = Annotated[bool, Query(description="Those that are archived as well.")]


@router.post("/v1/agents", **operation("Create an agent", WRITE, responses.AGENT_PUT), status_code=201)
async def create_agent(client: CurrentClient, body: schemas.CreateAgent) -> Response:
    """Create an agent; with the `id` of one that there is, change it."""
    return await _put(client, new_id() if body.id is None else stored_id(body.id, "agent"), body)


@router.put(
    "/v1/agents/{agent_id}", **operation("Create or replace an agent", WRITE, responses.AGENT_PUT), status_code=201
)
async def put_agent(client: CurrentClient, agent_id: NamedAgent, body: schemas.CreateAgent) -> Response:
    """The same, under the id that the path names; or, if it names the newest agent of that name, for that agent."""
    if is_id(agent_id, "agent"):
        return await _put(client, stored_id(agent_id, "agent"), body)
    known = await newest_agent_named(client.conversations, agent_id)
    return await _put(client, new_id() if known is None else known.id, body)


@router.get("/v1/agents", **operation("List agents", READ, responses.AGENTS))
async def list_agents(
    client: CurrentClient,
    offset: Offset = 0,
    limit: Limit = 100,
    search: Search = None,
    include_archived: Archived = False,
) -> Response:
    """The agents that were made here and are not archived, newest first."""
    archived = None if include_archived else False
    wanted = stores.Query(limit, offset, configuration={OWN: {}}, name=search or None, archived=archived)
    found = await client.conversations.agents(wanted)
    return list_response(await _fields(client, *found.items), found.total, offset=offset, limit=limit)


@router.get("/v1/agents/{agent_id}", **operation("Get an agent", READ, responses.AGENT))
async def get_agent(client: CurrentClient, agent_id: NamedAgent) -> Response:
    """An agent, archived or not. By its name only one that is not."""
    find = find_agent if is_id(agent_id, "agent") else find_agent_named
    return await _agent_response(client, await find(client.conversations, agent_id))


@router.patch("/v1/agents/{agent_id}", **operation("Update an agent", WRITE, responses.AGENT_CHANGED))
async def update_agent(client: CurrentClient, agent_id: AgentId, body: schemas.UpdateAgent) -> Response:
    """Change an agent, or archive it, or take it back from there. What its sessions were told stays as it was."""
    _check(body)

    def change(current: Agent) -> Agent:
        mine = {**own(current.configuration), **without_nulls({"display_name": body.display_name})}
        return replace(
            current,
            name=current.name if body.name is None else body.name,
            description=current.description if body.description is None else body.description,
            system_prompt=current.system_prompt if body.system_prompt is None else body.system_prompt,
            model=current.model if body.default_model_id is None else body.default_model_id,
            tags=current.tags if body.tags is None else tuple(body.tags),
            archived=current.archived if body.status is None else body.status == "archived",
            configuration={**current.configuration, OWN: mine},
            updated=client.conversations.clock(),
            version=current.version + 1,
        )

    return await _agent_response(client, await _change(client.conversations, agent_id, change))


@router.delete("/v1/agents/{agent_id}", **operation("Archive an agent", WRITE, responses.ARCHIVED), status_code=204)
async def archive_agent(conversations: MyConversations, agent_id: AgentId) -> Response:
    """Hide an agent from lists. Its sessions go on, and it can still be read."""

    def change(current: Agent) -> Agent:
        if current.archived:
            raise NotFound.named("Agent", agent_id)
        return replace(current, archived=True, updated=conversations.clock())

    await _change(conversations, agent_id, change)
    return Response(status_code=204)


@router.get("/swagger-ui", include_in_schema=False)
@router.get("/swagger-ui/", include_in_schema=False)
async def documentation(request: Request) -> Response:
    """Where the documents of this API send their readers."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")


async def find_agent(conversations: CallerConversations, agent_id: str) -> Agent:
    """The agent with this id.

    Raises:
        NotFound: there is none, or it is another user's.
    """
    return NotFound.unless(await conversations.agent(stored_id(agent_id, "agent")), "Agent", agent_id)


async def find_agent_named(conversations: CallerConversations, name: str) -> Agent:
    """The newest agent with this name.

    Raises:
        NotFound: there is none.
    """
    return NotFound.unless(await newest_agent_named(conversations, name), "Agent", name)


async def newest_agent_named(conversations: CallerConversations, name: str) -> Agent | None:
    """The newest agent with this name that is not archived, if there is one."""
    wanted = stores.Query(NAMES_AT_A_TIME, configuration={OWN: {}}, name=name, archived=False)
    while (found := await conversations.agents(wanted)).items:
        for agent in found.items:  # the store also finds names that contain this one
            if agent.name == name:
                return agent
        wanted = replace(wanted, offset=wanted.offset + len(found.items))
    return None


async def _fields(client: EverrunsClient, *agents: Agent) -> list[Json]:
    counts = await client.conversations.counts([agent.id for agent in agents], {OWN: {}})
    return [agent_fields(agent, counts.get(agent.id, 0), client) for agent in agents]


async def _agent_response(client: EverrunsClient, agent: Agent, status: int = 200) -> Response:
    return json_response(to_json((await _fields(client, agent))[0]), status)


async def _put(client: EverrunsClient, agent_id: str, body: schemas.CreateAgent) -> Response:
    """Replace the agent with this id, or create it."""
    _check(body)
    now = client.conversations.clock()
    agent = Agent(
        agent_id,
        body.name,
        created=now,
        updated=now,
        description=body.description,
        system_prompt=body.system_prompt,
        model=body.default_model_id,
        tags=tuple(body.tags),
        configuration={OWN: without_nulls({"display_name": body.display_name})},
    )
    if await client.conversations.add_agent(agent):
        return await _agent_response(client, agent, 201)

    def change(current: Agent) -> Agent:
        configuration = {**current.configuration, **agent.configuration}
        return replace(agent, created=current.created, version=current.version + 1, configuration=configuration)

    return await _agent_response(client, await _change(client.conversations, agent_id, change))


async def _change(conversations: CallerConversations, agent_id: str, change: Callable[[Agent], Agent]) -> Agent:
    return NotFound.unless(await conversations.change_agent(stored_id(agent_id, "agent"), change), "Agent", agent_id)


def _check(body: schemas.CreateAgent | schemas.UpdateAgent) -> None:
    not_offered(**body.not_offered())
    check_storable(
        name=body.name,
        display_name=body.display_name,
        description=body.description,
        system_prompt=body.system_prompt,
        default_model_id=body.default_model_id,
        tags=body.tags,
    )
