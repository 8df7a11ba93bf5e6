"""Assistants: named settings for the host's one agent.

Each is shown as a graph whose only node is that agent. The published protocol calls them agents.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from fastapi import Path, Query
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, new_id
from codegen_api.dialects import rejected
from codegen_api.dialects.agent_protocol import responses, schemas
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.items import json_equal
from codegen_api.dialects.agent_protocol.schemas import check_ids, check_storable
from codegen_api.dialects.agent_protocol.threads import delete_threads_of
from codegen_api.dialects.agent_protocol.wire import GRAPH, agent_fields, assistant_fields, paged, selected
from codegen_api.errors import AlreadyExists, Forbidden, NotFound, NotOffered
from codegen_api.http.web import json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Found
from codegen_api.stores import Query as StoreQuery

router = routes_about("assistants")
published = routes_about("agents and runs")
"""Routes of the published protocol, besides those of LangGraph's server."""

AssistantId = Annotated[str, Path(description="The id of an assistant, or `agent`.")]
AgentId = Annotated[str, Path(description="The id of an agent, or `agent`.")]
Recurse = Annotated[str | None, Query(description="Ignored: there are no subgraphs.")]

NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""All servers of this protocol derive the id of a graph's default assistant in this namespace."""

BUILT_IN = Agent(
    str(uuid.uuid5(NAMESPACE, GRAPH)),
    GRAPH,
    created=0.0,
    updated=0.0,
    description="The agent of the host, as it is.",
    configuration={"graph_id": GRAPH, "config": {}, "context": {}},
    metadata={"created_by": "system"},
)
"""Every user has it, under its id and under the name of its graph."""

SORTS = {"assistant_id": "id", "name": "name", "created_at": "created", "updated_at": "updated", None: "created"}

MESSAGES: dict[str, Json] = {
    "type": "array",
    "description": "LangChain messages.",
    "items": {"type": "object", "properties": {"id": {"type": "string"}, "type": {"type": "string"}, "content": {}}},
}
STATE: dict[str, Json] = {"title": "State", "type": "object", "properties": {"messages": MESSAGES}}
OPTIONS: dict[str, Json] = {
    "type": "object",
    "properties": {
        "system_prompt": {"type": "string", "description": "Goes before what the user says first."},
        "model": {"type": "string", "description": "A model that the host knows."},
    },
}
SCHEMAS: dict[str, Json] = {
    "input_schema": {**STATE, "title": "Input", "required": ["messages"]},
    "output_schema": {**STATE, "title": "Output"},
    "state_schema": STATE,
    "config_schema": {**OPTIONS, "title": "Config"},
    "context_schema": {**OPTIONS, "title": "Context"},
}
"""The same for every assistant."""


@router.post("/assistants", **operation("Create an assistant", WRITE, responses.ASSISTANT_PUT))
async def create_assistant(conversations: MyConversations, body: schemas.CreateAssistant) -> Response:
    """Keep how somebody wants to be answered: `system_prompt` and `model`, and whatever else they have configured."""
    now = conversations.clock()
    id_, name = body.assistant_id or new_id(), body.name or "Untitled"
    agent = _configured(
        Agent(id_, name, now, now, description=body.description, metadata=body.metadata or {}),
        graph_id=body.graph_id,
        config=body.config or {},
        context=body.context or {},
    )
    if body.assistant_id is None and body.if_exists == "do_nothing":
        return _assistant_response(await _find_or_add(conversations, agent))
    taken = is_built_in(agent.id) or not await conversations.add_agent(agent)
    if taken and body.if_exists != "do_nothing":
        raise AlreadyExists("There is an assistant with this id already.")
    return _assistant_response(await find_assistant(conversations, agent.id) if taken else agent)


@router.get("/assistants", **operation("List assistants", READ, responses.ASSISTANTS))
async def list_assistants(
    conversations: MyConversations,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=schemas.MOST)] = 0,
) -> Response:
    """All assistants, newest first, behind the one that is built in."""
    found = await _search(conversations, StoreQuery(limit, offset))
    return json_response(to_json({"assistants": [*map(assistant_fields, found.items)], "total": found.total}))


@router.post("/assistants/search", **operation("Search assistants", READ, responses.ASSISTANTS_FOUND))
async def search_assistants(conversations: MyConversations, body: schemas.SearchAssistants | None = None) -> Response:
    """Those that have all that is asked for. Where it does, too, the one that is built in comes first in any order."""
    params = body or schemas.SearchAssistants()
    if params.sort_by not in SORTS:
        raise NotOffered(f"Assistants cannot be sorted by {params.sort_by} here.")
    sort, descending = SORTS[params.sort_by], params.sort_order != "asc"
    wanted = replace(_store_query(params), limit=params.limit, offset=params.offset, sort=sort, descending=descending)
    found = await _search(conversations, wanted)
    items: list[Json] = [selected(assistant_fields(agent), params.select) for agent in found.items]
    return paged(items, params.offset, found.total)


@router.post("/assistants/count", **operation("Count assistants", READ, responses.COUNT))
async def count_assistants(conversations: MyConversations, body: schemas.CountAssistants | None = None) -> Response:
    """How many a search would find in all."""
    found = await _search(conversations, _store_query(body or schemas.CountAssistants()))
    return json_response(to_json(found.total))


@router.get("/assistants/{assistant_id}", **operation("Get an assistant", READ, responses.ASSISTANT))
async def get_assistant(conversations: MyConversations, assistant_id: AssistantId) -> Response:
    """An assistant by its id; the one that is built in by `agent`, too."""
    return _assistant_response(await find_assistant(conversations, assistant_id))


@router.patch("/assistants/{assistant_id}", **operation("Update an assistant", WRITE, responses.ASSISTANT_PUT))
async def update_assistant(
    conversations: MyConversations, assistant_id: AssistantId, body: schemas.UpdateAssistant
) -> Response:
    """Change an assistant. Runs that have begun are not affected. This makes a new version; the old one is not kept."""

    def change(current: Agent) -> Agent:
        if current.archived:
            raise NotFound.named("Assistant", assistant_id)
        given = {"graph_id": body.graph_id, "config": body.config, "context": body.context}
        return _configured(
            replace(
                current,
                name=body.name or current.name,
                description=current.description if body.description is None else body.description,
                metadata={**current.metadata, **(body.metadata or {})},
                version=current.version + 1,
                updated=conversations.clock(),
            ),
            **{name: value for name, value in given.items() if value is not None},
        )

    _refuse_built_in(assistant_id)
    return _assistant_response(
        NotFound.unless(await conversations.change_agent(assistant_id, change), "Assistant", assistant_id)
    )


@router.delete("/assistants/{assistant_id}", **operation("Delete an assistant", WRITE, responses.GONE), status_code=204)
async def delete_assistant(
    conversations: MyConversations,
    assistant_id: AssistantId,
    delete_threads: Annotated[
        bool, Query(description="Delete the threads whose metadata names it as `assistant_id`, too.")
    ] = False,
) -> Response:
    """Delete an assistant. Its threads stay, unless their deletion is asked for."""
    _refuse_built_in(assistant_id)
    agent = await find_assistant(conversations, assistant_id)
    if delete_threads:
        await delete_threads_of(conversations, agent)
    await conversations.remove_agent(agent.id)
    return Response(status_code=204)


@router.post(
    "/assistants/{assistant_id}/versions", **operation("List the versions of an assistant", READ, responses.VERSIONS)
)
async def list_assistant_versions(
    conversations: MyConversations, assistant_id: AssistantId, body: schemas.Versions | None = None
) -> Response:
    """The latest version: earlier ones are not kept."""
    agent = await find_assistant(conversations, assistant_id)
    shown = body is None or body.offset == 0
    return json_response(to_json([assistant_fields(agent)] if shown else []))


@router.post(
    "/assistants/{assistant_id}/latest",
    **operation("Set the latest version of an assistant", WRITE, responses.ASSISTANT),
)
async def set_latest_assistant_version(
    conversations: MyConversations, assistant_id: AssistantId, body: schemas.Latest
) -> Response:
    """Make a version the latest. As earlier ones are not kept, only the latest one can be named."""
    agent = await find_assistant(conversations, assistant_id)
    if body.version != agent.version:
        raise NotFound(f"Version {body.version} not found: only the latest one is kept")
    return _assistant_response(agent)


# -- what is inside ---------------------------------------------------------------------------------------------------


@router.get(
    "/assistants/{assistant_id}/schemas", **operation("Get the schemas of an assistant", READ, responses.SCHEMAS)
)
async def get_assistant_schemas(conversations: MyConversations, assistant_id: AssistantId) -> Response:
    """What an assistant takes and gives."""
    agent = await find_assistant(conversations, assistant_id)
    return json_response(to_json({"graph_id": assistant_fields(agent)["graph_id"], **SCHEMAS}))


@router.get("/assistants/{assistant_id}/graph", **operation("Get the graph of an assistant", READ, responses.GRAPH))
async def get_assistant_graph(
    conversations: MyConversations,
    assistant_id: AssistantId,
    xray: Annotated[str | None, Query(description="Ignored: there is nothing inside the one node.")] = None,
) -> Response:
    """The graph of an assistant: one node, which is the agent at the host."""
    await find_assistant(conversations, assistant_id)
    ends: list[Json] = [{"id": name, "type": "schema", "data": name} for name in ("__start__", "__end__")]
    body: dict[str, Json] = {
        "nodes": [ends[0], {"id": GRAPH, "type": "runnable", "data": {"id": [GRAPH], "name": GRAPH}}, ends[1]],
        "edges": [{"source": "__start__", "target": GRAPH}, {"source": GRAPH, "target": "__end__"}],
    }
    return json_response(to_json(body))


@router.get(
    "/assistants/{assistant_id}/subgraphs", **operation("Get the subgraphs of an assistant", READ, responses.SUBGRAPHS)
)
async def get_assistant_subgraphs(
    conversations: MyConversations, assistant_id: AssistantId, recurse: Recurse = None
) -> Response:
    """There are none."""
    await find_assistant(conversations, assistant_id)
    return json_response(b"{}")


@router.get(
    "/assistants/{assistant_id}/subgraphs/{namespace}",
    **operation("Get a subgraph of an assistant", READ, responses.SUBGRAPHS),
)
async def get_assistant_subgraph(
    conversations: MyConversations, assistant_id: AssistantId, namespace: str, recurse: Recurse = None
) -> Response:
    """There are none."""
    return await get_assistant_subgraphs(conversations, assistant_id)


# -- agents -----------------------------------------------------------------------------------------------------------


@published.post("/agents/search", **operation("Search agents", READ, responses.AGENTS))
async def search_agents(conversations: MyConversations, body: schemas.SearchAgents | None = None) -> Response:
    """The caller's assistants, as agents: the one that is built in first, then the newest."""
    params = body or schemas.SearchAgents()
    wanted = StoreQuery(params.limit, params.offset, metadata=params.metadata or {}, name=params.name or None)
    found = await _search(conversations, wanted)
    return paged([*map(agent_fields, found.items)], params.offset, found.total)


@published.get("/agents/{agent_id}", **operation("Get an agent", READ, responses.AGENT))
async def get_agent(conversations: MyConversations, agent_id: AgentId) -> Response:
    """An assistant, as an agent."""
    return json_response(to_json(agent_fields(await find_assistant(conversations, agent_id))))


@published.get("/agents/{agent_id}/schemas", **operation("Get the schemas of an agent", READ, responses.AGENT_SCHEMAS))
async def get_agent_schemas(conversations: MyConversations, agent_id: AgentId) -> Response:
    """What an agent takes and gives."""
    agent = await find_assistant(conversations, agent_id)
    return json_response(to_json({"agent_id": agent.id, **SCHEMAS}))


# -- support ----------------------------------------------------------------------------------------------------------


def is_built_in(assistant_id: str) -> bool:
    return assistant_id in (BUILT_IN.id, GRAPH)


async def find_assistant(conversations: CallerConversations, assistant_id: str) -> Agent:
    """The assistant with this id.

    Raises:
        NotFound: there is none, or it is another user's.
    """
    if is_built_in(assistant_id):
        return BUILT_IN
    agent = await conversations.agent(assistant_id)
    if agent is None or agent.archived:
        raise NotFound.named("Assistant", assistant_id)
    return agent


def _assistant_response(agent: Agent) -> Response:
    return json_response(to_json(assistant_fields(agent)))


def _setting(name: str, config: Json, context: Json) -> str | None:
    """The ``system_prompt`` or ``model`` for the host: from the context, else from ``config.configurable``.

    Raises:
        Rejected: it is not a text.
    """
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    for where, values in ((("context",), context), (("config", "configurable"), configurable)):
        value = values.get(name) if isinstance(values, Mapping) else None
        if value is not None and not isinstance(value, str):
            raise rejected("Must be a text.", "string_type", "body", *where, name)
        if value:
            return value
    return None


def _configured(agent: Agent, **given: Json) -> Agent:
    """The agent with ``given`` in its configuration, and with the settings for the host that follow from it.

    Raises:
        Rejected: a setting is not a text, or a value cannot be stored.
    """
    configuration = {**agent.configuration, **given}
    graph, config, context = (configuration.get(name) for name in ("graph_id", "config", "context"))
    agent = replace(agent, configuration=configuration)
    if {"config", "context"} & given.keys():
        prompt, model = _setting("system_prompt", config, context), _setting("model", config, context)
        agent = replace(agent, system_prompt=prompt, model=model)
    check_ids(assistant_id=agent.id)
    check_storable(name=agent.name, description=agent.description, metadata=agent.metadata)
    check_storable(graph_id=graph, config=config, context=context)
    return agent


async def _find_or_add(conversations: CallerConversations, agent: Agent) -> Agent:
    """The oldest assistant with the configuration of ``agent``; without one, ``agent`` is stored. Concurrent callers at
    any instance get the same one: its id is derived from the configuration, and the store has each id once.
    """
    configuration = agent.configuration
    wanted = StoreQuery(schemas.MOST_LISTED, configuration=configuration, archived=False, descending=False)
    found = await conversations.agents(wanted)
    known = next((each for each in found.items if json_equal(each.configuration, configuration)), None)
    name = json.dumps(configuration, sort_keys=True)
    while known is None:
        agent = replace(agent, id=str(uuid.uuid5(NAMESPACE, name)))
        if await conversations.add_agent(agent):
            return agent
        stored = await conversations.agent(agent.id)
        if stored is not None and not stored.archived and json_equal(stored.configuration, configuration):
            known = stored
        elif stored is not None:
            name += "'"  # its configuration was changed since
    return known


def _refuse_built_in(assistant_id: str) -> None:
    if is_built_in(assistant_id):
        raise Forbidden("This assistant is built in: make one of your own.")


def _store_query(params: schemas.CountAssistants) -> StoreQuery:
    configuration: dict[str, Json] = {} if params.graph_id is None else {"graph_id": params.graph_id}
    return StoreQuery(1, 0, metadata=params.metadata or {}, configuration=configuration, name=params.name or None)


async def _search(conversations: CallerConversations, wanted: StoreQuery) -> Found[Agent]:
    """A page of assistants. The built-in one comes first, if it matches."""
    wanted = replace(wanted, archived=False)
    if not _matches_built_in(wanted):
        return await conversations.agents(wanted)
    first = () if wanted.offset else (BUILT_IN,)
    rest = replace(wanted, limit=wanted.limit - len(first), offset=max(0, wanted.offset - 1))
    found = await conversations.agents(rest)
    return Found((*first, *found.items), found.total + 1)


def _matches_built_in(wanted: StoreQuery) -> bool:
    conditions = ((BUILT_IN.metadata, wanted.metadata), (BUILT_IN.configuration, wanted.configuration))
    named = wanted.name is None or wanted.name.casefold() in BUILT_IN.name
    return named and all(json_equal(part, own.get(name)) for own, parts in conditions for name, part in parts.items())
