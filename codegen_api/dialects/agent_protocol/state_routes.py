"""The state of a thread over HTTP: now, at a checkpoint, and what it has been."""

from typing import Annotated, Any

from fastapi import Body, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from codegen_api.conversations import TurnCheckpoint
from codegen_api.dialects import Ignored
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.responses import HISTORY, STATE
from codegen_api.dialects.agent_protocol.schemas import IgnoredQuery
from codegen_api.dialects.agent_protocol.state import current_state, history, state_at
from codegen_api.dialects.agent_protocol.threads import thread_of
from codegen_api.identity import READ
from codegen_api.runs import to_json
from codegen_api.web import json_response, operation

router = routes_about("threads")

CheckpointId = Annotated[str, Path(description="The id of a checkpoint of this thread.")]
MOST = 100
"""How many states are told at once: each may hold the whole conversation."""


class AtCheckpoint(BaseModel):
    """A checkpoint."""

    checkpoint: dict[str, Any] = Field(
        description="Its `checkpoint_id` says which; without one, the end of the thread."
    )
    subgraphs: Ignored = None


class WantedHistory(BaseModel):
    """A filter for the states of a thread."""

    limit: Annotated[int, Field(ge=1, le=1000, description=f"How many to give, {MOST} at most.")] = 10
    before: dict[str, Any] | str | None = Field(None, description="Only those from before this checkpoint.")
    checkpoint: dict[str, Any] | None = Field(None, description="Only that one.")
    metadata: dict[str, Any] | None = Field(None, description="Only those with this `run_id`, `source` or `step`.")


@router.get("/threads/{thread_id}/state", **operation("Get the state of a thread", READ, STATE))
async def get_state(conversations: MyConversations, thread_id: str, subgraphs: IgnoredQuery = None) -> Response:
    """All that was said in a thread by now, and whether it goes on."""
    await thread_of(conversations, thread_id)
    return json_response(to_json(await current_state(conversations, thread_id)))


@router.get(
    "/threads/{thread_id}/state/{checkpoint_id}", **operation("Get the state of a thread at a checkpoint", READ, STATE)
)
async def get_state_at(
    conversations: MyConversations, thread_id: str, checkpoint_id: CheckpointId, subgraphs: IgnoredQuery = None
) -> Response:
    """All that had been said in a thread at a checkpoint."""
    await thread_of(conversations, thread_id)
    return json_response(to_json(await state_at(conversations, thread_id, TurnCheckpoint.of(checkpoint_id))))


@router.post(
    "/threads/{thread_id}/state/checkpoint",
    **operation("Get the state of a thread at a checkpoint (by POST)", READ, STATE),
)
async def post_state_at(
    conversations: MyConversations, thread_id: str, body: Annotated[AtCheckpoint, Body()]
) -> Response:
    """The same, for clients that have the checkpoint as an object."""
    await thread_of(conversations, thread_id)
    wanted = _checkpoint(body.checkpoint)
    if wanted is None:
        return json_response(to_json(await current_state(conversations, thread_id)))
    return json_response(to_json(await state_at(conversations, thread_id, wanted)))


@router.get("/threads/{thread_id}/history", **operation("Get the history of a thread", READ, HISTORY))
async def get_history(
    conversations: MyConversations,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    before: str | None = None,
) -> Response:
    """What a thread has been, the newest first, branches that were left included."""
    return await post_history(conversations, thread_id, WantedHistory(limit=limit, before=before))


@router.post("/threads/{thread_id}/history", **operation("Search the history of a thread", READ, HISTORY))
async def post_history(
    conversations: MyConversations, thread_id: str, body: Annotated[WantedHistory | None, Body()] = None
) -> Response:
    """What a thread has been, the newest first, branches that were left included."""
    await thread_of(conversations, thread_id)
    wanted = body or WantedHistory()
    before = wanted.before if isinstance(wanted.before, dict) else {"checkpoint_id": wanted.before}
    states = await history(
        conversations,
        thread_id,
        limit=min(wanted.limit, MOST),
        before=_checkpoint(before),
        at=_checkpoint(wanted.checkpoint or {}),
        metadata=wanted.metadata or {},
    )
    return json_response(to_json(states))


def _checkpoint(given: dict[str, Any]) -> TurnCheckpoint | None:
    configurable = given.get("configurable")
    id = given.get("checkpoint_id") or (configurable.get("checkpoint_id") if isinstance(configurable, dict) else None)  # noqa: A001
    return TurnCheckpoint.of(id) if isinstance(id, str) and id else None
