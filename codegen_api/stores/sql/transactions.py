"""Steps of transactions, and their statements, which are built once: building one takes longer than running it.

Statements have parameters for all values. Those named ``its_...`` select the row.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Integer, RowMapping, Select, Update, bindparam, exists, func, or_, select, update

from codegen_api.errors import StoreFull
from codegen_api.stores import Agent, Busy, Conversation, Full, Overtaken, Turn, TurnState
from codegen_api.stores.sql.database import Insert
from codegen_api.stores.sql.tables import AGENTS, CONVERSATIONS, ITEMS, TURNS, Kind, active, queued

KINDS = (AGENTS, CONVERSATIONS, TURNS, ITEMS)

_theirs = (TURNS.c.owner == bindparam("owner")) & (TURNS.c.conversation == bindparam("conversation"))

_sizes = [select(func.coalesce(func.sum(kind.c.size), 0)).where(kind.c.owner == bindparam("owner")) for kind in KINDS]
_held = sum((each.scalar_subquery() for each in _sizes[1:]), _sizes[0].scalar_subquery())

HELD = select(_held)
"""The bytes charged to an owner."""

SITUATION = select(
    select(func.coalesce(func.max(TURNS.c.number), 0)).where(_theirs).scalar_subquery().label("last"),
    exists().where(_theirs, active).label("is_active"),
    select(func.count()).select_from(TURNS.table).where(_theirs, queued).scalar_subquery().label("waiting"),
    _held.label("held"),
)
"""Everything about a conversation that decides whether another turn may be added."""

ACTIVE = select(*TURNS.shown).where(_theirs, active)
"""The active turn of a conversation."""

UNFINISHED = select(*TURNS.shown).where(_theirs, or_(active, queued)).order_by(TURNS.c.number).limit(1)
"""The first active or queued turn of a conversation."""

TOUCH = (
    update(CONVERSATIONS.table)
    .where(CONVERSATIONS.c.owner == bindparam("its_owner"), CONVERSATIONS.c.id == bindparam("its_id"))
    .values(updated=bindparam("now"))
)

LOCK = (
    select(CONVERSATIONS.c.id)
    .where(CONVERSATIONS.c.owner == bindparam("owner"), CONVERSATIONS.c.id == bindparam("conversation"))
    .with_for_update()
)


@cache
def row_by(kind: Kind[Any], *names: str) -> Select[Any]:
    """Select the row by these columns, each a parameter of the same name."""
    return select(*kind.shown).where(*(kind.c[name] == bindparam(name) for name in names))


@cache
def _replacing(kind: Kind[Any]) -> Update:
    columns = kind.c
    return update(kind.table).where(
        *(columns[name] == bindparam(f"its_{name}") for name in ("owner", "id", "revision"))
    )


def replace_row(
    connection: Connection, kind: Kind[Any], then: Agent | Conversation | Turn, row: Mapping[str, Any]
) -> bool:
    """Replace ``then`` by ``row``, if it still has that revision."""
    its = {"its_owner": row["owner"], "its_id": then.id, "its_revision": then.revision}
    return connection.execute(_replacing(kind), {**row, **its}).rowcount == 1


def require_room(connection: Connection, owner: str, bytes_each: int) -> None:
    """Raise ``StoreFull`` if the owner, including what was just written, exceeds their share."""
    _require_room(int(connection.scalar(HELD, {"owner": owner}) or 0), bytes_each)


def _require_room(held: int, bytes_each: int) -> None:
    if held > bytes_each:
        raise StoreFull(f"You keep as much here as you may, {bytes_each // 2**20} MiB: delete something.")


# -- turns ------------------------------------------------------------------------------------------------------------


@cache
def turns_of(conversation: bool, states: Sequence[TurnState] | None, newest_first: bool) -> Select[Any]:
    """The turns of one ``conversation`` by number, or of all by creation, with ``limit`` and ``offset``."""
    statement = select(*TURNS.shown).where(TURNS.c.owner == bindparam("owner"))
    order = [TURNS.c.number]
    if not conversation:
        order = [TURNS.c.created, TURNS.c.conversation, TURNS.c.number]
    else:
        statement = statement.where(TURNS.c.conversation == bindparam("conversation"))
    if states is not None:
        statement = statement.where(TURNS.c.state.in_([state.value for state in states]))
    ordered = statement.order_by(*(column.desc() if newest_first else column.asc() for column in order))
    return ordered.limit(bindparam("limit", type_=Integer)).offset(bindparam("offset", type_=Integer))


def load_talk(
    connection: Connection, key: Mapping[str, str], most: int
) -> tuple[Sequence[RowMapping], Sequence[RowMapping]]:
    """The row of a conversation, if it exists, and those of its turns, newest first."""
    found = connection.execute(row_by(CONVERSATIONS, *key), key).mappings().all()
    if not found:
        return (), ()
    parameters = {"owner": key["owner"], "conversation": key["id"], "limit": most, "offset": 0}
    return found, connection.execute(turns_of(True, None, True), parameters).mappings().all()


def put_conversation(
    connection: Connection,
    insert: Insert,
    turn: Mapping[str, Any],
    then: Conversation | None,
    row: Mapping[str, Any] | None,
) -> None:
    """Update the conversation of a new turn; with a ``row``, add it or replace ``then``. Concurrent turns wait here.

    Raises:
        KeyError: the conversation does not exist.
        Overtaken: the one to add exists, or ``then`` has another revision by now.
    """
    if row is None:
        its = {"its_owner": turn["owner"], "its_id": turn["conversation"], "now": turn["updated"]}
        if not connection.execute(TOUCH, its).rowcount:
            raise KeyError(turn["conversation"])
    elif then is None:
        if not connection.execute(insert, row).rowcount:
            raise Overtaken
    elif not replace_row(connection, CONVERSATIONS, then, row):
        raise Overtaken


def add_turn(
    connection: Connection, insert: Insert, row: Mapping[str, Any], queued_at_most: int, bytes_each: int
) -> int:
    """Add a turn, and return the number assigned to it. Raises what ``Store.add_turn`` does."""
    theirs = {"owner": row["owner"], "conversation": row["conversation"]}
    situation = connection.execute(SITUATION, theirs).one()
    if row["state"] == TurnState.QUEUED:
        if situation.waiting >= queued_at_most:
            raise Full
    elif situation.is_active or situation.waiting:
        for unfinished in connection.execute(UNFINISHED, theirs).mappings():  # none, if it has just ended
            raise Busy(TURNS.from_row(unfinished))
    number = int(situation.last) + 1
    if not connection.execute(insert, {**row, "number": number}).rowcount:
        raise KeyError(row["id"])
    _require_room(int(situation.held) + row["size"], bytes_each)
    return number


def change_turn(connection: Connection, then: Turn, row: Mapping[str, Any]) -> bool:
    """Replace ``then`` by ``row``, if it still has that revision. Raises what ``Store.change_turn`` does."""
    if TurnState(row["state"]).active and not then.state.active:
        theirs = {"owner": row["owner"], "conversation": then.conversation}
        connection.execute(LOCK, theirs)
        its = {"owner": row["owner"], "id": then.id}
        stored = connection.execute(row_by(TURNS, *its), its).one_or_none()
        if stored is not None and stored.revision == then.revision:
            for other in connection.execute(ACTIVE, theirs).mappings():
                raise Busy(TURNS.from_row(other))
    return replace_row(connection, TURNS, then, row)
