"""The contract of an upstream: the hosted agent API behind the gateway, in the gateway's words.

An adapter parses, names, and maps errors; it decides nothing. Every method raises errors of ``codegen_api.errors``
only: ``InvalidToken``, ``Forbidden``, ``NotFound``, ``QuotaExhausted``, ``Rejected``, ``UpstreamRateLimited`` for
what the host said, ``UpstreamError``, ``UpstreamUnreachable``, ``UpstreamTimeout`` where it said nothing of use, and
``AnswerCut`` where less at a time may come. It repeats nothing by itself. A power that only some hosts have is a
protocol of its own (``Cancels``, ``Members``, ``Repositories``), asked for with ``isinstance``.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

from codegen_api.errors import Detail, GatewayError, Rejected
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Paging, Run, RunRef, Step, to_json
from codegen_api.telemetry import Allowance, Exchange, Observation, Observer
from codegen_api.worker_thread import is_large

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody the host knows; ``fields`` as the host gave them."""

    id: str
    fields: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization the caller belongs to; ``fields`` as the host gave them."""

    id: str
    fields: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that runs can work in; ``fields`` as the host gave them."""

    id: str
    fields: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class NewRun:
    """What to start. ``images`` are base64 data URIs.

    ``marks`` are the gateway's own: kept with the run at the host, given back in ``Run.marks`` and nowhere else.
    """

    prompt: str
    metadata: Mapping[str, Json] | None = None
    images: tuple[str, ...] | None = None
    repo_id: int | None = None
    model: str | None = None
    agent_type: str | None = None
    marks: Mapping[str, str] = field(default_factory=dict)


LARGEST_METADATA = 256 * 1024
"""Bytes of a run's metadata, as JSON: it comes with every description of the run, a hundred to a list."""


def require_few_bytes(metadata: Mapping[str, Json] | None) -> None:
    """
    Raises:
        Rejected: a run's metadata is larger than what others, in whose lists it will be, are to read.
    """
    with suppress(ValueError):  # nested too deeply: the adapter will say so
        if is_large(metadata) or len(to_json(metadata)) > LARGEST_METADATA:
            what = f"Must have at most {LARGEST_METADATA} bytes as JSON."
            raise Rejected(details=[Detail(("body", "metadata"), what, "too_long")])


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, as far as the host can tell them apart."""

    source_type: str | None = None
    user_id: int | None = None


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
        ...

    @property
    def page_size(self) -> int:
        """How many entries or runs to ask for in one request; the host may give fewer."""
        ...

    @property
    def observation(self) -> Observation | None:
        """What the last call showed of the host; None before the first."""
        ...

    def organization_id(self, text: str) -> str:
        """``text`` in the host's own form of an organization's id. Raises ``Rejected`` when it is none."""
        ...

    def run_id(self, text: str) -> str:
        """``text`` in the host's own form of a run's id. Raises ``Rejected`` when it is none."""
        ...

    def placeholder(self, ref: RunRef) -> LogEntry:
        """An entry for the place of one that cannot be had; amendable, in case it can be later."""
        ...

    def step(self, entry: LogEntry) -> Step:
        """What a log entry of this host means, in the words of all hosts."""
        ...

    def answer(self, run: Run) -> str | None:
        """What the agent answered, as far as a description of the run says so."""
        ...

    async def identify(self, credential: Credential) -> User:
        """Whose credential this is."""
        ...

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        """The organizations that this credential opens."""
        ...

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Start a run, with its marks. Raises ``Rejected`` for metadata that would pass for marks."""
        ...

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """A run, whole."""
        ...

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Runs, newest first. Their ids are whole numbers, and newer runs have higher ones."""
        ...

    async def resume_run(self, credential: Credential, ref: RunRef, prompt: str, images: tuple[str, ...] | None) -> Run:
        """Go on with a run, under the same id and log."""
        ...

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """Up to ``limit`` entries behind position ``after`` (``newest_first``: behind the ``after`` newest ones).

        The log is at its end where the page is empty, and where a page that has room comes to the host's own count.
        """
        ...

    async def aclose(self) -> None:
        """Let go of every connection."""
        ...


class Connect(Protocol):
    """What the name of an upstream stands for: its class, or a function that makes one."""

    def __call__(self, base_url: str, *, connect_timeout: float, read_timeout: float, via: str | None) -> Upstream:
        """``base_url`` is CODEGEN_BASE_URL; the timeouts are seconds. ``via`` is what to send as the ``Via`` header, by
        which a gateway that is its own host is noticed. Raises ValueError for a base URL that cannot be used.
        """
        ...


@runtime_checkable
class Cancels(Protocol):
    """The power to stop a run."""

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Stop a run; it can still be resumed."""
        ...

    async def uncancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Lift what a stop left behind, so that the run can go on."""
        ...


@runtime_checkable
class Members(Protocol):
    """The power to tell who is in an organization."""

    async def users(self, credential: Credential, organization: str, skip: int, limit: int) -> Listing[User]:
        """The users of an organization."""
        ...

    async def user(self, credential: Credential, organization: str, user_id: str) -> User:
        """One of them. Raises ``Rejected`` when ``user_id`` cannot be an id."""
        ...


@runtime_checkable
class Repositories(Protocol):
    """The power to tell which repositories an organization has."""

    async def repositories(
        self, credential: Credential, organization: str, skip: int, limit: int
    ) -> Listing[Repository]:
        """The repositories of an organization."""
        ...


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
    try:
        yield heard
        outcome = "ok"
    except GatewayError as error:
        outcome, retry_after = error.code, error.retry_after
        raise
    finally:
        seconds = time.monotonic() - started
        observer.asked(Exchange(credential.digest, operation, outcome, seconds, retry_after, heard.allowance))
