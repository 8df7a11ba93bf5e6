"""Assistants: how somebody wants to be answered, under a name. The host has one agent, and it works for all of them."""

import json
import uuid
from dataclasses import replace
from typing import Annotated

from fastapi import Body, Query
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, new_id
from codegen_api.dialects.agent_protocol import responses, schemas
from codegen_api.dialects.agent_protocol.agents import BUILT_IN, NAMESPACE, AssistantId, agent_for, is_built_in, told
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.filters import same
from codegen_api.dialects.agent_protocol.storage import keepable, nameable
from codegen_api.dialects.agent_protocol.threads import remove_threads_of
from codegen_api.dialects.agent_protocol.wire import assistant_fields, paged, selected
from codegen_api.errors import AlreadyExists, Forbidden, NotFound, NotOffered
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Found
from codegen_api.stores import Query as Wanted
from codegen_api.web import json_response, operation

router = routes_about("assistants")

UNNAMED = "Untitled"

SORTS = {"assistant_id": "id", "name": "name", "created_at": "created", "updated_at": "updated", None: "created"}


@router.post(
    "/assistants",
    **operation("Create an assistant", WRITE, responses.answers(200, responses.Assistant, "The assistant.", 409)),
)
async def create_assistant(
    conversations: MyConversations, body: Annotated[schemas.CreateAssistant, Body()]
) -> Response:
    """Keep how somebody wants to be answered: `system_prompt` and `model`, and whatever else they have configured."""
    now = conversations.clock()
    agent = _configured(
        Agent(
            body.assistant_id or new_id(),
            body.name or UNNAMED,
            now,
            now,
            description=body.description,
            metadata=body.metadata or {},
        ),
        graph_id=body.graph_id,
        config=body.config or {},
        context=body.context or {},
    )
    _check(agent)
    if body.assistant_id is None and body.if_exists == "do_nothing":
        return json_response(to_json(assistant_fields(await _as_configured(conversations, agent))))
    taken = is_built_in(agent.id) or not await conversations.add_agent(agent)
    if taken and body.if_exists != "do_nothing":
        raise AlreadyExists("There is an assistant with this id already.")
    if taken:
        agent = await agent_for(conversations, agent.id)
    return json_response(to_json(assistant_fields(agent)))


@router.get(
    "/assistants", **operation("List assistants", READ, responses.answers(200, responses.Assistants, "The assistants."))
)
async def list_assistants(
    conversations: MyConversations,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=schemas.MOST)] = 0,
) -> Response:
    """All assistants, newest first, behind the one that is built in."""
    found = await _found(conversations, Wanted(limit, offset))
    return json_response(
        to_json({"assistants": [assistant_fields(agent) for agent in found.items], "total": found.total})
    )


@router.post(
    "/assistants/search",
    **operation("Search assistants", READ, responses.paged(list[responses.Assistant], "The assistants.")),
)
async def search_assistants(
    conversations: MyConversations, body: Annotated[schemas.SearchAssistants | None, Body()] = None
) -> Response:
    """Those that have all that is asked for. Where it does, too, the one that is built in comes first in any order."""
    asked = body or schemas.SearchAssistants()
    found = await find_assistants(conversations, asked)
    items: list[Json] = [selected(assistant_fields(agent), asked.select) for agent in found.items]
    return paged(items, asked.offset, found.total)


async def find_assistants(conversations: CallerConversations, asked: schemas.SearchAssistants) -> Found[Agent]:
    if asked.sort_by not in SORTS:
        raise NotOffered(f"Assistants cannot be sorted by {asked.sort_by} here.")
    wanted = replace(
        _wanted(asked),
        limit=asked.limit,
        offset=asked.offset,
        sort=SORTS[asked.sort_by],
        descending=asked.sort_order != "asc",
    )
    return await _found(conversations, wanted)


@router.post(
    "/assistants/count", **operation("Count assistants", READ, responses.answers(200, int, "How many there are."))
)
async def count_assistants(
    conversations: MyConversations, body: Annotated[schemas.CountAssistants | None, Body()] = None
) -> Response:
    """How many a search would find in all."""
    found = await _found(conversations, _wanted(body or schemas.CountAssistants()))
    return json_response(to_json(found.total))


@router.get(
    "/assistants/{assistant_id}",
    **operation("Get an assistant", READ, responses.answers(200, responses.Assistant, "The assistant.")),
)
async def get_assistant(conversations: MyConversations, assistant_id: AssistantId) -> Response:
    """An assistant by its id; the one that is built in by `agent`, too."""
    return json_response(to_json(assistant_fields(await agent_for(conversations, assistant_id))))


@router.patch(
    "/assistants/{assistant_id}",
    **operation("Update an assistant", WRITE, responses.answers(200, responses.Assistant, "The assistant.", 409)),
)
async def update_assistant(
    conversations: MyConversations, assistant_id: AssistantId, body: Annotated[schemas.UpdateAssistant, Body()]
) -> Response:
    """Change an assistant. Runs that have begun are not affected. This makes a new version; the old one is not kept."""

    def to(then: Agent) -> Agent:
        if then.archived:
            raise NotFound.named("Assistant", assistant_id)
        given = {"graph_id": body.graph_id, "config": body.config, "context": body.context}
        now = _configured(
            replace(
                then,
                name=body.name or then.name,
                description=then.description if body.description is None else body.description,
                metadata={**then.metadata, **(body.metadata or {})},
                version=then.version + 1,
                updated=conversations.clock(),
            ),
            **{name: value for name, value in given.items() if value is not None},
        )
        _check(now)
        return now

    _refuse_built_in(assistant_id)
    agent = NotFound.unless(await conversations.change_agent(assistant_id, to), "Assistant", assistant_id)
    return json_response(to_json(assistant_fields(agent)))


@router.delete(
    "/assistants/{assistant_id}",
    **operation("Delete an assistant", WRITE, responses.answers(204, None, "It is gone.", 409)),
    status_code=204,
)
async def delete_assistant(
    conversations: MyConversations,
    assistant_id: AssistantId,
    delete_threads: Annotated[
        bool, Query(description="Delete the threads whose metadata names it as `assistant_id`, too.")
    ] = False,
) -> Response:
    """Delete an assistant. Its threads stay, unless their deletion is asked for."""
    _refuse_built_in(assistant_id)
    agent = await agent_for(conversations, assistant_id)
    if delete_threads:
        await remove_threads_of(conversations, agent)
    await conversations.remove_agent(agent.id)
    return Response(status_code=204)


# -- versions ---------------------------------------------------------------------------------------------------------


@router.post(
    "/assistants/{assistant_id}/versions",
    **operation(
        "List the versions of an assistant",
        READ,
        responses.answers(200, list[responses.Assistant], "The latest version, which is the only one kept."),
    ),
)
async def list_assistant_versions(
    conversations: MyConversations, assistant_id: AssistantId, body: Annotated[schemas.Versions | None, Body()] = None
) -> Response:
    """The latest version: earlier ones are not kept."""
    agent = await agent_for(conversations, assistant_id)
    shown = body is None or body.offset == 0
    return json_response(to_json([assistant_fields(agent)] if shown else []))


@router.post(
    "/assistants/{assistant_id}/latest",
    **operation(
        "Set the latest version of an assistant", WRITE, responses.answers(200, responses.Assistant, "The assistant.")
    ),
)
async def set_latest_assistant_version(
    conversations: MyConversations, assistant_id: AssistantId, body: Annotated[schemas.Latest, Body()]
) -> Response:
    """Make a version the latest. As earlier ones are not kept, only the latest one can be named."""
    agent = await agent_for(conversations, assistant_id)
    if body.version != agent.version:
        raise NotFound(f"Version {body.version} not found: only the latest one is kept")
    return json_response(to_json(assistant_fields(agent)))


# -- beneath ----------------------------------------------------------------------------------------------------------


def _configured(agent: Agent, **given: Json) -> Agent:
    """The agent with this in its configuration, and with what the host is told of it."""
    agent = replace(agent, configuration={**agent.configuration, **given})
    if not {"config", "context"} & given.keys():
        return agent
    config, context = agent.configuration.get("config"), agent.configuration.get("context")
    prompt, model = told("system_prompt", config, context), told("model", config, context)
    return replace(agent, system_prompt=prompt, model=model)


async def _as_configured(conversations: CallerConversations, agent: Agent) -> Agent:
    """The oldest assistant that is configured as this one, which is kept if there is none. Of many who ask at once, at
    any instance, all get the same: the id is made of the configuration, and the store has each once.
    """
    configuration = agent.configuration
    wanted = Wanted(schemas.MOST_LISTED, configuration=configuration, archived=False, descending=False)
    found = await conversations.agents(wanted)
    known = next((each for each in found.items if same(each.configuration, configuration)), None)
    name = json.dumps(configuration, sort_keys=True)
    while known is None:
        agent = replace(agent, id=str(uuid.uuid5(NAMESPACE, name)))
        if await conversations.add_agent(agent):
            return agent
        there = await conversations.agent(agent.id)
        if there is not None and not there.archived and same(there.configuration, configuration):
            known = there
        elif there is not None:
            name += "'"  # that one was changed since
    return known


def _check(agent: Agent) -> None:
    nameable(assistant_id=agent.id)
    keepable(
        name=agent.name,
        description=agent.description,
        metadata=agent.metadata,
        **{name: agent.configuration.get(name) for name in ("graph_id", "config", "context")},
    )


def _refuse_built_in(assistant_id: str) -> None:
    if is_built_in(assistant_id):
        raise Forbidden("This assistant is built in: make one of your own.")


def _wanted(asked: schemas.CountAssistants) -> Wanted:
    configuration: dict[str, Json] = {} if asked.graph_id is None else {"graph_id": asked.graph_id}
    return Wanted(1, 0, metadata=asked.metadata or {}, configuration=configuration, name=asked.name or None)


async def _found(conversations: CallerConversations, wanted: Wanted) -> Found[Agent]:
    """What is asked for, with the one that is built in as the first, if it is among that."""
    wanted = replace(wanted, archived=False)
    if not _has_built_in(wanted):
        return await conversations.agents(wanted)
    first = () if wanted.offset else (BUILT_IN,)
    rest = replace(wanted, limit=wanted.limit - len(first), offset=max(0, wanted.offset - 1))
    found = await conversations.agents(rest)
    return Found((*first, *found.items), found.total + 1)


def _has_built_in(wanted: Wanted) -> bool:
    asked = ((BUILT_IN.metadata, wanted.metadata), (BUILT_IN.configuration, wanted.configuration))
    named = wanted.name is None or wanted.name.casefold() in BUILT_IN.name
    return named and all(same(part, own.get(name)) for own, parts in asked for name, part in parts.items())
