"""The life of a turn: begun (``starting``), followed to its end, stopped.

Whoever asks how a turn is has it followed for a while, so that its end is written down, and the next who asks costs
nothing.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

from codegen_api.conversations.caller_store import CallerStore
from codegen_api.conversations.checkpoints import Stretch
from codegen_api.conversations.progress import (
    DECISION_DOUBT,
    ENDS,
    RESUME_DOUBT,
    CaughtUp,
    Pages,
    Progress,
    Shared,
    TurnEnded,
    live,
)
from codegen_api.conversations.prompts import storable_text
from codegen_api.conversations.starting import CLOSING, LOOK_EVERY, Starting
from codegen_api.errors import ConversationBusy, GatewayError, NotFound, RunEnded, Unavailable, UpstreamTimeout
from codegen_api.following import Leaving, Quiet, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import Cursor, LogEntry, Run
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import log_fault, logger, told_turn

INTEREST = 60.0
"""Seconds for which a turn is followed after somebody asked how it is, so that whoever asks again costs nothing."""

PATIENCE = 5.0
"""Seconds that somebody who asks how a turn is waits for the first news."""

READING = 30.0
"""Seconds that somebody waits for what has come of a turn that is under way."""

STOPPING = 40.0
"""Seconds that a turn which was stopped is given to end. For the first 30 after a resume an end may be an old one."""


@dataclass(slots=True)
class _Inquiry:
    """Somebody wants to know how a turn is. ``told``: as it is now is written down, or cannot be found out."""

    asked: float
    told: asyncio.Event
    task: asyncio.Task[None]


class Turns:
    """What happens to turns. ``clock`` gives seconds since the epoch; of those that are over ``max_bytes`` are kept."""

    def __init__(self, gateway: Gateway, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._clock = clock
        self.starting = Starting(gateway, clock=clock)
        self._pages = Pages(gateway, max_bytes=max_bytes, clock=clock)
        self._shared: Shared = WeakKeyDictionary()
        self._stopping: set[asyncio.Task[None]] = set()
        self._watches: dict[tuple[str, str], _Inquiry] = {}

    async def settled(self, own: CallerStore, turn: Turn) -> Turn:
        """The turn as it is now, as far as that can be found out in a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                if turn.state is TurnState.STARTING:
                    turn = await self.starting.found(own, turn)
                if turn.state is TurnState.RUNNING:
                    await self.watch(own, turn).told.wait()
        return (await own.turn(turn.id) or turn) if turn.state.active else turn

    async def ended(self, own: CallerStore, turn: Turn) -> None:
        """Wait for the end of a turn, for a while; raises ``GatewayError`` where nobody can see how it goes on."""
        turn = await self.settled(own, turn)
        if turn.state is TurnState.RUNNING and turn.run is not None:
            watch = self.watch(own, turn)
            await asyncio.wait({watch.task}, timeout=INTEREST / 2)
            then = await own.turn(turn.id)
            if not watch.task.done() or then is None or not then.state.active:
                return
            await self._gateway.get(own.caller, turn.run.organization, turn.run.id)  # which says why it broke off
        if turn.state.active:
            await asyncio.sleep(LOOK_EVERY)

    def watch(self, own: CallerStore, turn: Turn) -> _Inquiry:
        """Follow a turn for a while, as if somebody viewed it."""
        key = (own.owner, turn.id)
        if key not in self._watches:
            told = asyncio.Event()
            task = asyncio.ensure_future(self._see(own, turn, key, told))
            self._watches[key] = _Inquiry(loop_time(), told, task)
            task.add_done_callback(lambda _: self._watches.pop(key).told.set())
        self._watches[key].asked = loop_time()
        return self._watches[key]

    async def follow(self, own: CallerStore, turn: Turn) -> AsyncGenerator[Progress, None]:
        """A turn as it comes, from its beginning to its end; raises ``GatewayError`` where nobody can say how it is."""
        while turn.state is TurnState.STARTING:
            turn = await self.starting.found(own, turn)
            if turn.state is TurnState.STARTING:
                yield Quiet()
                await asyncio.sleep(LOOK_EVERY / 2)

        if turn.state.active:
            most = (RESUME_DOUBT if turn.prompt else DECISION_DOUBT) if turn.resumes else 0.0
            doubt = min(turn.updated + most - self._clock(), most)
            finish, rest_of = partial(self._finish, own), partial(self._rest, own.caller)
            source = live(self._gateway, own.caller, turn, finish, rest_of, self._shared, doubt=doubt)
        else:
            source = self._rest(own.caller, turn)
        async with aclosing(source):
            async for progress in source:
                # by what somebody says the next turn may have begun, whose end of this one was not seen here
                came = progress if isinstance(progress, tuple) else ()
                if any(each.offset > 1 and each.entry.said is not None for each in came):
                    then = await own.turn(turn.id)
                    if then is not None and not then.state.active:
                        if rest := tuple(each for each in came if each.offset <= then.length):
                            yield rest
                        yield TurnEnded(then)
                        return
                yield progress

    async def entries(self, own: CallerStore, stretch: Stretch) -> tuple[LogEntry, ...]:
        """What has come of a turn by now, up to where the stretch goes; else raises ``GatewayError``."""
        turn, upto = stretch.turn, stretch.upto
        if turn.run is None or upto == 0 or (turn.end is None and turn.state is not TurnState.RUNNING):
            return ()
        entries: dict[int, LogEntry] = {}
        try:
            async with asyncio.timeout(READING if turn.end is None else None), aclosing(self.follow(own, turn)) as news:
                async for came in news:
                    if isinstance(came, tuple):
                        entries.update((each.offset, each.entry) for each in came)
                    if isinstance(came, Leaving):
                        raise Unavailable(retry_after=1)
                    if isinstance(came, CaughtUp | TurnEnded) or (upto is not None and len(entries) >= upto):
                        break
        except TimeoutError as error:
            raise UpstreamTimeout("The host has not shown in time what has come of this turn.") from error
        return tuple(entries[offset] for offset in sorted(entries) if upto is None or offset <= upto)

    async def stop(self, own: CallerStore, turn: Turn, *, wait: bool) -> Turn:
        """As ``CallerConversations.stop``. One of which the host knows nothing is given up."""
        turn = await self._withdrawn(own, turn)
        await self.starting.done(turn, within=STOPPING)
        turn = await self._withdrawn(own, await own.turn(turn.id) or turn)  # it may wait again
        turn = await self.settled(own, turn)
        if not turn.state.active:
            return turn
        if turn.run is None or turn.state is TurnState.STARTING:
            raise ConversationBusy("Whether the host has begun this turn is still being found out; ask again.")
        in_doubt = turn.resumes and self._clock() < turn.updated + RESUME_DOUBT
        try:
            await self._gateway.cancel(own.caller, turn.run.organization, turn.run.id, anyway=in_doubt)
        except NotFound:
            return await self.starting.given_up(own, turn)
        except RunEnded:
            wait = True  # how, is about to be seen
        watch = self.watch(own, turn)
        if wait:
            await asyncio.wait({watch.task}, timeout=STOPPING)
        return await own.turn(turn.id) or turn

    async def _withdrawn(self, own: CallerStore, turn: Turn) -> Turn:
        while turn.state is TurnState.QUEUED:
            withdrawn = replace(turn, state=TurnState.WITHDRAWN, ask=None, updated=self._clock())
            turn = await own.put_turn(turn, withdrawn)  # if another process has begun it, that is how it is
            self.starting.happened()
        return turn

    def abandon(self, own: CallerStore, turn: Turn) -> None:
        task = asyncio.ensure_future(self._stop_abandoned(own, turn))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def aclose(self) -> None:
        """Wait for what is being told to the host, and let go of the rest."""
        if self._stopping:
            await asyncio.wait(set(self._stopping), timeout=CLOSING)
        await self.starting.aclose()
        tasks = [*self._stopping, *(watch.task for watch in self._watches.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pages.aclose()

    async def _rest(self, caller: Caller, turn: Turn, offset: int = 0) -> AsyncGenerator[Progress, None]:
        """Of a turn that is over, what comes behind ``offset``."""
        async for page in self._pages.read(caller, turn, offset):
            yield page
        yield TurnEnded(turn)

    async def _finish(self, own: CallerStore, turn: Turn, run: Run, end: Cursor, answer: str | None) -> Turn:
        state, told = ENDS.get(run.status, TurnState.FAILED), self._gateway.answer(run)
        if state is not TurnState.COMPLETED or told is None or told == answer:
            told = None  # what the log tells is not kept twice

        def over(then: Turn) -> Turn:
            return replace(
                then,
                state=state,
                end=end,
                answer=None if told is None else storable_text(told),
                error=storable_text(f"The run ended as {run.raw_status}.") if state is TurnState.FAILED else None,
                updated=self._clock(),
            )

        ended: Turn | None = None
        while turn.state.active:
            ended = over(turn)
            turn = await own.put_turn(turn, ended)
        if ended is not None and turn.updated == ended.updated:  # it was not somebody else who wrote it down
            origin = self.starting.origins.pop(turn.id, None)
            told_turn(turn.created, turn.state, turn.length, origin, failed=turn.state is TurnState.FAILED)
        return turn

    async def _stop_abandoned(self, own: CallerStore, turn: Turn) -> None:
        try:
            await self.stop(own, turn, wait=False)
        except GatewayError as error:
            logger.warning("a turn whose client left could not be stopped: %s", error.root_reason or error.code)
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("stopping a turn", error)

    async def _see(self, own: CallerStore, turn: Turn, key: tuple[str, str], told: asyncio.Event) -> None:
        try:
            async with aclosing(self.follow(own, turn)) as progress:
                async for news in progress:
                    if isinstance(news, CaughtUp | TurnEnded | Leaving):
                        told.set()
                    if isinstance(news, Leaving) or loop_time() >= self._watches[key].asked + INTEREST:
                        return
        except GatewayError:
            return  # whoever asks is told what is written down
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("watching a turn", error)
