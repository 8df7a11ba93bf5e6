"""Reads that fail: when they are tried again, and what the log says of them.

Whether the host is back is found out by one for all who wait for it, soon, however long it was away. And as an outage
strikes all runs that are followed, at each attempt to read them, what several meet is told for the first of them, when
it begins, and for the last of them, when it is over.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from cachetools import TTLCache

from codegen_api.errors import GatewayError
from codegen_api.following.rights import loop_time
from codegen_api.pace import Patience
from codegen_api.runs import RunRef
from codegen_api.telemetry import logger

T = TypeVar("T")

EVERY = 5.0
"""Seconds from one question to the next, while the host does not answer."""

LONGEST = 7.5
"""Seconds after which a read that failed is tried again at the latest, where others are answered."""

SPREAD = 1.0
"""Seconds over which those come back who have waited for the host together."""

PROVING = 4
"""At each so many tries of one entry it is found out whether the host is well otherwise."""

SELDOM = 60.0
"""Seconds in which one thing that comes and goes is told once."""


class Outage:
    """Those whose reads have failed, and who wait until the host answers somebody."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._asking = asyncio.Lock()
        self._asked = 0.0

    def answered(self) -> None:
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


@dataclass(eq=False, slots=True)
class ReadTrouble:
    """One read that fails, again and again: when to try it next. ``is_back`` asks the host for next to nothing.

    When the host answers others, it is tried at once, and then it has a pace of its own.
    """

    outage: Outage
    is_back: Callable[[], Awaitable[bool]]
    proofs: int = 0
    """How often in a row the host was seen well after it has failed to give this."""
    _patience: Patience = field(default_factory=Patience)
    _delay: float = 0.0
    _alone: bool = False
    _tries: int = 0
    _over: asyncio.Task[None] | None = None

    @property
    def to_be_proven(self) -> bool:
        """Whether to find out if the host is well otherwise: soon, and now and then while it goes on."""
        return self.proofs > 0 or self._tries == 1 or (self._alone and self._tries % PROVING == 1)

    def met(self, error: GatewayError) -> float:
        """It failed like this: in how many seconds it is tried again, if not before."""
        self._delay = self._patience.next(error.retry_after)
        if self._over is None and not self._alone and error.retry_after is None:
            self._over = asyncio.ensure_future(self.outage.over(self.is_back))
        return self._delay if self._over is None else min(self._delay, EVERY)

    async def passed(self, *, at_once: bool = False) -> bool:
        """Until it is to be tried again; whether that is because the host has answered somebody. ``at_once``: the first
        failure has taken long enough.
        """
        self._tries += 1
        if at_once and self._tries == 1:
            return False
        if self._over is None:
            await asyncio.sleep(self._delay)
            return False
        await asyncio.wait({self._over}, timeout=self._delay)
        return await self.settle()

    async def unless_past(self, call: Awaitable[T]) -> tuple[T] | None:
        """The answer to a call; None when the host turns out to be back while this one still hangs."""
        if self._over is None:
            return (await call,)
        calling = asyncio.ensure_future(call)
        try:
            await asyncio.wait({calling, self._over}, return_when=asyncio.FIRST_COMPLETED)
            return (calling.result(),) if calling.done() else None
        finally:
            calling.cancel()
            await asyncio.wait({calling})
            if not calling.cancelled():
                calling.exception()

    async def aclose(self) -> None:
        if self._over is not None:
            self._over.cancel()
            await asyncio.wait({self._over})

    async def settle(self) -> bool:
        """Whether the host has answered somebody: then it is time to try again."""
        if self._over is None or not self._over.done():
            return False
        self._over.result()
        self._over, self._alone, self._tries = None, True, 1
        self._patience = Patience(longest=LONGEST)
        await asyncio.sleep(SPREAD * random.random())  # noqa: S311 - spreads load only
        return True


@dataclass(slots=True)
class _KnownTrouble:
    since: float
    told: bool
    runs: set[RunRef] = field(default_factory=set)


class Troubles:
    """The runs that cannot be read just now, by what the first attempt met. ``name`` is what of a run is read."""

    def __init__(
        self,
        clock: Callable[[], float] = loop_time,
        *,
        name: Callable[[RunRef], str] = lambda ref: f"the log of run {ref.id}",
    ) -> None:
        self._clock = clock
        self._name = name
        self._met: dict[RunRef, str] = {}
        self._now: dict[str, _KnownTrouble] = {}
        self._told: TTLCache[str, bool] = TTLCache(100, SELDOM, timer=clock)

    def met(self, ref: RunRef, reason: str) -> None:
        """An attempt to read this run has failed."""
        if ref in self._met:
            return
        self._met[ref] = reason
        if reason not in self._now:
            self._now[reason] = _KnownTrouble(self._clock(), reason not in self._told)
            if reason not in self._told:
                self._told[reason] = True
                logger.warning("%s is late, and is asked for again: %s", self._name(ref), reason)
        self._now[reason].runs.add(ref)

    def over(self, ref: RunRef) -> None:
        """This run has been read."""
        trouble = self._left(ref)
        if trouble is not None and trouble.told:
            logger.info("%s goes on, after %.0f s", self._name(ref), self._clock() - trouble.since)

    def gone(self, ref: RunRef) -> None:
        """Nobody wants to read this run any more."""
        self._left(ref)

    def _left(self, ref: RunRef) -> _KnownTrouble | None:
        """What is over for all who met it, now that this run does not meet it any more."""
        reason = self._met.pop(ref, None)
        if reason is None:
            return None
        trouble = self._now[reason]
        trouble.runs.discard(ref)
        return None if trouble.runs else self._now.pop(reason)
