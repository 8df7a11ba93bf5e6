"""Database operations complete even if their caller is cancelled.

On cancellation the drivers stop between any two steps of a transaction and leave its connection to the garbage
collector. Until that runs, a SQLite file stays locked, and a PostgreSQL connection is lost to the pool.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from codegen_api.errors import StoreUnavailable
from codegen_api.stores.sql.sql_errors import kind
from codegen_api.telemetry import Observation

P = ParamSpec("P")
T = TypeVar("T")


class ShieldedOperations:
    """Base class of a store with such operations. Those ``under_way`` have to be awaited before the database is closed.
    The last failure is in ``observation`` until ``observe(None)``.
    """

    def __init__(self) -> None:
        self.under_way: set[asyncio.Task[Any]] = set()
        self.observation: Observation | None = None

    def observe(self, trouble: str | None) -> None:
        now, before = time.time(), self.observation
        since = before.since if before is not None and before.since is not None else now
        self.observation = Observation(trouble is None, now, trouble, None if trouble is None else since)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """An operation is over; its caller may be gone."""
        self.under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreUnavailable):
            self.observe(kind(error))


def shielded(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run a method of a ``ShieldedOperations`` in a task of its own, which is not cancelled with the caller."""

    @wraps(method)
    async def in_a_task(*arguments: P.args, **named: P.kwargs) -> T:
        store = cast("ShieldedOperations", arguments[0])
        task = asyncio.create_task(method(*arguments, **named))
        store.under_way.add(task)
        task.add_done_callback(store.ended)
        return await asyncio.shield(task)

    return in_a_task
