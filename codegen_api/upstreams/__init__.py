"""The contract of an upstream, the adapter for a host of agents.

An adapter translates requests, answers and errors. It makes no decisions and retries nothing. Every method raises only
errors of ``codegen_api.errors``. For a refusal by the host: ``InvalidToken``, ``Forbidden``, ``NotFound``,
``Conflict``, ``QuotaExhausted``, ``Rejected``, ``Unsupported``, ``UpstreamRateLimited``. For an answer that is missing
or useless: ``UpstreamError``, ``UpstreamUnreachable``, ``UpstreamTimeout``, and ``AnswerCut`` where asking for less may
help. What only some hosts can do is a protocol of its own (``Cancels``, ``Approves``, ``Members`` ...), which callers
check with ``isinstance``. See docs/adding-an-upstream.md.
"""

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from codegen_api.errors import GatewayError, rejected
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Paging, Run, RunRef, Step, WaitReason, to_json
from codegen_api.telemetry import Allowance, Exchange, Observation, Observer, begin_call, end_call
from codegen_api.worker_thread import is_large

T_co = TypeVar("T_co", covariant=True)

Images: TypeAlias = tuple[str, ...] | None
"""Images that come with a prompt, as base64 data URIs."""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """Something that has an id at the host, with the host's own ``fields``."""

    id: str
    fields: Mapping[str, Json]


class User(HostRecord):
    """A user of the host."""


class Organization(HostRecord):
    """An organization the caller belongs to."""


class Repository(HostRecord):
    """A repository that runs can work in."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start.

    ``marks`` are the gateway's own: the host keeps them with the run, and only ``Run.marks`` shows them again.
    ``key`` is unique to this order, and the same whenever it is repeated; see ``TakesKeys``.
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
"""Maximum bytes of a run's metadata as JSON: every description of the run contains it, and lists have a hundred."""


def require_few_bytes(metadata: Mapping[str, Json] | None) -> None:
    """Raise ``Rejected`` if a run's metadata is larger than ``LARGEST_METADATA``: it appears in other users' lists."""
    with suppress(ValueError):  # nested too deeply: the adapter will say so
        if is_large(metadata) or len(to_json(metadata)) > LARGEST_METADATA:
            what = f"Must have at most {LARGEST_METADATA} bytes as JSON."
            raise rejected(what, "too_long", "body", "metadata")


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, if the host has such a filter; None for all."""

    source_type: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    """A page of a list, with the host's own ``paging``. ``at_end``: nothing follows it; a short page alone is no end.

    ``gaps`` are the places on this page, counted from 0, whose items cannot be read and are missing from ``items``.
    ``pieces`` is the number of requests that it took.
    """

    items: tuple[T_co, ...]
    paging: Paging
    at_end: bool
    gaps: tuple[int, ...] = ()
    pieces: int = 1

    @property
    def length(self) -> int:
        """The number of places on this page, gaps included."""
        return len(self.items) + len(self.gaps)

    def next(self, skip: int) -> int | None:
        """The ``skip`` of the next page if this one began at ``skip``; None at the end of the list."""
        following = skip + self.length
        return None if self.at_end or following == self.paging.total else following

    def place(self, index: int) -> int:
        """The place of ``items[index]`` on this page."""
        for gap in self.gaps:
            index += gap <= index
        return index


@runtime_checkable
class Upstream(Protocol):
    """A host of agents. ``observer`` is notified of every exchange, through ``observed``."""

    observer: Observer

    @property
    def name(self) -> str:
        """The host's short name, such as ``codegen``, which is part of every principal."""

    @property
    def page_size(self) -> int:
        """The most entries or runs to ask for at once; the host may give fewer."""

    @property
    def requests_per_minute(self) -> int | None:
        """The host's usual limit for one credential. Without one, None, logs are read much more often."""

    @property
    def exchanges_per_read(self) -> int:
        """The most requests that one ``read_log`` usually takes; they are counted against the limit."""

    @property
    def keeps_marks(self) -> bool:
        """Whether runs keep their marks. If not, callers cannot share a token, since runs would have no owner."""

    @property
    def lags(self) -> bool:
        """Whether an answer may be older than an earlier one: then the end of a run that was just resumed is doubted
        for a while.
        """

    @property
    def observation(self) -> Observation | None:
        """Whether the host's last answer was usable; None before the first call."""

    def organization_id(self, text: str) -> str:
        """The organization id in ``text``, in the host's own form. Raises ``Rejected`` if it is not valid."""

    def run_id(self, text: str) -> str:
        """The run id in ``text``, in the host's own form. Raises ``Rejected`` if it is not valid."""

    def placeholder(self, ref: RunRef) -> LogEntry:
        """The entry in the place of an unreadable one: ``absent``, and ``amendable`` since it may be read later."""

    def step(self, entry: LogEntry) -> Step:
        """What a log entry of this host means, in terms that all hosts share."""

    def answer(self, run: Run) -> str | None:
        """The agent's answer, if the description of the run contains it."""

    async def identify(self, credential: Credential) -> User:
        """The user whose credential this is. The id is the same in every process, and is not the token."""

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        """The organizations that this credential gives access to."""

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Start a run, with its marks. Raises ``Rejected`` for metadata that could be taken for marks, and
        ``NotOffered`` for a field that the host does not have.
        """

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """The complete description of a run."""

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Runs, newest first. If their ids are integers, newer runs have higher ones. Raises ``NotOffered`` for a
        filter that the host lacks.
        """

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """Continue a run, with the same id and log. ``key`` as in ``NewRun``."""

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """Up to ``limit`` entries after position ``after``. With ``newest_first``, those before the ``after`` newest
        ones, and ``paging`` has the length of the log.

        The page's run may lack fields. If it has ended, all entries that it had then are on this page or later ones.
        """

    async def aclose(self) -> None:
        """Close all connections."""


class Connect(Protocol):
    """Makes an upstream: its class, or a function."""

    def __call__(
        self, base_url: str, *, connect_timeout: float, read_timeout: float, via: str | None, options: Mapping[str, str]
    ) -> Upstream:
        """``base_url`` is CODEGEN_BASE_URL; the timeouts are in seconds. ``via`` is the value of the ``Via`` header, by
        which a gateway notices that it is its own host. ``options`` are the adapter's own settings: ``directory`` is
        ``CODEGEN_<NAME>_DIRECTORY``.

        Raises:
            ValueError: the base URL is unusable.
            InvalidOption: an option is unknown, missing or invalid.
        """


class InvalidOption(ValueError):
    """The option ``name`` of an adapter is unknown, missing or invalid; the message does not quote its value."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@runtime_checkable
class Cancels(Protocol):
    """The host can stop runs."""

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Stop a run. It can be resumed unless it is then ``final``."""


@runtime_checkable
class Bans(Cancels, Protocol):
    """The host bans a stopped run, which has to be lifted before the run can continue."""

    async def uncancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Lift the ban that ``cancel_run`` left."""


@runtime_checkable
class TakesKeys(Protocol):
    """The host can tell a repeated order from a new one by its ``key``.

    ``keyed`` names the orders (``create``, ``resume``) that take effect once, however often they are sent with the same
    key and content.
    """

    keyed: frozenset[str]


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """What a run waits for. ``id`` is unique within the run.

    ``text`` is for people: the question, or what the agent wants to do. An approval may name the ``tool`` and its
    ``input``, a question the ``choices`` that the agent offers. ``fields`` are the host's own.
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
    """A person's decision on a ``PendingRequest``. ``text`` is the answer, or the reason for a rejection."""

    verdict: Literal["approve", "reject", "answer"]
    text: str | None = None


@runtime_checkable
class Approves(Protocol):
    """The host says what a waiting run waits for, and takes decisions on it."""

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """What the run waits for now, oldest first; empty if it does not wait."""

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """Send the agent a decision. Raises ``NotFound`` if no request with this id is pending (any more), and
        ``Rejected`` for a verdict that does not fit it.
        """


@runtime_checkable
class Streams(Protocol):
    """The host reports at once that a run has changed, so its log need not be polled."""

    def changes(self, credential: Credential, ref: RunRef, after: Cursor) -> AsyncGenerator[None, None]:
        """Yield when listening has begun, and then whenever the run may have changed or its log may have grown beyond
        ``after``. Return, or raise as all methods do, when no more reports will come.
        """


@runtime_checkable
class Members(Protocol):
    """The host lists the users of an organization."""

    async def users(self, credential: Credential, organization: str, skip: int, limit: int) -> Listing[User]:
        """The users of an organization."""

    async def user(self, credential: Credential, organization: str, user_id: str) -> User:
        """One user of an organization. Raises ``Rejected`` if ``user_id`` is not a valid id."""


@runtime_checkable
class Repositories(Protocol):
    """The host lists the repositories of an organization."""

    async def repositories(
        self, credential: Credential, organization: str, skip: int, limit: int
    ) -> Listing[Repository]:
        """The repositories of an organization."""


@dataclass(slots=True)
class ReportedLimits:
    """What an answer reports of the host's limits."""

    allowance: Allowance | None = None


@contextmanager
def observed(observer: Observer, credential: Credential, operation: str) -> Iterator[ReportedLimits]:
    """Notify ``observer`` of the exchange in this context, with the limits that the adapter sets on the value."""
    started = time.monotonic()
    limits, outcome, retry_after = ReportedLimits(), "cancelled", None
    observer.asking(credential.digest, operation)
    begun = begin_call(operation)
    try:
        yield limits
        outcome = "ok"
    except GatewayError as error:
        outcome, retry_after = error.code, error.retry_after
        raise
    finally:
        seconds = time.monotonic() - started
        end_call(begun, operation, outcome)
        observer.asked(Exchange(credential.digest, operation, outcome, seconds, retry_after, limits.allowance))
