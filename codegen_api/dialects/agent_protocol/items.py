"""The store: small values under keys in namespaces, each user's own."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Body, Query
from starlette.responses import Response

from codegen_api.conversations import Conversations, owner_of
from codegen_api.dialects.agent_protocol import answers, schemas
from codegen_api.dialects.agent_protocol.asking import Asker, routes_about
from codegen_api.dialects.agent_protocol.conditions import begins, holds, mentions, understood
from codegen_api.dialects.agent_protocol.keeping import keepable, nameable, not_offered
from codegen_api.dialects.agent_protocol.wire import item_fields, pages
from codegen_api.errors import Detail, NotOffered, Rejected
from codegen_api.identity import READ, WRITE
from codegen_api.runs import to_json
from codegen_api.stores import ANSWER_BYTES, Item
from codegen_api.web import Keeper, json_response, needs

router = routes_about("store")

LABEL_CHARACTERS = 100

AT_A_TIME = 100
MOST_LOOKED_AT = 10_000
"""Items that one search looks through, where the database cannot tell which are meant."""


@router.put(
    "/store/items",
    status_code=204,
    summary="Keep an item",
    responses=answers.answers(204, None, "It is kept."),
    openapi_extra=needs(WRITE),
)
@router.put(
    "/store",
    name="put_item_under_the_older_path",
    status_code=204,
    summary="Keep an item (older path)",
    responses=answers.answers(204, None, "It is kept."),
    openapi_extra=needs(WRITE),
)
async def put_item(talk: Keeper, caller: Asker, body: Annotated[schemas.PutItem, Body()]) -> Response:
    """Keep a value, in the place of one that is there."""
    not_offered(index=body.index, ttl=body.ttl)
    for index, label in enumerate(body.namespace):
        if not 0 < len(label) <= LABEL_CHARACTERS or "." in label:
            said = f"Must have 1 to {LABEL_CHARACTERS} characters, and no dots."
            raise Rejected(details=[Detail(("body", "namespace", index), said, "label")])
    keepable(namespace=body.namespace, value=body.value)
    nameable(key=body.key)
    now = talk.clock()
    try:
        item = Item(tuple(body.namespace), body.key, body.value, now, now)
        await talk.store.put_item(owner_of(caller), item)
    except ValueError as error:  # all else was looked at
        said = "Its labels are too many or too long together."
        raise Rejected(details=[Detail(("body", "namespace"), said, "too_long")]) from error
    return Response(status_code=204)


@router.get(
    "/store/items",
    summary="Get an item",
    responses=answers.answers(200, answers.StoreItem | None, "The item, or null."),
    openapi_extra=needs(READ),
)
async def get_item(
    talk: Keeper,
    caller: Asker,
    key: Annotated[str, Query()],
    namespace: Annotated[list[str] | None, Query(description="Labels with dots between them, or one by one.")] = None,
) -> Response:
    """The value under a key in a namespace; null where there is none."""
    labels = [label for part in namespace or () for label in part.split(".")]
    item = await talk.store.item(owner_of(caller), labels, key)
    return json_response(to_json(None if item is None else item_fields(item)))


@router.delete(
    "/store/items",
    status_code=204,
    summary="Delete an item",
    responses=answers.answers(204, None, "It is gone, or was never there."),
    openapi_extra=needs(WRITE),
)
async def delete_item(talk: Keeper, caller: Asker, body: Annotated[schemas.DeleteItem, Body()]) -> Response:
    """Delete the value under a key in a namespace."""
    await talk.store.remove_item(owner_of(caller), body.namespace, body.key)
    return Response(status_code=204)


@router.post(
    "/store/items/search",
    summary="Search items",
    responses=answers.paged(answers.StoreItems, "The items."),
    openapi_extra=needs(READ),
)
@router.post(
    "/store/search",
    name="search_items_under_the_older_path",
    summary="Search items (older path)",
    responses=answers.paged(answers.StoreItems, "The items."),
    openapi_extra=needs(READ),
)
async def search_items(
    talk: Keeper, caller: Asker, body: Annotated[schemas.SearchItems | None, Body()] = None
) -> Response:
    """Items whose namespace begins with these labels, the last changed first.

    `query` is no semantic search: each of its words has to occur in the texts of the value.
    """
    asked = body or schemas.SearchItems()
    words = (asked.query or "").casefold().split()
    if not asked.filter and not words:
        found = await talk.store.items(owner_of(caller), asked.namespace_prefix, asked.limit, asked.offset)
        return _shown(found.items, asked.offset, found.total)
    condition = asked.filter or {}
    keepable(filter=condition)
    understood(condition, ("body", "filter"))
    matching: list[Item] = []
    passed = held = 0
    async for item in _below(talk, owner_of(caller), asked.namespace_prefix):
        if not (holds(condition, item.value) and mentions(item.value, words)):
            continue
        if passed < asked.offset:
            passed += 1
            continue
        matching.append(item)
        held += len(to_json(item.value))
        if len(matching) == asked.limit or held >= ANSWER_BYTES:
            return _shown(matching, asked.offset, None)  # whether more matches is not looked for
    return _shown(matching, asked.offset, asked.offset + len(matching))


@router.post(
    "/store/namespaces",
    summary="List namespaces",
    responses=answers.answers(200, answers.Namespaces, "The namespaces."),
    openapi_extra=needs(READ),
)
async def list_namespaces(
    talk: Keeper, caller: Asker, body: Annotated[schemas.ListNamespaces | None, Body()] = None
) -> Response:
    """The namespaces that hold items, in order."""
    asked = body or schemas.ListNamespaces()
    prefix, suffix = asked.prefix or (), (asked.suffix or ())[::-1]
    found = dict.fromkeys(
        labels[: asked.max_depth]
        for labels in await talk.store.namespaces(owner_of(caller))
        if begins(prefix, labels) and begins(suffix, labels[::-1])
    )
    shown = list(found)[asked.offset : asked.offset + asked.limit]
    return json_response(to_json({"namespaces": [list(labels) for labels in shown]}))


def _shown(items: Sequence[Item], offset: int, total: int | None) -> Response:
    """A stretch of what was found. It may be shorter than was asked for, and the headers say where it goes on."""
    paging = pages(offset, len(items), total)
    return json_response(to_json({"items": [item_fields(item) for item in items]}), headers=paging)


async def _below(talk: Conversations, owner: str, prefix: Sequence[str]) -> AsyncIterator[Item]:
    """
    Raises:
        NotOffered: these are more than can be looked through.
    """
    offset = 0
    while offset < MOST_LOOKED_AT:
        found = await talk.store.items(owner, prefix, AT_A_TIME, offset)
        for item in found.items:
            yield item
        offset += len(found.items)
        if not found.items or offset >= found.total:
            return
    raise NotOffered(f"No more than {MOST_LOOKED_AT} items are looked through: name a longer prefix.")
