"""The store in a SQL database: a SQLite file, or PostgreSQL.

Each operation is one transaction, and no connection is held between two. Database errors come out as
``StoreUnavailable``.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from codegen_api.errors import StoreUnavailable
from codegen_api.storable import storable
from codegen_api.stores import Agent, Conversation, Due, Found, Item, Near, Query, Talk, Turn, TurnState
from codegen_api.stores.sql import queries, transactions, vectors
from codegen_api.stores.sql.database import Database, Insert, kind_of
from codegen_api.stores.sql.migrations import migrate
from codegen_api.stores.sql.sqlite import SqliteDatabase
from codegen_api.stores.sql.tables import AGENTS, CONVERSATIONS, ITEMS, TURNS, Kind, active, labels_of, path_of
from codegen_api.telemetry import Observation

T = TypeVar("T")
Versioned = TypeVar("Versioned", Agent, Conversation, Turn)

_CLOSE_SECONDS = 30.0
"""Seconds that closing waits for operations in progress."""

_PROBE_BYTES = 64 * 1024
"""Bytes written to check that writing works."""

_MOST_TURNS = 1000
"""Turns of a conversation read at once."""

_EXPIRE_BATCH = 200
"""Conversations removed per transaction, during which other writers wait."""


class SqlStore:
    """A ``Store`` in the database at ``url``: ``sqlite:///path`` or ``postgresql://...``, in libpq's syntax.

    ``bytes_each`` is the approximate limit per owner; each of several concurrent requests may exceed it.

    Raises:
        ValueError: the URL names no database.
    """

    def __init__(self, url: str, *, bytes_each: int = 256 * 1024 * 1024) -> None:
        self.observation: Observation | None = None
        self._database = database_at(url)
        self._bytes_each = bytes_each
        self._under_way: set[asyncio.Task[Any]] = set()
        self._inserts: dict[Kind[Any], Insert] = {
            kind: self._database.insert(kind.table).on_conflict_do_nothing(index_elements=["owner", "id"])
            for kind in (AGENTS, CONVERSATIONS, TURNS)
        }

    async def open(self) -> None:
        try:
            await self._database.open(migrate)
            self.observe(None)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_CLOSE_SECONDS)
        await self._database.aclose()

    async def check(self) -> None:
        before = self.observation
        row = ITEMS.row("", Item(("check",), uuid.uuid4().hex, {"": "x" * _PROBE_BYTES}, 0.0, 0.0))

        def try_to_write(connection: sa.Connection) -> None:
            for kind in transactions.KINDS:  # a lock on any of these would block writing
                connection.execute(sa.update(kind.table).where(sa.false()).values(size=kind.c.size))
            connection.execute(sa.insert(ITEMS.table).values({**row, "space": "", "stamp": ""}))

        await self._run_to_end(self._database.probe(try_to_write))
        if self.observation is before:  # nothing has failed meanwhile
            self.observe(None)

    def observe(self, trouble: str | None) -> None:
        """Record that the database has failed with ``trouble``, or that it works (None)."""
        now, before = time.time(), self.observation
        since = before.since if before is not None and before.since is not None else now
        self.observation = Observation(trouble is None, now, trouble, None if trouble is None else since)

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

    async def talk(self, owner: str, id: str) -> Talk | None:  # noqa: A002
        key = {"owner": owner, "id": id}
        if not storable(key):
            return None

        found, turns = await self._read(lambda connection: transactions.load_talk(connection, key, _MOST_TURNS))
        if not found:
            return None
        (conversation,) = await CONVERSATIONS.read(found)
        return Talk(conversation, await TURNS.read(turns), conversation)

    async def counts(self, owner: str, agents: Sequence[str], metadata: Mapping[str, Any]) -> Mapping[str, int]:
        statement = queries.count_by_agent(self._database, owner, agents, metadata)
        return {row["agent"]: row["conversations"] for row in await self._rows(statement)}

    async def expire(self, before: float) -> int:
        removed = 0
        while True:
            count = await self._expire(before)
            removed += count
            if count < _EXPIRE_BATCH:
                return removed

    async def _expire(self, before: float) -> int:
        busy = sa.exists().where(
            TURNS.c.owner == CONVERSATIONS.c.owner, TURNS.c.conversation == CONVERSATIONS.c.id, active
        )
        idle = sa.select(CONVERSATIONS.c.owner, CONVERSATIONS.c.id).where(CONVERSATIONS.c.updated < before, ~busy)
        batch = idle.limit(_EXPIRE_BATCH).with_for_update(skip_locked=True)

        def remove(connection: sa.Connection) -> int:
            # skips conversations that are just getting a turn; SQLite has none, as writers exclude each other
            found_idle = connection.execute(batch).all()
            for owner, id_ in found_idle:
                its = queries.exactly(CONVERSATIONS, owner=owner, id=id_)
                connection.execute(sa.delete(CONVERSATIONS.table).where(its))
            return len(found_idle)

        return await self._write(remove)

    # -- turns --------------------------------------------------------------------------------------------------------

    async def add_turn(self, owner: str, turn: Turn, *, queued_at_most: int = 0, into: Talk | None = None) -> Turn:
        row = await TURNS.build(owner, turn)
        then, talk = None, None
        if into is not None and into.conversation is not into.stored:
            then, now = into.stored, replace(into.conversation, id=turn.conversation, updated=turn.updated)
            now = now if then is None else _revised(then, now)
            talk = await CONVERSATIONS.build(owner, now)

        def add(connection: sa.Connection) -> int:
            transactions.put_conversation(connection, self._inserts[CONVERSATIONS], row, then, talk)
            return transactions.add_turn(connection, self._inserts[TURNS], row, queued_at_most, self._bytes_each)

        return replace(turn, number=await self._write(add))

    async def turn(self, owner: str, id: str) -> Turn | None:  # noqa: A002
        return await self._get(TURNS, owner=owner, id=id)

    async def turns(
        self,
        owner: str,
        conversation: str | None = None,
        *,
        states: Sequence[TurnState] | None = None,
        limit: int = _MOST_TURNS,
        offset: int = 0,
        newest_first: bool = True,
    ) -> Sequence[Turn]:
        filters = {"owner": owner} if conversation is None else {"owner": owner, "conversation": conversation}
        if not storable(filters):
            return ()
        statement = transactions.turns_of(
            conversation is not None, None if states is None else tuple(states), newest_first
        )
        return await self._list(
            TURNS, statement, {**filters, "limit": queries.bounded(limit), "offset": queries.bounded(offset)}
        )

    async def ends(self, owner: str, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        ends: dict[str, tuple[Turn, Turn]] = {}
        for turn in await self._list(TURNS, queries.first_and_last(self._database, owner, conversations)):
            first, _ = ends.get(turn.conversation, (turn, turn))
            ends[turn.conversation] = first, turn
        return ends

    async def queues(self, after: tuple[str, str] = ("", ""), limit: int = 100) -> Sequence[tuple[str, Turn]]:
        rows = await self._rows(queries.first_queued(after, limit))
        return tuple((row["owner"], TURNS.from_row(row)) for row in rows)

    async def change_turn(self, owner: str, then: Turn, now: Turn) -> Turn | None:
        changed = _revised(then, replace(now, conversation=then.conversation, number=then.number))
        row = await TURNS.build(owner, changed)
        is_changed = await self._write(lambda connection: transactions.change_turn(connection, then, row))
        return changed if is_changed else None

    async def remove_turn(self, owner: str, id: str) -> bool:  # noqa: A002
        return await self._remove(TURNS, owner=owner, id=id)

    # -- items --------------------------------------------------------------------------------------------------------

    async def put_item(self, owner: str, item: Item) -> None:
        row = {**ITEMS.row(owner, item), "space": "", "stamp": uuid.uuid4().hex}
        insert = self._database.insert(ITEMS.table).values(row)
        changes = {name: insert.excluded[name] for name in ("value", "updated", "size", "fields", "space", "stamp")}
        upsert = insert.on_conflict_do_update(index_elements=["owner", "namespace", "key"], set_=changes)

        def put(connection: sa.Connection) -> None:
            connection.execute(upsert)
            connection.execute(vectors.delete_of(owner, row["namespace"], item.key))
            transactions.require_room(connection, owner, self._bytes_each)

        await self._write(put)

    async def item(self, owner: str, namespace: Sequence[str], key: str) -> Item | None:
        return await self._get(ITEMS, owner=owner, namespace=path_of(namespace), key=key)

    async def items(self, owner: str, prefix: Sequence[str], limit: int, offset: int) -> Found[Item]:
        wanted = sa.and_(queries.exactly(ITEMS, owner=owner), queries.in_namespace(prefix))
        order = [ITEMS.c.updated.desc(), ITEMS.c.namespace, ITEMS.c.key]
        return await self._found(ITEMS, partial(queries.find_page, ITEMS, wanted, order, limit, offset))

    async def due(self, space: str, limit: int) -> Sequence[Due]:
        return await self._read(lambda connection: vectors.due(connection, space, limit))

    async def keep_vectors(self, due: Due, space: str, made: Sequence[Sequence[float]]) -> bool:
        return await self._write(lambda connection: vectors.keep(connection, due, space, made))

    async def nearest(
        self, owner: str, prefix: Sequence[str], space: str, vector: Sequence[float], limit: int
    ) -> Sequence[Near]:
        return await self._run_to_end(vectors.nearest(self._database, owner, prefix, space, vector, limit))

    async def remove_item(self, owner: str, namespace: Sequence[str], key: str) -> bool:
        return await self._remove(ITEMS, owner=owner, namespace=path_of(namespace), key=key)

    async def namespaces(self, owner: str) -> Sequence[tuple[str, ...]]:
        rows = await self._rows(sa.select(ITEMS.c.namespace).where(queries.exactly(ITEMS, owner=owner)).distinct())
        return tuple(sorted(labels_of(row["namespace"]) for row in rows))

    # -- common to all kinds -------------------------------------------------------------------------------------------

    async def _add(self, kind: Kind[T], owner: str, thing: T) -> bool:
        row = await kind.build(owner, thing)

        def add(connection: sa.Connection) -> bool:
            added = connection.execute(self._inserts[kind], row)
            transactions.require_room(connection, owner, self._bytes_each)
            return added.rowcount == 1

        return await self._write(add)

    async def _get(self, kind: Kind[T], **key: str) -> T | None:
        if not storable(key):
            return None
        found = await self._list(kind, transactions.row_by(kind, *key), key)
        return found[0] if found else None

    async def _list(
        self, kind: Kind[T], statement: sa.Select[Any], parameters: Mapping[str, Any] | None = None
    ) -> tuple[T, ...]:
        return await kind.read(await self._rows(statement, parameters))

    async def _query(self, kind: Kind[T], owner: str, query: Query) -> Found[T]:
        wanted = sa.and_(*queries.matching(self._database, kind, owner, query))
        order = queries.order_of(kind, query)
        return await self._found(kind, partial(queries.find_page, kind, wanted, order, query.limit, query.offset))

    async def _found(
        self, kind: Kind[T], search: Callable[[sa.Connection], tuple[int, Sequence[Mapping[str, Any]]]]
    ) -> Found[T]:
        total, rows = await self._read(search)
        return Found(await kind.read(rows), total)

    async def _change(self, kind: Kind[Versioned], owner: str, then: Versioned, now: Versioned) -> Versioned | None:
        changed = _revised(then, now)
        row = await kind.build(owner, changed)
        is_changed = await self._write(lambda connection: transactions.replace_row(connection, kind, then, row))
        return changed if is_changed else None

    async def _remove(self, kind: Kind[Any], **key: str) -> bool:
        removing = sa.delete(kind.table).where(queries.exactly(kind, **key))
        return await self._write(lambda connection: connection.execute(removing).rowcount == 1)

    async def _rows(
        self, statement: sa.Select[Any], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[sa.RowMapping]:
        return await self._read(lambda connection: connection.execute(statement, parameters).mappings().all())

    async def _read(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._run_to_end(self._database.read(work))

    async def _write(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._run_to_end(self._database.write(work))

    async def _run_to_end(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run ``operation`` to its end even if the caller is cancelled.

        If cancelled, the drivers stop between any two steps of a transaction and leave its connection to the garbage
        collector. Until that runs, a SQLite file stays locked, and a PostgreSQL connection is lost to the pool.
        """
        task = asyncio.create_task(operation)
        self._under_way.add(task)
        task.add_done_callback(self._on_end)
        return await asyncio.shield(task)

    def _on_end(self, task: "asyncio.Task[Any]") -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreUnavailable):
            self.observe(kind_of(error))


def _revised(then: Versioned, now: Versioned) -> Versioned:
    """``now`` as the next revision of ``then``."""
    return replace(now, id=then.id, revision=then.revision + 1)


def database_at(url: str) -> Database:
    """The database at ``url``, not yet opened.

    Raises:
        ValueError: the URL is invalid, or its driver is not installed. The text does not quote it: it may contain a
            password.
    """
    scheme, _, rest = url.partition("://")
    match scheme.lower():
        case "sqlite" | "sqlite+aiosqlite":
            path = rest.removeprefix("/")
            if path == rest or path in ("", ":memory:") or path.startswith("file:") or {"?", "\0"} & set(path):
                raise ValueError("A SQLite database is a file: sqlite:///relative/path or sqlite:////absolute/path.")
            return SqliteDatabase(Path(path))
        case "postgresql" | "postgres" | "postgresql+asyncpg":
            try:  # only on demand: its driver is an extra
                from codegen_api.stores.sql.postgres import PostgresDatabase  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise ValueError(
                    "For PostgreSQL install the extra: pip install 'codegen-gateway[postgres]'."
                ) from error
            return PostgresDatabase(f"postgresql://{rest}")
    raise ValueError("The URL of a database begins with sqlite:/// or postgresql://.")
