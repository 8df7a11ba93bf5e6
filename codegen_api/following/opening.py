"""The way into a log where the host's limit leaves no room for a question at once: in the line of those who read.

What is asked for in the end is the first page of the log, with the newcomer's own credential: it shows that they may
see the run, and it is the first that they are given.
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
"""Seconds for which somebody waits without a word: a refusal that comes so soon is an ordinary answer."""


Waiting: TypeAlias = Notice | Quiet | Leaving


class Attendant:
    """Somebody who waits for the next thing to follow. ``leaving``: they are to come back elsewhere."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.poked = asyncio.Event()
        """There may be something to tell."""

    def leave(self) -> None:
        """End the stream soon, politely."""
        self.leaving.set()
        self.poked.set()


class Opening:
    """Those who wait to be shown one run with one credential. ``prove`` asks the host, and raises what it refuses."""

    def __init__(
        self, readers: Readers, credential: Credential, prove: Callable[[Credential], Awaitable[Right]]
    ) -> None:
        self.readers = readers
        self._credential = credential
        self.proving = asyncio.ensure_future(readers.ask(prove, Need(loop_time(), FAST)))
        self.proving.add_done_callback(self._told)

    def _told(self, proving: asyncio.Task[Right]) -> None:
        if not proving.cancelled():
            proving.exception()  # mark it as seen: all who asked may have left
        self.readers.tell()

    async def updates(
        self, position: Position, patrol: Patrol, attendant: Attendant, line: float
    ) -> AsyncGenerator[Waiting | Right, None]:
        """What to tell somebody who waits, and at last their right. ``line``: how many seconds it may take.

        Raises:
            GatewayError: the host refuses to show them the run.
        """
        opened = silent_since = loop_time()
        told: Notice | None = None
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
            news = told is None or (trouble is not None and trouble is not told)
            if news and now >= opened + MOMENT - TICK:
                told = trouble or Notice("rate_limited", round(line, 1))
                silent_since = now
                yield told
                continue
            if now >= silent_since + patrol.heartbeat - TICK:
                silent_since = now
                yield Quiet()
                continue
            until = min(opened + MOMENT if news else silent_since + patrol.heartbeat, opened + patrol.max_age)
            await set_within(until - now, attendant.poked)
        if told is not None:
            yield Notice(RECOVERED)
        yield self.proving.result()
