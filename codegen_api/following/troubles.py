"""Reads that fail: when they are tried again, and what is logged about them.

One of the waiting reads probes the host for all of them, so a long outage does not delay any of them much. And as an
outage affects all followed runs, at each attempt to read them, trouble that several share is logged only for the first
of them, when it begins, and for the last, when it is over.
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
"""Seconds between probes while the host does not answer."""

LONGEST = 7.5
"""Maximum seconds until a failed read is tried again while the host answers others."""

SPREAD = 1.0
"""Seconds over which the retries of reads that waited for the host together are spread."""

PROVING = 4
"""Number of tries of one entry between checks of whether the host is well otherwise."""

SELDOM = 60.0
"""Seconds in which trouble that comes and goes is logged once."""


class Outage:
    """The reads that have failed and wait until the host answers any of them."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._asking = asyncio.Lock()
        self._asked = 0.0

    def answered(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def over(self, ask: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the host has answered any read. Those who wait ask it in turn, one at a time: ``ask`` returns
        whether it answered, in less than ``EVERY``.
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
    """One read that keeps failing: when to try it next. ``is_back`` probes the host with a cheap request.

    When the host answers others, the read is tried at once, and from then on at a pace of its own.
    """

    outage: Outage
    is_back: Callable[[], Awaitable[bool]]
    proofs: int = 0
    """How often in a row the host proved to be well after this read had failed."""
    _patience: Patience = field(default_factory=Patience)
    _delay: float = 0.0
    _alone: bool = False
    _tries: int = 0
    _over: asyncio.Task[None] | None = None

    @property
    def to_be_proven(self) -> bool:
        """Whether to check if the host is well otherwise: soon, and at times while the failures go on."""
        return self.proofs > 0 or self._tries == 1 or (self._alone and self._tries % PROVING == 1)

    def met(self, error: GatewayError) -> float:
        """Note a failure; returns the maximum seconds until the next try."""
        self._delay = self._patience.next(error.retry_after)
        if self._over is None and not self._alone and error.retry_after is None:
            self._over = asyncio.ensure_future(self.outage.over(self.is_back))
        return self._delay if self._over is None else min(self._delay, EVERY)

    async def passed(self, *, at_once: bool = False) -> bool:
        """Wait until the next try is due; returns whether that is because the host has answered another read.
        ``at_once``: do not wait after the first failure, which took long enough.
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
        """Whether the host has answered another read, so that it is time to try again."""
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
    logged: bool
    runs: set[RunRef] = field(default_factory=set)


class Troubles:
    """The runs that cannot be read just now, by reason. ``name`` returns what is being read of a run."""

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
        self._logged: TTLCache[str, bool] = TTLCache(100, SELDOM, timer=clock)

    def met(self, ref: RunRef, reason: str) -> None:
        """Note that an attempt to read this run has failed."""
        if ref in self._met:
            return
        self._met[ref] = reason
        if reason not in self._now:
            self._now[reason] = _KnownTrouble(self._clock(), reason not in self._logged)
            if reason not in self._logged:
                self._logged[reason] = True
                logger.warning("%s is late, and is asked for again: %s", self._name(ref), reason)
        self._now[reason].runs.add(ref)

    def over(self, ref: RunRef) -> None:
        """Note that this run has been read."""
        trouble = self._left(ref)
        if trouble is not None and trouble.logged:
            logger.info("%s goes on, after %.0f s", self._name(ref), self._clock() - trouble.since)

    def gone(self, ref: RunRef) -> None:
        """Note that nobody wants to read this run any more."""
        self._left(ref)

    def _left(self, ref: RunRef) -> _KnownTrouble | None:
        """Remove this run; returns the trouble that is thereby over for all runs."""
        reason = self._met.pop(ref, None)
        if reason is None:
            return None
        trouble = self._now[reason]
        trouble.runs.discard(ref)
        return None if trouble.runs else self._now.pop(reason)
