"""Operations on a database are finished, also when whoever asked for them has gone.

The drivers stop between any two steps of a transaction when they are cancelled. What they leave behind then is given up
by the garbage collector, some time; until then a SQLite file stays locked, and a connection to PostgreSQL is lost.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


class Finishing(Protocol):
    """Whose operations these are. What is ``under_way`` has to be waited for before the database is closed."""

    under_way: set[asyncio.Task[Any]]


def finished(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The method of a ``Finishing``, in a task of its own, which is not cancelled with the caller."""

    @wraps(method)
    async def in_a_task(*arguments: P.args, **named: P.kwargs) -> T:
        under_way = cast("Finishing", arguments[0]).under_way
        task = asyncio.create_task(method(*arguments, **named))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        task.add_done_callback(_heard)
        await asyncio.wait({task})
        return task.result()

    return in_a_task


def _heard(task: asyncio.Task[Any]) -> None:
    """Mark it as seen: the caller may have gone."""
    if not task.cancelled():
        task.exception()
