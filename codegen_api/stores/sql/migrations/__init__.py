"""Migrates a database to the current ``tables``, by the steps here: one file each, never changed once released.

Each has ``upgrade(op)``, which works with ``alembic.operations``. There is no way back but a backup.
"""

from collections.abc import Iterable
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from codegen_api.errors import StoreUnavailable

MIGRATIONS = Path(__file__).parent


def migrate(connection: Connection) -> None:
    """Run the missing steps in the transaction of ``connection``.

    Alembic is used without its environment, which would configure logging and allow one migration per process.

    Raises:
        StoreUnavailable: a newer version of the gateway has migrated this database.
    """
    scripts = ScriptDirectory(MIGRATIONS, version_locations=[MIGRATIONS])

    def missing(heads: str, _: MigrationContext) -> Iterable[RevisionStep]:
        return scripts._upgrade_revs("head", heads)

    context = MigrationContext.configure(connection, opts={"fn": missing})
    for head in context.get_current_heads():
        try:
            scripts.get_revision(head)
        except CommandError as error:
            raise StoreUnavailable(
                f"A newer version of the gateway has changed the database ({head}), and this one does not know how."
                " Start that version, or restore a backup from before."
            ) from error
    context.run_migrations(op=Operations(context))
