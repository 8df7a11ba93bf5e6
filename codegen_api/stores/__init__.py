"""The contract of a store: the data of dialects with conversations that the host does not keep.

It keeps agents, conversations, their turns, and small values (*items*). Everything belongs to an *owner*, a name for
one principal; other owners cannot see it, and may use the same ids. Stores hold plain data, have atomic operations and
decide nothing: what a turn is for and when it has ended is settled elsewhere.

Times are epoch seconds. Texts contain neither NUL nor lone surrogates (``storable``), and names are at most ``LONGEST``
bytes. Storing anything else raises ValueError; searching for it finds nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from codegen_api.runs import Cursor, Json, RunRef
from codegen_api.telemetry import Observation

T_co = TypeVar("T_co", covariant=True)

MOST_COMPARED = 10_000
"""Maximum vectors compared for one query, where the database itself cannot compare them."""

ANSWER_BYTES = 8 * 1024 * 1024
"""Approximate bytes read at a time: a page that would be larger ends early."""

LONGEST = 600
"""Maximum bytes of an owner, id or key; a namespace may have twice as many. Indexes hold little more."""


class TurnState(StrEnum):
    """The state of a turn."""

    QUEUED = "queued"
    """Waiting for earlier turns; the host does not know of it."""
    WITHDRAWN = "withdrawn"
    """Cancelled while queued; it will never start."""
    STARTING = "starting"
    """Stored; the host may or may not know of it."""
    RUNNING = "running"
    WAITING = "waiting"
    """The host waits for a human, whose answer is another turn."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """The request to the host broke off, and no trace of it was found there."""

    @property
    def active(self) -> bool:
        """Whether the host may be working on it."""
        return self in (TurnState.STARTING, TurnState.RUNNING)

    @property
    def over(self) -> bool:
        """Whether it has reached its final state."""
        return not self.active and self is not TurnState.QUEUED

    @property
    def begun(self) -> bool:
        """Whether the host was sent it, or was about to be. Before that, ``parent`` is not known."""
        return self not in (TurnState.QUEUED, TurnState.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Agent:
    """Instructions and a model under a name. ``configuration`` belongs to the dialects. ``version`` counts from 1."""

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
    """Turns with one agent. ``parent`` is the checkpoint it was forked from."""

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
    """What a user said, and the resulting part of a run's log: entries ``begin + 1`` to ``end``.

    ``messages`` are the user's: objects with an ``id`` and ``content``, a list of parts. ``prompt`` is the text sent to
    the host; "" if the turn resumes a run with a decision on what it waits for. ``parent`` is the checkpoint from which
    it continues, None at the beginning of a conversation. ``number``, assigned by the store, counts from 1 in the
    conversation. ``mark`` is written on a run created for it; with ``resumes`` an existing run is continued instead.
    ``answer`` is the host's final text, if that is not in the log. ``options`` belong to the dialects. ``ask`` is what
    else is needed to start a queued turn.
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

    @property
    def length(self) -> int:
        """The number of its entries; 0 until it has ended."""
        return 0 if self.end is None else self.end - self.begin


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation and its turns, newest first, as of one moment.

    ``stored`` is the conversation as stored: None if it is yet to be added, and different if it is yet to be changed.
    """

    conversation: Conversation
    turns: Sequence[Turn] = ()
    stored: Conversation | None = None

    @property
    def latest(self) -> Turn | None:
        """The last turn, not counting withdrawn ones."""
        return next((turn for turn in self.turns if turn.state is not TurnState.WITHDRAWN), None)


@dataclass(frozen=True, slots=True)
class Item:
    """A value under a key in a namespace, which is a path of labels.

    ``fields`` are the paths in the value that are embedded for semantic search; None for the whole value, () for
    nothing.
    """

    namespace: tuple[str, ...]
    key: str
    value: Mapping[str, Json]
    created: float
    updated: float
    fields: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """An item that lacks vectors, and its owner. ``stamp`` changes with every put."""

    owner: str
    item: Item
    stamp: str


@dataclass(frozen=True, slots=True)
class Near:
    """An item and its score: the cosine similarity of the nearest of its vectors."""

    namespace: tuple[str, ...]
    key: str
    score: float


@dataclass(frozen=True, slots=True)
class Query:
    """Filters, order and page of a search for agents or conversations.

    ``metadata`` must be contained in theirs: objects recursively, everything else by equality, where true, 1 and 1.0
    differ. ``configuration`` likewise, for agents. ``name`` is part of the name or title, ignoring case; ``tag`` is one
    of the tags. ``agent`` is a conversation's. ``states`` are those allowed for the latest turn, not counting withdrawn
    ones; None among them allows no turn. ``archived`` applies to agents. ``sort`` is ``id``, ``created``, ``updated``
    or ``name``; ties are sorted by id.
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
    """A page of results and their total number. It may be shorter than requested: the next page begins after it."""

    items: tuple[T_co, ...]
    total: int


class Full(Exception):
    """The conversation's queue of turns is full."""


class Overtaken(Exception):
    """The conversation was added or changed by another request meanwhile."""


class Busy(Exception):
    """The conversation has an unfinished turn, ``turn``."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn.id)
        self.turn = turn


class Store(Protocol):
    """Keeps agents, conversations, turns and items.

    ``change_...`` replaces ``then`` by ``now`` and returns that with its new revision; None, and no change, if ``then``
    does not exist or has another revision by now. Ids never change, nor does the place of a turn.

    Everything raises ``errors.StoreUnavailable`` while the database cannot be used. Storing something new raises
    ``errors.StoreFull`` if its owner would exceed their share.

    ``observation`` is how the database last responded; None before it is open. After a failure it says unreachable
    until a ``check`` succeeds.
    """

    @property
    def observation(self) -> Observation | None: ...

    async def open(self) -> None:
        """Prepare the database. Call once, before anything else; several processes may do so at the same time."""

    async def aclose(self) -> None: ...

    async def check(self) -> None:
        """Raise ``errors.StoreUnavailable`` if the database cannot be read and written. Changes nothing."""

    async def add_agent(self, owner: str, agent: Agent) -> bool:
        """Store it; False, and no change, if the id is taken."""

    async def agent(self, owner: str, id: str) -> Agent | None: ...  # noqa: A002 - as everywhere

    async def agents(self, owner: str, query: Query) -> Found[Agent]: ...

    async def change_agent(self, owner: str, then: Agent, now: Agent) -> Agent | None: ...

    async def remove_agent(self, owner: str, id: str) -> bool:  # noqa: A002
        """Whether it existed. Its conversations stay."""

    async def add_conversation(self, owner: str, conversation: Conversation) -> bool:
        """Store it; False, and no change, if the id is taken."""

    async def conversation(self, owner: str, id: str) -> Conversation | None: ...  # noqa: A002

    async def conversations(self, owner: str, query: Query) -> Found[Conversation]: ...

    async def change_conversation(self, owner: str, then: Conversation, now: Conversation) -> Conversation | None: ...

    async def remove_conversation(self, owner: str, id: str) -> bool:  # noqa: A002
        """Whether it existed. Its turns are removed too."""

    async def talk(self, owner: str, id: str) -> Talk | None:  # noqa: A002
        """The conversation and up to a thousand of its turns."""

    async def counts(self, owner: str, agents: Sequence[str], metadata: Mapping[str, Json]) -> Mapping[str, int]:
        """Conversations per agent, for agents that have any, filtered as by ``Query.metadata``."""

    async def add_turn(self, owner: str, turn: Turn, *, queued_at_most: int = 0, into: Talk | None = None) -> Turn:
        """Store it as the latest of its conversation and return it with its number. The conversation's ``updated``
        becomes the turn's; its revision stays. If the conversation of ``into`` is not the stored one, it is added or
        changed as well.

        Raises:
            KeyError: the conversation does not exist, or the id is taken.
            Overtaken: the conversation to add exists, or the one to change has another revision by now.
            Busy: the turn is not queued, and another is unfinished. Of two added at once, one raises this.
            Full: the turn is queued, and ``queued_at_most`` others are.
        """

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
        """The turns of one conversation by number, or of all by creation."""

    async def ends(self, owner: str, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        """The first and last turn of each of these conversations that has any, not counting withdrawn ones."""

    async def queues(self, after: tuple[str, str] = ("", ""), limit: int = 100) -> Sequence[tuple[str, Turn]]:
        """The owner and first queued turn of each conversation after ``after``, sorted by owner and conversation."""

    async def change_turn(self, owner: str, then: Turn, now: Turn) -> Turn | None:
        """Replace ``then`` by ``now``, as above.

        Raises:
            Busy: the turn would become active while another of its conversation is.
        """

    async def remove_turn(self, owner: str, id: str) -> bool:  # noqa: A002
        """Whether it existed."""

    async def put_item(self, owner: str, item: Item) -> None:
        """Store it, replacing one with the same namespace and key: ``created`` is kept, vectors are dropped."""

    async def item(self, owner: str, namespace: Sequence[str], key: str) -> Item | None: ...

    async def items(self, owner: str, prefix: Sequence[str], limit: int, offset: int) -> Found[Item]:
        """Items whose namespace begins with ``prefix``, the last changed first."""

    async def due(self, space: str, limit: int) -> Sequence[Due]:
        """Items of any owner without vectors of ``space``, the longest waiting first."""

    async def keep_vectors(self, due: Due, space: str, vectors: Sequence[Sequence[float]]) -> bool:
        """Store the vectors of an item, which is then no longer due; False, and no change, if it was put again
        meanwhile.

        A space is a model whose vectors are comparable and have the same number of dimensions. All have length 1.
        """

    async def nearest(
        self, owner: str, prefix: Sequence[str], space: str, vector: Sequence[float], limit: int
    ) -> Sequence[Near]:
        """Items with vectors of ``space`` whose namespace begins with ``prefix``, the nearest first.

        Raises:
            NotOffered: there are more vectors than can be compared.
        """

    async def remove_item(self, owner: str, namespace: Sequence[str], key: str) -> bool:
        """Whether it existed."""

    async def namespaces(self, owner: str) -> Sequence[tuple[str, ...]]:
        """All namespaces that contain items, sorted."""

    async def expire(self, before: float) -> int:
        """Remove conversations last updated before that and without an active turn; returns their number."""
