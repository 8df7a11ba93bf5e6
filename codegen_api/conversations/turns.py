"""The life of a turn: started (``starting``), followed to its end, stopped.

A request about a turn makes the gateway follow it for a while. So its end is stored, and further requests cost nothing.
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
from codegen_api.telemetry import log_fault, logger, record_turn

INTEREST = 60.0
"""Seconds for which a turn is followed after a request about it."""

PATIENCE = 5.0
"""Longest time, in seconds, that a request waits for a turn to be brought up to date."""

READING = 30.0
"""Longest time, in seconds, that a request waits for the entries of a turn in progress."""

STOPPING = 40.0
"""Seconds that a stopped turn has to end. In the first 30 after a resume, an end may be that of the turn before."""


@dataclass(slots=True)
class _TurnWatch:
    """A task that follows a turn. ``settled`` is set when the turn is up to date in the store, or cannot be."""

    requested: float
    settled: asyncio.Event
    task: asyncio.Task[None]


class Turns:
    """Follows and stops turns. ``max_bytes`` of ended ones are cached. ``clock`` returns seconds since the epoch."""

    def __init__(self, gateway: Gateway, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._clock = clock
        self.starting = Starting(gateway, clock=clock)
        self._pages = Pages(gateway, max_bytes=max_bytes, clock=clock)
        self._shared: Shared = WeakKeyDictionary()
        self._stopping: set[asyncio.Task[None]] = set()
        self._watches: dict[tuple[str, str], _TurnWatch] = {}

    async def settled(self, own: CallerStore, turn: Turn) -> Turn:
        """The turn, brought up to date if that is possible within ``PATIENCE``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                if turn.state is TurnState.STARTING:
                    turn = await self.starting.find(own, turn)
                if turn.state is TurnState.RUNNING:
                    await self.watch(own, turn).settled.wait()
        return (await own.turn(turn.id) or turn) if turn.state.active else turn

    async def wait_for_end(self, own: CallerStore, turn: Turn) -> None:
        """Wait for the end of a turn, for a while. Raises ``GatewayError`` if the turn cannot be followed."""
        turn = await self.settled(own, turn)
        if turn.state is TurnState.RUNNING and turn.run is not None:
            watch = self.watch(own, turn)
            await asyncio.wait({watch.task}, timeout=INTEREST / 2)
            then = await own.turn(turn.id)
            if not watch.task.done() or then is None or not then.state.active:
                return
            await self._gateway.get(own.caller, turn.run.organization, turn.run.id)  # raises why following broke off
        if turn.state.active:
            await asyncio.sleep(LOOK_EVERY)

    def watch(self, own: CallerStore, turn: Turn) -> _TurnWatch:
        """Follow a turn in the background until ``INTEREST`` has passed without another call."""
        key = (own.owner, turn.id)
        if key not in self._watches:
            settled = asyncio.Event()
            task = asyncio.ensure_future(self._watch(own, turn, key, settled))
            self._watches[key] = _TurnWatch(loop_time(), settled, task)
            task.add_done_callback(lambda _: self._watches.pop(key).settled.set())
        self._watches[key].requested = loop_time()
        return self._watches[key]

    async def follow(self, own: CallerStore, turn: Turn) -> AsyncGenerator[Progress, None]:
        """Follow a turn from its beginning to its end. Raises ``GatewayError`` if it cannot be followed."""
        while turn.state is TurnState.STARTING:
            turn = await self.starting.find(own, turn)
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
                # a message of the user may begin the next turn, if another process has seen the end of this one
                entries = progress if isinstance(progress, tuple) else ()
                if any(each.offset > 1 and each.entry.said is not None for each in entries):
                    stored = await own.turn(turn.id)
                    if stored is not None and not stored.state.active:
                        if rest := tuple(each for each in entries if each.offset <= stored.length):
                            yield rest
                        yield TurnEnded(stored)
                        return
                yield progress

    async def entries(self, own: CallerStore, stretch: Stretch) -> tuple[LogEntry, ...]:
        """The entries of a stretch that exist by now. Raises ``GatewayError`` if the host does not show them."""
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
        """As ``CallerConversations.stop``. A turn that the host does not know is given up."""
        turn = await self._withdraw(own, turn)
        await self.starting.wait_until_sent(turn, within=STOPPING)
        turn = await self._withdraw(own, await own.turn(turn.id) or turn)  # it may be queued again
        turn = await self.settled(own, turn)
        if not turn.state.active:
            return turn
        if turn.run is None or turn.state is TurnState.STARTING:
            raise ConversationBusy("Whether the host has begun this turn is still being found out; ask again.")
        in_doubt = turn.resumes and self._clock() < turn.updated + RESUME_DOUBT
        try:
            await self._gateway.cancel(own.caller, turn.run.organization, turn.run.id, anyway=in_doubt)
        except NotFound:
            return await self.starting.give_up(own, turn)
        except RunEnded:
            wait = True  # the watch is about to see how
        watch = self.watch(own, turn)
        if wait:
            await asyncio.wait({watch.task}, timeout=STOPPING)
        return await own.turn(turn.id) or turn

    async def _withdraw(self, own: CallerStore, turn: Turn) -> Turn:
        """Withdraw a turn if it is queued."""
        while turn.state is TurnState.QUEUED:
            withdrawn = replace(turn, state=TurnState.WITHDRAWN, ask=None, updated=self._clock())
            turn = await own.put_turn(turn, withdrawn)  # unless another process has started it
            self.starting.announce_change()
        return turn

    def abandon(self, own: CallerStore, turn: Turn) -> None:
        """Stop a turn in the background."""
        task = asyncio.ensure_future(self._stop_abandoned(own, turn))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def aclose(self) -> None:
        """Wait for the turns that are being sent to the host, and cancel the rest."""
        if self._stopping:
            await asyncio.wait(set(self._stopping), timeout=CLOSING)
        await self.starting.aclose()
        tasks = [*self._stopping, *(watch.task for watch in self._watches.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pages.aclose()

    async def _rest(self, caller: Caller, turn: Turn, offset: int = 0) -> AsyncGenerator[Progress, None]:
        """The entries after ``offset`` of a turn that is over, and its end."""
        async for page in self._pages.read(caller, turn, offset):
            yield page
        yield TurnEnded(turn)

    async def _finish(self, own: CallerStore, turn: Turn, run: Run, end: Cursor, answer: str | None) -> Turn:
        """Store the end of a turn. ``answer`` is the last one in its log."""
        state, result = ENDS.get(run.status, TurnState.FAILED), self._gateway.answer(run)
        if state is not TurnState.COMPLETED or result is None or result == answer:
            result = None  # an answer that is in the log is not stored

        def over(then: Turn) -> Turn:
            return replace(
                then,
                state=state,
                end=end,
                answer=None if result is None else storable_text(result),
                error=storable_text(f"The run ended as {run.raw_status}.") if state is TurnState.FAILED else None,
                updated=self._clock(),
            )

        ended: Turn | None = None
        while turn.state.active:
            ended = over(turn)
            turn = await own.put_turn(turn, ended)
        if ended is not None and turn.updated == ended.updated:  # this process has stored the end, not another one
            origin = self.starting.origins.pop(turn.id, None)
            record_turn(turn.created, turn.state, turn.length, origin, failed=turn.state is TurnState.FAILED)
        return turn

    async def _stop_abandoned(self, own: CallerStore, turn: Turn) -> None:
        try:
            await self.stop(own, turn, wait=False)
        except GatewayError as error:
            logger.warning("a turn whose client left could not be stopped: %s", error.root_reason or error.code)
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("stopping a turn", error)

    async def _watch(self, own: CallerStore, turn: Turn, key: tuple[str, str], settled: asyncio.Event) -> None:
        try:
            async with aclosing(self.follow(own, turn)) as progress:
                async for news in progress:
                    if isinstance(news, CaughtUp | TurnEnded | Leaving):
                        settled.set()
                    if isinstance(news, Leaving) or loop_time() >= self._watches[key].requested + INTEREST:
                        return
        except GatewayError:
            return  # requests get what is stored
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("watching a turn", error)
