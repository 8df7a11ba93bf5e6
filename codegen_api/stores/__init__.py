"""The contract of a store: what dialects with conversations have to remember beside what the host keeps.

Agents, conversations, their turns, and small values (*items*). Everything belongs to an *owner*, a name that stands for
one principal; to other owners it does not exist, and ids are the owner's own: two owners may use the same ones. Plain
data, each operation whole, and no decision: what a turn is for and when it has ended is settled elsewhere.

Times are seconds since the epoch. Texts hold neither NUL nor lone surrogates (``storable``), and names are not too long
(``LONGEST``); what else is to be kept is refused with ValueError, and asking for it finds nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from codegen_api.runs import Cursor, Json, RunRef
from codegen_api.telemetry import Observation

T_co = TypeVar("T_co", covariant=True)

MOST_COMPARED = 10_000
"""Vectors that are compared for one answer, where the database itself cannot do it."""

ANSWER_BYTES = 8 * 1024 * 1024
"""About so much is read at a time: a stretch of a list that would be larger ends early."""

LONGEST = 600
"""Bytes of an owner, an id or a key; a namespace may have twice as many. No index holds much more."""


class TurnState(StrEnum):
    """Where a turn is."""

    QUEUED = "queued"
    """It waits for the end of the turns before it; the host has heard nothing of it."""
    WITHDRAWN = "withdrawn"
    """It was stopped while it waited, and never begins."""
    STARTING = "starting"
    """Written down; the host may have heard of it or not."""
    RUNNING = "running"
    WAITING = "waiting"
    """The host waits for a human: an answer is another turn."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """It broke off while the host was asked, and nothing of it was found there."""

    @property
    def active(self) -> bool:
        """Whether the host may be at work on it."""
        return self in (TurnState.STARTING, TurnState.RUNNING)

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return not self.active and self is not TurnState.QUEUED

    @property
    def begun(self) -> bool:
        """Whether it was to be told to the host, whatever came of that. Where it goes on is not known before."""
        return self not in (TurnState.QUEUED, TurnState.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Agent:
    """Somebody to talk to. ``configuration`` is the dialects' own. ``version`` counts from 1."""

    id: str
    name: str
    created: float
    updated: float
    description: str | None = None
    system_prompt: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    configuration: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    archived: bool = False
    version: int = 1
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns with one agent. ``parent`` is the checkpoint that it was forked from."""

    id: str
    created: float
    updated: float
    agent: str | None = None
    title: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict)
    parent: str | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user said, and the stretch of a run's log that came of it: entries ``begin + 1`` to ``end``.

    ``messages`` are what they said: objects with an ``id`` and ``content``, a list of parts. ``prompt`` is what the
    host is told. ``parent`` is the checkpoint that it goes on from, None at the beginning of a conversation. ``number``
    counts from 1 within the conversation; the store gives it. ``mark`` is written on a run that is created for it.
    ``resumes``: the run was there before, and goes on. ``answer`` is what the host said at the end and its log does not
    tell. ``options`` are the dialects' own. ``ask`` is what a queued turn is to be, as far as nothing else here says
    so.
    """

    id: str
    conversation: str
    created: float
    updated: float
    state: TurnState = TurnState.STARTING
    number: int = 0
    agent: str | None = None
    messages: Sequence[Mapping[str, Json]] = ()
    parent: str | None = None
    mark: str = ""
    resumes: bool = False
    prompt: str = ""
    organization: str = ""
    run: RunRef | None = None
    begin: Cursor = 0
    end: Cursor | None = None
    answer: str | None = None
    error: str | None = None
    options: Mapping[str, Json] = field(default_factory=dict)
    ask: Mapping[str, Json] | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """A value under a key in a namespace, which is a path of labels.

    ``fields`` are the paths in the value by whose meaning it is found; None is the whole of it, and () none.
    """

    namespace: tuple[str, ...]
    key: str
    value: Mapping[str, Json]
    created: float
    updated: float
    fields: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """An item without vectors, and whose it is. ``stamp`` is another one when it is put again."""

    owner: str
    item: Item
    stamp: str


@dataclass(frozen=True, slots=True)
class Near:
    """Which item is near a vector, and how near: the cosine of the angle to the nearest of its vectors."""

    namespace: tuple[str, ...]
    key: str
    score: float


@dataclass(frozen=True, slots=True)
class Query:
    """Which agents or conversations, and which stretch of them.

    ``metadata`` holds for those whose own has all of it: objects are entered, all else is compared, and true, 1 and 1.0
    are not the same. ``configuration`` likewise, for agents. ``name`` is part of the name or title, in either case;
    ``tag`` is one of the tags. ``agent`` is a conversation's. ``states``: the latest turn's (None: there is none),
    without those that were withdrawn.
    ``archived`` is for agents. ``sort`` is ``id``, ``created``, ``updated`` or ``name``; what is equal there is in the
    order of ids.
    """

    limit: int = 10
    offset: int = 0
    ids: tuple[str, ...] | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    configuration: Mapping[str, Json] = field(default_factory=dict)
    name: str | None = None
    tag: str | None = None
    agent: str | None = None
    states: tuple[TurnState | None, ...] | None = None
    archived: bool | None = None
    sort: str = "created"
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Found(Generic[T_co]):
    """A stretch of what was asked for, and how much there is in all. It may be shorter than was asked for: what follows
    begins behind what came.
    """

    items: tuple[T_co, ...]
    total: int


class Full(Exception):
    """As many turns wait in the conversation as may."""


class Busy(Exception):
    """The conversation has a turn that is not over, ``turn``."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn.id)
        self.turn = turn


class Store(Protocol):
    """Where agents, conversations, turns and items are kept.

    ``change_...`` puts ``now`` in the place of ``then`` and gives it back with its new revision; None, and nothing is
    changed, when there is no such thing or another revision of it by now. Its id stays as it was, and so does the
    place of a turn.

    When the database cannot be had, or cannot do it just now, each of these raises ``errors.StoreUnavailable``. What is
    kept for the first time raises ``errors.StoreFull`` where its owner would have more than the store keeps for one.

    ``observation`` is what was last seen of the database; None before it is open. When it could not do something it is
    not reachable, until a ``check`` goes well.
    """

    @property
    def observation(self) -> Observation | None: ...

    async def open(self) -> None:
        """Make ready: once, before anything else, and by any number of processes at the same time."""
        ...

    async def aclose(self) -> None: ...

    async def check(self) -> None:
        """Leave everything as it is, but raise ``errors.StoreUnavailable`` where nothing could be read or written."""
        ...

    async def add_agent(self, owner: str, agent: Agent) -> bool:
        """Keep it; False, and nothing is changed, when the id is taken."""
        ...

    async def agent(self, owner: str, id: str) -> Agent | None: ...  # noqa: A002 - as everywhere

    async def agents(self, owner: str, query: Query) -> Found[Agent]: ...

    async def change_agent(self, owner: str, then: Agent, now: Agent) -> Agent | None: ...

    async def remove_agent(self, owner: str, id: str) -> bool:  # noqa: A002
        """Whether there was one. Its conversations stay."""
        ...

    async def add_conversation(self, owner: str, conversation: Conversation) -> bool:
        """Keep it; False, and nothing is changed, when the id is taken."""
        ...

    async def conversation(self, owner: str, id: str) -> Conversation | None: ...  # noqa: A002

    async def conversations(self, owner: str, query: Query) -> Found[Conversation]: ...

    async def change_conversation(self, owner: str, then: Conversation, now: Conversation) -> Conversation | None: ...

    async def remove_conversation(self, owner: str, id: str) -> bool:  # noqa: A002
        """Whether there was one. Its turns go with it."""
        ...

    async def counts(self, owner: str, agents: Sequence[str], metadata: Mapping[str, Json]) -> Mapping[str, int]:
        """How many conversations there are with each of these agents, as ``Query.metadata`` chooses them; of an agent
        with none it says nothing.
        """
        ...

    async def add_turn(self, owner: str, turn: Turn, *, queued_at_most: int = 0) -> Turn:
        """Keep it, as the latest of its conversation, which is updated then too; given back with its number.

        The conversation's ``updated`` becomes the turn's; its revision stays.

        Raises:
            KeyError: there is no such conversation, or the id is taken.
            Busy: it is not queued, and there is one that is not over. Of two that are added at once, one meets the
                other.
            Full: it is queued, and ``queued_at_most`` are already.
        """
        ...

    async def turn(self, owner: str, id: str) -> Turn | None: ...  # noqa: A002

    async def turns(
        self,
        owner: str,
        conversation: str | None = None,
        *,
        states: Sequence[TurnState] | None = None,
        limit: int = 1000,
        offset: int = 0,
        newest_first: bool = True,
    ) -> Sequence[Turn]:
        """Those of one conversation, by number; or of all, by when they were made."""
        ...

    async def ends(self, owner: str, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        """The first and the latest turn of each of these that has any, without those that were withdrawn."""
        ...

    async def queues(self, after: tuple[str, str] = ("", ""), limit: int = 100) -> Sequence[tuple[str, Turn]]:
        """Where turns wait, whoever's they are: the owner, and the first of those in a conversation.

        In the order of owners and conversations, those behind ``after``.
        """
        ...

    async def change_turn(self, owner: str, then: Turn, now: Turn) -> Turn | None:
        """As above.

        Raises:
            Busy: it would become active, beside another one of its conversation.
        """
        ...

    async def remove_turn(self, owner: str, id: str) -> bool:  # noqa: A002
        """Whether there was one."""
        ...

    async def put_item(self, owner: str, item: Item) -> None:
        """Keep it, in the place of one with the same namespace and key, whose ``created`` stays and vectors go."""
        ...

    async def item(self, owner: str, namespace: Sequence[str], key: str) -> Item | None: ...

    async def items(self, owner: str, prefix: Sequence[str], limit: int, offset: int) -> Found[Item]:
        """Those whose namespace begins with ``prefix``, the last changed first."""
        ...

    async def due(self, space: str, limit: int) -> Sequence[Due]:
        """Items, whoever's they are, that have no vectors of ``space``: those that wait longest."""
        ...

    async def keep_vectors(self, due: Due, space: str, vectors: Sequence[Sequence[float]]) -> bool:
        """Keep these with an item, which has none due then; False, and nothing is changed, when it is another by now.

        A space is a model, whose vectors can be compared with each other and have one length. Theirs is 1.
        """
        ...

    async def nearest(
        self, owner: str, prefix: Sequence[str], space: str, vector: Sequence[float], limit: int
    ) -> Sequence[Near]:
        """Items with vectors of ``space`` whose namespace begins with ``prefix``, the nearest first.

        Raises:
            NotOffered: there are more vectors than can be compared.
        """
        ...

    async def remove_item(self, owner: str, namespace: Sequence[str], key: str) -> bool:
        """Whether there was one."""
        ...

    async def namespaces(self, owner: str) -> Sequence[tuple[str, ...]]:
        """Each that holds an item, in order."""
        ...

    async def expire(self, before: float) -> int:
        """Remove the conversations of all owners that were last updated before that and have no active turn.

        How many there were.
        """
        ...
