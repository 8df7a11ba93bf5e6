"""What items mean, as vectors: beside the items, and due for all that are there."""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

TEXT = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
VECTOR = sa.LargeBinary().with_variant(postgresql.ARRAY(sa.REAL), "postgresql")


def upgrade(op: Operations) -> None:
    op.add_column("items", sa.Column("fields", TEXT))
    for name in ("space", "stamp"):
        op.add_column("items", sa.Column(name, TEXT, nullable=False, server_default=sa.text("''")))
    op.create_index("items_by_space", "items", ["space", "updated"])
    op.create_table(
        "vectors",
        sa.Column("owner", TEXT, primary_key=True, nullable=False),
        sa.Column("namespace", TEXT, primary_key=True, nullable=False),
        sa.Column("key", TEXT, primary_key=True, nullable=False),
        sa.Column("number", sa.BigInteger, primary_key=True, nullable=False, autoincrement=False),
        sa.Column("space", TEXT, nullable=False),
        sa.Column("made_of", sa.Double, nullable=False),
        sa.Column("vector", VECTOR, nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "namespace", "key"],
            ["items.owner", "items.namespace", "items.key"],
            name="vectors_of_an_item",
            ondelete="CASCADE",
        ),
    )
