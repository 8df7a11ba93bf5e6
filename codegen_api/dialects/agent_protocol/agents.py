"""Which assistants there are for whom, and what of them the host is told."""

import uuid
from collections.abc import Mapping
from typing import Annotated

from fastapi import Path

from codegen_api.conversations import CallerConversations
from codegen_api.dialects.agent_protocol.wire import GRAPH
from codegen_api.errors import Detail, NotFound, Rejected
from codegen_api.runs import Json
from codegen_api.stores import Agent

AssistantId = Annotated[str, Path(description="The id of an assistant, or `agent`.")]

NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""That of all servers of this protocol for the assistant that each graph has from the start."""

BUILT_IN = Agent(
    str(uuid.uuid5(NAMESPACE, GRAPH)),
    GRAPH,
    created=0.0,
    updated=0.0,
    description="The agent of the host, as it is.",
    configuration={"graph_id": GRAPH, "config": {}, "context": {}},
    metadata={"created_by": "system"},
)
"""There for everybody, under its id and under the name of its graph."""


def is_built_in(assistant_id: str) -> bool:
    return assistant_id in (BUILT_IN.id, GRAPH)


async def agent_for(conversations: CallerConversations, assistant_id: str) -> Agent:
    """The agent that a client means.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    if is_built_in(assistant_id):
        return BUILT_IN
    agent = await conversations.agent(assistant_id)
    if agent is None or agent.archived:
        raise NotFound.named("Assistant", assistant_id)
    return agent


def told(name: str, config: Json, context: Json) -> str | None:
    """What the host is to be told of ``name`` (``system_prompt`` or ``model``): as the context has it, else as
    ``config.configurable`` does.

    Raises:
        Rejected: it is no text.
    """
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    for where, values in ((("context",), context), (("config", "configurable"), configurable)):
        value = values.get(name) if isinstance(values, Mapping) else None
        if value is not None and not isinstance(value, str):
            raise Rejected(details=[Detail(("body", *where, name), "Must be a text.", "string_type")])
        if value:
            return value
    return None
