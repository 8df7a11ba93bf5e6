"""The tables, and the conversion of stored objects to rows and back.

Texts are compared bytewise, so that both databases find and sort alike. Data without a fixed shape is stored as JSON
text. ``migrations`` bring older databases to this state.
"""

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from codegen_api.runs import Json, RunRef, to_json
from codegen_api.storable import storable
from codegen_api.stores import LONGEST, Agent, Conversation, Item, Turn, TurnState
from codegen_api.stores.sql.metadata_facts import facts_of
from codegen_api.worker_thread import in_thread, is_large

T = TypeVar("T")

TEXT = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

TABLES = MetaData()


def _key(name: str) -> Column[Any]:
    return Column(name, TEXT, primary_key=True, nullable=False)


def _text(name: str) -> Column[Any]:
    return Column(name, TEXT, nullable=False)


def _maybe(name: str) -> Column[Any]:
    return Column(name, TEXT)


def _time(name: str) -> Column[Any]:
    return Column(name, Double, nullable=False)


def _number(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False)


def _flag(name: str) -> Column[Any]:
    return Column(name, Boolean, nullable=False)


def _size() -> Column[Any]:
    """The bytes charged for a row, see ``size_of``."""
    return Column("size", BigInteger, nullable=False, server_default="0")


class VectorType(TypeDecorator[Sequence[float]]):
    """A vector of single-precision numbers: an array where the database has them, else bytes."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(postgresql.ARRAY(REAL) if dialect.name == "postgresql" else LargeBinary())

    def process_bind_param(self, value: Sequence[float] | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else array("f", value).tobytes()

    def process_result_value(self, value: Any, dialect: Dialect) -> Sequence[float] | None:
        return array("f", value)


# Long texts come last: SQLite reads a row only as far as it has to. Sizes are read from their indexes.

agents = Table(
    "agents",
    TABLES,
    _key("owner"),
    _key("id"),
    _number("revision"),
    _time("created"),
    _time("updated"),
    _number("version"),
    _flag("archived"),
    _text("name"),
    _text("folded"),
    _maybe("model"),
    _text("facts"),
    _text("tags"),
    _text("metadata"),
    _text("configuration"),
    _maybe("description"),
    _maybe("system_prompt"),
    _size(),
    Index("agents_by_size", "owner", "size"),
)

conversations = Table(
    "conversations",
    TABLES,
    _key("owner"),
    _key("id"),
    _number("revision"),
    _time("created"),
    _time("updated"),
    _maybe("agent"),
    _maybe("parent"),
    _maybe("title"),
    _text("folded"),
    _text("facts"),
    _text("tags"),
    _text("metadata"),
    _size(),
    Index("conversations_by_age", "updated"),
    Index("conversations_by_size", "owner", "size"),
)

turns = Table(
    "turns",
    TABLES,
    _key("owner"),
    _key("id"),
    _number("revision"),
    _time("created"),
    _time("updated"),
    _text("conversation"),
    _number("number"),
    _text("state"),
    _maybe("agent"),
    _maybe("parent"),
    _text("mark"),
    _flag("resumes"),
    _text("organization"),
    _maybe("run_organization"),
    _maybe("run_id"),
    _number("begin"),
    Column("end", BigInteger),
    _maybe("error"),
    _text("options"),
    _text("prompt"),
    _text("messages"),
    _maybe("answer"),
    _size(),
    _maybe("ask"),
    ForeignKeyConstraint(
        ["owner", "conversation"],
        ["conversations.owner", "conversations.id"],
        name="turns_of_a_conversation",
        ondelete="CASCADE",
    ),
    UniqueConstraint("owner", "conversation", "number", name="turns_in_order"),
    Index("turns_by_age", "owner", "created"),
    Index("turns_by_size", "owner", "size"),
)

# Literals, not parameters: only then do databases use the partial index below.
active = turns.c.state.in_([literal_column(f"'{state}'") for state in TurnState if state.active])

Index(
    "one_active_turn",
    turns.c.owner,
    turns.c.conversation,
    unique=True,
    sqlite_where=active,
    postgresql_where=active,
)

queued = turns.c.state == literal_column(f"'{TurnState.QUEUED}'")

Index(
    "turns_that_wait",
    turns.c.owner,
    turns.c.conversation,
    turns.c.number,
    sqlite_where=queued,
    postgresql_where=queued,
)

# Withdrawn turns do not count as the latest of a conversation.
withdrawn = turns.c.state == literal_column(f"'{TurnState.WITHDRAWN}'")

items = Table(
    "items",
    TABLES,
    _key("owner"),
    _key("namespace"),
    _key("key"),
    _time("created"),
    _time("updated"),
    _text("value"),
    _size(),
    _maybe("fields"),
    Column("space", TEXT, nullable=False, server_default=text("''")),  # of its vectors; empty while they are due
    Column("stamp", TEXT, nullable=False, server_default=text("''")),  # changes with every put
    Index("items_by_size", "owner", "size"),
    Index("items_by_space", "space", "updated"),
)

vectors = Table(
    "vectors",
    TABLES,
    _key("owner"),
    _key("namespace"),
    _key("key"),
    Column("number", BigInteger, primary_key=True, nullable=False, autoincrement=False),
    _text("space"),
    _time("made_of"),  # the item's ``updated`` when they were made
    Column("vector", VectorType, nullable=False),
    ForeignKeyConstraint(
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
    """What a table stores. ``columns`` makes a row without owner and size; ``thing`` reads the columns in ``shown``."""

    table: Table
    columns: Callable[[T], dict[str, Any]]
    thing: Callable[[Mapping[Any, Any]], T]

    def row(self, thing: T) -> dict[str, Any]:
        """All columns but the owner.

        Raises:
            ValueError: something cannot be stored.
        """
        row = self.columns(thing)
        return {**row, "size": size_of(row)}

    def row_of(self, owner: str, thing: T) -> dict[str, Any]:
        """All columns.

        Raises:
            ValueError: something cannot be stored.
        """
        row = {"owner": owner, **self.row(thing)}
        for column in self.table.primary_key:
            longest = LONGEST * 2 if column.name == "namespace" else LONGEST
            if not storable(row[column.name]) or len(row[column.name].encode()) > longest:
                raise ValueError(f"{column.name} cannot be stored")
        return row

    @property
    def shown(self) -> list[Column[Any]]:
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


_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (Agent, Conversation, Turn, Item)}


def _plain(thing: Agent | Conversation | Turn | Item) -> dict[str, Any]:
    """Fields as database values.

    Raises:
        ValueError: one of them cannot be stored.
    """
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
    values = dict(row)
    for name in _ENCODED & values.keys():
        value: Json = None if values[name] is None else json.loads(values[name])
        values[name] = tuple(value) if name in _TUPLES and isinstance(value, list) else value
    return values


async def build_row(make: Callable[..., dict[str, Any]], *args: Any, of: Any) -> dict[str, Any]:
    """Make the row of a thing, in the thread if large."""
    large = is_large([getattr(of, name) for name in _FIELDS[type(of)]])
    return await in_thread(make, *args) if large else make(*args)


async def read_rows(kind: Kind[T], rows: Sequence[Mapping[Any, Any]]) -> tuple[T, ...]:
    """Read rows, in the thread if large."""

    def read() -> tuple[T, ...]:
        return tuple(map(kind.thing, rows))

    return await in_thread(read) if is_large(rows) else read()
