"""How a turn begins: it is stored, then sent to the host, and looked for at the host if that was interrupted.

Sending continues when the client leaves. If the outcome is unknown (the host did not answer, or this process died), the
turn is looked for at the host by its mark, or by the user's message in the log. After a minute it is given up. The
gateway never starts it again by itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from cachetools import LRUCache, TTLCache

from codegen_api.conversations.caller_store import CallerStore
from codegen_api.conversations.progress import RESTING
from codegen_api.conversations.prompts import storable_text
from codegen_api.errors import ConversationBusy, GatewayError, InProgress, NotFound, Unavailable, UpstreamFailure
from codegen_api.following import loop_time
from codegen_api.gateway import Gateway
from codegen_api.idempotency.lookup import SECOND_LOOK, find_marked, find_said, grace, in_doubt
from codegen_api.identity import Caller
from codegen_api.runs import Run, RunRef
from codegen_api.singleflight import Singleflight
from codegen_api.stores import Busy, Overtaken, Talk, Turn, TurnState
from codegen_api.telemetry import Span, log_fault, note, record_turn, trace
from codegen_api.upstreams import Decision, NewRun

Decisions: TypeAlias = Sequence[tuple[str, Decision]]
"""Pairs of the id of a pending request and the decision about it."""


class Plan(NamedTuple):
    """A turn, the run to create for it, and, for a run that is resumed, decisions to send in place of a prompt."""

    turn: Turn
    new: NewRun
    decisions: Decisions = ()


MARK = "turn"
"""Name of the mark by which a turn's run is found at the host."""

GIVEN_UP = 60.0
"""Seconds after which the search for a turn with an unknown outcome ends."""

LOOK_EVERY = 2.0
"""Seconds between two searches for a turn."""

CLOSING = 10.0
"""Seconds that calls to the host have to finish when this process stops."""

LATER = (Unavailable, UpstreamFailure, InProgress)
"""Errors after which the host may answer differently when it is asked later."""


def is_transient(error: GatewayError) -> bool:
    """Whether the host has certainly done nothing, and may do it later."""
    if isinstance(error, UpstreamFailure):
        return not error.may_have_acted
    return isinstance(error, Unavailable)


class Starting:
    """Starts turns, and finds out which have started. ``clock`` returns seconds since the epoch."""

    def __init__(self, gateway: Gateway, *, clock: Callable[[], float]) -> None:
        self.next_change = asyncio.Event()
        """Set when this process stores the next turn, or takes one out of a queue; then replaced by a new event."""
        self._gateway = gateway
        self._clock = clock
        self._under_way: Singleflight[str, Turn] = Singleflight()
        self._searches: Singleflight[tuple[str, str], Turn] = Singleflight()
        self.origins: LRUCache[str, Span] = LRUCache(1000)
        """By turn, the span of the request that started it here, if there was one."""
        self._searched: TTLCache[str, bool] = TTLCache(10_000, LOOK_EVERY, timer=loop_time)

    async def begin(self, own: CallerStore, plan: Plan, talk: Talk | None, waiting: Turn | None = None) -> Turn:
        """Store a turn after those of ``talk``, and send it to the host. If it is unknown whether that worked, the
        turn stays ``STARTING`` and is looked for later. Raises what ``CallerConversations.begin`` does.

        A queued turn is stored already, as ``waiting``. It is queued again if the host certainly has not acted and may
        do so later. If another process has started it first, ``ConversationBusy`` is raised.
        """
        current = trace.get()
        if current is not None and current.span is not None:
            self.origins[plan.turn.id] = current.span
        return await self._under_way.share(plan.turn.id, lambda: _log_errors(self._begin(own, plan, talk, waiting)))

    async def find(self, own: CallerStore, turn: Turn) -> Turn:
        """A ``STARTING`` turn, updated if it can be found at the host. Raises what the host does."""
        under_way = await self._under_way.wait_for(turn.id, within=LOOK_EVERY)
        turn = await own.turn(turn.id) or turn
        if under_way or turn.state is not TurnState.STARTING or turn.id in self._searched:
            return turn
        self._searched[turn.id] = True
        # not shared between credentials: one may see more of the host than another
        return await self._searches.share((turn.id, own.caller.credential.digest), lambda: self._find(own, turn))

    async def wait_until_sent(self, turn: Turn, *, within: float) -> None:
        """If the turn is just being sent to the host, wait until it has been."""
        await self._under_way.wait_for(turn.id, within=within)

    def announce_change(self) -> None:
        """Set ``next_change``, and replace it."""
        changed, self.next_change = self.next_change, asyncio.Event()
        changed.set()

    async def give_up(self, own: CallerStore, turn: Turn) -> Turn:
        """Store the outcome of a turn as unknown."""
        unknown = replace(turn, state=TurnState.UNKNOWN, error="outcome_unknown", updated=self._clock())
        return await own.put_turn(turn, unknown)

    async def aclose(self) -> None:
        """Wait for the turns that are being sent to the host, and end all searches."""
        await self._under_way.aclose(within=CLOSING)  # those that take longer are looked for when they are asked for
        await self._searches.aclose()

    async def _begin(self, own: CallerStore, plan: Plan, talk: Talk | None, waiting: Turn | None) -> Turn:
        turn = plan.turn
        try:
            if waiting is None:
                begun: Turn | None = await self._add(own, turn, talk)
            else:
                begun = await own.replace_turn(waiting, turn)
        except Busy as busy:
            raise ConversationBusy from busy
        except KeyError as gone:
            raise NotFound.named("Conversation", turn.conversation) from gone
        if begun is None:
            raise ConversationBusy("This turn waits no longer.")  # another process has started or withdrawn it
        self.announce_change()
        return await self._send(own, plan._replace(turn=begun), waiting)

    async def _add(self, own: CallerStore, turn: Turn, talk: Talk | None) -> Turn:
        """Store a turn, unless another one has come and gone since it was planned: then raise ``ConversationBusy``."""
        latest = talk.turns[0] if talk is not None and talk.turns else None
        turn = await own.add_turn(turn, into=talk)
        if turn.number != (1 if latest is None else latest.number + 1):
            last = [each.id for each in await own.turns(turn.conversation, limit=2) if each.id != turn.id]
            if last != ([] if latest is None else [latest.id]):
                await own.remove_turn(turn.id)
                raise ConversationBusy("There has been another turn in the meantime; ask again.")
        return turn

    async def _send(self, own: CallerStore, plan: Plan, waiting: Turn | None) -> Turn:
        turn, new, decisions = plan
        try:
            if turn.resumes and turn.run is not None and decisions:
                run = await self._decide(own.caller, turn.run, decisions)
            elif turn.resumes and turn.run is not None:
                organization, run_id = turn.run.organization, turn.run.id
                run = await self._gateway.resume(
                    own.caller, organization, run_id, turn.prompt, new.images, length=turn.begin
                )
            else:
                marked = replace(new, marks={MARK: turn.mark})
                run = await self._gateway.create(own.caller, turn.organization, marked)
        except GatewayError as error:
            note(error.code, error.root_reason)  # the client may still get the turn as the answer
            if in_doubt(error):
                if grace(error) >= GIVEN_UP:
                    return turn
                try:
                    found = await self._find_after_fault(grace(error), own.caller, turn, decisions)
                except GatewayError:
                    return turn  # still unknown
                if found is not None:
                    return await self._store_running(own, turn, found)
            if decisions and waiting is None:  # the run still waits for the decision
                await own.remove_turn(turn.id)
                raise
            failed = replace(turn, state=TurnState.FAILED, error=storable_text(error.message), updated=self._clock())
            again = waiting is not None and is_transient(error)
            await own.replace_turn(turn, waiting if waiting is not None and again else failed)
            if not again:
                record_turn(turn.created, failed.state, 0, self.origins.pop(turn.id, None), failed=True)
            raise
        return await self._store_running(own, turn, run.ref)

    async def _decide(self, caller: Caller, ref: RunRef, decisions: Decisions) -> Run:
        """Send decisions to the host. The first resumes the run; a later one that the host refuses is dropped, and its
        request stays pending.
        """
        (request_id, decision), *rest = decisions
        run = await self._gateway.decide(caller, ref.organization, ref.id, request_id, decision)
        for request_id, decision in rest:
            try:
                run = await self._gateway.decide(caller, ref.organization, ref.id, request_id, decision)
            except GatewayError as error:
                note(error.code, error.root_reason)
        return run

    async def _find_after_fault(
        self, seconds: float, caller: Caller, turn: Turn, decisions: Decisions
    ) -> RunRef | None:
        """Look for a turn after a fault of the host: now, and again when the host cannot be working on it any more."""
        with suppress(GatewayError):
            if (found := await self._find_run(caller, turn, decisions)) is not None:
                return found
        await asyncio.sleep(max(seconds, SECOND_LOOK))
        return await self._find_run(caller, turn, decisions)

    async def _store_running(self, own: CallerStore, turn: Turn, ref: RunRef) -> Turn:
        """Store that a turn is running, even if it was given up in the meantime."""
        while turn.state in (TurnState.STARTING, TurnState.UNKNOWN):
            running = replace(turn, state=TurnState.RUNNING, run=ref, error=None, updated=self._clock())
            try:
                turn = await own.put_turn(turn, running)
            except Busy:
                return turn  # given up, and another turn has begun since
        return turn

    async def _find(self, own: CallerStore, turn: Turn) -> Turn:
        expired = self._clock() >= turn.updated + GIVEN_UP  # taken first, so that a search follows the deadline
        try:
            ref = await self._find_run(own.caller, turn)
        except GatewayError as error:
            if not expired and not isinstance(error, LATER):
                raise
            note(error.code, error.root_reason)
            ref = None
        if ref is not None:
            return await self._store_running(own, turn, ref)
        return await self.give_up(own, turn) if expired else turn

    async def _find_run(self, caller: Caller, turn: Turn, decisions: Decisions = ()) -> RunRef | None:
        """The run of a turn if the host has started it, by whatever trace the turn leaves there."""
        if turn.run is not None and decisions:
            pending = await self._gateway.pending(caller, turn.run.organization, turn.run.id)
            return None if decisions[0][0] in [each.id for each in pending] else turn.run
        if turn.resumes and turn.run is not None and not turn.prompt:
            run = await self._gateway.get(caller, turn.run.organization, turn.run.id)
            return None if run.status in RESTING else turn.run
        if turn.resumes and turn.run is not None:
            said = await find_said(self._gateway, caller, turn.run, turn.prompt, after=turn.begin)
            return turn.run if said else None
        found = await find_marked(self._gateway, caller, turn.organization, MARK, [turn.mark], turn.updated)
        return None if found is None else found.ref


async def _log_errors(beginning: Awaitable[Turn]) -> Turn:
    """Await ``beginning``, and log unexpected errors, because the client may have left."""
    try:
        return await beginning
    except Exception as error:
        if not isinstance(error, GatewayError | Overtaken):
            log_fault("beginning a turn", error)
        raise
