"""The life of a turn: written down, started at the host, looked for when that broke off, followed to its end.

A turn is written down before the host is called, and the call goes on when the client leaves. Where its outcome is
unknown (the host did not answer, or this process died) the turn is looked for at the host by its mark, or by the user's
message in the log; after a minute it is given up, and it is never started again by itself.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from cachetools import TTLCache

from codegen_api.conversations.progress import Caught, Over, Progress, live, state_of, whole
from codegen_api.errors import ConversationBusy, GatewayError, InProgress, Unavailable, UpstreamFailure
from codegen_api.following import Leaving, Quiet, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.once import SECOND_LOOK, grace
from codegen_api.repeats import find_marked, looking, says
from codegen_api.runs import Cursor, Run, RunRef
from codegen_api.stores import Store, Turn, TurnState
from codegen_api.telemetry import log_fault, logger
from codegen_api.upstreams import NewRun

MARK = "turn"
"""The mark by which the run of a turn is found again."""

GIVEN_UP = 60.0
"""Seconds after which a turn whose outcome is unknown is looked for no more."""

LOOK_EVERY = 2.0
"""Seconds between two looks for a turn."""

INTEREST = 60.0
"""Seconds for which a turn is followed after somebody asked how it is, so that whoever asks again costs nothing."""

PATIENCE = 5.0
"""Seconds that somebody who asks how a turn is waits for the first news."""

CLOSING = 10.0
"""Seconds that what is just being told to the host is given when this process stops."""

STOPPING = 30.0
"""Seconds that a turn which was stopped is given to end."""


@dataclass(slots=True)
class _Watch:
    """Somebody wants to know how a turn is."""

    asked: float
    current: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class Turns:
    """What happens to turns. ``clock`` gives seconds since the epoch."""

    def __init__(self, gateway: Gateway, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._store = store
        self._clock = clock
        self._starting: dict[str, asyncio.Task[Turn]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._looked: TTLCache[str, bool] = TTLCache(10_000, LOOK_EVERY, timer=loop_time)

    async def start(self, caller: Caller, owner: str, turn: Turn, new: NewRun) -> Turn:
        """Tell the host of a turn that is written down. When nobody can say whether it has heard, the turn stays as it
        is, and is looked for.

        Raises:
            GatewayError: the host has surely not begun it; the turn has failed.
        """
        task = asyncio.ensure_future(self._start(caller, owner, turn, new))
        self._starting[turn.id] = task
        task.add_done_callback(lambda _: self._starting.pop(turn.id, None))
        return await asyncio.shield(task)

    async def settled(self, caller: Caller, owner: str, turn: Turn) -> Turn:
        """The turn as it is now, as far as that can be found out in a moment."""
        if turn.state is TurnState.STARTING:
            turn = await self._found(caller, owner, turn)
        if turn.state is TurnState.RUNNING:
            watch = self.watch(caller, owner, turn)
            if watch.task is not None and not watch.current.is_set():
                waiting = asyncio.ensure_future(watch.current.wait())
                await asyncio.wait({waiting, watch.task}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            turn = await self._store.turn(owner, turn.id) or turn
        return turn

    def watch(self, caller: Caller, owner: str, turn: Turn) -> _Watch:
        """Follow a turn for a while, as if somebody viewed it."""
        key = (owner, turn.id)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch(loop_time())
            watch.task = asyncio.ensure_future(self._see(caller, owner, turn, watch))
            watch.task.add_done_callback(lambda _: self._watches.pop(key, None))
        watch.asked = loop_time()
        return watch

    async def follow(self, caller: Caller, owner: str, turn: Turn) -> AsyncGenerator[Progress, None]:
        """A turn from its beginning to its end, as it comes.

        Raises:
            GatewayError: the caller may not see it, or nobody can say how it goes on.
        """
        while turn.state is TurnState.STARTING:
            turn = await self._found(caller, owner, turn)
            if turn.state is TurnState.STARTING:
                yield Quiet()
                await asyncio.sleep(LOOK_EVERY / 2)

        async def finish(then: Turn, run: Run, end: Cursor, answer: str | None) -> Turn:
            return await self._finish(owner, then, run, end, answer)

        source = live(self._gateway, caller, turn, finish) if turn.state.active else whole(self._gateway, caller, turn)
        async with aclosing(source):
            async for progress in source:
                yield progress

    async def stop(self, caller: Caller, owner: str, turn: Turn, *, wait: bool) -> Turn:
        """Stop a turn, if it is not over; ``wait`` until it is.

        Raises:
            Unsupported: the host cannot stop a run.
            ConversationBusy: it is not known yet whether the host has begun it.
        """
        task = self._starting.get(turn.id)
        if task is not None:
            await asyncio.wait({task})
        turn = await self.settled(caller, owner, await self._store.turn(owner, turn.id) or turn)
        if not turn.state.active:
            return turn
        if turn.run is None or turn.state is TurnState.STARTING:
            raise ConversationBusy("Whether the host has begun this turn is still being found out; ask again.")
        await self._gateway.cancel(caller, turn.run.organization, turn.run.id)
        watch = self.watch(caller, owner, turn)
        if wait and watch.task is not None:
            await asyncio.wait({watch.task}, timeout=STOPPING)
        return await self._store.turn(owner, turn.id) or turn

    def abandon(self, caller: Caller, owner: str, turn: Turn) -> None:
        """Stop a turn for which nobody waits any more."""
        task = asyncio.ensure_future(self._stop_abandoned(caller, owner, turn))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def aclose(self) -> None:
        """Wait for what is being told to the host, and let go of the rest."""
        for watch in self._watches.values():
            if watch.task is not None:
                watch.task.cancel()
        waiting = [
            *self._starting.values(),
            *self._stopping,
            *(watch.task for watch in self._watches.values() if watch.task),
        ]
        if waiting:
            _, pending = await asyncio.wait(waiting, timeout=CLOSING)
            for task in pending:
                task.cancel()  # whoever asks for that turn will look for it at the host

    # -- starting -----------------------------------------------------------------------------------------------------

    async def _start(self, caller: Caller, owner: str, turn: Turn, new: NewRun) -> Turn:
        try:
            if turn.resumes and turn.run is not None:
                organization, run_id = turn.run.organization, turn.run.id
                run = await self._gateway.resume(caller, organization, run_id, turn.prompt, new.images)
            else:
                marked = replace(new, marks={MARK: turn.mark})
                run = await self._gateway.create(caller, turn.organization, marked)
        except GatewayError as error:
            if isinstance(error, UpstreamFailure) and error.may_have_acted:
                if grace(error) >= GIVEN_UP:
                    return turn
                found = await self._found_within(grace(error), caller, turn)
                if found is not None:
                    return await self._running(owner, turn, found)
            failed = replace(turn, state=TurnState.FAILED, error=error.message, updated=self._clock())
            await self._store.change_turn(owner, turn, failed)
            raise
        return await self._running(owner, turn, run.ref)

    async def _found_within(self, seconds: float, caller: Caller, turn: Turn) -> RunRef | None:
        """Look for a turn whose host answered with a fault, once more when it can do nothing about it any more."""
        for pause in (0.0, max(seconds, SECOND_LOOK)):
            await asyncio.sleep(pause)
            try:
                found = await self._look(caller, turn)
            except GatewayError:
                continue
            if found is not None:
                return found
        return None

    async def _running(self, owner: str, turn: Turn, ref: RunRef) -> Turn:
        """It runs: whatever anybody thought of it meanwhile."""
        for then in (turn, await self._store.turn(owner, turn.id)):
            if then is not None and then.state in (TurnState.STARTING, TurnState.UNKNOWN):
                running = replace(then, state=TurnState.RUNNING, run=ref, error=None, updated=self._clock())
                changed = await self._store.change_turn(owner, then, running)
                if changed is not None:
                    return changed
        return await self._store.turn(owner, turn.id) or turn

    async def _found(self, caller: Caller, owner: str, turn: Turn) -> Turn:
        """A turn that was being told to the host, as far as it can be found out what came of it."""
        if turn.id in self._starting:
            await asyncio.wait({self._starting[turn.id]}, timeout=LOOK_EVERY)
            return await self._store.turn(owner, turn.id) or turn
        if turn.id in self._looked:
            return await self._store.turn(owner, turn.id) or turn
        self._looked[turn.id] = True
        expired = self._clock() >= turn.created + GIVEN_UP  # before the look, which then is behind it
        try:
            ref = await self._look(caller, turn)
        except (Unavailable, UpstreamFailure, InProgress):
            ref = None  # nobody can say just now
        if ref is not None:
            return await self._running(owner, turn, ref)
        if expired:
            unknown = replace(turn, state=TurnState.UNKNOWN, error="outcome_unknown", updated=self._clock())
            return (
                await self._store.change_turn(owner, turn, unknown) or await self._store.turn(owner, turn.id) or unknown
            )
        return turn

    async def _look(self, caller: Caller, turn: Turn) -> RunRef | None:
        if not turn.resumes or turn.run is None:
            found = await find_marked(self._gateway, caller, turn.organization, {MARK: turn.mark}, turn.created)
            return None if found is None else found.ref
        after, size = turn.begin, self._gateway.page_size
        while True:
            page = await self._gateway.read_log(
                looking(caller), turn.run.organization, turn.run.id, after, size, newest_first=False
            )
            if any(says(entry, turn.prompt) for entry in page.entries):
                return turn.run
            if page.at_end:
                return None
            after = page.last

    # -- ending -------------------------------------------------------------------------------------------------------

    async def _finish(self, owner: str, turn: Turn, run: Run, end: Cursor, answer: str | None) -> Turn:
        state, told = state_of(run), self._gateway.answer(run)
        then = turn
        while True:
            over = replace(
                then,
                state=state,
                end=end,
                # what the log tells is not kept twice
                answer=told if state is TurnState.COMPLETED and told is not None and told != answer else None,
                error=f"The run ended as {run.raw_status}." if state is TurnState.FAILED else None,
                updated=self._clock(),
            )
            changed = await self._store.change_turn(owner, then, over)
            if changed is not None:
                return changed
            there = await self._store.turn(owner, turn.id)
            if there is None or there.end is not None:
                return there or over
            then = there  # a dialect has written on it meanwhile, and that stays

    async def _stop_abandoned(self, caller: Caller, owner: str, turn: Turn) -> None:
        try:
            await self.stop(caller, owner, turn, wait=False)
        except GatewayError as error:
            logger.warning("a turn whose client left could not be stopped: %s", error.code)
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("stopping a turn", error)

    async def _see(self, caller: Caller, owner: str, turn: Turn, watch: _Watch) -> None:
        try:
            async with aclosing(self.follow(caller, owner, turn)) as progress:
                async for news in progress:
                    if isinstance(news, Caught | Over | Leaving):
                        watch.current.set()
                    if isinstance(news, Leaving) or loop_time() >= watch.asked + INTEREST:
                        return
        except GatewayError:
            return  # whoever asks is told what is written down
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("watching a turn", error)
