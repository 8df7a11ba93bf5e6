"""The store: each user's small values, under keys in namespaces. Searches have conditions on fields, and words."""

import operator
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects import not_offered, rejected
from codegen_api.dialects.agent_protocol import responses, schemas
from codegen_api.dialects.agent_protocol.dependencies import MyConversations, routes_about
from codegen_api.dialects.agent_protocol.schemas import check_ids, check_storable
from codegen_api.dialects.agent_protocol.wire import item_fields, page_headers
from codegen_api.errors import NotOffered
from codegen_api.http.web import json_response, operation
from codegen_api.identity import READ, WRITE
from codegen_api.runs import Json, to_json
from codegen_api.stores import ANSWER_BYTES, Item
from codegen_api.worker_thread import encoded

router = routes_about("store")

LABEL_CHARACTERS = 100

AT_A_TIME = 100
MOST_SCANNED = 10_000
"""Items that one search reads, where the database cannot evaluate it."""


@router.put("/store/items", **operation("Put an item", WRITE, responses.ITEM_PUT), status_code=204)
@router.put(
    "/store",
    **operation("Put an item (older path)", WRITE, responses.ITEM_PUT),
    name="put_item_under_the_older_path",
    status_code=204,
)
async def put_item(conversations: MyConversations, body: schemas.PutItem) -> Response:
    """Keep a value, in the place of one that is there."""
    not_offered(ttl=body.ttl, **({"index": body.index} if not conversations.finds_by_meaning else {}))
    for index, label in enumerate(body.namespace):
        if not 0 < len(label) <= LABEL_CHARACTERS or "." in label:
            fault = f"Must have 1 to {LABEL_CHARACTERS} characters, and no dots."
            raise rejected(fault, "label", "body", "namespace", index)
    fields = None if body.index is None else tuple(body.index or ())
    check_storable(namespace=body.namespace, value=body.value, index=list(fields or ()))
    check_ids(key=body.key)
    now = conversations.clock()
    try:
        await conversations.put_item(Item(tuple(body.namespace), body.key, body.value, now, now, fields))
    except ValueError as error:  # everything else has been checked
        fault = "Its labels are too many or too long together."
        raise rejected(fault, "too_long", "body", "namespace") from error
    return Response(status_code=204)


@router.get("/store/items", **operation("Get an item", READ, responses.ITEM))
async def get_item(
    conversations: MyConversations,
    key: Annotated[str, Query()],
    namespace: Annotated[list[str] | None, Query(description="Labels with dots between them, or one by one.")] = None,
    refresh_ttl: schemas.IgnoredQuery = None,
) -> Response:
    """The value under a key in a namespace; null where there is none."""
    labels = [label for part in namespace or () for label in part.split(".")]
    item = await conversations.item(labels, key)
    return json_response(to_json(None if item is None else item_fields(item)))


@router.delete("/store/items", **operation("Delete an item", WRITE, responses.ITEM_GONE), status_code=204)
async def delete_item(conversations: MyConversations, body: schemas.DeleteItem) -> Response:
    """Delete the value under a key in a namespace."""
    await conversations.remove_item(body.namespace, body.key)
    return Response(status_code=204)


@router.post("/store/items/search", **operation("Search items", READ, responses.ITEMS))
@router.post(
    "/store/search",
    **operation("Search items (older path)", READ, responses.ITEMS),
    name="search_items_under_the_older_path",
)
async def search_items(conversations: MyConversations, body: schemas.SearchItems | None = None) -> Response:
    """Items whose namespace begins with these labels, the last changed first; with a `query` that is asked by meaning
    the nearest first, each with its `score`.

    `searched_by` says how a `query` was understood: by `meaning`, where the gateway has a model for it and that
    answers; else by `words`, each of which has to occur in the texts of the value.
    """
    params = body or schemas.SearchItems()
    condition = params.filter or {}
    check_storable(filter=condition)
    check_operators(condition, ("body", "filter"))
    query = (params.query or "").strip()
    if query and conversations.finds_by_meaning:
        # a filter may drop any number of them
        most = params.offset + params.limit + 1 if not condition else MOST_SCANNED
        near = await conversations.nearest(params.namespace_prefix, query, most)
        if near is not None:
            scored = ((await conversations.item(each.namespace, each.key), each.score) for each in near)
            # an item that is missing was deleted a moment ago
            nearest = ((item, score) async for item, score in scored if item and matches(condition, item.value))
            return await _page(nearest, params, "meaning")
    if not condition and not query:
        found = await conversations.items(params.namespace_prefix, params.limit, params.offset)
        return await _answer([item_fields(item) for item in found.items], params.offset, found.total)
    words = query.casefold().split()
    items = _items_below(conversations, params.namespace_prefix)
    matching = ((item, None) async for item in items if matches(condition, item.value) and has_words(item.value, words))
    return await _page(matching, params, "words" if query else None)


@router.post("/store/namespaces", **operation("List namespaces", READ, responses.NAMESPACES))
async def list_namespaces(conversations: MyConversations, body: schemas.ListNamespaces | None = None) -> Response:
    """The namespaces that hold items, in order."""
    params = body or schemas.ListNamespaces()
    prefix, suffix = params.prefix or (), (params.suffix or ())[::-1]
    found = dict.fromkeys(
        labels[: params.max_depth]
        for labels in await conversations.namespaces()
        if has_prefix(prefix, labels) and has_prefix(suffix, labels[::-1])
    )
    shown = list(found)[params.offset : params.offset + params.limit]
    return json_response(to_json({"namespaces": [list(labels) for labels in shown]}))


async def _page(
    found: AsyncIterator[tuple[Item, float | None]], params: schemas.SearchItems, searched_by: str | None
) -> Response:
    """The page of ``found`` that is asked for."""
    shown: list[dict[str, Json]] = []
    passed = held = 0
    async for item, score in found:
        if passed < params.offset:
            passed += 1
            continue
        shown.append(item_fields(item) if score is None else {**item_fields(item), "score": score})
        held += len(to_json(item.value))
        if len(shown) == params.limit or held >= ANSWER_BYTES:
            return await _answer(shown, params.offset, None, searched_by)  # there may be more
    return await _answer(shown, params.offset, params.offset + len(shown), searched_by)


async def _answer(items: Sequence[Json], offset: int, total: int | None, searched_by: str | None = None) -> Response:
    """A page of items. It may be shorter than asked for; the headers say where the next begins."""
    extra = {} if searched_by is None else {"searched_by": searched_by}
    return json_response(await encoded({"items": items, **extra}), headers=page_headers(offset, len(items), total))


async def _items_below(conversations: CallerConversations, prefix: Sequence[str]) -> AsyncIterator[Item]:
    """The items in all namespaces with this prefix.

    Raises:
        NotOffered: there are more than ``MOST_SCANNED``.
    """
    offset = 0
    while offset < MOST_SCANNED:
        found = await conversations.items(prefix, AT_A_TIME, offset)
        for item in found.items:
            yield item
        offset += len(found.items)
        if not found.items or offset >= found.total:
            return
    raise NotOffered(f"No more than {MOST_SCANNED} items are looked through: name a longer prefix.")


# -- conditions -------------------------------------------------------------------------------------------------------


def matches(condition: Json, value: Json) -> bool:
    """Whether ``value`` meets ``condition``: all of its operators; else, if it is an object, the condition in each of
    its fields; else equality.
    """
    if not isinstance(condition, Mapping):
        return json_equal(condition, value)
    if _has_operators(condition):
        return all(OPERATORS[name](value, operand) for name, operand in condition.items())
    return isinstance(value, Mapping) and all(matches(part, value.get(name)) for name, part in condition.items())


def check_operators(condition: Json, where: tuple[str | int, ...]) -> None:
    """
    Raises:
        Rejected: an operator in it is unknown.
    """
    if not isinstance(condition, Mapping):
        return
    operators = _has_operators(condition)
    for name, part in condition.items():
        if operators and name not in OPERATORS:
            raise rejected(f"Must be one of {', '.join(OPERATORS)}.", "operator", *where, name)
        if not operators:
            check_operators(part, (*where, name))


def has_words(value: Json, words: Sequence[str]) -> bool:
    """Whether all ``words`` (case folded) occur in the texts of ``value``."""
    text = "\n".join(_texts(value)).casefold()
    return all(word in text for word in words)


def json_equal(one: Json, other: Json) -> bool:
    """Whether both are the same JSON: true is not 1, but 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(json_equal(part, other[name]) for name, part in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(json_equal, one, other))
    return one == other


def has_prefix(pattern: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether a namespace begins with ``pattern``, in which ``*`` stands for any label."""
    return len(pattern) <= len(labels) and all(
        wanted in ("*", label) for wanted, label in zip(pattern, labels, strict=False)
    )


def _comparison(compare: Callable[[float | str, float | str], bool]) -> Callable[[Json, Json], bool]:
    """An operator that compares two numbers or two texts; it is false for all other values."""

    def compares(value: Json, operand: Json) -> bool:
        if isinstance(value, bool) or isinstance(operand, bool):
            return False
        if isinstance(value, str) and isinstance(operand, str):
            return compare(value, operand)
        return isinstance(value, int | float) and isinstance(operand, int | float) and compare(value, operand)

    return compares


OPERATORS: Mapping[str, Callable[[Json, Json], bool]] = {
    "$eq": json_equal,
    "$ne": lambda value, operand: not json_equal(value, operand),
    "$gt": _comparison(operator.gt),
    "$gte": _comparison(operator.ge),
    "$lt": _comparison(operator.lt),
    "$lte": _comparison(operator.le),
}


def _has_operators(condition: Mapping[str, Json]) -> bool:
    return any(name.startswith("$") for name in condition)


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part)
