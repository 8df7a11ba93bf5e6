"""Conversations for dialects that keep state: with whom, what was said, and where each turn is in the log of a run.

The first turn creates a run at the host, later ones resume it. Nothing that the host keeps is stored: what came of a
turn is a stretch of that run's log, read when somebody wants it. Everything belongs to a principal, and to others it
does not exist; on the way to a log the gateway asks for the caller's right besides.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from codegen_api.conversations import checkpoints
from codegen_api.conversations.caller_store import CallerStore, checked, owner_of
from codegen_api.conversations.checkpoints import Stretch, TurnCheckpoint, parent_of
from codegen_api.conversations.chores import keep_checking, keep_tidy
from codegen_api.conversations.late_changes import LateChanges, TurnChanges
from codegen_api.conversations.planning import Ask, Planning, latest_end
from codegen_api.conversations.progress import Progress, pending_in, read_behind
from codegen_api.conversations.queueing import AbsentCallers, Queue, either
from codegen_api.conversations.semantic_search import SemanticSearch
from codegen_api.conversations.starting import LOOK_EVERY
from codegen_api.conversations.turn_events import RenderCache
from codegen_api.conversations.turns import Turns
from codegen_api.embeddings import Embedder
from codegen_api.errors import ConversationBusy, InvalidToken, NotFound, NotOffered, StreamCut
from codegen_api.following import Attendant, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import LogEntry, Step
from codegen_api.stores import Item, Near, Store, Talk, Turn, TurnState
from codegen_api.telemetry import Observation
from codegen_api.upstreams import PendingRequest

ASKED_AFTER = 10
"""Of a list, so many turns that go on are looked after."""

EXPIRY_SLACK = 1.0
"""Seconds before its end in which a credential counts as expired. A stream ends with the credential by the event loop's
clock, and may end a little early: this is more than both can be apart.
"""


class Conversations:
    """What all callers' conversations share. ``of`` gives those of one caller.

    Conversations that nobody touched for ``kept_days`` are removed; None keeps them. ``turns_bytes`` of
    turns that are over are kept, and ``rendered_bytes`` of what dialects make of entries. ``absent`` is as in
    ``Queue``. With an ``embedder`` items are found by meaning. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        *,
        kept_days: float | None = None,
        turns_bytes: int = 16 * 1024 * 1024,
        rendered_bytes: int = 16 * 1024 * 1024,
        absent: AbsentCallers | None = None,
        embedder: Embedder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gateway = gateway
        self.store = store
        self.clock = clock
        self.search = None if embedder is None else SemanticSearch(store, embedder)
        self.turns = Turns(gateway, max_bytes=turns_bytes, clock=clock)
        self.late_changes = LateChanges()
        self.rendered = RenderCache(rendered_bytes)
        self.planning = Planning(gateway, self.turns, clock)
        self.queue = Queue(gateway, store, self.planning, self.turns, absent, clock)
        self._kept_days = kept_days
        self._chores: list[asyncio.Task[None]] = []

    def of(self, caller: Caller) -> "CallerConversations":
        return CallerConversations(caller, owner_of(caller), self.store, self)

    @property
    def observation(self) -> Observation | None:
        """What was last seen of the store; None before it is open."""
        return self.store.observation

    async def open(self) -> None:
        """Make ready: once, before anything else."""
        await self.store.open()
        chores = [keep_checking(self.store)]
        if self.queue.absent is not None:
            chores.append(self.queue.look_round(self.queue.absent))
        if self.search is not None:
            chores.append(self.search.work())
        if self._kept_days is not None:
            chores.append(keep_tidy(self.store, self._kept_days * 86400, self.clock))
        self._chores += map(asyncio.ensure_future, chores)

    async def aclose(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.queue.aclose()
        if self.search is not None:
            await self.search.embedder.aclose()
        await self.turns.aclose()
        await self.store.aclose()


@dataclass(frozen=True)
class CallerConversations(CallerStore):
    """The one door for dialects: what is kept for a caller, their turns, and what was said in them."""

    shared: Conversations

    def clock(self) -> float:
        """Seconds since the epoch."""
        return self.shared.clock()

    def step(self, entry: LogEntry) -> Step:
        return self.shared.gateway.step(entry)

    @property
    def rendered(self) -> RenderCache:
        return self.shared.rendered

    def changes_of(self, turn: Turn) -> TurnChanges:
        """What was seen to change in a turn after it was told."""
        return self.shared.late_changes.of(turn.id)

    async def organization(self, wanted: str | None) -> str:
        """The organization that is ``wanted``, or else meant."""
        return await self.shared.gateway.accounts.organization(self.caller, wanted)

    def attend(self) -> AbstractAsyncContextManager[Attendant]:
        """A viewer's place, for who waits until there is something to follow."""
        return self.shared.gateway.attend(self.caller)

    @property
    def finds_by_meaning(self) -> bool:
        return self.shared.search is not None

    async def put_item(self, item: Item) -> None:
        await self.store.put_item(self.owner, item)
        if self.shared.search is not None:
            self.shared.search.wake()

    async def nearest(self, prefix: Sequence[str], question: str, limit: int) -> Sequence[Near] | None:
        search = self.shared.search
        return None if search is None else await search.nearest(self.owner, prefix, question, limit)

    # -- turns --------------------------------------------------------------------------------------------------------

    async def begin(self, wanted: str | None, conversation: str | Talk, ask: Ask) -> Turn:
        """A new turn: written down, and told to the host, or waiting for those before it. ``wanted`` is the
        organization that a new run is to be in, ``conversation`` one that is stored or all that is known of it.

        Raises:
            Overtaken: it is to be added or changed, and others did that.
            NotFound: there is no such conversation or checkpoint.
            ConversationBusy: a turn is under way, or waits. ``QueueFull``: too many do.
            NotOffered: what is to be done about that cannot be done here.
            Conflict: its run waits for an answer, and nothing is said. ``Rejected``: images are said.
            GatewayError: the host has not begun it, and the turn has failed.
        """
        checked([*ask.messages, ask.text, ask.system_prompt, ask.options])
        if isinstance(conversation, str):
            conversation = NotFound.unless(await self.talk(conversation), "Conversation", conversation)
        there = conversation.conversation
        known = [turn if turn.state.over else await self._settled(turn) for turn in conversation.turns]
        if not all(turn.state.over for turn in known):
            if ask.if_busy == "enqueue":
                return await self._enqueue(wanted, conversation, ask, known)
            known = await self._out_of_the_way(there.id, ask.if_busy)
        begun = [turn for turn in known if turn.state.begun]
        plan = await self.shared.planning.plan(self, wanted, there, ask, begun)
        talk = replace(conversation, turns=known)
        try:
            return await self.shared.turns.starting.begin(self, plan, talk)
        except ConversationBusy:  # since a moment ago
            if ask.if_busy != "enqueue":
                raise
            return await self._enqueue(wanted, talk, ask, known)

    async def settled_talk(self, conversation: str) -> Talk | None:
        """A conversation and its turns, the latest as it is now. Those that were withdrawn do not count."""
        talk = await self.talk(conversation)
        if talk is None or talk.latest is None or talk.latest.state.over:
            return talk
        await self._settled(talk.latest)
        return await self.talk(conversation)

    async def find_turn(self, id: str, *, settled: bool = True) -> Turn:  # noqa: A002 - as everywhere
        """A turn, as it is now (``settled``) or was when last looked at; raises ``NotFound`` where there is none."""
        turn = NotFound.unless(await self.turn(id), "Run", id)
        return await self._settled(turn) if settled else turn

    async def require_right(self, turn: Turn) -> None:
        """To be asked before anything of a turn is told: raises ``GatewayError`` where the caller may not see its run,
        or the host cannot say so just now.
        """
        if turn.run is not None:
            await self.shared.gateway.view(self.caller, turn.run.organization, turn.run.id)

    async def as_it_is(self, turn: Turn) -> Turn:
        """The turn as it is now, for who may see its run. Raises what ``require_right`` does."""
        await self.require_right(turn)
        return await self.find_turn(turn.id)

    def require_good(self) -> None:
        """Raises ``InvalidToken``: what the caller came with is good no longer."""
        self.caller.confirm()
        if self.caller.expires is not None and self.clock() >= self.caller.expires - EXPIRY_SLACK:
            raise InvalidToken("Authentication failed: the token or key has expired.")

    async def latest(self, conversation: str) -> Turn | None:
        """The latest turn of a conversation, as it is now. Those that were withdrawn do not count."""
        _, latest = (await self.ends([conversation])).get(conversation, (None, None))
        return None if latest is None else await self._settled(latest)

    async def turn_after(
        self, conversation: str, number: int, *, within: float, leaving: asyncio.Event | None = None
    ) -> Turn | None:
        """The first turn of a conversation behind number ``number``; None when there is none ``within`` seconds. Raises
        ``NotFound`` without such a conversation (any more), and ``StreamCut`` when it is time for ``leaving``.
        """
        deadline = loop_time() + within
        while True:
            begun = self.shared.turns.starting.next_begun
            if leaving is not None and leaving.is_set():
                raise StreamCut(is_shutdown=True)
            NotFound.unless(await self.conversation(conversation), "Conversation", conversation)
            turns = await self.turns(conversation, limit=1)
            if turns and turns[0].number > number:
                turns = await self.turns(conversation, newest_first=False)
                return next((turn for turn in turns if turn.number > number), None)
            left = deadline - loop_time()
            if left <= 0:
                return None
            # another instance may begin one
            await either(begun, leaving, within=min(left, LOOK_EVERY))

    async def overview(self, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        """The first and the latest turn of each, as of when somebody last looked. Some that go on are looked after, for
        whoever asks again.
        """
        ends = await self.ends(conversations)
        for turn in [latest for _, latest in ends.values() if not latest.state.over][:ASKED_AFTER]:
            self.ask_after(turn)
        return ends

    def ask_after(self, turn: Turn) -> None:
        """Look how a turn is, for whoever asks next; nobody waits."""
        if turn.state is TurnState.RUNNING:
            self.shared.turns.watch(self, turn)
        elif turn.state is TurnState.QUEUED:
            self.shared.queue.see_to(self, turn.conversation)

    def waiting(self, turn: Turn) -> AsyncGenerator[Turn, None]:
        """As ``Queue.waiting``."""
        return self.shared.queue.waiting(self, turn)

    def follow(self, turn: Turn) -> AsyncGenerator[Progress, None]:
        """A turn from its beginning to its end, as it comes. It goes on when nobody follows it."""
        if turn.state is TurnState.QUEUED:
            return self.shared.queue.follow(self, turn)
        return self.shared.turns.follow(self, turn)

    async def stop(self, turn: Turn, *, wait: bool = False) -> Turn:
        """Stop a turn, if it is not over; ``wait`` until it is. One that waits is never begun. Raises ``Unsupported``
        where the host cannot, and ``ConversationBusy`` while it is not known whether the host has begun it.
        """
        return await self.shared.turns.stop(self, turn, wait=wait)

    @property
    def can_stop(self) -> bool:
        return self.shared.gateway.can_cancel

    async def cancel_run(self, turn: Turn) -> None:
        """Stop the run of a turn that is over and whose run waits; raises ``Unsupported`` where the host cannot."""
        if turn.run is not None:
            await self.shared.gateway.cancel(self.caller, turn.run.organization, turn.run.id)

    async def clear(self, conversation: str, *, wait: bool = False) -> Turn | None:
        """Stop what waits in a conversation, and then what is under way. The last that was stopped, if anything was.
        Raises what ``stop`` does.
        """
        states = [state for state in TurnState if not state.over]
        going_on = await self.turns(conversation, states=states)
        stopped: Turn | None = None
        for turn in going_on:  # the newest first, so that none begins meanwhile
            stopped = await self.stop(turn, wait=wait)
        return stopped

    async def delete_conversation(self, id: str) -> bool:  # noqa: A002 - as everywhere
        """Whether there was one. What waits in it is never begun, and what is under way stopped, where the host can."""
        if self.can_stop:
            await self.clear(id)
        return await self.remove_conversation(id)

    def abandon(self, turn: Turn) -> None:
        """Stop a turn for which nobody waits any more; whoever asked is gone."""
        self.shared.turns.abandon(self, turn)

    # -- what was said ------------------------------------------------------------------------------------------------

    async def path(self, conversation: str, checkpoint: TurnCheckpoint | None = None) -> list[Stretch]:
        """The stretches that lead to a checkpoint of a conversation, or raises ``NotFound``; else to its end."""
        known = [turn for turn in await self.turns(conversation) if turn.state.begun]
        if checkpoint is not None:
            return await checkpoints.path_within(self, conversation, checkpoint, known, self.has)
        if known and known[0].state.active:
            return [*await checkpoints.path(self, parent_of(known[0]), known), Stretch(known[0], None)]
        there = None if known else await self.conversation(conversation)
        return await checkpoints.path(self, latest_end(there, known), known)

    async def leading_to(self, checkpoint: TurnCheckpoint, conversation: str | None = None) -> list[Stretch]:
        """The stretches that lead to a checkpoint, whichever conversation of the caller's it is in, as far as they are
        still there. The turns of ``conversation``, in which most of them are, are read at once.
        """
        known = () if conversation is None else await self.turns(conversation)
        return await checkpoints.path(self, checkpoint, known)

    async def entries(self, stretch: Stretch) -> tuple[LogEntry, ...]:
        """What has come of a turn by now, up to where the stretch goes."""
        return await self.shared.turns.entries(self, stretch)

    async def has(self, turn: Turn, offset: int) -> bool:
        """Whether the host has such an entry of a turn, by its own word."""
        if turn.run is None:
            return False
        page = await read_behind(self.shared.gateway, self.caller, turn.run, turn.begin + offset - 1, 1)
        return bool(page.entries)

    async def steps(self, stretch: Stretch) -> list[Step]:
        """The same, in the words of all hosts."""
        return [self.step(entry) for entry in await self.entries(stretch)]

    async def _settled(self, turn: Turn) -> Turn:
        """The turn as it is now. What waits is seen to."""
        if turn.state is not TurnState.QUEUED:
            return await self.shared.turns.settled(self, turn)
        self.shared.queue.see_to(self, turn.conversation)
        return turn

    async def _enqueue(self, wanted: str | None, talk: Talk, ask: Ask, known: Sequence[Turn]) -> Turn:
        if ask.checkpoint is not None:
            await checkpoints.path(self, ask.checkpoint, known, asked_for=True)
        return await self.shared.queue.add(self, wanted, talk, ask)

    async def _out_of_the_way(self, conversation: str, if_busy: str) -> list[Turn]:
        """The turns of a conversation, when none of them is under way or waits any more."""
        if if_busy == "reject":
            raise ConversationBusy
        if if_busy != "interrupt" or not self.can_stop:
            raise NotOffered(f"A turn is under way, and the gateway cannot do this about it: {if_busy}.")
        turn = await self.clear(conversation, wait=True)
        if turn is not None and turn.state.active:
            raise ConversationBusy("The turn that is under way was stopped, and has not ended yet; ask again.")
        return list(await self.turns(conversation))


async def pending_of(conversations: CallerConversations, turn: Turn) -> Sequence[PendingRequest]:
    """What the run of a turn waits for, oldest first. Nothing where the host does not say so, and for a turn that is
    not the last of its conversation: what it waited for was decided.
    """
    if turn.state is not TurnState.WAITING or turn.run is None:
        return ()
    _, latest = (await conversations.ends([turn.conversation])).get(turn.conversation, (None, None))
    if latest is None or latest.id != turn.id:
        return ()
    return await pending_in(conversations.shared.gateway, conversations.caller, turn.run)
