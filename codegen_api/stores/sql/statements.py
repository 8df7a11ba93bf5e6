"""Statements that are often needed, built once: building one takes longer than running it.

They have parameters in the place of values. Those that are called ``its_...`` say which row is meant.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import Integer, Select, Update, bindparam, exists, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from codegen_api.stores import TurnState
from codegen_api.stores.sql.tables import (
    AGENTS,
    CONVERSATIONS,
    ITEMS,
    TURNS,
    Kind,
    active,
    conversations,
    queued,
    turns,
)

Insert: TypeAlias = postgresql.Insert | sqlite.Insert

KINDS = (AGENTS, CONVERSATIONS, TURNS, ITEMS)

_theirs = (turns.c.owner == bindparam("owner")) & (turns.c.conversation == bindparam("conversation"))

_sizes = [
    select(func.coalesce(func.sum(kind.table.c.size), 0)).where(kind.table.c.owner == bindparam("owner"))
    for kind in KINDS
]
_held = sum((each.scalar_subquery() for each in _sizes[1:]), _sizes[0].scalar_subquery())

HELD = select(_held)
"""The bytes charged to an owner."""

SITUATION = select(
    select(func.coalesce(func.max(turns.c.number), 0)).where(_theirs).scalar_subquery().label("last"),
    exists().where(_theirs, active).label("is_active"),
    select(func.count()).select_from(turns).where(_theirs, queued).scalar_subquery().label("waiting"),
    _held.label("held"),
)
"""Of a conversation, all that decides whether another turn may be added."""

ACTIVE = select(*TURNS.shown).where(_theirs, active)
"""The active turn of a conversation."""

UNFINISHED = select(*TURNS.shown).where(_theirs, or_(active, queued)).order_by(turns.c.number).limit(1)
"""The first turn of a conversation that is active or waits."""

TOUCH = (
    update(conversations)
    .where(conversations.c.owner == bindparam("its_owner"), conversations.c.id == bindparam("its_id"))
    .values(updated=bindparam("now"))
)

LOCK = (
    select(conversations.c.id)
    .where(conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("conversation"))
    .with_for_update()
)


@cache
def row_by(kind: Kind[Any], *names: str) -> Select[Any]:
    """The row with these texts in the columns of these names."""
    return select(*kind.shown).where(*(kind.table.c[name] == bindparam(name) for name in names))


@cache
def replacing(kind: Kind[Any]) -> Update:
    """Put a row in the place of one, if that has ``its_revision``."""
    columns = kind.table.c
    return update(kind.table).where(
        *(columns[name] == bindparam(f"its_{name}") for name in ("owner", "id", "revision"))
    )


@cache
def turns_of(conversation: bool, states: Sequence[TurnState] | None, newest_first: bool) -> Select[Any]:
    """The turns of one ``conversation`` by number, or of all by creation: ``limit`` of them behind ``offset``."""
    statement = select(*TURNS.shown).where(turns.c.owner == bindparam("owner"))
    order = [turns.c.number]
    if not conversation:
        order = [turns.c.created, turns.c.conversation, turns.c.number]
    else:
        statement = statement.where(turns.c.conversation == bindparam("conversation"))
    if states is not None:
        statement = statement.where(turns.c.state.in_([state.value for state in states]))
    ordered = statement.order_by(*(column.desc() if newest_first else column.asc() for column in order))
    return ordered.limit(bindparam("limit", type_=Integer)).offset(bindparam("offset", type_=Integer))
