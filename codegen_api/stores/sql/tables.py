"""The tables, and the conversion of stored objects to rows and back.

Texts are compared bytewise, so that both databases search and sort alike. Data without a fixed shape is stored as JSON
text. The ``migrations`` bring older databases to this state.
"""

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.types import TypeEngine

from codegen_api.runs import Json, RunRef, to_json
from codegen_api.storable import storable
from codegen_api.stores import LONGEST, Agent, Conversation, Item, Turn, TurnState
from codegen_api.stores.sql.metadata_facts import facts_of
from codegen_api.worker_thread import in_thread, is_large

T = TypeVar("T")

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

TABLES = sa.MetaData()


def _keys(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, TEXT, primary_key=True, nullable=False) for name in names]


def _columns(type_: Any, *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, type_, nullable=nullable) for name in names]


def _size() -> sa.Column[Any]:
    """The bytes charged for a row, see ``size_of``."""
    return sa.Column("size", sa.BigInteger, nullable=False, server_default="0")


class VectorType(sa.TypeDecorator[Sequence[float]]):
    """A vector of single-precision numbers: an array where the database has them, else bytes."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(postgresql.ARRAY(sa.REAL) if dialect.name == "postgresql" else sa.LargeBinary())

    def process_bind_param(self, value: Sequence[float] | None, dialect: sa.Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else array("f", value).tobytes()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Sequence[float] | None:
        return array("f", value)


# Long texts come last: SQLite reads a row only as far as needed. Sizes are read from their indexes.

agents = sa.Table(
    "agents",
    TABLES,
    *_keys("owner", "id"),
    *_columns(sa.BigInteger, "revision"),
    *_columns(sa.Double, "created", "updated"),
    *_columns(sa.BigInteger, "version"),
    *_columns(sa.Boolean, "archived"),
    *_columns(TEXT, "name", "folded"),
    *_columns(TEXT, "model", nullable=True),
    *_columns(TEXT, "facts", "tags", "metadata", "configuration"),
    *_columns(TEXT, "description", "system_prompt", nullable=True),
    _size(),
    sa.Index("agents_by_size", "owner", "size"),
)

conversations = sa.Table(
    "conversations",
    TABLES,
    *_keys("owner", "id"),
    *_columns(sa.BigInteger, "revision"),
    *_columns(sa.Double, "created", "updated"),
    *_columns(TEXT, "agent", "parent", "title", nullable=True),
    *_columns(TEXT, "folded", "facts", "tags", "metadata"),
    _size(),
    sa.Index("conversations_by_age", "updated"),
    sa.Index("conversations_by_size", "owner", "size"),
)

turns = sa.Table(
    "turns",
    TABLES,
    *_keys("owner", "id"),
    *_columns(sa.BigInteger, "revision"),
    *_columns(sa.Double, "created", "updated"),
    *_columns(TEXT, "conversation"),
    *_columns(sa.BigInteger, "number"),
    *_columns(TEXT, "state"),
    *_columns(TEXT, "agent", "parent", nullable=True),
    *_columns(TEXT, "mark"),
    *_columns(sa.Boolean, "resumes"),
    *_columns(TEXT, "organization"),
    *_columns(TEXT, "run_organization", "run_id", nullable=True),
    *_columns(sa.BigInteger, "begin"),
    *_columns(sa.BigInteger, "end", nullable=True),
    *_columns(TEXT, "error", nullable=True),
    *_columns(TEXT, "options", "prompt", "messages"),
    *_columns(TEXT, "answer", nullable=True),
    _size(),
    *_columns(TEXT, "ask", nullable=True),
    sa.ForeignKeyConstraint(
        ["owner", "conversation"],
        ["conversations.owner", "conversations.id"],
        name="turns_of_a_conversation",
        ondelete="CASCADE",
    ),
    sa.UniqueConstraint("owner", "conversation", "number", name="turns_in_order"),
    sa.Index("turns_by_age", "owner", "created"),
    sa.Index("turns_by_size", "owner", "size"),
)

# Literals, not parameters: only then do databases use the partial indexes below.
active = turns.c.state.in_([sa.literal_column(f"'{state}'") for state in TurnState if state.active])
queued = turns.c.state == sa.literal_column(f"'{TurnState.QUEUED}'")
# Withdrawn turns do not count as the latest of a conversation.
withdrawn = turns.c.state == sa.literal_column(f"'{TurnState.WITHDRAWN}'")

_conversation = (turns.c.owner, turns.c.conversation)
sa.Index("one_active_turn", *_conversation, unique=True, sqlite_where=active, postgresql_where=active)
sa.Index("turns_that_wait", *_conversation, turns.c.number, sqlite_where=queued, postgresql_where=queued)

items = sa.Table(
    "items",
    TABLES,
    *_keys("owner", "namespace", "key"),
    *_columns(sa.Double, "created", "updated"),
    *_columns(TEXT, "value"),
    _size(),
    *_columns(TEXT, "fields", nullable=True),
    # ``space`` is that of the item's vectors, empty while they are due; ``stamp`` changes with every put
    *(sa.Column(name, TEXT, nullable=False, server_default=sa.text("''")) for name in ("space", "stamp")),
    sa.Index("items_by_size", "owner", "size"),
    sa.Index("items_by_space", "space", "updated"),
)

vectors = sa.Table(
    "vectors",
    TABLES,
    *_keys("owner", "namespace", "key"),
    sa.Column("number", sa.BigInteger, primary_key=True, nullable=False, autoincrement=False),
    *_columns(TEXT, "space"),
    *_columns(sa.Double, "made_of"),  # the item's ``updated`` when they were made
    *_columns(VectorType, "vector"),
    sa.ForeignKeyConstraint(
        ["owner", "namespace", "key"],
        ["items.owner", "items.namespace", "items.key"],
        name="vectors_of_an_item",
        ondelete="CASCADE",
    ),
)

ROW_BYTES = 500
"""Bytes charged for a row besides its texts: the database's own overhead."""

VECTOR_BYTES = 100
"""Bytes charged for a vector besides its numbers of four bytes."""

_HIDDEN = {"owner", "folded", "facts", "size", "space", "stamp"}


def size_of(row: Mapping[str, Any]) -> int:
    """The bytes charged for a row."""
    return ROW_BYTES + sum(len(value.encode()) for value in row.values() if isinstance(value, str))


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A table, and how objects become its rows (``to_columns``: without owner and size) and back."""

    table: sa.Table
    to_columns: Callable[[T], dict[str, Any]]
    from_row: Callable[[Mapping[Any, Any]], T]

    @property
    def c(self) -> ReadOnlyColumnCollection[str, sa.Column[Any]]:
        return self.table.c

    def row(self, owner: str, thing: T) -> dict[str, Any]:
        """The row with all columns. Raises ``ValueError`` if something cannot be stored."""
        row = self.to_columns(thing)
        row |= {"owner": owner, "size": size_of(row)}
        for column in self.table.primary_key:
            longest = LONGEST * 2 if column.name == "namespace" else LONGEST
            if not storable(row[column.name]) or len(row[column.name].encode()) > longest:
                raise ValueError(f"{column.name} cannot be stored")
        return row

    async def build(self, owner: str, thing: T) -> dict[str, Any]:
        """Like ``row``, in the worker thread if large."""
        large = is_large([getattr(thing, name) for name in _FIELDS[type(thing)]])
        return await in_thread(self.row, owner, thing) if large else self.row(owner, thing)

    async def read(self, rows: Sequence[Mapping[Any, Any]]) -> tuple[T, ...]:
        """The objects from these rows, made in the worker thread if large."""

        def read() -> tuple[T, ...]:
            return tuple(map(self.from_row, rows))

        return await in_thread(read) if is_large(rows) else read()

    @property
    def shown(self) -> list[sa.Column[Any]]:
        return [column for column in self.table.columns if column.name not in _HIDDEN]


def _agent_row(agent: Agent) -> dict[str, Any]:
    row = _plain(agent)
    facts = facts_of(tags=agent.tags, metadata=agent.metadata, configuration=agent.configuration)
    return {**row, "folded": agent.name.casefold(), "facts": facts}


def _conversation_row(conversation: Conversation) -> dict[str, Any]:
    row = _plain(conversation)
    facts = facts_of(tags=conversation.tags, metadata=conversation.metadata)
    return {**row, "folded": (conversation.title or "").casefold(), "facts": facts}


def _turn_row(turn: Turn) -> dict[str, Any]:
    row = _plain(turn)
    run = row.pop("run")
    return {**row, "run_organization": run and run.organization, "run_id": run and run.id}


def _turn(row: Mapping[Any, Any]) -> Turn:
    values = _parsed(row)
    organization, id_ = values.pop("run_organization"), values.pop("run_id")
    values["run"] = None if id_ is None else RunRef(organization, id_)
    values["state"] = TurnState(values["state"])
    return Turn(**values)


def _item_row(item: Item) -> dict[str, Any]:
    return {**_plain(item), "namespace": path_of(item.namespace)}


def _item(row: Mapping[Any, Any]) -> Item:
    values = _parsed(row)
    return Item(**{**values, "namespace": labels_of(values["namespace"])})


AGENTS = Kind(agents, _agent_row, lambda row: Agent(**_parsed(row)))
CONVERSATIONS = Kind(conversations, _conversation_row, lambda row: Conversation(**_parsed(row)))
TURNS = Kind(turns, _turn_row, _turn)
ITEMS = Kind(items, _item_row, _item)


def path_of(labels: Sequence[str]) -> str:
    """A namespace as a text, such that ``("a",)`` is a prefix of ``("a", "b")`` but not of ``("ab",)``."""
    return "".join(json.dumps(label, ensure_ascii=False) + "," for label in labels)


def labels_of(path: str) -> tuple[str, ...]:
    return tuple(json.loads(f"[{path[:-1]}]"))


_ENCODED = {"tags", "metadata", "configuration", "messages", "options", "value", "fields", "ask"}
_TUPLES = {"tags", "messages", "fields"}

_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind)) for kind in (Agent, Conversation, Turn, Item)
}


def _plain(thing: Agent | Conversation | Turn | Item) -> dict[str, Any]:
    """Fields as database values. Raises ``ValueError`` if one of them cannot be stored."""
    values = {name: getattr(thing, name) for name in _FIELDS[type(thing)]}
    for name, value in values.items():
        small = not isinstance(value, int) or value.bit_length() < 64
        if not small or not storable([value.organization, value.id] if isinstance(value, RunRef) else value):
            raise ValueError(f"{name} cannot be stored")
        if name in _ENCODED and value is not None:
            values[name] = to_json(value).decode()
    return values


def _parsed(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Fields from database values. The standard parser keeps integers beyond 64 bits exact."""
    values = {name: value for name, value in row.items() if name not in _HIDDEN}
    for name in _ENCODED & values.keys():
        value: Json = None if values[name] is None else json.loads(values[name])
        values[name] = tuple(value) if name in _TUPLES and isinstance(value, list) else value
    return values
