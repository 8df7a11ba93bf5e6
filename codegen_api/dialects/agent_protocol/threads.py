"""Threads: conversations, and how they are. What was said in them is asked of the host, but for what the user said."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import Body, Header, Path
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, new_id, pending_of, text_of
from codegen_api.dialects import not_offered
from codegen_api.dialects.agent_protocol import responses, schemas
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.state import thread_values
from codegen_api.dialects.agent_protocol.storage import keepable, nameable
from codegen_api.dialects.agent_protocol.wire import GRAPH, STATUSES, paged, said_by_user, selected, thread_fields
from codegen_api.errors import AlreadyExists, NotFound, NotOffered
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Conversation, Query, Talk
from codegen_api.web import json_response, operation

router = routes_about("threads")

ThreadId = Annotated[str, Path(description="The id of a thread.")]

AT_A_TIME = 100

NAME_CHARACTERS = 100

SORTS = {
    "thread_id": "id",
    "created_at": "created",
    "updated_at": "updated",
    "state_updated_at": "updated",
    None: "created",
}


@router.post(
    "/threads", **operation("Create a thread", WRITE, responses.answers(200, responses.Thread, "The thread.", 409))
)
async def create_thread(
    conversations: MyConversations, body: Annotated[schemas.CreateThread | None, Body()] = None
) -> Response:
    """Begin a thread. Others may have threads under the same id."""
    asked = body or schemas.CreateThread()
    not_offered(supersteps=asked.supersteps, ttl=asked.ttl)
    metadata = {**(asked.metadata or {}), **({} if asked.graph_id is None else {"graph_id": asked.graph_id})}
    thread = new_thread(conversations, asked.thread_id, metadata)
    if await conversations.add_conversation(thread):
        return json_response(to_json(thread_fields(thread, None, None)))
    if asked.if_exists != "do_nothing":
        raise AlreadyExists("There is a thread with this id already.")
    (fields,) = await _in_short(conversations, [await thread_of(conversations, thread.id)])
    return json_response(to_json(fields))


@router.post(
    "/threads/search", **operation("Search threads", READ, responses.paged(list[responses.Thread], "The threads."))
)
async def search_threads(
    conversations: MyConversations, body: Annotated[schemas.SearchThreads | None, Body()] = None
) -> Response:
    """Those that have all that is asked for. Of what was said, `values` has what the user said first and last.

    The status of a thread is as of when somebody last looked: who searches again a little later gets it as it is.
    """
    asked = body or schemas.SearchThreads()
    not_offered(values=asked.values, extract=asked.extract)
    sort: str | None = asked.sort_by
    order: str | None = asked.sort_order
    if asked.order_by and sort is None:
        sort, _, said = asked.order_by.lower().strip().partition(" ")
        order = order or said.strip()
    if sort not in SORTS:
        raise NotOffered(f"Threads cannot be sorted by {sort} here.")
    wanted = replace(
        _wanted(asked),
        limit=asked.limit,
        offset=asked.offset,
        ids=None if asked.ids is None else tuple(asked.ids),
        sort=SORTS[sort],
        descending=order != "asc",
    )
    found = await conversations.conversations(wanted)
    items: list[Json] = [selected(each, asked.select) for each in await _in_short(conversations, found.items)]
    return paged(items, asked.offset, found.total)


@router.post("/threads/count", **operation("Count threads", READ, responses.answers(200, int, "How many there are.")))
async def count_threads(
    conversations: MyConversations, body: Annotated[schemas.CountThreads | None, Body()] = None
) -> Response:
    """How many a search would find in all."""
    asked = body or schemas.CountThreads()
    not_offered(values=asked.values)
    found = await conversations.conversations(_wanted(asked))
    return json_response(to_json(found.total))


@router.post(
    "/threads/prune",
    **operation("Prune threads", WRITE, responses.answers(200, responses.Pruned, "How many are gone.", 409)),
)
async def prune_threads(conversations: MyConversations, body: Annotated[schemas.PruneThreads, Body()]) -> Response:
    """Delete those of these threads that there are."""
    if body.strategy != "delete":
        raise NotOffered("Threads can be deleted here (`delete`), and in no other way be made smaller.")
    removed = [await conversations.delete_conversation(thread_id) for thread_id in dict.fromkeys(body.thread_ids)]
    return json_response(to_json({"pruned_count": sum(removed)}))


@router.get(
    "/threads/{thread_id}", **operation("Get a thread", READ, responses.answers(200, responses.Thread, "The thread."))
)
async def get_thread(
    conversations: MyConversations, thread_id: ThreadId, include: schemas.IgnoredQuery = None
) -> Response:
    """A thread as it is now, with all that was said in it."""
    thread = await thread_of(conversations, thread_id)
    latest = await conversations.latest(thread.id)
    values = None if latest is None else await thread_values(conversations, thread.id)
    pending = () if latest is None else await pending_of(conversations, latest)
    return json_response(to_json(thread_fields(thread, latest, values, pending)))


@router.patch(
    "/threads/{thread_id}",
    **operation(
        "Update a thread",
        WRITE,
        {
            **responses.answers(200, responses.Thread, "The thread.", 409),
            204: {"description": "Done, and the thread was not asked for."},
        },
    ),
)
async def update_thread(
    conversations: MyConversations,
    thread_id: ThreadId,
    body: Annotated[schemas.UpdateThread, Body()],
    prefer: Annotated[str | None, Header(description="`return=minimal` for an empty answer.")] = None,
) -> Response:
    """Put fields into a thread's metadata, in the place of those with the same names."""
    await thread_of(conversations, thread_id)
    not_offered(ttl=body.ttl, values=body.values, messages=body.messages, checkpoint=body.checkpoint)
    thread = await _put_metadata(conversations, thread_id, body.metadata or {})
    if prefer is not None and "return=minimal" in prefer.replace(" ", "").lower():
        return Response(status_code=204, headers={"Preference-Applied": "return=minimal"})
    (fields,) = await _in_short(conversations, [thread])
    return json_response(to_json(fields))


@router.delete(
    "/threads/{thread_id}",
    **operation("Delete a thread", WRITE, responses.answers(204, None, "It is gone.", 409)),
    status_code=204,
)
async def delete_thread(conversations: MyConversations, thread_id: ThreadId) -> Response:
    """Delete a thread. A run of it that is under way is stopped, where the host can; there, its log stays."""
    if not await conversations.delete_conversation(thread_id):
        raise NotFound.named("Thread", thread_id)
    return Response(status_code=204)


# -- for runs ---------------------------------------------------------------------------------------------------------


async def thread_of(conversations: CallerConversations, thread_id: str) -> Conversation:
    """The thread that a client means.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    return NotFound.unless(await conversations.conversation(thread_id), "Thread", thread_id)


def new_thread(conversations: CallerConversations, thread_id: str | None, metadata: Mapping[str, Json]) -> Conversation:
    """A thread that is not stored yet.

    Raises:
        Rejected: the id or the metadata cannot be kept.
    """
    now = conversations.clock()
    thread = Conversation(thread_id or new_id(), now, now, title=_name(metadata), metadata=metadata)
    nameable(thread_id=thread.id)
    keepable(metadata=metadata)
    return thread


def with_assistant(talk: Talk, agent: Agent, messages: Sequence[Mapping[str, Json]]) -> Talk:
    """A thread, in whose metadata stands which assistant it is with, by which clients look for their threads, and what
    the user says as a name, if it has none.
    """
    thread = talk.conversation
    remembered = {"graph_id": agent.configuration.get("graph_id", GRAPH), "assistant_id": agent.id}
    text = "\n".join(map(text_of, messages)).strip()
    if text and "thread_name" not in thread.metadata:
        remembered["thread_name"] = text[:NAME_CHARACTERS]
    if all(thread.metadata.get(name) == value for name, value in remembered.items()):
        return talk
    return replace(talk, conversation=_with_metadata(thread, remembered))


async def remove_threads_of(conversations: CallerConversations, agent: Agent) -> None:
    """Delete the threads whose metadata names this assistant."""
    wanted = Query(AT_A_TIME, metadata={"assistant_id": agent.id})
    while found := (await conversations.conversations(wanted)).items:
        for thread in found:
            await conversations.delete_conversation(thread.id)


# -- beneath ----------------------------------------------------------------------------------------------------------


def _name(metadata: Mapping[str, Json]) -> str | None:
    name = metadata.get("thread_name")
    return name if isinstance(name, str) else None


def _wanted(asked: schemas.CountThreads) -> Query:
    states = None if asked.status is None else STATUSES[asked.status]
    return Query(1, 0, metadata=asked.metadata or {}, states=states)


async def _in_short(conversations: CallerConversations, threads: Sequence[Conversation]) -> list[dict[str, Json]]:
    """Threads as far as they are known here, without a call to the host for each."""
    ends = await conversations.overview([thread.id for thread in threads])
    found: list[dict[str, Json]] = []
    for thread in threads:
        if thread.id in ends:
            first, latest = ends[thread.id]
            turns = (first,) if first.id == latest.id else (first, latest)
            found.append(thread_fields(thread, latest, said_by_user(turns)))
        else:
            found.append(thread_fields(thread, None, None))
    return found


async def _put_metadata(
    conversations: CallerConversations, thread_id: str, metadata: Mapping[str, Json]
) -> Conversation:
    def to(then: Conversation) -> Conversation:
        return replace(_with_metadata(then, metadata), updated=conversations.clock())

    return NotFound.unless(await conversations.change_conversation(thread_id, to), "Thread", thread_id)


def _with_metadata(thread: Conversation, metadata: Mapping[str, Json]) -> Conversation:
    merged = {**thread.metadata, **metadata}
    keepable(metadata=merged)
    return replace(thread, metadata=merged, title=_name(merged) or thread.title)
