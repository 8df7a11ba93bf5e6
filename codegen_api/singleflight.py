"""Share one call among all callers that ask for the same thing at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Singleflight(Generic[K, V]):
    """Calls in flight, by key. Callers that ask during a call share its result or exception.

    The call runs in a task of its own, and callers wait for it shielded. Otherwise cancelling the first caller, whose
    client disconnected, would raise ``CancelledError`` in all the others.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    async def share(self, key: K, call: Callable[[], Awaitable[V]]) -> V:
        """The result of ``call``, which is started unless one with this key is in flight."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(_awaited(call))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._discard(key, done))
        return await asyncio.shield(task)

    def _discard(self, key: K, task: asyncio.Task[V]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # mark it as retrieved, or asyncio logs it if all callers have left

    async def wait_for(self, key: K, *, within: float) -> bool:
        """Wait up to ``within`` seconds for the call with this key. Returns False if there is none."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait({task}, timeout=within)
        return task is not None

    async def aclose(self, *, within: float = 0.0) -> None:
        """Cancel the calls in flight after waiting ``within`` seconds for them."""
        tasks = list(self._tasks.values())
        if tasks and within > 0:
            await asyncio.wait(tasks, timeout=within)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _awaited(call: Callable[[], Awaitable[V]]) -> V:
    return await call()
