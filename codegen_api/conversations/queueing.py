"""Queued turns: stored until the turns before them have ended, then started once, by whichever process is first.

Starting a turn needs a caller's credential, and credentials are never stored. So a queue is served by a process that
has seen its owner: they queued the turn, or asked for anything about its conversation. The process goes on until the
queue is empty, even after they have left. If callers share the deployment's token, every process serves their queues.
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
from codegen_api.conversations.starting import LATER, LOOK_EVERY, is_transient
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
"""How many turns one conversation can have queued."""

MOST_SERVED = 1000
"""How many conversations' queues one process serves at a time."""

SWEEP_EVERY = 10.0
"""Seconds between two sweeps over all stored queues."""

LONGEST_PAUSE = 10.0
"""Longest pause, in seconds, before starting a turn is tried again, unless the host asks for more."""

AbsentCallers = Callable[[Principal], Caller | None]


@dataclass(eq=False)
class Queue:
    """Stores queued turns and starts them. Where the deployment has a token of its own for the host, ``absent`` returns
    a caller for a principal who has left; it is None elsewhere. ``clock`` returns seconds since the epoch.
    """

    gateway: Gateway
    store: Store
    planning: Planning
    turns: Turns
    absent: AbsentCallers | None
    clock: Callable[[], float]
    _served: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict)

    async def aclose(self) -> None:
        """Stop serving. Queued turns stay queued, for other processes or the next one."""
        for task in self._served.values():
            task.cancel()
        await asyncio.gather(*self._served.values(), return_exceptions=True)

    async def add(self, own: CallerStore, wanted: str | None, talk: Talk, ask: Ask) -> Turn:
        """Store a turn as queued. Raises ``NotFound``, ``QueueFull`` or ``Overtaken``."""
        turn = _queued(own.caller, wanted, talk.conversation.id, ask, self.clock())
        try:
            turn = await own.add_turn(turn, queued_at_most=MOST_QUEUED, into=talk)
        except Full as full:
            raise QueueFull from full
        except KeyError as gone:
            raise NotFound("There is no such conversation.") from gone
        self.serve(own, turn.conversation)
        return turn

    def serve(self, own: CallerStore, conversation: str) -> None:
        """Start the queued turns of a conversation one by one, in the background and on behalf of this caller."""
        key = (own.owner, conversation)
        if key in self._served or len(self._served) >= MOST_SERVED or not own.caller.may(WRITE):
            return
        if own.caller.shared and self.absent is not None:  # their own credential may expire before the turn's time
            own = replace(own, caller=self.absent(own.caller.principal) or own.caller)
        task = self._served[key] = asyncio.ensure_future(self._serve(own, conversation))
        task.add_done_callback(lambda _: self._served.pop(key))

    async def waiting(self, own: CallerStore, turn: Turn) -> AsyncGenerator[Turn, None]:
        """Poll a queued turn until it is queued no longer. If the last one yielded still is, the client must reconnect,
        because the stream is too old or this process stops. Raises ``InvalidToken`` when the credential expires.
        """
        until = loop_time() + self.gateway.patrol(own.caller).max_age
        async with self.gateway.attend(own.caller) as attendant:
            while turn.state is TurnState.QUEUED and loop_time() < until and not attendant.leaving.is_set():
                own.caller.confirm()
                self.serve(own, turn.conversation)
                changed = self.turns.starting.next_change
                # a turn that is missing was removed with its conversation
                turn = await own.turn(turn.id) or replace(turn, state=TurnState.WITHDRAWN, ask=None)
                yield turn
                if turn.state is TurnState.QUEUED:
                    await either(changed, within=LOOK_EVERY / 2)

    async def follow(self, own: CallerStore, turn: Turn) -> AsyncGenerator[Progress, None]:
        """Wait until the turn is queued no longer, then follow it."""
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

    async def _serve(self, own: CallerStore, conversation: str) -> None:
        pause = 1.0
        try:
            while True:
                try:
                    if not await self._step(own, conversation):
                        return
                    pause = 1.0
                except NotAuthenticated:
                    return  # the queue waits for a caller with a valid credential
                except GatewayError as error:
                    logger.debug("a turn stays queued: %s", error.code)
                    await asyncio.sleep(max(pause, error.retry_after or 0.0))
                    pause = min(2 * pause, LONGEST_PAUSE)
        except Exception as error:  # task boundary: nobody else would hear of it
            log_fault("starting a queued turn", error)

    async def _step(self, own: CallerStore, conversation: str) -> bool:
        """Wait for the turn in progress, or else start the first queued one; False if none is queued. Raises
        ``GatewayError`` if that fails now, or always will with this caller.
        """
        waiting = await own.turns(conversation, states=[TurnState.QUEUED], limit=1, newest_first=False)
        if not waiting:
            return False
        active = await self._active(own, conversation)
        if active is None:
            await self._begin(own, waiting[0])
        else:
            await self.turns.wait_for_end(own, active)
        return True

    async def _active(self, own: CallerStore, conversation: str) -> Turn | None:
        states = [state for state in TurnState if state.active]
        return next(iter(await own.turns(conversation, states=states, limit=1)), None)

    async def _begin(self, own: CallerStore, waiting: Turn) -> None:
        conversation = await own.conversation(waiting.conversation)
        turns = await own.turns(waiting.conversation)
        if conversation is None or any(turn.state.active for turn in turns):
            return
        known = [turn for turn in turns if turn.state.begun and turn.number < waiting.number]
        wanted, ask = _stored_ask(waiting)
        try:
            plan = await self.planning.plan(own, wanted, conversation, ask, known)
        except GatewayError as error:
            if isinstance(error, LATER):
                raise
            # this turn can never be started: the conversation goes on without it
            parent, reason = latest_end(conversation, known), storable_text(error.message)
            failed = replace(waiting, state=TurnState.FAILED, error=reason, ask=None, updated=self.clock())
            await own.replace_turn(waiting, replace(failed, parent=None if parent is None else str(parent)))
            return
        turn = replace(plan.turn, id=waiting.id, created=waiting.created, agent=waiting.agent)
        try:
            await self.turns.starting.begin(own, plan._replace(turn=turn), None, waiting)
        except ConversationBusy:
            pass  # another process was faster
        except GatewayError as error:
            if is_transient(error):
                raise

    async def sweep(self, absent: AbsentCallers) -> None:
        """Serve the queues of callers who have left, forever."""
        while True:
            try:
                await self._sweep_once(absent)
            except Exception as error:  # task boundary: the next sweep may work
                log_fault("serving the queues of absent callers", error)
            await asyncio.sleep(SWEEP_EVERY)

    async def _sweep_once(self, absent: AbsentCallers) -> None:
        place = ("", "")
        while queues := await self.store.queues(place):
            for owner, waiting in queues:
                place = (owner, waiting.conversation)
                match waiting.ask:
                    case {"principal": [str(authority), str(user)]}:
                        caller = absent(Principal(authority, user))
                    case _:
                        continue
                if place in self._served or caller is None:
                    continue
                own = CallerStore(caller, owner, self.store)
                if await self._is_due(own, waiting):
                    self.serve(own, waiting.conversation)

    async def _is_due(self, own: CallerStore, waiting: Turn) -> bool:
        """Ask the host whether no turn is in progress any more. This makes one call, as many processes may ask."""
        active = await self._active(own, waiting.conversation)
        if active is None or active.run is None or active.state is TurnState.STARTING:
            return True
        try:
            run = await self.gateway.get(own.caller, active.run.organization, active.run.id)
        except GatewayError:
            return False  # the next sweep asks again
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


def _stored_ask(waiting: Turn) -> tuple[str | None, Ask]:
    """The wanted organization, and the part of the ``Ask`` that starting the turn needs, as ``_queued`` stored them."""
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
    """Wait until one of the events is set, at most ``within`` seconds."""
    waits = [asyncio.ensure_future(event.wait()) for event in events if event is not None]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
