"""Agents, conversations, turns and items."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    op.create_table(
        "agents",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("folded", TEXT, nullable=False),
        sa.Column("model", TEXT),
        sa.Column("facts", TEXT, nullable=False),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
        sa.Column("configuration", TEXT, nullable=False),
        sa.Column("description", TEXT),
        sa.Column("system_prompt", TEXT),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_table(
        "conversations",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("agent", TEXT),
        sa.Column("parent", TEXT),
        sa.Column("title", TEXT),
        sa.Column("folded", TEXT, nullable=False),
        sa.Column("facts", TEXT, nullable=False),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("conversations_by_age", "conversations", ["updated"])
    op.create_table(
        "turns",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("conversation", TEXT, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("agent", TEXT),
        sa.Column("parent", TEXT),
        sa.Column("mark", TEXT, nullable=False),
        sa.Column("resumes", sa.Boolean, nullable=False),
        sa.Column("organization", TEXT, nullable=False),
        sa.Column("run_organization", TEXT),
        sa.Column("run_id", TEXT),
        sa.Column("begin", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger),
        sa.Column("error", TEXT),
        sa.Column("options", TEXT, nullable=False),
        sa.Column("prompt", TEXT, nullable=False),
        sa.Column("messages", TEXT, nullable=False),
        sa.Column("answer", TEXT),
        sa.PrimaryKeyConstraint("owner", "id"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation"],
            ["conversations.owner", "conversations.id"],
            name="turns_of_a_conversation",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("owner", "conversation", "number", name="turns_in_order"),
    )
    active = sa.text("state IN ('starting', 'running')")
    op.create_index(
        "one_active_turn",
        "turns",
        ["owner", "conversation"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_index("turns_by_age", "turns", ["owner", "created"])
    op.create_table(
        "items",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("namespace", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "namespace", "key"),
    )
