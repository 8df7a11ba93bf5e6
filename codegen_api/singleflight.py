"""One call for all who ask the same at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Singleflight(Generic[K, V]):
    """Calls under way, by key. Whoever asks while one is under way shares its outcome, error or not.

    The call belongs to nobody: a caller who leaves does not take it away from the others.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    async def share(self, key: K, call: Callable[[], Awaitable[V]]) -> V:
        """The outcome of ``call``, begun now unless one with this key is under way."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(_awaited(call))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(task)

    def _land(self, key: K, task: asyncio.Task[V]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # mark it as seen: all who asked may have left

    async def landed(self, key: K, *, within: float) -> bool:
        """Wait for the call with this key, if there is one; whether there was."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait({task}, timeout=within)
        return task is not None

    async def aclose(self, *, within: float = 0.0) -> None:
        """End what is under way, when it has had so many seconds."""
        tasks = list(self._tasks.values())
        if tasks and within > 0:
            await asyncio.wait(tasks, timeout=within)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _awaited(call: Callable[[], Awaitable[V]]) -> V:
    return await call()
