"""Conversations for dialects that keep state: the agent, the user's messages, and where each turn is in a run's log.

The first turn creates a run at the host, later turns resume it. Nothing that the host keeps is stored: the agent's part
of a turn is a stretch of the run's log, read on demand. Everything belongs to one principal and does not exist for
others. Before a log is read, the gateway also checks the caller's right to see the run.
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

MOST_REFRESHED = 10
"""How many unfinished turns of a list are refreshed."""

EXPIRY_SLACK = 1.0
"""A credential counts as expired this many seconds early. A stream ends with its credential by the event loop's clock,
which can be slightly ahead of the time of day; the difference is always less than this.
"""


class Conversations:
    """What the conversations of all callers share. ``of`` returns those of one caller.

    Conversations untouched for ``kept_days`` are removed; None keeps them. The caches hold ``turns_bytes`` of ended
    turns and ``rendered_bytes`` of entries as dialects rendered them. ``absent`` is as in ``Queue``. An ``embedder``
    enables search by meaning. ``clock`` returns seconds since the epoch.
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
        """The last observation of the store; None before it is open."""
        return self.store.observation

    async def open(self) -> None:
        """Open the store and start the background tasks. Call it once, before anything else."""
        await self.store.open()
        chores = [keep_checking(self.store)]
        if self.queue.absent is not None:
            chores.append(self.queue.sweep(self.queue.absent))
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
    """Everything a dialect can do for one caller: what is stored for them, their turns, and the entries of those."""

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
        """The entries of a turn that this process saw change after they were sent."""
        return self.shared.late_changes.of(turn.id)

    async def organization(self, wanted: str | None) -> str:
        """The ``wanted`` organization, or the caller's default."""
        return await self.shared.gateway.accounts.organization(self.caller, wanted)

    def attend(self) -> AbstractAsyncContextManager[Attendant]:
        """Count as a viewer while waiting for something to follow."""
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
        """Store a new turn, then start it at the host, or queue it behind the turns before it.

        ``wanted`` is the organization for a new run. ``conversation`` is the id of a stored one, or a ``Talk``.

        Raises:
            Overtaken: the conversation was added or changed by someone else first.
            NotFound: there is no such conversation or checkpoint.
            ConversationBusy: a turn is in progress or queued. ``QueueFull``: too many are queued.
            NotOffered: ``ask.if_busy`` is not possible here.
            Conflict: the run waits for an answer, and ``ask`` has no text. ``Rejected``: it has images.
            GatewayError: the host did not start the turn, which has failed.
        """
        checked([*ask.messages, ask.text, ask.system_prompt, ask.options])
        if isinstance(conversation, str):
            conversation = NotFound.unless(await self.talk(conversation), "Conversation", conversation)
        stored = conversation.conversation
        known = [turn if turn.state.over else await self._settled(turn) for turn in conversation.turns]
        if not all(turn.state.over for turn in known):
            if ask.if_busy == "enqueue":
                return await self._enqueue(wanted, conversation, ask, known)
            known = await self._make_way(stored.id, ask.if_busy)
        begun = [turn for turn in known if turn.state.begun]
        plan = await self.shared.planning.plan(self, wanted, stored, ask, begun)
        talk = replace(conversation, turns=known)
        try:
            return await self.shared.turns.starting.begin(self, plan, talk)
        except ConversationBusy:  # since a moment ago
            if ask.if_busy != "enqueue":
                raise
            return await self._enqueue(wanted, talk, ask, known)

    async def settled_talk(self, conversation: str) -> Talk | None:
        """A conversation and its turns, without withdrawn ones. The latest turn is brought up to date first."""
        talk = await self.talk(conversation)
        if talk is None or talk.latest is None or talk.latest.state.over:
            return talk
        await self._settled(talk.latest)
        return await self.talk(conversation)

    async def find_turn(self, id: str, *, settled: bool = True) -> Turn:  # noqa: A002 - as everywhere
        """A turn, brought up to date if ``settled``, else as stored. Raises ``NotFound`` if there is none."""
        turn = NotFound.unless(await self.turn(id), "Run", id)
        return await self._settled(turn) if settled else turn

    async def require_right(self, turn: Turn) -> None:
        """Raise ``GatewayError`` if the caller may not see the turn's run, or the host cannot say so now. Call this
        before sending anything about a turn.
        """
        if turn.run is not None:
            await self.shared.gateway.view(self.caller, turn.run.organization, turn.run.id)

    async def as_it_is(self, turn: Turn) -> Turn:
        """The turn, brought up to date. Raises what ``require_right`` does."""
        await self.require_right(turn)
        return await self.find_turn(turn.id)

    def require_good(self) -> None:
        """Raise ``InvalidToken`` if the caller's token or key is no longer valid."""
        self.caller.confirm()
        if self.caller.expires is not None and self.clock() >= self.caller.expires - EXPIRY_SLACK:
            raise InvalidToken("Authentication failed: the token or key has expired.")

    async def latest(self, conversation: str) -> Turn | None:
        """The latest turn of a conversation that was not withdrawn, brought up to date."""
        _, latest = (await self.ends([conversation])).get(conversation, (None, None))
        return None if latest is None else await self._settled(latest)

    async def turn_after(
        self, conversation: str, number: int, *, within: float, leaving: asyncio.Event | None = None
    ) -> Turn | None:
        """Wait for the first turn after turn ``number``; None if none begins ``within`` seconds. Raises ``NotFound`` if
        the conversation does not exist (any more), and ``StreamCut`` when ``leaving`` is set.
        """
        deadline = loop_time() + within
        while True:
            changed = self.shared.turns.starting.next_change
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
            # another instance may begin a turn, which sets no event here
            await either(changed, leaving, within=min(left, LOOK_EVERY))

    async def overview(self, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        """The first and the latest turn of each, as stored. Some unfinished ones are refreshed for the next request."""
        ends = await self.ends(conversations)
        for turn in [latest for _, latest in ends.values() if not latest.state.over][:MOST_REFRESHED]:
            self.refresh(turn)
        return ends

    def refresh(self, turn: Turn) -> None:
        """Bring a turn up to date in the background, for the next request."""
        if turn.state is TurnState.RUNNING:
            self.shared.turns.watch(self, turn)
        elif turn.state is TurnState.QUEUED:
            self.shared.queue.serve(self, turn.conversation)

    def waiting(self, turn: Turn) -> AsyncGenerator[Turn, None]:
        """As ``Queue.waiting``."""
        return self.shared.queue.waiting(self, turn)

    def follow(self, turn: Turn) -> AsyncGenerator[Progress, None]:
        """Follow a turn from its beginning to its end. The turn goes on when nobody follows it."""
        if turn.state is TurnState.QUEUED:
            return self.shared.queue.follow(self, turn)
        return self.shared.turns.follow(self, turn)

    async def stop(self, turn: Turn, *, wait: bool = False) -> Turn:
        """Stop a turn that is not over, and ``wait`` for its end. A queued turn is withdrawn. Raises ``Unsupported`` if
        the host cannot stop runs, and ``ConversationBusy`` while it is unknown whether the host has started the turn.
        """
        return await self.shared.turns.stop(self, turn, wait=wait)

    @property
    def can_stop(self) -> bool:
        return self.shared.gateway.can_cancel

    async def cancel_run(self, turn: Turn) -> None:
        """Cancel the waiting run of a turn that is over. Raises ``Unsupported`` if the host cannot."""
        if turn.run is not None:
            await self.shared.gateway.cancel(self.caller, turn.run.organization, turn.run.id)

    async def clear(self, conversation: str, *, wait: bool = False) -> Turn | None:
        """Stop all turns of a conversation that are not over, and return the last one stopped, if any. Raises what
        ``stop`` does.
        """
        states = [state for state in TurnState if not state.over]
        stopped: Turn | None = None
        for turn in await self.turns(conversation, states=states):  # newest first, so that no queued one begins
            stopped = await self.stop(turn, wait=wait)
        return stopped

    async def delete_conversation(self, id: str) -> bool:  # noqa: A002 - as everywhere
        """Delete a conversation, and say whether it existed. Its unfinished turns are stopped, if the host can."""
        if self.can_stop:
            await self.clear(id)
        return await self.remove_conversation(id)

    def abandon(self, turn: Turn) -> None:
        """Stop, in the background, a turn whose client has disconnected."""
        self.shared.turns.abandon(self, turn)

    # -- what was said ------------------------------------------------------------------------------------------------

    async def path(self, conversation: str, checkpoint: TurnCheckpoint | None = None) -> list[Stretch]:
        """The stretches that lead to a checkpoint of a conversation, or without one to its end. Raises ``NotFound``."""
        known = [turn for turn in await self.turns(conversation) if turn.state.begun]
        if checkpoint is not None:
            return await checkpoints.path_within(self, conversation, checkpoint, known, self.has)
        if known and known[0].state.active:
            return [*await checkpoints.path(self, parent_of(known[0]), known), Stretch(known[0], None)]
        stored = None if known else await self.conversation(conversation)
        return await checkpoints.path(self, latest_end(stored, known), known)

    async def leading_to(self, checkpoint: TurnCheckpoint, conversation: str | None = None) -> list[Stretch]:
        """The stretches that lead to a checkpoint in any of the caller's conversations, without those since removed.
        The turns of ``conversation``, to which most of them belong, are read in one call.
        """
        known = () if conversation is None else await self.turns(conversation)
        return await checkpoints.path(self, checkpoint, known)

    async def entries(self, stretch: Stretch) -> tuple[LogEntry, ...]:
        """The entries of a stretch that exist by now."""
        return await self.shared.turns.entries(self, stretch)

    async def has(self, turn: Turn, offset: int) -> bool:
        """Ask the host whether a turn has an entry ``offset``."""
        if turn.run is None:
            return False
        page = await read_behind(self.shared.gateway, self.caller, turn.run, turn.begin + offset - 1, 1)
        return bool(page.entries)

    async def steps(self, stretch: Stretch) -> list[Step]:
        """The entries of a stretch as ``Step``s, which are the same for all hosts."""
        return [self.step(entry) for entry in await self.entries(stretch)]

    async def _settled(self, turn: Turn) -> Turn:
        """The turn, brought up to date. The queue of a queued turn is served in the background."""
        if turn.state is not TurnState.QUEUED:
            return await self.shared.turns.settled(self, turn)
        self.shared.queue.serve(self, turn.conversation)
        return turn

    async def _enqueue(self, wanted: str | None, talk: Talk, ask: Ask, known: Sequence[Turn]) -> Turn:
        if ask.checkpoint is not None:
            await checkpoints.path(self, ask.checkpoint, known, asked_for=True)
        return await self.shared.queue.add(self, wanted, talk, ask)

    async def _make_way(self, conversation: str, if_busy: str) -> list[Turn]:
        """Stop the unfinished turns of a conversation, and return all its turns. Raises what ``begin`` does."""
        if if_busy == "reject":
            raise ConversationBusy
        if if_busy != "interrupt" or not self.can_stop:
            raise NotOffered(f"A turn is under way, and the gateway cannot do this about it: {if_busy}.")
        turn = await self.clear(conversation, wait=True)
        if turn is not None and turn.state.active:
            raise ConversationBusy("The turn that is under way was stopped, and has not ended yet; ask again.")
        return list(await self.turns(conversation))


async def pending_of(conversations: CallerConversations, turn: Turn) -> Sequence[PendingRequest]:
    """The requests that a turn's run waits for, oldest first. Empty if the host does not tell them, and for a turn that
    is not the latest of its conversation: its requests have been decided.
    """
    if turn.state is not TurnState.WAITING or turn.run is None:
        return ()
    _, latest = (await conversations.ends([turn.conversation])).get(turn.conversation, (None, None))
    if latest is None or latest.id != turn.id:
        return ()
    return await pending_in(conversations.shared.gateway, conversations.caller, turn.run)
