"""Paths of the Agent Protocol as it is published, beside those of LangGraph's server: agents, and runs by their id.

They do what the others do: an agent is an assistant, and a run is one of a thread.
"""

from typing import Annotated

from fastapi import Body, Path, Query
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects import not_offered
from codegen_api.dialects.agent_protocol import responses, runs, schemas
from codegen_api.dialects.agent_protocol.agents import agent_for
from codegen_api.dialects.agent_protocol.assistants import find_assistants
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.graphs import SCHEMAS
from codegen_api.dialects.agent_protocol.run_responses import Answers, states_called
from codegen_api.dialects.agent_protocol.threads import thread_of
from codegen_api.dialects.agent_protocol.wire import agent_fields, paged
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.sse import LastEventId
from codegen_api.web import json_response, operation

router = routes_about("agents and runs")

AgentId = Annotated[str, Path(description="The id of an agent, or `agent`.")]


@router.post(
    "/agents/search", **operation("Search agents", READ, responses.paged(list[responses.ProtocolAgent], "The agents."))
)
async def search_agents(
    conversations: MyConversations, body: Annotated[schemas.SearchAgents | None, Body()] = None
) -> Response:
    """The caller's assistants, as agents: the one that is built in first, then the newest."""
    asked = body or schemas.SearchAgents()
    found = await find_assistants(conversations, schemas.SearchAssistants.model_validate(asked.model_dump()))
    return paged([agent_fields(agent) for agent in found.items], asked.offset, found.total)


@router.get(
    "/agents/{agent_id}",
    **operation("Get an agent", READ, responses.answers(200, responses.ProtocolAgent, "The agent.")),
)
async def get_agent(conversations: MyConversations, agent_id: AgentId) -> Response:
    """An assistant, as an agent."""
    return json_response(to_json(agent_fields(await agent_for(conversations, agent_id))))


@router.get(
    "/agents/{agent_id}/schemas",
    **operation("Get the schemas of an agent", READ, responses.answers(200, responses.AgentSchemas, "The schemas.")),
)
async def get_agent_schemas(conversations: MyConversations, agent_id: AgentId) -> Response:
    """What an agent takes and gives."""
    agent = await agent_for(conversations, agent_id)
    return json_response(to_json({"agent_id": agent.id, **SCHEMAS}))


# -- runs -------------------------------------------------------------------------------------------------------------


@router.post("/runs/search", **operation("Search runs", READ, responses.RUNS))
async def search_runs(answers: Answers, body: Annotated[schemas.SearchRuns | None, Body()] = None) -> Response:
    """The caller's runs, of one thread or of all, the newest first, as they were when somebody last looked."""
    asked = body or schemas.SearchRuns()
    not_offered(metadata=asked.metadata, agent_id=asked.agent_id)
    if asked.thread_id is not None:
        await thread_of(answers.conversations, asked.thread_id)
    states = states_called(answers.statuses, asked.status, "body")
    turns = await answers.conversations.turns(asked.thread_id, states=states, limit=asked.limit, offset=asked.offset)
    found: list[Json] = [answers.fields(turn) for turn in turns]
    return json_response(to_json(found))


@router.get("/runs/{run_id}", **operation("Get a run by id", READ, responses.RUN))
async def get_run_by_id(answers: Answers, run_id: str) -> Response:
    """A run as it is now, for who does not know its thread."""
    return await runs.get_run(answers, await _thread_of(answers.conversations, run_id), run_id)


@router.get("/runs/{run_id}/wait", **operation("Wait for a run's result by id", READ, responses.JOINED))
async def wait_by_id(answers: Answers, run_id: str) -> Response:
    """The thread's state at the end of a run."""
    return await runs.join_run(answers, await _thread_of(answers.conversations, run_id), run_id)


@router.get("/runs/{run_id}/stream", **operation("Stream a run by id (by GET)", READ, responses.FOLLOWED))
async def stream_by_id(
    answers: Answers,
    run_id: str,
    last_event_id: LastEventId,
    stream_mode: Annotated[list[str] | None, Query(description="Else those that the run was started with.")] = None,
    cancel_on_disconnect: runs.Flag = None,
) -> Response:
    """The events of a run behind the last one seen, then those that come."""
    thread = await _thread_of(answers.conversations, run_id)
    return await runs.join_stream(answers, thread, run_id, last_event_id, stream_mode, cancel_on_disconnect)


@router.post("/runs/{run_id}/cancel", **operation("Cancel a run by id", WRITE, responses.STOPPED))
async def cancel_by_id(
    answers: Answers, run_id: str, wait: runs.Flag = None, action: runs.Action = "interrupt"
) -> Response:
    """Stop a run, where the host can; one that is over stays as it is."""
    return await runs.cancel_run(answers, await _thread_of(answers.conversations, run_id), run_id, wait, action)


@router.delete("/runs/{run_id}", **operation("Delete a run by id", WRITE, responses.FORGOTTEN), status_code=204)
async def delete_by_id(conversations: MyConversations, run_id: str, force: runs.Flag = None) -> Response:
    """Forget a run that is over; with `force` it is stopped before."""
    return await runs.delete_run(conversations, await _thread_of(conversations, run_id), run_id, force)


async def _thread_of(conversations: CallerConversations, run_id: str) -> str:
    """
    Raises:
        NotFound: there is no such run, or it is somebody else's.
    """
    return (await conversations.find_turn(run_id, settled=False)).conversation
