"""What each row is charged, so that no owner keeps more than they may."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"

TEXTS = {
    "agents": "name facts tags metadata configuration description system_prompt",
    "conversations": "title facts tags metadata",
    "turns": "error options prompt messages answer",
    "items": "namespace key value",
}
"""Those that may be long."""


def upgrade(op: Operations) -> None:
    for table, texts in TEXTS.items():
        op.add_column(table, sa.Column("size", sa.BigInteger, nullable=False, server_default="0"))
        # about: what is there is measured in characters, what is written from now on in bytes
        lengths = " + ".join(f"coalesce(length({text}), 0)" for text in texts.split())
        op.execute(f"UPDATE {table} SET size = 500 + {lengths}")  # noqa: S608 - no text of anybody's
        op.create_index(f"{table}_by_size", table, ["owner", "size"])
