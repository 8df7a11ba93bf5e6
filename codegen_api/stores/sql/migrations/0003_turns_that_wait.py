"""Turns that wait for the one before them."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    op.add_column("turns", sa.Column("ask", TEXT))
    queued = sa.text("state = 'queued'")
    op.create_index(
        "turns_that_wait",
        "turns",
        ["owner", "conversation", "number"],
        sqlite_where=queued,
        postgresql_where=queued,
    )
