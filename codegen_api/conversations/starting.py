"""How a turn begins: written down, told to the host, and looked for where that broke off.

The host is told when the turn is written down, and that goes on when the client leaves. Where its outcome is unknown
(the host did not answer, or this process died) the turn is looked for at the host by its mark, or by the user's message
in the log; after a minute it is given up, and it is never begun again by itself.
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
from codegen_api.telemetry import Span, log_fault, note, told_turn, trace
from codegen_api.upstreams import Decision, NewRun

Decisions: TypeAlias = Sequence[tuple[str, Decision]]
"""What is decided, by the ids of what a run waits for."""


class Plan(NamedTuple):
    """A turn, the run that is to be created for it, and what the host of one that goes on is told in place of its
    prompt.
    """

    turn: Turn
    new: NewRun
    decisions: Decisions = ()


MARK = "turn"
"""The mark by which the run of a turn is found again."""

GIVEN_UP = 60.0
"""Seconds after which a turn whose outcome is unknown is looked for no more."""

LOOK_EVERY = 2.0
"""Seconds between two looks for a turn."""

CLOSING = 10.0
"""Seconds that what is just being told to the host is given when this process stops."""


LATER = (Unavailable, UpstreamFailure, InProgress)
"""Errors of a host that may say something else when it is asked later."""


def passes(error: GatewayError) -> bool:
    """Whether the host has surely done nothing, and may do it when it is asked later."""
    if isinstance(error, UpstreamFailure):
        return not error.may_have_acted
    return isinstance(error, Unavailable)


class Starting:
    """Begins turns, and finds out which have begun. ``clock`` gives seconds since the epoch."""

    def __init__(self, gateway: Gateway, *, clock: Callable[[], float]) -> None:
        self.next_begun = asyncio.Event()
        """Set as soon as the next turn is written down by this process, or waits no longer."""
        self._gateway = gateway
        self._clock = clock
        self._under_way: Singleflight[str, Turn] = Singleflight()
        self._looks: Singleflight[tuple[str, str], Turn] = Singleflight()
        self.origins: LRUCache[str, Span] = LRUCache(1000)
        """The spans of the requests that began the last turns here, where there are any."""
        self._looked: TTLCache[str, bool] = TTLCache(10_000, LOOK_EVERY, timer=loop_time)

    async def begin(self, own: CallerStore, plan: Plan, talk: Talk | None, waiting: Turn | None = None) -> Turn:
        """Write a turn down behind those of ``talk``, and tell the host of it. When nobody can say whether it has
        heard, the turn stays as it is, and is looked for. Raises what ``CallerConversations.begin`` does.

        One that has waited was written down as ``waiting``, and becomes that again when the host has surely heard
        nothing and may be told later. Who begins it first has begun it, whichever process that is: else it is
        ``ConversationBusy``.
        """
        current = trace.get()
        if current is not None and current.span is not None:
            self.origins[plan.turn.id] = current.span
        return await self._under_way.share(plan.turn.id, lambda: _logged(self._begin(own, plan, talk, waiting)))

    async def found(self, own: CallerStore, turn: Turn) -> Turn:
        """What came of a turn that was being told to the host, if it can be found out. Raises what the host does."""
        under_way = await self._under_way.landed(turn.id, within=LOOK_EVERY)
        turn = await own.turn(turn.id) or turn
        if under_way or turn.state is not TurnState.STARTING or turn.id in self._looked:
            return turn
        self._looked[turn.id] = True
        # who sees more of the host than others does not get their answer
        return await self._looks.share((turn.id, own.caller.credential.digest), lambda: self._find(own, turn))

    async def done(self, turn: Turn, *, within: float) -> None:
        """Wait until it has been told to the host, if that is just being done."""
        await self._under_way.landed(turn.id, within=within)

    def happened(self) -> None:
        """Tell whoever waits for it that there is another turn, or one less that waits."""
        begun, self.next_begun = self.next_begun, asyncio.Event()
        begun.set()

    async def given_up(self, own: CallerStore, turn: Turn) -> Turn:
        """A turn of which nobody can say what has become, written down as that."""
        unknown = replace(turn, state=TurnState.UNKNOWN, error="outcome_unknown", updated=self._clock())
        return await own.put_turn(turn, unknown)

    async def aclose(self) -> None:
        """Wait for what is being told to the host, and look for nothing any more."""
        await self._under_way.aclose(within=CLOSING)  # whoever asks for the others will look for them at the host
        await self._looks.aclose()

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
            raise ConversationBusy("This turn waits no longer.")
        self.happened()
        return await self._tell(own, plan._replace(turn=begun), waiting)

    async def _add(self, own: CallerStore, turn: Turn, talk: Talk | None) -> Turn:
        """The turn as it is written down, if no other one has come and gone behind that behind which it was planned."""
        latest = talk.turns[0] if talk is not None and talk.turns else None
        turn = await own.add_turn(turn, into=talk)
        if turn.number != (1 if latest is None else latest.number + 1):
            last = [each.id for each in await own.turns(turn.conversation, limit=2) if each.id != turn.id]
            if last != ([] if latest is None else [latest.id]):
                await own.remove_turn(turn.id)
                raise ConversationBusy("There has been another turn in the meantime; ask again.")
        return turn

    async def _tell(self, own: CallerStore, plan: Plan, waiting: Turn | None) -> Turn:
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
            note(error.code, error.root_reason)  # who asked may be answered with the turn all the same
            if in_doubt(error):
                if grace(error) >= GIVEN_UP:
                    return turn
                try:
                    found = await self._found_within(grace(error), own.caller, turn, decisions)
                except GatewayError:
                    return turn  # nobody can say just now
                if found is not None:
                    return await self._running(own, turn, found)
            if decisions and waiting is None:  # the turn before waits as it did
                await own.remove_turn(turn.id)
                raise
            failed = replace(turn, state=TurnState.FAILED, error=storable_text(error.message), updated=self._clock())
            again = waiting is not None and passes(error)
            await own.replace_turn(turn, waiting if waiting is not None and again else failed)
            if not again:
                told_turn(turn.created, failed.state, 0, self.origins.pop(turn.id, None), failed=True)
            raise
        return await self._running(own, turn, run.ref)

    async def _decide(self, caller: Caller, ref: RunRef, decisions: Decisions) -> Run:
        """Tell the host what was decided; with the first of it the run goes on, and what is refused of the rest stays
        pending.
        """
        (request_id, decision), *rest = decisions
        run = await self._gateway.decide(caller, ref.organization, ref.id, request_id, decision)
        for request_id, decision in rest:
            try:
                run = await self._gateway.decide(caller, ref.organization, ref.id, request_id, decision)
            except GatewayError as error:
                note(error.code, error.root_reason)
        return run

    async def _found_within(self, seconds: float, caller: Caller, turn: Turn, decisions: Decisions) -> RunRef | None:
        """Look for a turn whose host answered with a fault, once more when it can do nothing about it any more."""
        with suppress(GatewayError):
            if (found := await self._look(caller, turn, decisions)) is not None:
                return found
        await asyncio.sleep(max(seconds, SECOND_LOOK))
        return await self._look(caller, turn, decisions)

    async def _running(self, own: CallerStore, turn: Turn, ref: RunRef) -> Turn:
        """It runs: whatever anybody thought of it meanwhile."""
        while turn.state in (TurnState.STARTING, TurnState.UNKNOWN):
            running = replace(turn, state=TurnState.RUNNING, run=ref, error=None, updated=self._clock())
            try:
                turn = await own.put_turn(turn, running)
            except Busy:
                return turn  # it was given up, and another turn has begun since
        return turn

    async def _find(self, own: CallerStore, turn: Turn) -> Turn:
        expired = self._clock() >= turn.updated + GIVEN_UP  # before the look, which then is behind it
        try:
            ref = await self._look(own.caller, turn)
        except GatewayError as error:
            if not expired and not isinstance(error, LATER):
                raise
            note(error.code, error.root_reason)
            ref = None  # nobody can say, just now or ever
        if ref is not None:
            return await self._running(own, turn, ref)
        return await self.given_up(own, turn) if expired else turn

    async def _look(self, caller: Caller, turn: Turn, decisions: Decisions = ()) -> RunRef | None:
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


async def _logged(beginning: Awaitable[Turn]) -> Turn:
    """The same; what goes wrong and should not is logged, as who asked may have left."""
    try:
        return await beginning
    except Exception as error:
        if not isinstance(error, GatewayError | Overtaken):
            log_fault("beginning a turn", error)
        raise
