"""Opening a log when the host's limit leaves no room to ask for the right at once: the request joins the read queue.

It asks for the first page of the log with the new viewer's own credential: the answer proves that they may see the run,
and is the first page that they are given.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

from codegen_api.errors import ShuttingDown
from codegen_api.following.readers import RECOVERED, Notice, Readers
from codegen_api.following.rights import TICK, Right, loop_time, set_within
from codegen_api.following.subscriber import Leaving, Patrol, Quiet
from codegen_api.identity import Credential
from codegen_api.pace import FAST, Need
from codegen_api.positions import Position

MOMENT = 2.0
"""Seconds for which a viewer waits before a stream begins: until then a refusal can be an ordinary answer."""


Waiting: TypeAlias = Notice | Quiet | Leaving


class Attendant:
    """A viewer who waits for a run to follow. ``leaving``: they should reconnect elsewhere."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.poked = asyncio.Event()
        """Set when there may be an update."""

    def leave(self) -> None:
        """End the stream soon, politely."""
        self.leaving.set()
        self.poked.set()


class Opening:
    """The viewers who wait for the right to one run with one credential. ``prove`` asks the host, or raises."""

    def __init__(
        self, readers: Readers, credential: Credential, prove: Callable[[Credential], Awaitable[Right]]
    ) -> None:
        self.readers = readers
        self._credential = credential
        self.proving = asyncio.ensure_future(readers.ask(prove, Need(loop_time(), FAST)))
        self.proving.add_done_callback(self._on_answer)

    def _on_answer(self, proving: asyncio.Task[Right]) -> None:
        if not proving.cancelled():
            proving.exception()  # mark it as retrieved: all viewers may have left
        self.readers.notify()

    async def updates(
        self, position: Position, patrol: Patrol, attendant: Attendant, delay: float
    ) -> AsyncGenerator[Waiting | Right, None]:
        """Updates for a waiting viewer, and at last their right. ``delay``: the expected wait in seconds.

        Raises:
            GatewayError: the host refuses to show them the run.
        """
        opened = silent_since = loop_time()
        last_notice: Notice | None = None
        while True:
            attendant.poked.clear()
            refusal = self.readers.refusal(self._credential)
            if refusal is not None:
                raise refusal
            if self.proving.cancelled():
                raise ShuttingDown
            if self.proving.done():
                break
            now = loop_time()
            if attendant.leaving.is_set() or now >= opened + patrol.max_age - TICK:
                yield Leaving(replace(position, over=False))
                return
            trouble = self.readers.trouble
            news = last_notice is None or (trouble is not None and trouble is not last_notice)
            if news and now >= opened + MOMENT - TICK:
                last_notice = trouble or Notice("rate_limited", round(delay, 1))
                silent_since = now
                yield last_notice
                continue
            if now >= silent_since + patrol.heartbeat - TICK:
                silent_since = now
                yield Quiet()
                continue
            until = min(opened + MOMENT if news else silent_since + patrol.heartbeat, opened + patrol.max_age)
            await set_within(until - now, attendant.poked)
        if last_notice is not None:
            yield Notice(RECOVERED)
        yield self.proving.result()
