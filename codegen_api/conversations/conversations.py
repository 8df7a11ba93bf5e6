"""Conversations for dialects that keep state: with whom, what was said, and where each turn is in the log of a run.

The first turn creates a run at the host, later ones resume it. Nothing that the host keeps is stored: what came of a
turn is a stretch of that run's log, read when somebody wants it. Everything belongs to a principal, and to others it
does not exist; on the way to a log the gateway asks for the caller's right besides.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from cachetools import LRUCache

from codegen_api.conversations import checkpoints
from codegen_api.conversations.checkpoints import Checkpoint, Stretch, end_of
from codegen_api.conversations.progress import Caught, Over, Progress
from codegen_api.conversations.prompts import with_system_prompt, with_transcript
from codegen_api.conversations.turns import LOOK_EVERY, Turns
from codegen_api.errors import ConversationBusy, NotFound, NotOffered, Rejected
from codegen_api.following import Leaving, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import Cursor, Json, LogEntry, Step, StepKind, to_json
from codegen_api.stores import Agent, Busy, Store, Turn, TurnState, storable
from codegen_api.telemetry import log_fault, logger
from codegen_api.upstreams import NewRun

KEPT_BYTES = 32 * 1024 * 1024
"""What is kept of turns that are over, for whoever reads a conversation again."""

SETTLING = 60.0
"""Seconds after its end in which the host may still fill in entries of a turn."""

FRESH = 5.0
"""Seconds for which such a turn is not read again."""

TIDY_EVERY = 3600.0

USER = "User"
GO_ON = "Go on."
"""What the host is told when nothing is said and there is nothing to be said again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a turn is to be.

    ``messages`` are what the user said, as it is shown; ``text`` and ``images`` what the host is told of it. Without a
    text, what the user said last is said again. ``agent``'s system prompt goes before the first prompt of a run, or
    ``system_prompt`` in its place. ``checkpoint`` is where to go on, else at the end of the conversation. ``if_busy``
    says what to do about a turn that is under way: ``reject``, ``interrupt``, ``enqueue`` or ``rollback``. ``run`` has
    what else a new run is to have. ``options`` are the dialect's.
    """

    messages: Sequence[Mapping[str, Json]]
    text: str
    images: tuple[str, ...] = ()
    agent: Agent | None = None
    system_prompt: str | None = None
    checkpoint: Checkpoint | None = None
    if_busy: str = "reject"
    run: NewRun = field(default_factory=lambda: NewRun(""))
    options: Mapping[str, Json] = field(default_factory=dict)


def owner_of(caller: Caller) -> str:
    """To whom things belong: the same whatever token they use, and it tells nobody who that is."""
    return hashlib.sha256(to_json([caller.principal.authority, caller.principal.user])).hexdigest()


def new_id() -> str:
    return str(uuid.uuid4())


def checked(value: Json) -> None:
    """
    Raises:
        Rejected: no database can keep this.
    """
    if not storable(value):
        raise Rejected("A text holds a character that cannot be kept: NUL, or half of a surrogate pair.")


class Conversations:
    """The one door for dialects to turns and what was said in them. Agents, conversations and items are in ``store``.

    Conversations that nobody touched for ``kept_days`` are removed; None keeps them. ``clock`` gives seconds since the
    epoch.
    """

    def __init__(
        self,
        gateway: Gateway,
        store: Store,
        *,
        kept_days: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gateway = gateway
        self.store = store
        self.clock = clock
        self._kept_days = kept_days
        self._turns = Turns(gateway, store, clock=clock)
        self._kept: LRUCache[str, tuple[float, tuple[LogEntry, ...]]] = LRUCache(KEPT_BYTES, getsizeof=_size)
        self._begun = asyncio.Event()
        self._tidying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make ready: once, before anything else."""
        await self.store.open()
        if self._kept_days is not None:
            self._tidying = asyncio.ensure_future(self._tidy(self._kept_days * 86400))

    async def aclose(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.wait({self._tidying})
        await self._turns.aclose()
        await self.store.aclose()

    # -- turns --------------------------------------------------------------------------------------------------------

    async def begin(self, caller: Caller, wanted: str | None, conversation: str, ask: Ask) -> Turn:
        """A new turn: written down, and told to the host. ``wanted`` is the organization that a new run is to be in.

        Raises:
            NotFound: there is no such conversation or checkpoint.
            ConversationBusy: a turn is under way.
            NotOffered: what is to be done about that cannot be done here.
            GatewayError: the host has not begun it, and the turn has failed.
        """
        owner = owner_of(caller)
        checked([*ask.messages, ask.text, ask.options])
        if await self.store.conversation(owner, conversation) is None:
            raise NotFound("There is no such conversation.")
        known = await self.store.turns(owner, conversation)
        if known and known[0].state.active:
            known = [await self._out_of_the_way(caller, owner, known[0], ask.if_busy), *known[1:]]
        checkpoint = ask.checkpoint or _latest(known)
        turn, new = await self._planned(caller, wanted, conversation, ask, checkpoint, known)
        try:
            turn = await self.store.add_turn(owner, turn)
        except Busy as busy:
            raise ConversationBusy from busy
        except KeyError as gone:
            raise NotFound("There is no such conversation.") from gone
        begun, self._begun = self._begun, asyncio.Event()
        begun.set()
        return await self._turns.start(caller, owner, turn, new)

    async def turn(self, caller: Caller, id: str, *, settled: bool = True) -> Turn:  # noqa: A002 - as everywhere
        """A turn; as it is now (``settled``), or as it was when somebody last looked.

        Raises:
            NotFound: there is none.
        """
        owner = owner_of(caller)
        turn = await self.store.turn(owner, id)
        if turn is None:
            raise NotFound("There is no such turn.")
        return await self._turns.settled(caller, owner, turn) if settled and turn.state.active else turn

    async def latest(self, caller: Caller, conversation: str) -> Turn | None:
        """The latest turn of a conversation, as it is now."""
        owner = owner_of(caller)
        turns = await self.store.turns(owner, conversation, limit=1)
        return await self._turns.settled(caller, owner, turns[0]) if turns else None

    async def turn_after(self, caller: Caller, conversation: str, number: int, *, within: float) -> Turn | None:
        """The first turn of a conversation behind number ``number``; None when there is none ``within`` seconds.

        Raises:
            NotFound: there is no such conversation (any more).
        """
        owner, deadline = owner_of(caller), loop_time() + within
        while True:
            begun = self._begun
            if await self.store.conversation(owner, conversation) is None:
                raise NotFound("There is no such conversation.")
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
        if turn.state is TurnState.RUNNING:
            self._turns.watch(caller, owner_of(caller), turn)

    def follow(self, caller: Caller, turn: Turn) -> AsyncGenerator[Progress, None]:
        """A turn from its beginning to its end, as it comes. It goes on when nobody follows it."""
        return self._turns.follow(caller, owner_of(caller), turn)

    async def stop(self, caller: Caller, turn: Turn, *, wait: bool = False) -> Turn:
        """Stop a turn, if it is not over; ``wait`` until it is.

        Raises:
            Unsupported: the host cannot stop a run.
            ConversationBusy: it is not known yet whether the host has begun it.
        """
        return await self._turns.stop(caller, owner_of(caller), turn, wait=wait)

    def abandon(self, caller: Caller, turn: Turn) -> None:
        """Stop a turn for which nobody waits any more; whoever asked is gone."""
        self._turns.abandon(caller, owner_of(caller), turn)

    # -- what was said ------------------------------------------------------------------------------------------------

    async def path(self, caller: Caller, conversation: str, checkpoint: Checkpoint | None = None) -> list[Stretch]:
        """The stretches of turns that lead to a checkpoint of a conversation, else to its end.

        Raises:
            NotFound: there is no such checkpoint.
        """
        owner = owner_of(caller)
        known = await self.store.turns(owner, conversation)
        if checkpoint is None and known and known[0].state.active:
            parent = None if known[0].parent is None else Checkpoint.of(known[0].parent)
            return [*await checkpoints.path(self.store, owner, parent, known), Stretch(known[0], None)]
        if checkpoint is None:
            checkpoint = _latest(known)
        elif not any(turn.id == checkpoint.turn for turn in known):
            raise NotFound("There is no such checkpoint.")
        return await checkpoints.path(self.store, owner, checkpoint, known)

    async def leading_to(self, caller: Caller, checkpoint: Checkpoint) -> list[Stretch]:
        """The stretches that lead to a checkpoint, whichever conversation of the caller's it is in."""
        return await checkpoints.path(self.store, owner_of(caller), checkpoint)

    async def entries(self, caller: Caller, stretch: Stretch) -> tuple[LogEntry, ...]:
        """What has come of a turn by now, up to where the stretch goes."""
        turn = stretch.turn
        if turn.run is None:
            return ()
        if turn.end is None:
            return await self._so_far(caller, turn, stretch.upto)
        await self.gateway.view(caller, turn.run.organization, turn.run.id)
        good_until, entries = self._kept.get(turn.id) or (float("-inf"), ())
        if len(entries) != turn.end - turn.begin or loop_time() >= good_until:
            settled = self.clock() - turn.updated > SETTLING
            good_until = float("inf") if settled else loop_time() + FRESH
            entries = await self._so_far(caller, turn, None)
            if _size((good_until, entries)) <= KEPT_BYTES:
                self._kept[turn.id] = (good_until, entries)
        return entries if stretch.upto is None else entries[: stretch.upto]

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

    async def _so_far(self, caller: Caller, turn: Turn, upto: int | None) -> tuple[LogEntry, ...]:
        entries: dict[int, LogEntry] = {}
        async with aclosing(self.follow(caller, turn)) as progress:
            async for news in progress:
                if isinstance(news, tuple):
                    entries.update((came.offset, came.entry) for came in news)
                if isinstance(news, Caught | Over | Leaving) or (upto is not None and len(entries) >= upto):
                    break
        return tuple(entries[offset] for offset in sorted(entries) if upto is None or offset <= upto)

    # -- planning -----------------------------------------------------------------------------------------------------

    async def _out_of_the_way(self, caller: Caller, owner: str, turn: Turn, if_busy: str) -> Turn:
        """The turn that was under way, now over."""
        turn = await self._turns.settled(caller, owner, turn)
        if not turn.state.active:
            return turn
        if if_busy == "reject":
            raise ConversationBusy
        if if_busy != "interrupt" or not self.gateway.can_cancel:
            raise NotOffered(f"A turn is under way, and the gateway cannot do this about it: {if_busy}.")
        turn = await self._turns.stop(caller, owner, turn, wait=True)
        if turn.state.active:
            raise ConversationBusy("The turn that is under way was stopped, and has not ended yet; ask again.")
        return turn

    async def _planned(
        self,
        caller: Caller,
        wanted: str | None,
        conversation: str,
        ask: Ask,
        checkpoint: Checkpoint | None,
        known: Sequence[Turn],
    ) -> tuple[Turn, NewRun]:
        owner, now = owner_of(caller), self.clock()
        turn = Turn(
            new_id(),
            conversation,
            now,
            now,
            agent=None if ask.agent is None else ask.agent.id,
            messages=ask.messages,
            parent=None if checkpoint is None else str(checkpoint),
            mark=new_id(),
            prompt=ask.text,
            options=ask.options,
        )
        said = await checkpoints.path(self.store, owner, checkpoint, known)
        last = said[-1].turn if said else None
        if last is not None and last.run is not None and _goes_on(last, checkpoint, conversation, known):
            organization, run_id = last.run.organization, last.run.id
            begin = await self._length(caller, organization, run_id, last.begin if last.end is None else last.end)
            resumed = replace(turn, organization=organization, resumes=True, run=last.run, begin=begin)
            return replace(resumed, prompt=ask.text or GO_ON), replace(ask.run, images=ask.images or None)
        organization = await self.gateway.organization(caller, wanted)
        system_prompt = ask.system_prompt or (None if ask.agent is None else ask.agent.system_prompt)
        told = [line for stretch in said for line in await self._told(caller, stretch)]
        text = ask.text or (told.pop()[1] if told and told[-1][0] == USER else GO_ON)
        prompt = with_system_prompt(system_prompt, with_transcript(told, text))
        model = ask.run.model or (None if ask.agent is None else ask.agent.model)
        new = replace(ask.run, prompt=prompt, images=ask.images or None, model=model)
        return replace(turn, organization=organization, prompt=prompt), new

    async def _length(self, caller: Caller, organization: str, run_id: str, after: Cursor) -> Cursor:
        """How long a log is by now, which has ``after`` entries at least."""
        while True:
            page = await self.gateway.read_log(
                caller, organization, run_id, after, self.gateway.page_size, newest_first=False
            )
            after = page.last
            if page.at_end:
                return after

    async def _told(self, caller: Caller, stretch: Stretch) -> list[tuple[str, str]]:
        """What was said in a stretch, for a host that has not heard it."""
        told = [(USER, text_of(message)) for message in stretch.turn.messages]
        for step in await self.steps(caller, stretch):
            if step.kind is StepKind.ACTION:
                told.append((f"Tool {step.tool}", f"{step.text}\n{_json(step.input)} -> {_json(step.output)}"))
            elif step.kind is not StepKind.USER:
                told.append(("Assistant", step.text))
        if stretch.upto is None and stretch.turn.answer:
            told.append(("Assistant", stretch.turn.answer))
        return told

    async def _tidy(self, seconds: float) -> None:
        while True:
            try:
                removed = await self.store.expire(self.clock() - seconds)
                if removed:
                    logger.info("%d conversations were removed: nobody touched them for long", removed)
            except Exception as error:  # task boundary: the next time it may work
                log_fault("removing old conversations", error)
            await asyncio.sleep(TIDY_EVERY)


def _latest(known: Sequence[Turn]) -> Checkpoint | None:
    """The end of a conversation: that of its latest turn, unless the host never began it."""
    if not known:
        return None
    latest = known[0]
    if latest.end is not None:
        return end_of(latest)
    return None if latest.parent is None else Checkpoint.of(latest.parent)


def _goes_on(last: Turn, checkpoint: Checkpoint | None, conversation: str, known: Sequence[Turn]) -> bool:
    """Whether the run of ``last`` can be resumed from there: nothing has come of it since."""
    later = any(turn.run == last.run and turn.number > last.number and turn.end is not None for turn in known)
    return checkpoint == end_of(last) and last.conversation == conversation and last.end is not None and not later


def text_of(message: Mapping[str, Json]) -> str:
    """The text of what a user said."""
    content = message.get("content")
    parts = content if isinstance(content, list | tuple) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _json(value: Json) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def _size(kept: tuple[float, tuple[LogEntry, ...]]) -> int:
    return 100 + sum(entry.size for entry in kept[1])
