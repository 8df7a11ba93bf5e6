"""What an assistant is inside: one node, which is the agent at the host, and messages that go in and come out."""

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from codegen_api.dialects.agent_protocol import responses
from codegen_api.dialects.agent_protocol.agents import AssistantId, agent_for
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.wire import GRAPH, assistant_fields
from codegen_api.identity import READ
from codegen_api.runs import Json, to_json
from codegen_api.web import json_response, operation

router = routes_about("assistants")

Xray = Annotated[str | None, Query(description="Ignored: there is nothing inside the one node.")]
Recurse = Annotated[str | None, Query(description="Ignored: there are no subgraphs.")]

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


@router.get(
    "/assistants/{assistant_id}/schemas",
    **operation("Get the schemas of an assistant", READ, responses.answers(200, responses.Schemas, "The schemas.")),
)
async def get_assistant_schemas(conversations: MyConversations, assistant_id: AssistantId) -> Response:
    """What an assistant takes and gives."""
    agent = await agent_for(conversations, assistant_id)
    return json_response(to_json({"graph_id": assistant_fields(agent)["graph_id"], **SCHEMAS}))


@router.get(
    "/assistants/{assistant_id}/graph",
    **operation("Get the graph of an assistant", READ, responses.answers(200, responses.Graph, "The graph.")),
)
async def get_assistant_graph(conversations: MyConversations, assistant_id: AssistantId, xray: Xray = None) -> Response:
    """The graph of an assistant: one node, which is the agent at the host."""
    await agent_for(conversations, assistant_id)
    ends: list[Json] = [{"id": name, "type": "schema", "data": name} for name in ("__start__", "__end__")]
    body: dict[str, Json] = {
        "nodes": [ends[0], {"id": GRAPH, "type": "runnable", "data": {"id": [GRAPH], "name": GRAPH}}, ends[1]],
        "edges": [{"source": "__start__", "target": GRAPH}, {"source": GRAPH, "target": "__end__"}],
    }
    return json_response(to_json(body))


@router.get(
    "/assistants/{assistant_id}/subgraphs",
    **operation(
        "Get the subgraphs of an assistant",
        READ,
        responses.answers(200, dict[str, responses.Schemas], "The subgraphs."),
    ),
)
async def get_assistant_subgraphs(
    conversations: MyConversations, assistant_id: AssistantId, recurse: Recurse = None
) -> Response:
    """There are none."""
    await agent_for(conversations, assistant_id)
    return json_response(b"{}")


@router.get(
    "/assistants/{assistant_id}/subgraphs/{namespace}",
    **operation(
        "Get a subgraph of an assistant", READ, responses.answers(200, dict[str, responses.Schemas], "The subgraphs.")
    ),
)
async def get_assistant_subgraph(
    conversations: MyConversations, assistant_id: AssistantId, namespace: str, recurse: Recurse = None
) -> Response:
    """There are none."""
    await agent_for(conversations, assistant_id)
    return json_response(b"{}")
