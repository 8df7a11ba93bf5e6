"""The contract of an upstream: the hosted agent API behind the gateway, in the gateway's words.

An adapter parses, names, and maps errors; it decides nothing, and repeats nothing by itself. Every method raises errors
of ``codegen_api.errors`` only: ``InvalidToken``, ``Forbidden``, ``NotFound``, ``Conflict``, ``QuotaExhausted``,
``Rejected``, ``Unsupported``, ``UpstreamRateLimited`` for what the host said, ``UpstreamError``,
``UpstreamUnreachable``, ``UpstreamTimeout`` where it said nothing of use, and ``AnswerCut`` where less at a time may
come. A power that only some hosts have is a protocol of its own (``Cancels``, ``Approves``, ``Members`` ...), asked
for with ``isinstance``. docs/adding-an-upstream.md leads through all of it.
"""

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from codegen_api.errors import Detail, GatewayError, Rejected
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Paging, Run, RunRef, Step, WaitReason, to_json
from codegen_api.telemetry import Allowance, Exchange, Observation, Observer, begin_call, end_call
from codegen_api.worker_thread import is_large

T_co = TypeVar("T_co", covariant=True)

Images: TypeAlias = tuple[str, ...] | None
"""Base64 data URIs that come with a prompt."""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What has an id at the host; ``fields`` as the host gave them."""

    id: str
    fields: Mapping[str, Json]


class User(HostRecord):
    """Somebody the host knows."""


class Organization(HostRecord):
    """An organization the caller belongs to."""


class Repository(HostRecord):
    """A repository that runs can work in."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """What to start.

    ``marks`` are the gateway's own: kept with the run at the host, given back in ``Run.marks`` and nowhere else.
    ``key`` is the same for each repeat of this order and differs from those of all others; see ``TakesKeys``.
    """

    prompt: str
    metadata: Mapping[str, Json] | None = None
    images: Images = None
    repo_id: int | None = None
    model: str | None = None
    agent_type: str | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None


LARGEST_METADATA = 256 * 1024
"""Bytes of a run's metadata, as JSON: it comes with every description of the run, a hundred to a list."""


def require_few_bytes(metadata: Mapping[str, Json] | None) -> None:
    """Raises ``Rejected`` for a run's metadata beyond what others, in whose lists it will be, are to read."""
    with suppress(ValueError):  # nested too deeply: the adapter will say so
        if is_large(metadata) or len(to_json(metadata)) > LARGEST_METADATA:
            what = f"Must have at most {LARGEST_METADATA} bytes as JSON."
            raise Rejected(details=[Detail(("body", "metadata"), what, "too_long")])


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, as far as the host can tell them apart."""

    source_type: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    """A page of a list, with the host's own account of it. ``at_end``: there was nothing behind it, by the host's word.

    A page that is short is no end. ``gaps``: which places of this stretch of the list, counted from 0, are here without
    their items, which cannot be had. ``pieces``: in how many it was read.
    """

    items: tuple[T_co, ...]
    paging: Paging
    at_end: bool
    gaps: tuple[int, ...] = ()
    pieces: int = 1

    @property
    def length(self) -> int:
        """How many places of the list this page covers."""
        return len(self.items) + len(self.gaps)

    def next(self, skip: int) -> int | None:
        """Where to go on behind this page, which was read from ``skip`` on; None at the end of the list."""
        behind = skip + self.length
        return None if self.at_end or behind == self.paging.total else behind

    def place(self, index: int) -> int:
        """Which of them is that of ``items[index]``."""
        for gap in self.gaps:
            index += gap <= index
        return index


@runtime_checkable
class Upstream(Protocol):
    """A hosted agent API. ``observer`` is told of every exchange, through ``observed``."""

    observer: Observer

    @property
    def name(self) -> str:
        """The host's short name, ``codegen``: part of every principal."""

    @property
    def page_size(self) -> int:
        """How many entries or runs to ask for at once, at most; the host may give fewer."""

    @property
    def requests_per_minute(self) -> int | None:
        """The host's usual limit for one credential. None if it has none: logs are then read much more often."""

    @property
    def exchanges_per_read(self) -> int:
        """How many requests one ``read_log`` usually takes, at most; what it takes of a limit is reckoned with it."""

    @property
    def keeps_marks(self) -> bool:
        """Whether runs keep their marks. If not, nobody can share a token: the runs of all would be nobody's."""

    @property
    def lags(self) -> bool:
        """Whether an answer may be older than what was answered before: then the end of a run that was just resumed is
        doubted for a while.
        """

    @property
    def observation(self) -> Observation | None:
        """What the last call showed of the host; None before the first."""

    def organization_id(self, text: str) -> str:
        """``text`` in the host's own form of an organization's id. Raises ``Rejected`` when it is none."""

    def run_id(self, text: str) -> str:
        """``text`` in the host's own form of a run's id. Raises ``Rejected`` when it is none."""

    def placeholder(self, ref: RunRef) -> LogEntry:
        """An entry for the place of one that cannot be had: ``absent``, and ``amendable`` in case it can be later."""

    def step(self, entry: LogEntry) -> Step:
        """What a log entry of this host means, in the words of all hosts."""

    def answer(self, run: Run) -> str | None:
        """What the agent answered, as far as a description of the run says so."""

    async def identify(self, credential: Credential) -> User:
        """Whose credential this is: the same id in every process, and not the token."""

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        """The organizations that this credential opens."""

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Start a run, with its marks. Raises ``Rejected`` for metadata that would pass for marks, ``NotOffered`` for
        what the host has no word for.
        """

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """A run, whole."""

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Runs, newest first. Ids that are whole numbers are higher for newer runs. Raises ``NotOffered`` for a filter
        that the host lacks.
        """

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """Go on with a run, under the same id and log. ``key`` as in ``NewRun``."""

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """Up to ``limit`` entries behind position ``after`` (``newest_first``: behind the ``after`` newest ones, and
        ``paging`` has the length of the log).

        The page's run may lack fields. If it has ended, all entries that it had then are on this page or later ones.
        """

    async def aclose(self) -> None:
        """Let go of every connection."""


class Connect(Protocol):
    """What the name of an upstream stands for: its class, or a function that makes one."""

    def __call__(
        self, base_url: str, *, connect_timeout: float, read_timeout: float, via: str | None, options: Mapping[str, str]
    ) -> Upstream:
        """``base_url`` is CODEGEN_BASE_URL; the timeouts are seconds. ``via`` is what to send as the ``Via`` header, by
        which a gateway that is its own host is noticed. ``options`` are the adapter's own settings: ``directory`` is
        ``CODEGEN_<NAME>_DIRECTORY``.

        Raises:
            ValueError: the base URL cannot be used.
            InvalidOption: one of the options is unknown, missing, or cannot be used.
        """


class InvalidOption(ValueError):
    """The option ``name`` of an adapter is unknown, missing, or cannot be used; its value is not quoted."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@runtime_checkable
class Cancels(Protocol):
    """The power to stop a run."""

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Stop a run; unless it is ``final`` then, it can still be resumed."""


@runtime_checkable
class Bans(Cancels, Protocol):
    """The power to stop a run where something has to be lifted before it can go on."""

    async def uncancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Lift what a stop left behind."""


@runtime_checkable
class TakesKeys(Protocol):
    """The power to tell a repeated order from a new one by its ``key``.

    ``keyed``: which orders (``create``, ``resume``) have effect once, however often they are sent with the same key and
    content.
    """

    keyed: frozenset[str]


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """What a run waits for. ``id`` tells it from others of that run.

    ``text`` is for people: the question, or what the agent wants to do. An approval may name the ``tool`` and its
    ``input``, a question the ``choices`` that the agent offers. ``fields`` as the host gave them.
    """

    id: str
    reason: WaitReason
    text: str
    tool: str | None = None
    input: Json = None
    choices: tuple[str, ...] = ()
    fields: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided on a ``PendingRequest``.

    ``verdict`` is ``approve``, ``reject`` or ``answer``; ``text`` is the answer, or what the agent is told with a
    rejection.
    """

    verdict: Literal["approve", "reject", "answer"]
    text: str | None = None


@runtime_checkable
class Approves(Protocol):
    """The power to say what a waiting run waits for, and to take the decision."""

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """What the run waits for now, oldest first; nothing if it does not wait."""

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """Tell the agent. Raises ``NotFound`` when nothing of this id is waiting (any more), and ``Rejected`` for a
        verdict that does not suit it.
        """


@runtime_checkable
class Streams(Protocol):
    """The power to say at once that a run has changed, so that its log need not be read just to find out."""

    def changes(self, credential: Credential, ref: RunRef, after: Cursor) -> AsyncGenerator[None, None]:
        """Yields when listening has begun, and then whenever the run may have changed or its log may have grown beyond
        ``after``. Ends, or raises as all methods do, when nothing more will be heard.
        """


@runtime_checkable
class Members(Protocol):
    """The power to tell who is in an organization."""

    async def users(self, credential: Credential, organization: str, skip: int, limit: int) -> Listing[User]:
        """The users of an organization."""

    async def user(self, credential: Credential, organization: str, user_id: str) -> User:
        """One of them. Raises ``Rejected`` when ``user_id`` cannot be an id."""


@runtime_checkable
class Repositories(Protocol):
    """The power to tell which repositories an organization has."""

    async def repositories(
        self, credential: Credential, organization: str, skip: int, limit: int
    ) -> Listing[Repository]:
        """The repositories of an organization."""


@dataclass(slots=True)
class Heard:
    """What an answer said of the host's limits."""

    allowance: Allowance | None = None


@contextmanager
def observed(observer: Observer, credential: Credential, operation: str) -> Iterator[Heard]:
    """Tell ``observer`` of the exchange inside; the adapter notes what it heard."""
    started = time.monotonic()
    heard, outcome, retry_after = Heard(), "cancelled", None
    observer.asking(credential.digest, operation)
    begun = begin_call(operation)
    try:
        yield heard
        outcome = "ok"
    except GatewayError as error:
        outcome, retry_after = error.code, error.retry_after
        raise
    finally:
        seconds = time.monotonic() - started
        end_call(begun, operation, outcome)
        observer.asked(Exchange(credential.digest, operation, outcome, seconds, retry_after, heard.allowance))
