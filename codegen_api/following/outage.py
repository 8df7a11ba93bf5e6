"""Whether the host is back: found out by one for all who wait for it, soon, however long it was away."""

import asyncio
from collections.abc import Awaitable, Callable

from codegen_api.following.rights import loop_time

EVERY = 5.0
"""Seconds from one question to the next, while the host does not answer."""


class Outage:
    """Those whose reads have failed, and who wait until the host answers somebody."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._asking = asyncio.Lock()
        self._asked = 0.0

    def answered(self) -> None:
        """The host has answered a read."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def over(self, ask: Callable[[], Awaitable[bool]]) -> None:
        """Until the host has answered somebody. It is asked by those who wait in turn, one at a time; ``ask`` says
        whether it answered, and takes less than ``EVERY`` for it.
        """
        if not self._waiting:
            self._asked = loop_time()  # it was asked just now, in vain
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(answered)
        asking = asyncio.ensure_future(self._ask(ask))
        try:
            await asyncio.wait({answered, asking}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                asking.result()
        finally:
            self._waiting.discard(answered)
            asking.cancel()
            await asyncio.wait({asking})

    async def _ask(self, ask: Callable[[], Awaitable[bool]]) -> None:
        back = False
        while not back:
            async with self._asking:
                await asyncio.sleep(max(0.0, self._asked + EVERY - loop_time()))
                self._asked = loop_time()
                back = await ask()
        self.answered()
