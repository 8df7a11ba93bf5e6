"""Turns that wait for the end of those before them: written down, begun when their time has come, by any process, once.

A turn that waits is begun with a caller's credential, and none is ever stored. So it is begun by a process that has
such a caller in hand, because they asked for the turn or for anything about its conversation; as long as something
waits there, the process sees to it, also when they have gone. For callers who share the deployment's token every
process sees to it, at its start and ever after.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from codegen_api.conversations.caller_store import CallerStore
from codegen_api.conversations.checkpoints import TurnCheckpoint
from codegen_api.conversations.planning import Ask, Planning, latest_end, turn_of
from codegen_api.conversations.progress import RESTING, Progress
from codegen_api.conversations.prompts import storable_text
from codegen_api.conversations.starting import LATER, LOOK_EVERY, passes
from codegen_api.conversations.turns import Turns
from codegen_api.errors import ConversationBusy, GatewayError, NotAuthenticated, NotFound, QueueFull
from codegen_api.following import Leaving, Position, Quiet, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import WRITE, Caller, Principal
from codegen_api.runs import Json
from codegen_api.stores import Full, Store, Talk, Turn, TurnState
from codegen_api.telemetry import log_fault, logger
from codegen_api.upstreams import NewRun

MOST_QUEUED = 100
"""Turns that wait in one conversation."""

MOST_SEEN_TO = 1000
"""Conversations whose queues one process sees to at a time."""

LOOK_ROUND_EVERY = 10.0
"""Seconds between two looks at all queues."""

LONGEST_PAUSE = 10.0
"""Seconds, at most, until what could not be begun just now is tried again, unless the host asks for more."""

AbsentCallers = Callable[[Principal], Caller | None]


@dataclass(eq=False)
class Queue:
    """Sees to turns that wait. ``absent`` gives the caller for a principal who is not here, where the deployment asks
    the host with a token of its own; None: it never does. ``clock`` gives seconds since the epoch.
    """

    gateway: Gateway
    store: Store
    planning: Planning
    turns: Turns
    absent: AbsentCallers | None
    clock: Callable[[], float]
    _seen_to: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict)

    async def aclose(self) -> None:
        """What waits goes on waiting, for whichever process comes next."""
        for task in self._seen_to.values():
            task.cancel()
        await asyncio.gather(*self._seen_to.values(), return_exceptions=True)

    async def add(self, own: CallerStore, wanted: str | None, talk: Talk, ask: Ask) -> Turn:
        """Write down a turn that waits. Raises ``NotFound``, ``QueueFull`` or ``Overtaken``."""
        turn = _queued(own.caller, wanted, talk.conversation.id, ask, self.clock())
        try:
            turn = await own.add_turn(turn, queued_at_most=MOST_QUEUED, into=talk)
        except Full as full:
            raise QueueFull from full
        except KeyError as gone:
            raise NotFound("There is no such conversation.") from gone
        self.see_to(own, turn.conversation)
        return turn

    def see_to(self, own: CallerStore, conversation: str) -> None:
        """Begin what waits in a conversation when its time comes, on behalf of this caller. Nobody waits for that."""
        key = (own.owner, conversation)
        if key in self._seen_to or len(self._seen_to) >= MOST_SEEN_TO or not own.caller.may(WRITE):
            return
        if own.caller.shared and self.absent is not None:  # what they came with may end before their turn comes
            own = replace(own, caller=self.absent(own.caller.principal) or own.caller)
        task = self._seen_to[key] = asyncio.ensure_future(self._see_to(own, conversation))
        task.add_done_callback(lambda _: self._seen_to.pop(key))

    async def waiting(self, own: CallerStore, turn: Turn) -> AsyncGenerator[Turn, None]:
        """A turn that waits, every now and then; the last time it does so no longer, or whoever waits for that is to
        come back, here or elsewhere. Raises ``InvalidToken`` when what the caller came with is good no longer.
        """
        until = loop_time() + self.gateway.patrol(own.caller).max_age
        async with self.gateway.attend(own.caller) as attendant:
            while turn.state is TurnState.QUEUED and loop_time() < until and not attendant.leaving.is_set():
                own.caller.confirm()
                self.see_to(own, turn.conversation)
                happened = self.turns.starting.next_begun
                # without one it went with its conversation
                turn = await own.turn(turn.id) or replace(turn, state=TurnState.WITHDRAWN, ask=None)
                yield turn
                if turn.state is TurnState.QUEUED:
                    await either(happened, within=LOOK_EVERY / 2)

    async def follow(self, own: CallerStore, turn: Turn) -> AsyncGenerator[Progress, None]:
        async with aclosing(self.waiting(own, turn)) as looks:
            async for turn in looks:  # noqa: PLR1704 - it is the same one, as it is now
                if turn.state is TurnState.QUEUED:
                    yield Quiet()
        if turn.state is TurnState.QUEUED:
            yield Leaving(Position(0))
            return
        async with aclosing(self.turns.follow(own, turn)) as progress:
            async for news in progress:
                yield news

    async def _see_to(self, own: CallerStore, conversation: str) -> None:
        pause = 1.0
        try:
            while True:
                try:
                    if not await self._step(own, conversation):
                        return
                    pause = 1.0
                except NotAuthenticated:
                    return  # somebody else of that owner has to come
                except GatewayError as error:
                    logger.debug("a turn goes on waiting: %s", error.code)
                    await asyncio.sleep(max(pause, error.retry_after or 0.0))
                    pause = min(2 * pause, LONGEST_PAUSE)
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("beginning a turn that waited", error)

    async def _step(self, own: CallerStore, conversation: str) -> bool:
        """Wait for what is under way, or begin what waits; whether anything does. Raises ``GatewayError`` where neither
        can be done just now, or ever with this caller.
        """
        waiting = await own.turns(conversation, states=[TurnState.QUEUED], limit=1, newest_first=False)
        if not waiting:
            return False
        active = await self._active(own, conversation)
        if active is None:
            await self._begin(own, waiting[0])
        else:
            await self.turns.ended(own, active)
        return True

    async def _active(self, own: CallerStore, conversation: str) -> Turn | None:
        states = [state for state in TurnState if state.active]
        return next(iter(await own.turns(conversation, states=states, limit=1)), None)

    async def _begin(self, own: CallerStore, waiting: Turn) -> None:
        there = await own.conversation(waiting.conversation)
        turns = await own.turns(waiting.conversation)
        if there is None or any(turn.state.active for turn in turns):
            return
        known = [turn for turn in turns if turn.state.begun and turn.number < waiting.number]
        wanted, ask = _asked(waiting)
        try:
            plan = await self.planning.plan(own, wanted, there, ask, known)
        except GatewayError as error:
            if isinstance(error, LATER):
                raise
            # it cannot be begun, now or ever: the conversation goes on without it
            parent, reason = latest_end(there, known), storable_text(error.message)
            failed = replace(waiting, state=TurnState.FAILED, error=reason, ask=None, updated=self.clock())
            await own.replace_turn(waiting, replace(failed, parent=None if parent is None else str(parent)))
            return
        turn = replace(plan.turn, id=waiting.id, created=waiting.created, agent=waiting.agent)
        try:
            await self.turns.starting.begin(own, plan._replace(turn=turn), None, waiting)
        except ConversationBusy:
            pass  # another process was faster
        except GatewayError as error:
            if passes(error):
                raise

    async def look_round(self, absent: AbsentCallers) -> None:
        """Look after what waits for callers who are not here, for ever."""
        while True:
            try:
                await self._look_at_all(absent)
            except Exception as error:  # task boundary: the next time it may work
                log_fault("looking after turns that wait", error)
            await asyncio.sleep(LOOK_ROUND_EVERY)

    async def _look_at_all(self, absent: AbsentCallers) -> None:
        place = ("", "")
        while queues := await self.store.queues(place):
            for owner, waiting in queues:
                place = (owner, waiting.conversation)
                match waiting.ask:
                    case {"principal": [str(authority), str(user)]}:
                        caller = absent(Principal(authority, user))
                    case _:
                        continue
                if place in self._seen_to or caller is None:
                    continue
                own = CallerStore(caller, owner, self.store)
                if await self._is_time(own, waiting):
                    self.see_to(own, waiting.conversation)

    async def _is_time(self, own: CallerStore, waiting: Turn) -> bool:
        """Whether nothing is under way any more, by the host's word. One call, as many processes may ask."""
        active = await self._active(own, waiting.conversation)
        if active is None or active.run is None or active.state is TurnState.STARTING:
            return True
        try:
            run = await self.gateway.get(own.caller, active.run.organization, active.run.id)
        except GatewayError:
            return False  # the next look may tell
        return run.status.ended or run.status in RESTING


def _queued(caller: Caller, wanted: str | None, conversation: str, ask: Ask, now: float) -> Turn:
    agent, run = ask.agent, ask.run
    kept: dict[str, Json] = {
        "text": ask.text,
        "images": list(ask.images),
        "system_prompt": ask.system_prompt or (None if agent is None else agent.system_prompt),
        "checkpoint": None if ask.checkpoint is None else str(ask.checkpoint),
        "organization": wanted,
        "fresh": ask.fresh,
        "metadata": run.metadata,
        "repo_id": run.repo_id,
        "model": run.model or (None if agent is None else agent.model),
        "agent_type": run.agent_type,
    }
    if caller.shared:
        kept["principal"] = [caller.principal.authority, caller.principal.user]
    return replace(turn_of(ask, conversation, now), state=TurnState.QUEUED, ask=kept)


def _asked(waiting: Turn) -> tuple[str | None, Ask]:
    """The organization that is wanted, and the ask as far as it matters from now on."""
    kept: Mapping[str, Any] = waiting.ask or {}
    run = NewRun(
        "",
        metadata=kept.get("metadata"),
        repo_id=kept.get("repo_id"),
        model=kept.get("model"),
        agent_type=kept.get("agent_type"),
    )
    ask = Ask(
        waiting.messages,
        kept.get("text", ""),
        tuple(kept.get("images", ())),
        system_prompt=kept.get("system_prompt"),
        checkpoint=None if kept.get("checkpoint") is None else TurnCheckpoint.of(kept["checkpoint"]),
        run=run,
        fresh=kept.get("fresh", False),
        options=waiting.options,
    )
    return kept.get("organization"), ask


async def either(*events: asyncio.Event | None, within: float) -> None:
    """Until one of these is set, or a while has passed."""
    waits = [asyncio.ensure_future(event.wait()) for event in events if event is not None]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
