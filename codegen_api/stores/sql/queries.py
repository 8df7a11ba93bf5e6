"""Queries as SQL conditions and orders. No ``Query`` may make a database fail, whatever clients put into it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, exists, false, func, or_, select, true, tuple_

from codegen_api.runs import Json
from codegen_api.storable import storable
from codegen_api.stores import ANSWER_BYTES, Query, TurnState
from codegen_api.stores.sql.database import Database
from codegen_api.stores.sql.metadata_facts import wanted
from codegen_api.stores.sql.tables import AGENTS, CONVERSATIONS, ITEMS, TURNS, Kind, path_of, queued, size_of, withdrawn

_MOST = 2**31 - 1

_FIRST_ROWS = 16
"""Rows read first, while their size is unknown."""


def matching(database: Database, kind: Kind[Any], owner: str, query: Query) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions for the owner's rows that ``query`` selects."""
    columns = kind.c
    yield exactly(kind, owner=owner)
    if query.ids is not None:
        yield among(database, columns.id, query.ids)
    if query.name is not None:
        yield database.find(query.name.casefold(), columns.folded) > 0 if storable(query.name) else false()
    yield _has_facts(database, kind, query)
    if kind is AGENTS:
        if query.archived is not None:
            yield AGENTS.c.archived == query.archived
    else:
        if query.agent is not None:
            yield exactly(CONVERSATIONS, agent=query.agent)
        if query.states is not None:
            yield _latest_in(query.states)


def count_by_agent(database: Database, owner: str, agents: Sequence[str], metadata: Mapping[str, Json]) -> Select[Any]:
    """The number of an owner's conversations with each of these agents that has any."""
    agent = CONVERSATIONS.c.agent
    wanted = [*matching(database, CONVERSATIONS, owner, Query(metadata=metadata)), among(database, agent, agents)]
    return select(agent, func.count().label("conversations")).where(*wanted).group_by(agent).order_by(agent)


def first_and_last(database: Database, owner: str, conversations: Sequence[str]) -> Select[Any]:
    """The first and last turn of each of these conversations that has any, not counting withdrawn ones."""
    theirs = and_(exactly(TURNS, owner=owner), among(database, TURNS.c.conversation, conversations))
    number = TURNS.c.number
    spans = select(TURNS.c.conversation, func.min(number).label("first"), func.max(number).label("last"))
    span = spans.where(theirs, ~withdrawn).group_by(TURNS.c.conversation).subquery()
    at_an_end = or_(number == span.c.first, number == span.c.last)
    joined = TURNS.table.join(span, and_(TURNS.c.conversation == span.c.conversation, at_an_end))
    return select(*TURNS.shown).select_from(joined).where(exactly(TURNS, owner=owner)).order_by(number)


def first_queued(after: tuple[str, str], limit: int) -> Select[Any]:
    """The first queued turn of each conversation after ``after``, sorted by owner and conversation."""
    place = (TURNS.c.owner, TURNS.c.conversation)
    first = select(*place, func.min(TURNS.c.number).label("number")).where(queued, tuple_(*place) > after)
    heads = first.group_by(*place).order_by(*place).limit(limit).subquery()
    names = ("owner", "conversation", "number")
    joined = TURNS.table.join(heads, and_(*(TURNS.c[name] == heads.c[name] for name in names)))
    return select(TURNS.c.owner, *TURNS.shown).select_from(joined).where(queued).order_by(*place)


def order_of(kind: Kind[Any], query: Query) -> list[ColumnElement[Any]]:
    columns = kind.c
    named = columns.name if kind is AGENTS else func.coalesce(CONVERSATIONS.c.title, "")
    by = {"id": columns.id, "created": columns.created, "updated": columns.updated, "name": named}[query.sort]
    return [by.desc() if query.descending else by.asc(), columns.id]


def limited(statement: Select[Any], limit: int, offset: int) -> Select[Any]:
    return statement.limit(bounded(limit)).offset(bounded(offset))


def bounded(number: int) -> int:
    """A limit or offset that every database accepts."""
    return min(max(number, 0), _MOST)


def find_page(
    kind: Kind[Any],
    wanted: ColumnElement[bool],
    order: Sequence[ColumnElement[Any]],
    limit: int,
    offset: int,
    connection: Connection,
) -> tuple[int, list[Mapping[str, Any]]]:
    """The total number of ``wanted`` rows, and a page of them, which ends early if rows are large."""
    ordered = select(*kind.shown).where(wanted).order_by(*order)
    total = connection.scalar(select(func.count()).select_from(kind.table).where(wanted))
    rows: list[Mapping[str, Any]] = []
    held, count = 0, _FIRST_ROWS
    while (count := min(count, limit - len(rows))) > 0 and held < ANSWER_BYTES:
        more: Sequence[Any] = connection.execute(limited(ordered, count, offset + len(rows))).mappings().all()
        rows += more
        held += sum(map(size_of, more))
        if len(more) < count:
            break
        count = max(1, (ANSWER_BYTES - held) * len(rows) // held)  # as many as fit if they are of average size
    return total or 0, rows


def exactly(source: Kind[Any] | Table, **texts: str) -> ColumnElement[bool]:
    """Whether columns equal these texts. A constant false if a text cannot be stored."""
    if not storable(texts):
        return false()
    return and_(*(source.c[name] == text for name, text in texts.items()))


def among(database: Database, column: ColumnElement[str], texts: Sequence[str]) -> ColumnElement[bool]:
    """Whether the column is one of these texts."""
    each = database.each([text for text in texts if storable(text)])
    return column.in_(select(each.c.value))


def in_namespace(prefix: Sequence[str]) -> ColumnElement[bool]:
    """Whether an item's namespace begins with these labels."""
    if not storable(prefix):
        return false()
    path, its = path_of(prefix), ITEMS.c.namespace
    # paths end with a comma, and "-" is the next character: all paths with this prefix lie between the two
    return and_(its >= path, its < path[:-1] + "-") if path else true()


def _has_facts(database: Database, kind: Kind[Any], query: Query) -> ColumnElement[bool]:
    """Whether a row has all facts that the query wants."""
    objects = {"metadata": query.metadata, **({"configuration": query.configuration} if kind is AGENTS else {})}
    if not all(storable(each) for each in objects.values()):
        return false()
    facts = wanted(tags=() if query.tag is None else (query.tag,), **objects)
    if not facts:
        return true()
    each = database.each(facts)
    return ~exists(select(1).select_from(each).where(database.find(each.c.value, kind.c.facts) == 0))


def _latest_in(states: Sequence[TurnState | None]) -> ColumnElement[bool]:
    """Whether the latest turn of a conversation is in one of these states."""
    theirs = (TURNS.c.owner == CONVERSATIONS.c.owner) & (TURNS.c.conversation == CONVERSATIONS.c.id)
    latest = select(TURNS.c.state).where(theirs, ~withdrawn).order_by(TURNS.c.number.desc()).limit(1).scalar_subquery()
    among_them = latest.in_([state.value for state in states if state is not None])
    return or_(among_them, latest.is_(None)) if None in states else among_them
