"""What is done beside the requests, for as long as there is something to do."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

Chore: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Chores:
    """Tasks beside the requests, of each chore one at a time."""

    def __init__(self) -> None:
        self._tasks: dict[Chore, asyncio.Task[None]] = {}

    def see_to(self, chore: Chore) -> None:
        """Begin it, unless it is being done."""
        if chore not in self._tasks or self._tasks[chore].done():
            self._tasks[chore] = asyncio.create_task(chore())

    async def aclose(self) -> None:
        """Break off what is being done."""
        for task in self._tasks.values():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
