"""Agents: the caller's own, and in the sandbox built-in ones. An agent is a system prompt and a model under a name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, checked, new_id
from codegen_api.dialects.agio import responses, schemas
from codegen_api.dialects.agio.dependencies import MyConversations, routes_about
from codegen_api.dialects.agio.executions import OWN, own
from codegen_api.dialects.agio.wire import DEFAULT_MODEL, agent_fields, page
from codegen_api.errors import AlreadyExists, NotFound
from codegen_api.http.parts import parts_of
from codegen_api.http.web import json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent
from codegen_api.stores import Query as Wanted

router = routes_about("agents")

SANDBOX: tuple[Agent, ...] = (
    Agent("assistant", "assistant", 0.0, 0.0, "The agent of the sandbox, as it is.", tags=("sandbox",)),
    Agent(
        "customer_support",
        "customer_support",
        0.0,
        0.0,
        "The same, with instructions of its own.",
        system_prompt="You are a friendly customer support agent. Answer in plain words.",
        tags=("sandbox", "production"),
    ),
)
"""The built-in agents of the sandbox, which the documents of this API use."""


@dataclass(frozen=True)
class Agents:
    """The agents of one caller, who can change and delete the ``built_in`` ones for themselves."""

    conversations: CallerConversations
    built_in: Mapping[str, Agent]

    async def known(self, agent_id: str | None) -> Agent | None:
        """An agent of the caller; None if there is none (any more)."""
        if agent_id is None:
            return None
        agent = await self.conversations.agent(agent_id) or self.built_in.get(agent_id)
        return None if agent is None or agent.archived else agent

    async def get(self, agent_id: str) -> Agent:
        """An agent of the caller. Raises ``NotFound`` if there is none."""
        return NotFound.unless(await self.known(agent_id), "Agent", agent_id)

    async def change(self, agent_id: str, to: Callable[[Agent], Agent]) -> Agent:
        """Change an agent by ``to``. Raises ``NotFound``, or ``Conflict`` if others change it all the time."""

        def next_version(agent: Agent) -> Agent:
            if agent.archived:
                raise NotFound.named("Agent", agent_id)
            return replace(to(agent), version=agent.version + 1)

        changed = await self.conversations.change_agent(agent_id, next_version)
        if changed is not None:
            return changed
        built_in = to(await self.get(agent_id))
        if await self.conversations.add_agent(built_in):
            return built_in
        return await self.change(agent_id, to)  # another request has just stored it


def is_enabled(agent: Agent) -> bool:
    return own(agent.configuration).get("enabled") is not False


async def agents_of(request: Request, conversations: MyConversations) -> Agents:
    return Agents(conversations, {agent.id: agent for agent in SANDBOX} if parts_of(request).sandbox else {})


Known = Annotated[Agents, Depends(agents_of)]
AgentId = Annotated[str, Path(description="The id of an agent: the name that it was made with.")]
Limit = Annotated[int, Query(ge=0, le=1000, description="How many to give at most.")]
Offset = Annotated[int, Query(ge=0, le=10**18, description="How many to pass over.")]


@router.get("/api/agents", **operation("List agents", READ, responses.AGENTS))
async def list_agents(
    agents: Known,
    limit: Limit = 20,
    offset: Offset = 0,
    tag: Annotated[str | None, Query(description="Only agents with this tag.")] = None,
) -> Response:
    """Those that the caller has, the oldest first. `total` counts all that have the tag."""
    ids, tag = tuple(agents.built_in), tag or None
    kept = {agent.id for agent in (await agents.conversations.agents(Wanted(len(ids), ids=ids))).items}
    others = [agent for agent in agents.built_in.values() if agent.id not in kept]
    built_in = [agent for agent in others if tag is None or tag in agent.tags]
    first = built_in[offset : offset + limit]
    rest = Wanted(limit - len(first), max(0, offset - len(built_in)), tag=tag, archived=False, descending=False)
    found = await agents.conversations.agents(rest)
    shown = [agent_fields(agent) for agent in (*first, *found.items)]
    return page(shown, len(built_in) + found.total, limit, offset)


@router.post("/api/agents", **operation("Create an agent", WRITE, responses.CREATED), status_code=201)
async def create_agent(agents: Known, body: schemas.CreateAgioAgent) -> Response:
    """Keep how somebody wants to be answered: a `system_prompt` and a `model`. The host has one agent that does it."""
    now = agents.conversations.clock()
    agent_id = body.name if re.fullmatch(schemas.ID, body.name) else new_id()
    agent = _with(Agent(agent_id, body.name, now, now), body.model_dump(exclude={"name"}))
    taken = AlreadyExists("There is an agent with this id already.")

    def replacement(kept: Agent) -> Agent:
        if kept.archived and kept.id in agents.built_in:
            return agent
        raise taken

    if await agents.conversations.change_agent(agent.id, replacement) is None and (
        agent.id in agents.built_in or not await agents.conversations.add_agent(agent)
    ):
        raise taken
    return json_response(to_json(agent_fields(agent)), 201)


@router.get("/api/agents/{agent_id}", **operation("Get an agent", READ, responses.AGENT))
async def get_agent(agents: Known, agent_id: AgentId) -> Response:
    """One of the caller's agents."""
    return json_response(to_json(agent_fields(await agents.get(agent_id))))


@router.put("/api/agents/{agent_id}", **operation("Update an agent", WRITE, responses.UPDATED))
async def update_agent(agents: Known, agent_id: AgentId, body: schemas.UpdateAgioAgent) -> Response:
    """Change what is sent, and leave the rest; the id stays. A session that the agent has begun goes on as it was."""
    given, now = body.model_dump(exclude_unset=True), agents.conversations.clock()

    def to(agent: Agent) -> Agent:
        return replace(_with(agent, given), created=agent.created or now, updated=now)

    return json_response(to_json(agent_fields(await agents.change(agent_id, to))))


@router.delete("/api/agents/{agent_id}", **operation("Delete an agent", WRITE, responses.DELETED), status_code=204)
async def delete_agent(agents: Known, agent_id: AgentId) -> Response:
    """Forget an agent."""
    await agents.get(agent_id)
    if agent_id in agents.built_in:  # archived, so that it stays deleted
        await agents.change(agent_id, lambda agent: replace(agent, archived=True))
    else:
        await agents.conversations.remove_agent(agent_id)
    return Response(status_code=204)


def _with(agent: Agent, given: Mapping[str, Json]) -> Agent:
    """The agent with the ``given`` fields. Empty ones become None. Raises ``Rejected`` for what cannot be stored."""
    checked([agent.id, agent.name, given])
    kept = {name: given[name] for name in ("tools", "enabled") if given.get(name) is not None}
    plain = {name: given[name] or None for name in ("description", "system_prompt") if name in given}
    if "model" in given:
        plain["model"] = None if given["model"] == DEFAULT_MODEL else given["model"] or None
    if given.get("name"):
        plain["name"] = given["name"]
    if "tags" in given:
        plain["tags"] = tuple(given["tags"] or ())  # type: ignore[arg-type]
    configuration = {**agent.configuration, OWN: {**own(agent.configuration), **kept}}
    return replace(agent, **plain, configuration=configuration)  # type: ignore[arg-type]
