"""Agents, conversations, turns and items."""

from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def columns(type_: Any, *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, type_, nullable=nullable) for name in names]


def upgrade(op: Operations) -> None:
    op.create_table(
        "agents",
        *columns(TEXT, "owner", "id"),
        *columns(sa.BigInteger, "revision"),
        *columns(sa.Double, "created", "updated"),
        *columns(sa.BigInteger, "version"),
        *columns(sa.Boolean, "archived"),
        *columns(TEXT, "name", "folded"),
        *columns(TEXT, "model", nullable=True),
        *columns(TEXT, "facts", "tags", "metadata", "configuration"),
        *columns(TEXT, "description", "system_prompt", nullable=True),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_table(
        "conversations",
        *columns(TEXT, "owner", "id"),
        *columns(sa.BigInteger, "revision"),
        *columns(sa.Double, "created", "updated"),
        *columns(TEXT, "agent", "parent", "title", nullable=True),
        *columns(TEXT, "folded", "facts", "tags", "metadata"),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("conversations_by_age", "conversations", ["updated"])
    op.create_table(
        "turns",
        *columns(TEXT, "owner", "id"),
        *columns(sa.BigInteger, "revision"),
        *columns(sa.Double, "created", "updated"),
        *columns(TEXT, "conversation"),
        *columns(sa.BigInteger, "number"),
        *columns(TEXT, "state"),
        *columns(TEXT, "agent", "parent", nullable=True),
        *columns(TEXT, "mark"),
        *columns(sa.Boolean, "resumes"),
        *columns(TEXT, "organization"),
        *columns(TEXT, "run_organization", "run_id", nullable=True),
        *columns(sa.BigInteger, "begin"),
        *columns(sa.BigInteger, "end", nullable=True),
        *columns(TEXT, "error", nullable=True),
        *columns(TEXT, "options", "prompt", "messages"),
        *columns(TEXT, "answer", nullable=True),
        sa.PrimaryKeyConstraint("owner", "id"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation"],
            ["conversations.owner", "conversations.id"],
            name="turns_of_a_conversation",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("owner", "conversation", "number", name="turns_in_order"),
    )
    its, active = ["owner", "conversation"], sa.text("state IN ('starting', 'running')")
    op.create_index("one_active_turn", "turns", its, unique=True, sqlite_where=active, postgresql_where=active)
    op.create_index("turns_by_age", "turns", ["owner", "created"])
    op.create_table(
        "items",
        *columns(TEXT, "owner", "namespace", "key"),
        *columns(sa.Double, "created", "updated"),
        *columns(TEXT, "value"),
        sa.PrimaryKeyConstraint("owner", "namespace", "key"),
    )
