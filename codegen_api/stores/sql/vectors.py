"""Vectors of items: storing them, finding items that lack them, and the items nearest to a vector."""

import asyncio
import heapq
import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import mul
from typing import Any

from sqlalchemy import Connection, Delete, Select, and_, delete, func, insert, or_, select, tuple_, update

from codegen_api.errors import NotOffered
from codegen_api.stores import MOST_COMPARED, Due, Near
from codegen_api.stores.sql.database import Database
from codegen_api.stores.sql.queries import exactly, in_namespace, limited
from codegen_api.stores.sql.tables import ITEMS, VECTOR_BYTES, labels_of, vectors

_BATCH = 250
"""Vectors read and compared before other tasks get a turn."""

_product: Callable[[Sequence[float], Sequence[float]], float] = getattr(
    math, "sumprod", lambda one, other: sum(map(mul, one, other))
)
"""``math.sumprod`` is new in Python 3.12."""


def delete_of(owner: str, path: str, key: str) -> Delete:
    """The statement that deletes the vectors of an item."""
    return delete(vectors).where(exactly(vectors, owner=owner, namespace=path, key=key))


def due(connection: Connection, space: str, limit: int) -> list[Due]:
    # two ranges of the index, which "!=" would not use
    others = or_(ITEMS.c.space < space, ITEMS.c.space > space)
    columns = [ITEMS.c.owner, ITEMS.c.stamp, *ITEMS.shown]
    statement = select(*columns).where(others).order_by(ITEMS.c.space, ITEMS.c.updated)
    rows = connection.execute(limited(statement, limit, 0)).mappings()
    return [Due(row["owner"], ITEMS.from_row(row), row["stamp"]) for row in rows]


def keep(connection: Connection, due: Due, space: str, made: Sequence[Sequence[float]]) -> bool:
    owner, item, row = due.owner, due.item, ITEMS.row(due.owner, due.item)
    its = exactly(ITEMS, owner=owner, namespace=row["namespace"], key=item.key, stamp=due.stamp)
    size = row["size"] + sum(VECTOR_BYTES + 4 * len(vector) for vector in made)
    # the previous version of the gateway puts items without a new stamp
    unchanged = and_(its, ITEMS.c.updated == item.updated)
    if not connection.execute(update(ITEMS.table).where(unchanged).values(space=space, size=size)).rowcount:
        return False
    connection.execute(delete_of(owner, row["namespace"], item.key))
    name = {"owner": owner, "namespace": row["namespace"], "key": item.key, "space": space, "made_of": item.updated}
    if made:
        rows = [{**name, "number": number, "vector": list(vector)} for number, vector in enumerate(made)]
        connection.execute(insert(vectors), rows)
    return True


async def nearest(
    database: Database, owner: str, prefix: Sequence[str], space: str, vector: Sequence[float], limit: int
) -> list[Near]:
    same = and_(*(vectors.c[name] == ITEMS.c[name] for name in ("owner", "namespace", "key")))
    wanted = and_(
        exactly(vectors, owner=owner, space=space), in_namespace(prefix), vectors.c.made_of == ITEMS.c.updated
    )
    theirs = vectors.join(ITEMS.table, same)
    score = database.cosine(vectors.c.vector, vector)
    if score is not None:
        best, name = func.max(score).label("best"), [vectors.c.namespace, vectors.c.key]
        statement = select(*name, best).select_from(theirs).where(wanted).group_by(*name).order_by(best.desc(), *name)
        rows = await database.read(lambda connection: connection.execute(limited(statement, limit, 0)).all())
        return [Near(labels_of(path), key, each) for path, key, each in rows]
    count = select(func.count()).select_from(theirs).where(wanted)
    total = await database.read(lambda connection: connection.scalar(count))
    if (total or 0) > MOST_COMPARED:
        raise NotOffered(f"No more than {MOST_COMPARED} vectors are compared: name a longer prefix.")
    place = tuple_(vectors.c.namespace, vectors.c.key, vectors.c.number)
    columns = [vectors.c.namespace, vectors.c.key, vectors.c.number, vectors.c.vector]
    ordered = select(*columns).select_from(theirs).where(wanted).order_by(*columns[:3]).limit(_BATCH)
    scores: dict[tuple[str, str], float] = {}
    after: tuple[Any, ...] | None = None
    while True:
        page = ordered if after is None else ordered.where(place > after)
        rows = await database.read(partial(_rows, page))
        await asyncio.to_thread(_compare, [(path, key, each) for path, key, _, each in rows], vector, scores)
        if len(rows) < _BATCH:
            break
        after = tuple(rows[-1][:3])
    ranked = heapq.nsmallest(limit, scores.items(), key=lambda each: (-each[1], each[0]))
    return [Near(labels_of(path), key, each) for (path, key), each in ranked]


def _rows(statement: Select[Any], connection: Connection) -> Sequence[Any]:
    return connection.execute(statement).all()


def _compare(
    rows: Sequence[tuple[str, str, Sequence[float]]], vector: Sequence[float], scores: dict[tuple[str, str], float]
) -> None:
    """Update each item's score. All vectors have length 1, so their product is the cosine."""
    for path, key, other in rows:
        score = _product(vector, other)
        scores[path, key] = max(score, scores.get((path, key), -1.0))
