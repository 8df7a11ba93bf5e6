"""Agents, which both families share. What is deleted is archived: hidden from lists, and still there to be read."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from fastapi import Body, Path, Query, Request
from starlette.responses import RedirectResponse, Response

from codegen_api import stores
from codegen_api.conversations import Conversations, change, new_id, owner_of
from codegen_api.dialects.everruns import answers, schemas
from codegen_api.dialects.everruns.asking import Asker, routes_about
from codegen_api.dialects.everruns.ids import kept_id
from codegen_api.dialects.everruns.keeping import keepable, not_offered
from codegen_api.dialects.everruns.wire import OWN, agent_fields, listed, own, told
from codegen_api.errors import NotFound
from codegen_api.identity import READ, WRITE, Caller
from codegen_api.runs import to_json
from codegen_api.stores import Agent
from codegen_api.web import Keeper, json_response, needs

router = routes_about("agents")

AgentId = Annotated[
    str, Path(description="`agent_` and 32 hexadecimal digits, or a UUID.", examples=["agent_0190a5b0"])
]
Offset = Annotated[int, Query(ge=0, le=schemas.MOST, description="How many to pass over.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many to give at most.")]
Search = Annotated[str | None, Query(description="A part of the name, in either case.")]


@router.post(
    "/v1/agents",
    status_code=201,
    summary="Create an agent",
    responses={
        **answers.answers(201, answers.EverrunsAgent, "The agent.", 409),
        200: {"model": answers.EverrunsAgent, "description": "The agent with this id, changed."},
    },
    openapi_extra=needs(WRITE),
)
async def create_agent(conversations: Keeper, caller: Asker, body: Annotated[schemas.CreateAgent, Body()]) -> Response:
    """Create an agent; with the `id` of one that there is, change it."""
    _check(body)
    now = conversations.clock()
    agent = Agent(
        new_id() if body.id is None else kept_id(body.id, "agent"),
        body.name,
        created=now,
        updated=now,
        description=body.description,
        system_prompt=body.system_prompt,
        model=body.default_model_id,
        tags=tuple(body.tags),
        configuration={OWN: told({"display_name": body.display_name})},
    )
    if await conversations.store.add_agent(owner_of(caller), agent):
        return json_response(to_json(agent_fields(agent)), 201)

    def to(then: Agent) -> Agent:
        configuration = {**then.configuration, **agent.configuration}
        return replace(agent, created=then.created, version=then.version + 1, configuration=configuration)

    return json_response(to_json(agent_fields(await _change(conversations, caller, agent.id, to))))


@router.get(
    "/v1/agents",
    summary="List agents",
    responses=answers.answers(200, answers.EverrunsAgents, "The agents that are not archived, newest first."),
    openapi_extra=needs(READ),
)
async def list_agents(
    conversations: Keeper, caller: Asker, offset: Offset = 0, limit: Limit = 100, search: Search = None
) -> Response:
    """The agents that were made here and are not archived, newest first."""
    wanted = stores.Query(limit, offset, configuration={OWN: {}}, name=search or None, archived=False)
    found = await conversations.store.agents(owner_of(caller), wanted)
    return listed([agent_fields(agent) for agent in found.items], found.total, offset=offset, limit=limit)


@router.get(
    "/v1/agents/{agent_id}",
    summary="Get an agent",
    responses=answers.answers(200, answers.EverrunsAgent, "The agent."),
    openapi_extra=needs(READ),
)
async def get_agent(conversations: Keeper, caller: Asker, agent_id: AgentId) -> Response:
    """An agent, archived or not."""
    return json_response(to_json(agent_fields(await agent_of(conversations, caller, agent_id))))


@router.patch(
    "/v1/agents/{agent_id}",
    summary="Change an agent",
    responses=answers.answers(200, answers.EverrunsAgent, "The agent.", 409),
    openapi_extra=needs(WRITE),
)
async def update_agent(
    conversations: Keeper, caller: Asker, agent_id: AgentId, body: Annotated[schemas.UpdateAgent, Body()]
) -> Response:
    """Change an agent, or archive it, or take it back from there. What its sessions were told stays as it was."""
    _check(body)

    def to(then: Agent) -> Agent:
        mine = {**own(then.configuration), **told({"display_name": body.display_name})}
        return replace(
            then,
            name=then.name if body.name is None else body.name,
            description=then.description if body.description is None else body.description,
            system_prompt=then.system_prompt if body.system_prompt is None else body.system_prompt,
            model=then.model if body.default_model_id is None else body.default_model_id,
            tags=then.tags if body.tags is None else tuple(body.tags),
            archived=then.archived if body.status is None else body.status == "archived",
            configuration={**then.configuration, OWN: mine},
            updated=conversations.clock(),
            version=then.version + 1,
        )

    return json_response(to_json(agent_fields(await _change(conversations, caller, agent_id, to))))


@router.delete(
    "/v1/agents/{agent_id}",
    status_code=204,
    summary="Archive an agent",
    responses=answers.answers(204, None, "It is archived.", 409),
    openapi_extra=needs(WRITE),
)
async def archive_agent(conversations: Keeper, caller: Asker, agent_id: AgentId) -> Response:
    """Hide an agent from lists. Its sessions go on, and it can still be read."""

    def to(then: Agent) -> Agent:
        if then.archived:
            raise NotFound.named("Agent", agent_id)
        return replace(then, archived=True, updated=conversations.clock())

    await _change(conversations, caller, agent_id, to)
    return Response(status_code=204)


@router.get("/swagger-ui", include_in_schema=False)
@router.get("/swagger-ui/", include_in_schema=False)
async def documentation(request: Request) -> Response:
    """Where the documents of this API send their readers."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")


async def agent_of(conversations: Conversations, caller: Caller, agent_id: str) -> Agent:
    """The agent that a client means.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    agent = await conversations.store.agent(owner_of(caller), kept_id(agent_id, "agent"))
    if agent is None:
        raise NotFound.named("Agent", agent_id)
    return agent


async def _change(conversations: Conversations, caller: Caller, agent_id: str, to: Callable[[Agent], Agent]) -> Agent:
    owner = owner_of(caller)
    return await change(
        lambda: agent_of(conversations, caller, agent_id),
        lambda then, now: conversations.store.change_agent(owner, then, now),
        to,
    )


def _check(body: schemas.CreateAgent | schemas.UpdateAgent) -> None:
    not_offered(**body.not_offered())
    keepable(
        name=body.name,
        display_name=body.display_name,
        description=body.description,
        system_prompt=body.system_prompt,
        default_model_id=body.default_model_id,
        tags=body.tags,
    )
