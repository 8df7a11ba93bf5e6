"""The steps that brought the tables to where they are, one file each, and never changed once released.

Each has ``upgrade(op)``, which works with ``alembic.operations``. There is no way back but a backup.
"""
