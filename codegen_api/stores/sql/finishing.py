"""Operations on a database are finished, also when whoever asked for them has gone.

The drivers stop between any two steps of a transaction when they are cancelled. What they leave behind then is given up
by the garbage collector, some time; until then a SQLite file stays locked, and a connection to PostgreSQL is lost.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from codegen_api.errors import StoreUnavailable
from codegen_api.stores.sql.faults import kind
from codegen_api.telemetry import Observation

P = ParamSpec("P")
T = TypeVar("T")


class Finishing:
    """Whose operations these are. What is ``under_way`` has to be waited for before the database is closed. What it
    could not do last is in ``observation``, until ``observe`` is told that all is well.
    """

    def __init__(self) -> None:
        self.under_way: set[asyncio.Task[Any]] = set()
        self.observation: Observation | None = None

    def observe(self, trouble: str | None) -> None:
        now, before = time.time(), self.observation
        since = before.since if before is not None and before.since is not None else now
        self.observation = Observation(trouble is None, now, trouble, None if trouble is None else since)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """One of them has; its caller may have gone."""
        self.under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreUnavailable):
            self.observe(kind(error))


def finished(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The method of a ``Finishing``, in a task of its own, which is not cancelled with the caller."""

    @wraps(method)
    async def in_a_task(*arguments: P.args, **named: P.kwargs) -> T:
        store = cast("Finishing", arguments[0])
        task = asyncio.create_task(method(*arguments, **named))
        store.under_way.add(task)
        task.add_done_callback(store.ended)
        await asyncio.wait({task})
        return task.result()

    return in_a_task
