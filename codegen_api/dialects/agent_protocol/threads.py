"""Threads: conversations, with their states and their history.

The user's messages are stored here; all other messages are read from the host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Header, Path, Query
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, TurnCheckpoint, new_id, pending_of, text_of
from codegen_api.dialects import not_offered
from codegen_api.dialects.agent_protocol import responses, schemas
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.messages import human_message
from codegen_api.dialects.agent_protocol.schemas import check_ids, check_storable
from codegen_api.dialects.agent_protocol.state import current_state, history, messages_of, state_at
from codegen_api.dialects.agent_protocol.wire import GRAPH, STATUSES, paged, selected, thread_fields
from codegen_api.errors import AlreadyExists, NotFound, NotOffered
from codegen_api.http.web import json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Conversation, Talk
from codegen_api.stores import Query as StoreQuery

router = routes_about("threads")

ThreadId = Annotated[str, Path(description="The id of a thread.")]
CheckpointId = Annotated[str, Path(description="The id of a checkpoint of this thread.")]

AT_A_TIME = 100

NAME_CHARACTERS = 100

SORTS = {"thread_id": "id", "created_at": "created", "updated_at": "updated", "state_updated_at": "updated"}


@router.post("/threads", **operation("Create a thread", WRITE, responses.THREAD_PUT))
async def create_thread(conversations: MyConversations, body: schemas.CreateThread | None = None) -> Response:
    """Begin a thread. Others may have threads under the same id."""
    params = body or schemas.CreateThread()
    not_offered(supersteps=params.supersteps, ttl=params.ttl)
    metadata = {**(params.metadata or {}), **({} if params.graph_id is None else {"graph_id": params.graph_id})}
    thread = new_thread(conversations, params.thread_id, metadata)
    if await conversations.add_conversation(thread):
        return json_response(to_json(thread_fields(thread, None, None)))
    if params.if_exists != "do_nothing":
        raise AlreadyExists("There is a thread with this id already.")
    (fields,) = await _summaries(conversations, [await find_thread(conversations, thread.id)])
    return json_response(to_json(fields))


@router.post("/threads/search", **operation("Search threads", READ, responses.THREADS))
async def search_threads(conversations: MyConversations, body: schemas.SearchThreads | None = None) -> Response:
    """Those that have all that is asked for. Of what was said, `values` has what the user said first and last.

    The status of a thread is as of when somebody last looked: who searches again a little later gets it as it is.
    """
    params = body or schemas.SearchThreads()
    not_offered(values=params.values, extract=params.extract)
    sort: str | None = params.sort_by
    order: str | None = params.sort_order
    if params.order_by and sort is None:
        sort, _, direction = params.order_by.lower().strip().partition(" ")
        order = order or direction.strip()
    if sort is not None and sort not in SORTS:
        raise NotOffered(f"Threads cannot be sorted by {sort} here.")
    wanted = replace(
        _store_query(params),
        limit=params.limit,
        offset=params.offset,
        ids=None if params.ids is None else tuple(params.ids),
        sort=SORTS[sort or "created_at"],
        descending=order != "asc",
    )
    found = await conversations.conversations(wanted)
    items: list[Json] = [selected(each, params.select) for each in await _summaries(conversations, found.items)]
    return paged(items, params.offset, found.total)


@router.post("/threads/count", **operation("Count threads", READ, responses.COUNT))
async def count_threads(conversations: MyConversations, body: schemas.CountThreads | None = None) -> Response:
    """How many a search would find in all."""
    params = body or schemas.CountThreads()
    not_offered(values=params.values)
    found = await conversations.conversations(_store_query(params))
    return json_response(to_json(found.total))


@router.post("/threads/prune", **operation("Prune threads", WRITE, responses.PRUNED))
async def prune_threads(conversations: MyConversations, body: schemas.PruneThreads) -> Response:
    """Delete those of these threads that there are."""
    if body.strategy != "delete":
        raise NotOffered("Threads can be deleted here (`delete`), and in no other way be made smaller.")
    removed = [await conversations.delete_conversation(thread_id) for thread_id in dict.fromkeys(body.thread_ids)]
    return json_response(to_json({"pruned_count": sum(removed)}))


@router.get("/threads/{thread_id}", **operation("Get a thread", READ, responses.THREAD))
async def get_thread(
    conversations: MyConversations, thread_id: ThreadId, include: schemas.IgnoredQuery = None
) -> Response:
    """A thread as it is now, with all that was said in it."""
    thread = await find_thread(conversations, thread_id)
    latest = await conversations.latest(thread.id)
    if latest is None:
        return json_response(to_json(thread_fields(thread, None, None)))
    values: Json = {"messages": await messages_of(conversations, await conversations.path(thread.id))}
    pending = await pending_of(conversations, latest)
    return json_response(to_json(thread_fields(thread, latest, values, pending)))


@router.patch("/threads/{thread_id}", **operation("Update a thread", WRITE, responses.THREAD_CHANGED))
async def update_thread(
    conversations: MyConversations,
    thread_id: ThreadId,
    body: schemas.UpdateThread,
    prefer: Annotated[str | None, Header(description="`return=minimal` for an empty answer.")] = None,
) -> Response:
    """Put fields into a thread's metadata, in the place of those with the same names."""

    def change(current: Conversation) -> Conversation:
        return replace(_with_metadata(current, body.metadata or {}), updated=conversations.clock())

    await find_thread(conversations, thread_id)
    not_offered(ttl=body.ttl, values=body.values, messages=body.messages, checkpoint=body.checkpoint)
    thread = NotFound.unless(await conversations.change_conversation(thread_id, change), "Thread", thread_id)
    if prefer is not None and "return=minimal" in prefer.replace(" ", "").lower():
        return Response(status_code=204, headers={"Preference-Applied": "return=minimal"})
    (fields,) = await _summaries(conversations, [thread])
    return json_response(to_json(fields))


@router.delete("/threads/{thread_id}", **operation("Delete a thread", WRITE, responses.GONE), status_code=204)
async def delete_thread(conversations: MyConversations, thread_id: ThreadId) -> Response:
    """Delete a thread. A run of it that is under way is stopped, where the host can; there, its log stays."""
    if not await conversations.delete_conversation(thread_id):
        raise NotFound.named("Thread", thread_id)
    return Response(status_code=204)


# -- states -----------------------------------------------------------------------------------------------------------


@router.get("/threads/{thread_id}/state", **operation("Get the state of a thread", READ, responses.STATE))
async def get_state(conversations: MyConversations, thread_id: str, subgraphs: schemas.IgnoredQuery = None) -> Response:
    """All that was said in a thread by now, and whether it goes on."""
    await find_thread(conversations, thread_id)
    return json_response(to_json(await current_state(conversations, thread_id)))


@router.get(
    "/threads/{thread_id}/state/{checkpoint_id}",
    **operation("Get the state of a thread at a checkpoint", READ, responses.STATE),
)
async def get_state_at(
    conversations: MyConversations, thread_id: str, checkpoint_id: CheckpointId, subgraphs: schemas.IgnoredQuery = None
) -> Response:
    """All that had been said in a thread at a checkpoint."""
    await find_thread(conversations, thread_id)
    return json_response(to_json(await state_at(conversations, thread_id, TurnCheckpoint.of(checkpoint_id))))


@router.post(
    "/threads/{thread_id}/state/checkpoint",
    **operation("Get the state of a thread at a checkpoint (by POST)", READ, responses.STATE),
)
async def post_state_at(conversations: MyConversations, thread_id: str, body: schemas.AtCheckpoint) -> Response:
    """The same, for clients that have the checkpoint as an object."""
    await find_thread(conversations, thread_id)
    wanted = _checkpoint(body.checkpoint)
    at = current_state(conversations, thread_id) if wanted is None else state_at(conversations, thread_id, wanted)
    return json_response(to_json(await at))


@router.get("/threads/{thread_id}/history", **operation("Get the history of a thread", READ, responses.HISTORY))
async def get_history(
    conversations: MyConversations,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    before: str | None = None,
) -> Response:
    """What a thread has been, the newest first, branches that were left included."""
    return await post_history(conversations, thread_id, schemas.WantedHistory(limit=limit, before=before))


@router.post("/threads/{thread_id}/history", **operation("Search the history of a thread", READ, responses.HISTORY))
async def post_history(
    conversations: MyConversations, thread_id: str, body: schemas.WantedHistory | None = None
) -> Response:
    """What a thread has been, the newest first, branches that were left included."""
    await find_thread(conversations, thread_id)
    wanted = body or schemas.WantedHistory()
    before = wanted.before if isinstance(wanted.before, dict) else {"checkpoint_id": wanted.before}
    states = await history(
        conversations,
        thread_id,
        limit=min(wanted.limit, schemas.MOST_STATES),
        before=_checkpoint(before),
        at=_checkpoint(wanted.checkpoint or {}),
        metadata=wanted.metadata or {},
    )
    return json_response(to_json(states))


# -- for runs ---------------------------------------------------------------------------------------------------------


async def find_thread(conversations: CallerConversations, thread_id: str) -> Conversation:
    """The thread with this id.

    Raises:
        NotFound: there is none, or it is another user's.
    """
    return NotFound.unless(await conversations.conversation(thread_id), "Thread", thread_id)


def new_thread(conversations: CallerConversations, thread_id: str | None, metadata: Mapping[str, Json]) -> Conversation:
    """A thread that is not stored yet.

    Raises:
        Rejected: the id or the metadata cannot be stored.
    """
    now = conversations.clock()
    thread = Conversation(thread_id or new_id(), now, now, title=_name(metadata), metadata=metadata)
    check_ids(thread_id=thread.id)
    check_storable(metadata=metadata)
    return thread


def with_assistant(talk: Talk, agent: Agent, messages: Sequence[Mapping[str, Json]]) -> Talk:
    """The talk with metadata by which clients find their threads: the assistant, and the user's message as a name for a
    thread that has none.
    """
    thread = talk.conversation
    remembered = {"graph_id": agent.configuration.get("graph_id", GRAPH), "assistant_id": agent.id}
    text = "\n".join(map(text_of, messages)).strip()
    if text and "thread_name" not in thread.metadata:
        remembered["thread_name"] = text[:NAME_CHARACTERS]
    if all(thread.metadata.get(name) == value for name, value in remembered.items()):
        return talk
    return replace(talk, conversation=_with_metadata(thread, remembered))


async def delete_threads_of(conversations: CallerConversations, agent: Agent) -> None:
    """Delete the threads whose metadata names this assistant."""
    wanted = StoreQuery(AT_A_TIME, metadata={"assistant_id": agent.id})
    while found := (await conversations.conversations(wanted)).items:
        for thread in found:
            await conversations.delete_conversation(thread.id)


# -- support ----------------------------------------------------------------------------------------------------------


def _checkpoint(given: dict[str, Any]) -> TurnCheckpoint | None:
    configurable = given.get("configurable")
    id = given.get("checkpoint_id") or (configurable.get("checkpoint_id") if isinstance(configurable, dict) else None)  # noqa: A001
    return TurnCheckpoint.of(id) if isinstance(id, str) and id else None


def _name(metadata: Mapping[str, Json]) -> str | None:
    name = metadata.get("thread_name")
    return name if isinstance(name, str) else None


def _store_query(params: schemas.CountThreads) -> StoreQuery:
    states = None if params.status is None else STATUSES[params.status]
    return StoreQuery(1, 0, metadata=params.metadata or {}, states=states)


async def _summaries(conversations: CallerConversations, threads: Sequence[Conversation]) -> list[dict[str, Json]]:
    """Threads with what is stored here, without a call to the host for each."""
    ends = await conversations.overview([thread.id for thread in threads])
    summaries: list[dict[str, Json]] = []
    for thread in threads:
        first, latest = ends.get(thread.id, (None, None))
        turns = {turn.id: turn for turn in (first, latest) if turn is not None}
        messages = [human_message(message) for turn in turns.values() for message in turn.messages]
        summaries.append(thread_fields(thread, latest, {"messages": messages} if turns else None))
    return summaries


def _with_metadata(thread: Conversation, metadata: Mapping[str, Json]) -> Conversation:
    merged = {**thread.metadata, **metadata}
    check_storable(metadata=merged)
    return replace(thread, metadata=merged, title=_name(merged) or thread.title)
