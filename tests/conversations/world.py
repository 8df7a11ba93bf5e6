"""A host that works by itself, a store that outlives every process, and processes that can die at any moment."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.conversations import (
    Ask,
    CaughtUp,
    Conversations,
    Stretch,
    TurnCheckpoint,
    TurnEnded,
    TurnEntry,
    owner_of,
)
from codegen_api.gateway import Gateway
from codegen_api.gateway.ownership import Ownership
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.runs import LogPage, Run, RunRef
from codegen_api.stores import Conversation, Turn
from codegen_api.telemetry import Observer
from codegen_api.upstreams import NewRun, observed
from tests.fakehost import FakeHost, Hosted, caller
from tests.stores.model import ModelStore

EPOCH = 1e9
SECRET = "a key that is long enough to be one"
ALICE = caller()
CANCELS = ("cancel_run", "uncancel_run")

Step = tuple[float, Callable[[Hosted], None]]


def now() -> float:
    """The wall clock of a simulation."""
    return EPOCH + asyncio.get_running_loop().time()


def works(hosted: Hosted, prompt: str) -> list[Step]:
    """What a prompt sets off: three notes, an answer, and the end, a second after each other."""
    notes: list[Step] = [(second, lambda run: run.append()) for second in (1, 2, 3)]

    def answer(run: Hosted) -> None:
        run.append(type="ANSWER", text=f"answer to {prompt[-20:]}")
        run.status = "COMPLETE"

    return [*notes, (4, answer)]


def works_for_ever(hosted: Hosted, prompt: str) -> list[Step]:
    return [(second, lambda run: run.append()) for second in range(1, 4)]


class Host(FakeHost):
    """What its prompts set off comes as time passes. ``script`` says what that is."""

    def __init__(self, *, page_size: int = 100, script: Callable[[Hosted, str], list[Step]] = works) -> None:
        super().__init__()
        self.page_size = page_size
        self.script = script
        self.prompts: list[tuple[str, str]] = []
        self.news: list[NewRun] = []
        self.images: list[tuple[str, ...] | None] = []
        self.reads: list[tuple[str, int, int]] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        at = asyncio.get_running_loop().time() + seconds
        heapq.heappush(self._due, (at, next(self._numbers), action))

    def evolve(self) -> None:
        while self._due and self._due[0][0] <= asyncio.get_running_loop().time():
            heapq.heappop(self._due)[2]()

    def hear(self, hosted: Hosted, prompt: str) -> None:
        """Somebody says something to a run."""
        self.prompts.append((hosted.ref.id, prompt))
        hosted.append(type="USER", prompt=prompt)
        hosted.status = "ACTIVE"
        turn = len(self.prompts)
        for seconds, action in self.script(hosted, prompt):
            self.later(seconds, partial(self._unless_stopped, hosted, turn, action))

    def heard(self, words: str) -> int:
        """How often the host was told this."""
        return sum(words in prompt for _, prompt in self.prompts)

    def begin_run(self, new: NewRun) -> Hosted:
        hosted = self.add(str(len(self.runs) + 1), marks=new.marks)
        self.news.append(new)
        self.hear(hosted, new.prompt)
        return hosted

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        await self._called("create", credential)
        return self._run(self.begin_run(new))

    async def resume_run(
        self,
        credential: Credential,
        ref: RunRef,
        prompt: str,
        images: tuple[str, ...] | None,
        *,
        key: str | None = None,
    ) -> Run:
        await self._called("resume", credential)
        hosted = self._hosted(credential, ref)
        self.images.append(images)
        self.hear(hosted, prompt)
        return self._run(hosted)

    async def read_log(self, credential: Credential, ref: RunRef, after: int, limit: int, **more: Any) -> LogPage:
        assert limit <= self.page_size
        self.reads.append((ref.id, after, limit))
        return await super().read_log(credential, ref, after, limit, **more)

    async def _called(self, operation: str, credential: Credential) -> None:
        await super()._called(operation, credential)
        self.evolve()

    def _unless_stopped(self, hosted: Hosted, turn: int, action: Callable[[Hosted], None]) -> None:
        if hosted.status != "CANCELLED" and not any(run == hosted.ref.id for run, _ in self.prompts[turn:]):
            action(hosted)


class Crashed(BaseException):
    """This process is no more."""


@dataclass
class Trap:
    """Counts the calls of a process, and says what happens at number ``at``: ``before`` it takes effect, or after.

    ``spring`` is told the name of the call, and raises what goes wrong; nothing more is done by a ``dead`` process.
    """

    at: int | None = None
    before: bool = True
    spring: Callable[[str], object] = lambda _: None
    only: Callable[[str], bool] = lambda _: True
    calls: list[str] = field(default_factory=list)
    asked: tuple[Any, ...] = ()
    sprung: str | None = None
    dead: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)

    async def around(self, name: str, asked: tuple[Any, ...], call: Callable[[], Awaitable[Any]]) -> Any:
        self._be_alive()
        self.asked = asked
        if not self.only(name):
            return await call()
        self.calls.append(name)
        number = len(self.calls)
        if number == self.at and self.before:
            self._snap(name)
        try:
            answer = await call()
        finally:
            self._be_alive()
        if number == self.at and not self.before:
            self._snap(name)
        return answer

    def crash(self, _: str = "") -> None:
        self.dead = True
        self.died.set()
        raise Crashed

    def _snap(self, name: str) -> None:
        self.sprung = name
        self.spring(name)

    def _be_alive(self) -> None:
        if self.dead:
            raise Crashed


class _Line:
    """The way from a process to something that outlives it."""

    def __init__(self, there: Any, trap: Trap) -> None:
        self._there = there
        self._trap = trap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)


class HostLine(_Line):
    """An ``Upstream``."""

    observer: Observer = Observer()

    def __getattr__(self, name: str) -> Any:
        if name in CANCELS:
            raise AttributeError(name)
        return super().__getattr__(name)


class CancellingLine(HostLine):
    """One that can stop a run."""


class StoreLine(_Line):
    """A ``Store``."""


def _wire(line: type, prefix: str, *names: str) -> None:
    for name in names:

        async def call(self: Any, *given: Any, name: str = name, **more: Any) -> Any:
            async def at_last() -> Any:
                return await getattr(self._there, name)(*given, **more)

            if prefix == "host":
                with observed(self.observer, given[0], name):
                    return await self._trap.around(f"{prefix}.{name}", given, at_last)
            await asyncio.sleep(0.001)
            return await self._trap.around(f"{prefix}.{name}", given, at_last)

        setattr(line, name, call)


_wire(HostLine, "host", "identify", "organizations", "create_run", "get_run", "list_runs", "resume_run", "read_log")
_wire(CancellingLine, "host", *CANCELS)
_wire(StoreLine, "store", "add_conversation", "conversation", "remove_conversation", "expire")
_wire(StoreLine, "store", "add_turn", "turn", "turns", "change_turn", "remove_turn", "queues")
_wire(StoreLine, "store", "agent", "add_agent", "conversations", "change_conversation", "ends", "talk")


class World:
    """What is there whatever becomes of the gateway's processes."""

    def __init__(self, host: Host | None = None) -> None:
        self.host = host or Host()
        self.store = ModelStore()
        self.lines: type[HostLine] = CancellingLine

    def process(self, trap: Trap | None = None, **more: Any) -> "Process":
        return Process(self, trap or Trap(), **more)

    @asynccontextmanager
    async def serving(self, trap: Trap | None = None, **more: Any) -> AsyncIterator["Process"]:
        """A process that ends in order."""
        process = self.process(trap, **more)
        await process.conversations.open()
        try:
            yield process
        finally:
            await process.aclose()

    async def converse(self, id: str = "talk", who: Caller = ALICE, **more: Any) -> str:  # noqa: A002
        conversation = Conversation(id, now(), now(), **more)
        assert await self.store.add_conversation(owner_of(who), conversation)
        return id

    def turns(self, conversation: str = "talk", who: Caller = ALICE) -> list[Turn]:
        """What is written down, the oldest first."""
        owner = owner_of(who)
        found = [
            turn for (its, _), turn in self.store._turns.items() if (its, turn.conversation) == (owner, conversation)
        ]
        return sorted(found, key=lambda turn: turn.number)

    def running(self, turn: Turn) -> bool:
        """Whether the host is at work on this turn."""
        self.host.evolve()
        if turn.run is None:
            return False
        hosted = self.host.runs[turn.run.id]
        return hosted.status == "ACTIVE" and said(hosted)[-1] == turn.prompt

    def expected(self, turn: Turn) -> list[str]:
        """Of the log of the turn's run, what was said and done from its prompt on until somebody spoke again."""
        assert turn.run is not None
        entries = self.host.runs[turn.run.id].entries
        start = next(index for index, entry in enumerate(entries) if entry.get("prompt") == turn.prompt)
        rest = (index for index, entry in enumerate(entries) if index > start and "prompt" in entry)
        return self.host.runs[turn.run.id].encoded()[start : next(rest, len(entries))]


class Process:
    """A gateway with conversations, over what outlives it."""

    def __init__(
        self,
        world: World,
        trap: Trap,
        *,
        kept_days: float | None = None,
        turns_bytes: int = 10**7,
        absent: Callable[[Principal], Caller | None] | None = None,
        **more: Any,
    ) -> None:
        self.world = world
        self.trap = trap
        more.setdefault("ownership", Ownership([SECRET]))
        self.gateway = Gateway(world.lines(world.host, trap), MemoryBroker(), clock=now, **more)
        self.store = StoreLine(world.store, trap)
        self.conversations = Conversations(
            self.gateway, self.store, kept_days=kept_days, turns_bytes=turns_bytes, absent=absent, clock=now
        )

    async def say(self, text: str, *, conversation: str = "talk", who: Caller = ALICE, **more: Any) -> Turn:
        """Begin a turn."""
        return await self.conversations.of(who).begin(None, conversation, ask(text, **more))

    async def wait(self, turn: Turn, who: Caller = ALICE) -> Turn:
        """Follow a turn to its end."""
        seen = Seen()
        await seen.follow(self, turn, who)
        assert seen.over is not None
        return seen.over

    async def told(self, turn: Turn, upto: int | None = None, who: Caller = ALICE) -> list[str]:
        """What has come of a turn, for whoever reads the conversation."""
        entries = await self.conversations.of(who).entries(Stretch(turn, upto))
        return [entry.json.decode() for entry in entries]

    async def aclose(self) -> None:
        await self.conversations.aclose()
        await self.gateway.aclose()


@asynccontextmanager
async def conversing(
    host: Host | None = None, trap: Trap | None = None, **more: Any
) -> AsyncIterator[tuple[World, Process]]:
    """A world in which there is a conversation, and a process that serves it."""
    world = World(host)
    await world.converse()
    async with world.serving(trap, **more) as process:
        yield world, process


@dataclass
class Seen:
    """What somebody saw of a turn: every entry once, in order."""

    log: dict[int, str] = field(default_factory=dict)
    news: list[Any] = field(default_factory=list)
    amended: list[int] = field(default_factory=list)
    over: Turn | None = None

    async def follow(self, process: Process, turn: Turn, who: Caller = ALICE) -> None:
        async for each in process.conversations.of(who).follow(turn):
            assert self.over is None
            self.news.append(each)
            match each:
                case TurnEnded(turn=over):
                    self.over = over
                case CaughtUp(offset=offset):
                    assert offset == len(self.log)
                case tuple():
                    for came in each:
                        self._take(came)

    def kinds(self) -> list[str]:
        """What came, in order: the names of it."""
        return [type(each).__name__ for each in self.news]

    def texts(self) -> list[str]:
        return [self.log[offset] for offset in sorted(self.log)]

    def _take(self, came: TurnEntry) -> None:
        if came.amended:
            assert came.offset in self.log
            self.amended.append(came.offset)
        else:
            assert came.offset == len(self.log) + 1
        self.log[came.offset] = came.entry.json.decode()


def ask(text: str, **more: Any) -> Ask:
    messages = [{"id": "m", "content": [{"type": "text", "text": text}]}] if text else []
    return Ask(**{"messages": messages, "text": text, **more})


def said(hosted: Hosted) -> list[str]:
    return [entry["prompt"] for entry in hosted.entries if "prompt" in entry]


def at(turn: Turn, offset: int) -> TurnCheckpoint:
    return TurnCheckpoint(turn.id, offset)


async def kill() -> None:
    """End every task but this one, as the end of a process does."""
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


__all__ = [
    "ALICE",
    "EPOCH",
    "Crashed",
    "Host",
    "HostLine",
    "Process",
    "Seen",
    "Trap",
    "World",
    "ask",
    "at",
    "kill",
    "now",
    "replace",
    "said",
    "works",
    "works_for_ever",
]
