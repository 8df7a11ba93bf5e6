"""Background tasks that start when there is work."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

Chore: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Chores:
    """Background tasks, at most one for each chore."""

    def __init__(self) -> None:
        self._tasks: dict[Chore, asyncio.Task[None]] = {}

    def start(self, chore: Chore) -> None:
        """Start the chore unless it is running."""
        if chore not in self._tasks or self._tasks[chore].done():
            self._tasks[chore] = asyncio.create_task(chore())

    async def aclose(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks.values():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
