"""Conversations for dialects that keep state: with whom, what was said, and where each turn is in the log of a run.

The first turn creates a run at the host, later ones resume it. Nothing that the host keeps is stored: what came of a
turn is a stretch of that run's log, read when somebody wants it. Everything belongs to a principal, and to others it
does not exist; on the way to a log the gateway asks for the caller's right besides.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from codegen_api.conversations import checkpoints
from codegen_api.conversations.checkpoints import Stretch, TurnCheckpoint
from codegen_api.conversations.late_changes import LateChanges
from codegen_api.conversations.planning import Ask, Planning, latest_end
from codegen_api.conversations.progress import MOMENT, Progress
from codegen_api.conversations.queueing import AbsentCallers, Queue
from codegen_api.conversations.semantic_search import SemanticSearch
from codegen_api.conversations.starting import LOOK_EVERY
from codegen_api.conversations.transcript import Transcript
from codegen_api.conversations.turns import Turns
from codegen_api.embeddings import Embedder
from codegen_api.errors import ConversationBusy, InvalidToken, NotFound, NotOffered, Rejected, StoreUnavailable
from codegen_api.following import Leaving, Position, Quiet, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import Json, LogEntry, Step, to_json
from codegen_api.storable import storable
from codegen_api.stores import Store, Turn, TurnState
from codegen_api.telemetry import Observation, log_fault, logger

TIDY_EVERY = 3600.0

WATCH_EVERY = 1.0
"""Seconds between two looks whether the store was found to fail: then it is checked."""
CHECKED_AFTER = 10
"""After so many looks it is checked anyway."""


def owner_of(caller: Caller) -> str:
    """To whom things belong: the same whatever token they use, and it tells nobody who that is. A key that is confined
    to an organization has nothing of what keys of its name have elsewhere.
    """
    said = [caller.principal.authority, caller.principal.user, caller.organization]
    return hashlib.sha256(to_json([each for each in said if each is not None])).hexdigest()


def checked(value: Json) -> None:
    """
    Raises:
        Rejected: no database can keep this.
    """
    if not storable(value):
        raise Rejected("A text holds a character that cannot be kept: NUL, or half of a surrogate pair.")


class Conversations:
    """The one door for dialects to turns and what was said in them. Agents, conversations and items are in ``store``.

    Conversations that nobody touched for ``kept_days`` are removed; None keeps them. Of turns that are over
    ``turns_bytes`` are kept. ``absent`` is as in ``Queue``. With an ``embedder`` items are found by ``meaning``.
    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        *,
        kept_days: float | None = None,
        turns_bytes: int = 16 * 1024 * 1024,
        absent: AbsentCallers | None = None,
        embedder: Embedder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gateway = gateway
        self.store = store
        self.meaning = None if embedder is None else SemanticSearch(store, embedder)
        self.clock = clock
        self._kept_days = kept_days
        self._turns = Turns(gateway, store, max_bytes=turns_bytes, clock=clock)
        self.late = LateChanges()
        self._reading = Transcript(self._turns)
        self._planning = Planning(gateway, store, self._reading, clock=clock)
        self._queue = Queue(gateway, store, self._planning, self._turns, absent=absent, clock=clock)
        self._chores: list[asyncio.Task[None]] = []

    @property
    def observation(self) -> Observation | None:
        """What was last seen of the store; None before it is open."""
        return self.store.observation

    async def open(self) -> None:
        """Make ready: once, before anything else."""
        await self.store.open()
        self._chores.append(asyncio.ensure_future(self._check()))
        self._queue.open()
        if self.meaning is not None:
            self.meaning.open()
        if self._kept_days is not None:
            self._chores.append(asyncio.ensure_future(self._tidy(self._kept_days * 86400)))

    async def aclose(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._queue.aclose()
        if self.meaning is not None:
            await self.meaning.aclose()
        await self._turns.aclose()
        await self.store.aclose()

    # -- turns --------------------------------------------------------------------------------------------------------

    async def begin(self, caller: Caller, wanted: str | None, conversation: str, ask: Ask) -> Turn:
        """A new turn: written down, and told to the host, or waiting for those before it. ``wanted`` is the
        organization that a new run is to be in.

        Raises:
            NotFound: there is no such conversation or checkpoint.
            ConversationBusy: a turn is under way, or waits.
            QueueFull: too many do.
            NotOffered: what is to be done about that cannot be done here.
            GatewayError: the host has not begun it, and the turn has failed.
        """
        owner = owner_of(caller)
        checked([*ask.messages, ask.text, ask.system_prompt, ask.options])
        there = await self.store.conversation(owner, conversation)
        if there is None:
            raise NotFound.named("Conversation", conversation)
        known = list(await self.store.turns(owner, conversation))
        if await self._is_busy(caller, owner, known):
            if ask.if_busy == "enqueue":
                return await self._enqueue(caller, owner, wanted, conversation, ask, known)
            known = await self._out_of_the_way(caller, owner, conversation, ask.if_busy)
        begun = [turn for turn in known if turn.state.begun]
        turn, new = await self._planning.plan(caller, owner, wanted, there, ask, begun)
        try:
            return await self._turns.starting.begin(caller, owner, turn, new, known[0] if known else None)
        except ConversationBusy:  # since a moment ago
            if ask.if_busy != "enqueue":
                raise
            return await self._enqueue(caller, owner, wanted, conversation, ask, known)

    async def turn(self, caller: Caller, id: str, *, settled: bool = True) -> Turn:  # noqa: A002 - as everywhere
        """A turn; as it is now (``settled``), or as it was when somebody last looked.

        Raises:
            NotFound: there is none.
        """
        owner = owner_of(caller)
        turn = await self.store.turn(owner, id)
        if turn is None:
            raise NotFound.named("Run", id)
        return await self._settled(caller, owner, turn) if settled else turn

    async def require_right(self, caller: Caller, turn: Turn) -> None:
        """To be asked before anything of a turn is told.

        Raises:
            GatewayError: the caller may not see its run, or the host cannot say so just now.
        """
        if turn.run is not None:
            await self.gateway.view(caller, turn.run.organization, turn.run.id)

    def require_good(self, caller: Caller) -> None:
        """
        Raises:
            InvalidToken: what the caller came with is good no longer.
        """
        caller.confirm()
        if caller.expires is not None and self.clock() >= caller.expires - MOMENT:
            raise InvalidToken("Authentication failed: the token or key has expired.")

    async def latest(self, caller: Caller, conversation: str) -> Turn | None:
        """The latest turn of a conversation, as it is now. Those that were withdrawn do not count."""
        owner = owner_of(caller)
        _, latest = (await self.store.ends(owner, [conversation])).get(conversation, (None, None))
        return None if latest is None else await self._settled(caller, owner, latest)

    async def turn_after(self, caller: Caller, conversation: str, number: int, *, within: float) -> Turn | None:
        """The first turn of a conversation behind number ``number``; None when there is none ``within`` seconds.

        Raises:
            NotFound: there is no such conversation (any more).
        """
        owner, deadline = owner_of(caller), loop_time() + within
        while True:
            begun = self._turns.starting.next_begun
            if await self.store.conversation(owner, conversation) is None:
                raise NotFound.named("Conversation", conversation)
            turns = await self.store.turns(owner, conversation, limit=1)
            if turns and turns[0].number > number:
                turns = await self.store.turns(owner, conversation, newest_first=False)
                return next((turn for turn in turns if turn.number > number), None)
            left = deadline - loop_time()
            if left <= 0:
                return None
            try:  # another instance may begin one
                async with asyncio.timeout(min(left, LOOK_EVERY)):
                    await begun.wait()
            except TimeoutError:
                pass

    def ask_after(self, caller: Caller, turn: Turn) -> None:
        """Look how a turn is, for whoever asks next; nobody waits."""
        owner = owner_of(caller)
        if turn.state is TurnState.RUNNING:
            self._turns.watch(caller, owner, turn)
        elif turn.state is TurnState.QUEUED:
            self._queue.see_to(caller, owner, turn.conversation)

    def waiting(self, caller: Caller, turn: Turn) -> AsyncGenerator[Turn, None]:
        """A turn that waits, every now and then; the last time it does so no longer, or this process is to be left."""
        return self._queue.waiting(caller, owner_of(caller), turn)

    def follow(self, caller: Caller, turn: Turn) -> AsyncGenerator[Progress, None]:
        """A turn from its beginning to its end, as it comes. It goes on when nobody follows it."""
        if turn.state is TurnState.QUEUED:
            return self._follow_queued(caller, turn)
        return self._turns.follow(caller, owner_of(caller), turn)

    async def stop(self, caller: Caller, turn: Turn, *, wait: bool = False) -> Turn:
        """Stop a turn, if it is not over; ``wait`` until it is. One that waits is never begun.

        Raises:
            Unsupported: the host cannot stop a run.
            ConversationBusy: it is not known yet whether the host has begun it.
        """
        return await self._turns.stop(caller, owner_of(caller), turn, wait=wait)

    async def clear(self, caller: Caller, conversation: str, *, wait: bool = False) -> Turn | None:
        """Stop what waits in a conversation, and then what is under way. The last that was stopped, if anything was.

        Raises:
            Unsupported: the host cannot stop a run.
            ConversationBusy: it is not known yet whether the host has begun it.
        """
        states = [state for state in TurnState if not state.over]
        going_on = await self.store.turns(owner_of(caller), conversation, states=states)
        stopped: Turn | None = None
        for turn in going_on:  # the newest first, so that none begins meanwhile
            stopped = await self.stop(caller, turn, wait=wait)
        return stopped

    def abandon(self, caller: Caller, turn: Turn) -> None:
        """Stop a turn for which nobody waits any more; whoever asked is gone."""
        self._turns.abandon(caller, owner_of(caller), turn)

    # -- what was said ------------------------------------------------------------------------------------------------

    async def path(self, caller: Caller, conversation: str, checkpoint: TurnCheckpoint | None = None) -> list[Stretch]:
        """The stretches of turns that lead to a checkpoint of a conversation, else to its end.

        Raises:
            NotFound: there is no such checkpoint.
        """
        owner = owner_of(caller)
        known = [turn for turn in await self.store.turns(owner, conversation) if turn.state.begun]
        if checkpoint is not None:
            return await self._path_to(caller, conversation, checkpoint, known)
        if known and known[0].state.active:
            parent = None if known[0].parent is None else TurnCheckpoint.of(known[0].parent)
            return [*await checkpoints.path(self.store, owner, parent, known), Stretch(known[0], None)]
        there = None if known else await self.store.conversation(owner, conversation)
        return await checkpoints.path(self.store, owner, latest_end(there, known), known)

    async def leading_to(self, caller: Caller, checkpoint: TurnCheckpoint) -> list[Stretch]:
        """The stretches that lead to a checkpoint, whichever conversation of the caller's it is in, as far as they are
        still there.
        """
        return await checkpoints.path(self.store, owner_of(caller), checkpoint)

    async def entries(self, caller: Caller, stretch: Stretch) -> tuple[LogEntry, ...]:
        """What has come of a turn by now, up to where the stretch goes."""
        return await self._reading.entries(caller, owner_of(caller), stretch)

    async def has(self, caller: Caller, turn: Turn, offset: int) -> bool:
        """Whether the host has such an entry of a turn, by its own word."""
        if turn.run is None:
            return False
        after = turn.begin + offset - 1
        page = await self.gateway.read_log(caller, turn.run.organization, turn.run.id, after, 1, newest_first=False)
        return bool(page.entries)

    async def steps(self, caller: Caller, stretch: Stretch) -> list[Step]:
        """The same, in the words of all hosts."""
        return [self.gateway.step(entry) for entry in await self.entries(caller, stretch)]

    async def _path_to(
        self, caller: Caller, conversation: str, checkpoint: TurnCheckpoint, known: Sequence[Turn]
    ) -> list[Stretch]:
        owner = owner_of(caller)
        path = await checkpoints.path(self.store, owner, checkpoint, known, asked_for=True)
        if any(turn.id == checkpoint.turn for turn in known):
            turn = path[-1].turn if checkpoint.offset > 0 else None
            if turn is not None and turn.end is None and not await self.has(caller, turn, checkpoint.offset):
                raise NotFound.named("TurnCheckpoint", str(checkpoint))
        elif not await self._inherits(owner, conversation, checkpoint, known):
            raise NotFound.named("TurnCheckpoint", str(checkpoint))
        return path

    async def _inherits(self, owner: str, conversation: str, checkpoint: TurnCheckpoint, known: Sequence[Turn]) -> bool:
        """Whether a checkpoint of another conversation is one that leads to this one, which is a fork of it."""
        there, ids = await self.store.conversation(owner, conversation), {turn.id for turn in known}
        parents = {turn.parent for turn in known} | {None if there is None else there.parent}
        for parent in (TurnCheckpoint.of(each) for each in parents if each is not None):
            if parent == checkpoint:
                return True
            for stretch in await checkpoints.path(self.store, owner, parent) if parent.turn not in ids else []:
                if stretch.turn.id == checkpoint.turn and (stretch.upto is None or checkpoint.offset <= stretch.upto):
                    return True
        return False

    async def _settled(self, caller: Caller, owner: str, turn: Turn) -> Turn:
        """The turn as it is now. What waits is seen to."""
        if turn.state is not TurnState.QUEUED:
            return await self._turns.settled(caller, owner, turn)
        self._queue.see_to(caller, owner, turn.conversation)
        return turn

    async def _is_busy(self, caller: Caller, owner: str, known: list[Turn]) -> bool:
        """Whether a turn is under way or waits; the one that was under way is in ``known`` as it is now."""
        for place, turn in enumerate(known):
            if turn.state.active:
                known[place] = await self._turns.settled(caller, owner, turn)
            elif turn.state is TurnState.QUEUED:
                self._queue.see_to(caller, owner, turn.conversation)
        return any(not turn.state.over for turn in known)

    async def _enqueue(
        self, caller: Caller, owner: str, wanted: str | None, conversation: str, ask: Ask, known: Sequence[Turn]
    ) -> Turn:
        if ask.checkpoint is not None:
            await checkpoints.path(self.store, owner, ask.checkpoint, known, asked_for=True)
        return await self._queue.add(caller, owner, wanted, conversation, ask)

    async def _out_of_the_way(self, caller: Caller, owner: str, conversation: str, if_busy: str) -> list[Turn]:
        """The turns of a conversation, when none of them is under way or waits any more."""
        if if_busy == "reject":
            raise ConversationBusy
        if if_busy != "interrupt" or not self.gateway.can_cancel:
            raise NotOffered(f"A turn is under way, and the gateway cannot do this about it: {if_busy}.")
        turn = await self.clear(caller, conversation, wait=True)
        if turn is not None and turn.state.active:
            raise ConversationBusy("The turn that is under way was stopped, and has not ended yet; ask again.")
        return list(await self.store.turns(owner, conversation))

    async def _follow_queued(self, caller: Caller, turn: Turn) -> AsyncGenerator[Progress, None]:
        async with aclosing(self.waiting(caller, turn)) as looks:
            async for turn in looks:  # noqa: PLR1704 - it is the same one, as it is now
                if turn.state is TurnState.QUEUED:
                    yield Quiet()
        if turn.state is TurnState.QUEUED:
            yield Leaving(Position(0))
            return
        async with aclosing(self.follow(caller, turn)) as progress:
            async for news in progress:
                yield news

    async def _check(self) -> None:
        while True:
            for _ in range(CHECKED_AFTER):
                await asyncio.sleep(WATCH_EVERY)
                if self.observation is not None and not self.observation.reachable:
                    break
            try:
                await self.store.check()
            except StoreUnavailable:  # which is observed and logged where it is found
                pass
            except Exception as error:  # task boundary: the next look may tell
                log_fault("looking whether the store is there", error)

    async def _tidy(self, seconds: float) -> None:
        while True:
            try:
                removed = await self.store.expire(self.clock() - seconds)
                if removed:
                    logger.info("%d conversations were removed, untouched for long", removed)
            except Exception as error:  # task boundary: the next time it may work
                log_fault("removing old conversations", error)
            await asyncio.sleep(TIDY_EVERY)
