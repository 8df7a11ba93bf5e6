"""The store in a SQL database: a SQLite file, or PostgreSQL.

Each operation is one transaction, and no connection is held between two. Database errors come out as
``StoreUnavailable``.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, and_, delete, exists, false, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from codegen_api.errors import StoreFull
from codegen_api.stores import (
    ANSWER_BYTES,
    Agent,
    Busy,
    Conversation,
    Due,
    Found,
    Full,
    Item,
    Near,
    Query,
    Turn,
    TurnState,
)
from codegen_api.stores.sql import vectors
from codegen_api.stores.sql.database import database_at
from codegen_api.stores.sql.migration import migrate
from codegen_api.stores.sql.queries import (
    counted,
    cut,
    exactly,
    first_and_last,
    first_queued,
    in_namespace,
    matching,
    order_of,
    turns_of,
)
from codegen_api.stores.sql.shielding import ShieldedOperations, shielded
from codegen_api.stores.sql.tables import (
    AGENTS,
    CONVERSATIONS,
    ITEMS,
    TURNS,
    Kind,
    active,
    build_row,
    conversations,
    items,
    labels_of,
    path_of,
    queued,
    read_rows,
    size_of,
    turns,
)

T = TypeVar("T")
Versioned = TypeVar("Versioned", Agent, Conversation, Turn)

_CLOSE_SECONDS = 30.0
"""Seconds that closing waits for operations in progress."""

_KINDS = (AGENTS, CONVERSATIONS, TURNS, ITEMS)

_PROBE_BYTES = 64 * 1024
"""Bytes written to check that writing works."""

_FIRST_ROWS = 16
"""Rows read before it is known how large they are."""

_EXPIRE_BATCH = 200
"""Conversations removed per transaction, during which other writers wait."""


class SqlStore(ShieldedOperations):
    """A ``Store`` in the database at ``url``: ``sqlite:///path`` or ``postgresql://...``, in libpq's syntax.

    ``bytes_each`` is the approximate bound for one owner; concurrent requests may each exceed it.

    Raises:
        ValueError: the URL names no database.
    """

    def __init__(self, url: str, *, bytes_each: int = 256 * 1024 * 1024) -> None:
        super().__init__()
        self._database = database_at(url)
        self._bytes_each = bytes_each

    async def open(self) -> None:
        try:
            await self._database.open(migrate)
            self.observe(None)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=_CLOSE_SECONDS)
        await self._database.aclose()

    @shielded
    async def check(self) -> None:
        before = self.observation
        row = ITEMS.row_of("", Item(("check",), uuid.uuid4().hex, {"": "x" * _PROBE_BYTES}, 0.0, 0.0))
        async with self._database.probing() as connection:
            for kind in _KINDS:  # a lock on any of these would block writing
                nothing = update(kind.table).where(false()).values(size=kind.table.c.size)
                await connection.execute(nothing)
            await connection.execute(insert(ITEMS.table).values({**row, "space": "", "stamp": ""}))
        if self.observation is before:  # nothing has failed meanwhile
            self.observe(None)

    # -- agents -------------------------------------------------------------------------------------------------------

    async def add_agent(self, owner: str, agent: Agent) -> bool:
        return await self._add(AGENTS, owner, agent)

    async def agent(self, owner: str, id: str) -> Agent | None:  # noqa: A002
        return await self._get(AGENTS, owner=owner, id=id)

    async def agents(self, owner: str, query: Query) -> Found[Agent]:
        return await self._query(AGENTS, owner, query)

    async def change_agent(self, owner: str, then: Agent, now: Agent) -> Agent | None:
        return await self._change(AGENTS, owner, then, now)

    async def remove_agent(self, owner: str, id: str) -> bool:  # noqa: A002
        return await self._remove(AGENTS, owner=owner, id=id)

    # -- conversations ------------------------------------------------------------------------------------------------

    async def add_conversation(self, owner: str, conversation: Conversation) -> bool:
        return await self._add(CONVERSATIONS, owner, conversation)

    async def conversation(self, owner: str, id: str) -> Conversation | None:  # noqa: A002
        return await self._get(CONVERSATIONS, owner=owner, id=id)

    async def conversations(self, owner: str, query: Query) -> Found[Conversation]:
        return await self._query(CONVERSATIONS, owner, query)

    async def change_conversation(self, owner: str, then: Conversation, now: Conversation) -> Conversation | None:
        return await self._change(CONVERSATIONS, owner, then, now)

    async def remove_conversation(self, owner: str, id: str) -> bool:  # noqa: A002
        return await self._remove(CONVERSATIONS, owner=owner, id=id)

    @shielded
    async def counts(self, owner: str, agents: Sequence[str], metadata: Mapping[str, Any]) -> Mapping[str, int]:
        async with self._database.reading() as connection:
            rows = await connection.execute(counted(self._database, owner, agents, metadata))
            return dict(sorted(rows))

    async def expire(self, before: float) -> int:
        removed = 0
        while True:
            some = await self._expire(before)
            removed += some
            if some < _EXPIRE_BATCH:
                return removed

    @shielded
    async def _expire(self, before: float) -> int:
        busy = exists().where(
            turns.c.owner == conversations.c.owner, turns.c.conversation == conversations.c.id, active
        )
        idle = select(conversations.c.owner, conversations.c.id).where(conversations.c.updated < before, ~busy)
        async with self._database.writing() as connection:
            # skip those that are just getting a turn; with SQLite there are none, as writers exclude each other
            found = (await connection.execute(idle.limit(_EXPIRE_BATCH).with_for_update(skip_locked=True))).all()
            for owner, id_ in found:
                await connection.execute(delete(conversations).where(exactly(conversations, owner=owner, id=id_)))
        return len(found)

    # -- turns --------------------------------------------------------------------------------------------------------

    @shielded
    async def add_turn(self, owner: str, turn: Turn, *, queued_at_most: int = 0) -> Turn:
        row = await build_row(TURNS.row_of, owner, turn, of=turn)
        its = exactly(conversations, owner=owner, id=turn.conversation)
        async with self._database.writing() as connection:
            # locks the conversation: concurrent turns wait here
            touched = await connection.execute(update(conversations).where(its).values(updated=turn.updated))
            if not touched.rowcount:
                raise KeyError(turn.conversation)
            theirs = exactly(turns, owner=owner, conversation=turn.conversation)
            if turn.state is TurnState.QUEUED:
                waiting = await connection.scalar(select(func.count()).select_from(turns).where(theirs, queued))
                if (waiting or 0) >= queued_at_most:
                    raise Full
            else:
                await self._require_idle(connection, owner, turn.conversation, or_(active, queued))
            last = await connection.scalar(select(func.max(turns.c.number)).where(theirs))
            row["number"] = (last or 0) + 1
            insert = self._database.insert(turns).values(row)
            if not (await connection.execute(insert.on_conflict_do_nothing(index_elements=["owner", "id"]))).rowcount:
                raise KeyError(turn.id)
            await self._require_room(connection, owner)
        return replace(turn, number=row["number"])

    async def turn(self, owner: str, id: str) -> Turn | None:  # noqa: A002
        return await self._get(TURNS, owner=owner, id=id)

    async def turns(
        self,
        owner: str,
        conversation: str | None = None,
        *,
        states: Sequence[TurnState] | None = None,
        limit: int = 1000,
        offset: int = 0,
        newest_first: bool = True,
    ) -> Sequence[Turn]:
        statement = turns_of(owner, conversation, states, newest_first=newest_first)
        return await self._list(TURNS, cut(statement, limit, offset))

    async def ends(self, owner: str, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        found: dict[str, tuple[Turn, Turn]] = {}
        for turn in await self._list(TURNS, first_and_last(self._database, owner, conversations)):
            first, _ = found.get(turn.conversation, (turn, turn))
            found[turn.conversation] = first, turn
        return found

    @shielded
    async def queues(self, after: tuple[str, str] = ("", ""), limit: int = 100) -> Sequence[tuple[str, Turn]]:
        async with self._database.reading() as connection:
            rows = (await connection.execute(first_queued(after, limit))).mappings().all()
        return tuple((row["owner"], TURNS.thing({k: v for k, v in row.items() if k != "owner"})) for row in rows)

    @shielded
    async def change_turn(self, owner: str, then: Turn, now: Turn) -> Turn | None:
        changed = _next(then, replace(now, conversation=then.conversation, number=then.number))
        row = await build_row(TURNS.row, changed, of=changed)
        async with self._database.writing() as connection:
            if changed.state.active and not then.state.active:
                its = exactly(conversations, owner=owner, id=then.conversation)
                await connection.execute(select(conversations.c.id).where(its).with_for_update())
                there = select(turns.c.revision).where(exactly(turns, owner=owner, id=then.id))
                if await connection.scalar(there) == then.revision:
                    await self._require_idle(connection, owner, then.conversation, active)
            return changed if await _replace(connection, TURNS, owner, then, row) else None

    async def remove_turn(self, owner: str, id: str) -> bool:  # noqa: A002
        return await self._remove(TURNS, owner=owner, id=id)

    async def _require_idle(
        self, connection: AsyncConnection, owner: str, conversation: str, others: ColumnElement[bool]
    ) -> None:
        """
        Raises:
            Busy: there is one of ``others``.
        """
        theirs = and_(exactly(turns, owner=owner, conversation=conversation), others)
        first = select(*TURNS.shown).where(theirs).order_by(turns.c.number).limit(1)
        row = (await connection.execute(first)).mappings().one_or_none()
        if row:
            raise Busy(TURNS.thing(row))

    # -- items --------------------------------------------------------------------------------------------------------

    @shielded
    async def put_item(self, owner: str, item: Item) -> None:
        row = {**ITEMS.row_of(owner, item), "space": "", "stamp": uuid.uuid4().hex}
        insert = self._database.insert(items).values(row)
        key = ["owner", "namespace", "key"]
        changes = {name: insert.excluded[name] for name in ("value", "updated", "size", "fields", "space", "stamp")}
        async with self._database.writing() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changes))
            await connection.execute(vectors.forget(owner, row["namespace"], item.key))
            await self._require_room(connection, owner)

    async def item(self, owner: str, namespace: Sequence[str], key: str) -> Item | None:
        return await self._get(ITEMS, owner=owner, namespace=path_of(namespace), key=key)

    async def items(self, owner: str, prefix: Sequence[str], limit: int, offset: int) -> Found[Item]:
        wanted = and_(exactly(items, owner=owner), in_namespace(prefix))
        order = [items.c.updated.desc(), items.c.namespace, items.c.key]
        return await self._found(ITEMS, wanted, order, limit, offset)

    @shielded
    async def due(self, space: str, limit: int) -> Sequence[Due]:
        async with self._database.reading() as connection:
            return await vectors.due(connection, space, limit)

    @shielded
    async def keep_vectors(self, due: Due, space: str, made: Sequence[Sequence[float]]) -> bool:
        async with self._database.writing() as connection:
            return await vectors.keep(connection, due, space, made)

    @shielded
    async def nearest(
        self, owner: str, prefix: Sequence[str], space: str, vector: Sequence[float], limit: int
    ) -> Sequence[Near]:
        async with self._database.reading() as connection:
            return await vectors.nearest(self._database, connection, owner, prefix, space, vector, limit)

    async def remove_item(self, owner: str, namespace: Sequence[str], key: str) -> bool:
        return await self._remove(ITEMS, owner=owner, namespace=path_of(namespace), key=key)

    @shielded
    async def namespaces(self, owner: str) -> Sequence[tuple[str, ...]]:
        statement = select(items.c.namespace).where(exactly(items, owner=owner)).distinct()
        async with self._database.reading() as connection:
            paths = (await connection.scalars(statement)).all()
        return tuple(sorted(map(labels_of, paths)))

    # -- what is the same for all of them -----------------------------------------------------------------------------

    @shielded
    async def _add(self, kind: Kind[T], owner: str, thing: T) -> bool:
        insert = self._database.insert(kind.table).values(await build_row(kind.row_of, owner, thing, of=thing))
        async with self._database.writing() as connection:
            added = await connection.execute(insert.on_conflict_do_nothing(index_elements=["owner", "id"]))
            await self._require_room(connection, owner)
        return added.rowcount == 1

    async def _query(self, kind: Kind[T], owner: str, query: Query) -> Found[T]:
        wanted = and_(*matching(self._database, kind, owner, query))
        return await self._found(kind, wanted, order_of(kind, query), query.limit, query.offset)

    async def _require_room(self, connection: AsyncConnection, owner: str) -> None:
        """
        Raises:
            StoreFull: with what was just written, the owner exceeds their share.
        """
        held = 0
        for kind in _KINDS:
            sizes = select(func.coalesce(func.sum(kind.table.c.size), 0)).where(exactly(kind.table, owner=owner))
            held += int(await connection.scalar(sizes) or 0)
        if held > self._bytes_each:
            raise StoreFull(f"You keep as much here as you may, {self._bytes_each // 2**20} MiB: delete something.")

    @shielded
    async def _get(self, kind: Kind[T], **key: str) -> T | None:
        statement = select(*kind.shown).where(exactly(kind.table, **key))
        async with self._database.reading() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return (await read_rows(kind, [row]))[0] if row else None

    @shielded
    async def _list(self, kind: Kind[T], statement: Select[Any]) -> tuple[T, ...]:
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return await read_rows(kind, rows)

    @shielded
    async def _found(
        self,
        kind: Kind[T],
        wanted: ColumnElement[bool],
        order: Sequence[ColumnElement[Any]],
        limit: int,
        offset: int,
    ) -> Found[T]:
        ordered = select(*kind.shown).where(wanted).order_by(*order)
        rows: list[Mapping[Any, Any]] = []
        held, some = 0, _FIRST_ROWS
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(kind.table).where(wanted))
            while (some := min(some, limit - len(rows))) > 0 and held < ANSWER_BYTES:
                more = (await connection.execute(cut(ordered, some, offset + len(rows)))).mappings().all()
                rows += more
                held += sum(map(size_of, more))
                if len(more) < some:
                    break
                some = max(1, (ANSWER_BYTES - held) * len(rows) // held)  # as many as fit if they are of average size
        return Found(await read_rows(kind, rows), total or 0)

    @shielded
    async def _change(self, kind: Kind[Versioned], owner: str, then: Versioned, now: Versioned) -> Versioned | None:
        changed = _next(then, now)
        row = await build_row(kind.row, changed, of=changed)
        async with self._database.writing() as connection:
            return changed if await _replace(connection, kind, owner, then, row) else None

    @shielded
    async def _remove(self, kind: Kind[Any], **key: str) -> bool:
        async with self._database.writing() as connection:
            removed = await connection.execute(delete(kind.table).where(exactly(kind.table, **key)))
        return removed.rowcount == 1


def _next(then: Versioned, now: Versioned) -> Versioned:
    """The new revision of ``then``."""
    return replace(now, id=then.id, revision=then.revision + 1)


async def _replace(
    connection: AsyncConnection, kind: Kind[Versioned], owner: str, then: Versioned, row: Mapping[str, Any]
) -> bool:
    """Replace ``then`` by ``row``, if it is still there."""
    there = and_(exactly(kind.table, owner=owner, id=then.id), kind.table.c.revision == then.revision)
    return (await connection.execute(update(kind.table).where(there).values(row))).rowcount == 1
