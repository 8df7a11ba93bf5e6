"""The contract of a broker: the log of each run, which its follower writes and its viewers read.

A log is kept in pages of 100 entries, with the latest description of the run. A broker may drop pages at any time, as
they can be read again. It decides nothing: what to read, when a run has ended and who may see it is settled elsewhere.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from codegen_api.positions import Missed, Position
from codegen_api.runs import Amended, Appended, Changed, Cursor, LogEntry, LogPage, Run, RunRef
from codegen_api.taps import Tap

BATCH_BYTES = 64 * 1024
"""Maximum bytes of a batch (unless a single entry is larger), and so what a stuck connection can pin."""

PAGE = 100
"""Entries per page. Page 0 has entries 1 to 100."""

ReadPage: TypeAlias = Callable[[int], Awaitable[Sequence[LogEntry]]]
"""Reads the page of this number again from the host. If it is shorter than expected, waits a moment before returning.
"""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Batch:
    """The next events for a subscriber, in order, and its position (``cursor``, ``revision``) after them.

    ``changed`` is the latest description of the run, if the subscriber lacks it and now has every entry.
    ``positions`` are a viewer's positions after each of the entries.
    Viewers at the same position get the same object, so that it is encoded once for all.
    """

    entries: tuple[Appended | Amended, ...]
    changed: Changed | None
    cursor: Cursor
    revision: int
    positions: tuple[Position, ...] = ()


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a new follower continues: the position reached, and up to 100 entries that lead there.

    Entries after ``known`` were seen here, so the broker notices when they change.
    """

    cursor: Cursor
    known: Cursor
    recent: tuple[LogEntry, ...] = field(repr=False)
    changed: Changed | None


class Forgotten(Exception):
    """The log was replaced by another one: whatever was read of it is void."""


class Superseded(Exception):
    """Another instance leads, or is about to: nothing may be published."""


# -- messages between instances about a run; times are those of the receiver's event loop -----------------------------


@dataclass(frozen=True, slots=True)
class Looked:
    """The leader has looked at the host: what it knows of the log besides what it has published.

    ``at``: when its last successful look began. ``born``: when it began to read. ``revision``: the log's, if the host
    has revisions. ``run``: the host's description at ``described``, if not published yet. ``refreshed``: the positions
    up to which that look reread the last entries. ``trouble``: why the log is late, and in how many seconds the host is
    asked again. ``given``: as in ``LookWanted``, for all known instances.
    """

    at: float
    born: float
    caught_up: bool
    revision: str | None
    run: Run | None
    described: float
    refreshed: tuple[Cursor, ...]
    trouble: tuple[str, float | None] | None
    given: Cursor | None


@dataclass(frozen=True, slots=True)
class LookWanted:
    """Another instance asks the leader for a look no older than ``since`` that rereads the last entries up to each of
    the positions ``refreshed``.

    ``given``: viewers there have entries after this position, so changes of those matter.
    """

    since: float
    refreshed: tuple[Cursor, ...] = ()
    given: Cursor | None = None


@dataclass(frozen=True, slots=True)
class RunResumed:
    """The host answered a resume with ``run``. ``length`` is that of the log before it; None if not known."""

    at: float
    run: Run | None
    length: Cursor | None


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """The host answered a cancel."""

    at: float


@dataclass(frozen=True, slots=True)
class RunTouched:
    """The run was changed through a gateway, or should be read at once for another reason."""


@dataclass(frozen=True, slots=True)
class NewLog:
    """The log was replaced by another one."""


PeerNews: TypeAlias = Looked | LookWanted | RunResumed | RunCancelled | RunTouched
News: TypeAlias = LogPage | Changed | NewLog | PeerNews


class Lead:
    """The right to be the one follower of a run. Without other instances it is never lost."""

    anew = False
    """Whether the end of the log must be read again, as other instances may lack what this one knows of it."""

    @property
    def held(self) -> bool:
        """Whether this instance still leads."""
        return True

    async def regained(self) -> None:
        """Wait until this instance leads again."""


class Broker(Protocol):
    """Passes logs from their followers to their viewers. A log that has a leader or readers is kept.

    Several instances may share a broker: what the leader publishes reaches the viewers of all.
    """

    shared: bool
    """Whether there may be other instances, which must be told of news."""

    def listen(self, listener: Callable[[RunRef, News], None]) -> None:
        """Call ``listener`` with what other instances publish and tell about runs that are followed here, or about to
        be; with ``RunResumed``, ``RunCancelled`` and ``RunTouched`` for all runs.
        """

    async def tell(self, ref: RunRef, news: PeerNews) -> None:
        """Tell the other instances, if there are any. A ``Looked`` of an instance that no longer leads is dropped."""

    async def publish(self, news: LogPage | Changed, *, asked: float | None = None) -> None:
        """Add a stretch of the log, or a new description of the run. Publishing the same twice does nothing.

        The first stretch opens the log. An entry that differs from the one seen before is an amendment. A gap before a
        stretch is read when a viewer needs it. ``asked``: when the host was asked for the stretch (default: now).

        Raises:
            Superseded: the lead was lost.
        """

    async def doubt(self, ref: RunRef) -> None:
        """Show nothing of a run that was not followed for a while, until a current stretch opens its log again."""

    async def tail(self, ref: RunRef) -> Tail | None:
        """The end of this run's log; None if the log is not open."""

    async def missed(self, ref: RunRef, after: Cursor) -> Missed:
        """What a viewer that reconnects at this position may have missed."""

    def entries(
        self, ref: RunRef, cursors: Iterable[Cursor], read: ReadPage
    ) -> AsyncGenerator[tuple[Cursor, LogEntry], None]:
        """Yield these entries of the log as they are now.

        Raises:
            Forgotten: the log was forgotten meanwhile.
        """

    def subscribe(self, ref: RunRef, after: Cursor, revision: int | None, read: ReadPage) -> Tap[Batch]:
        """Everything after the position, then everything that comes, with no gap and no repeat, without end. The
        description of the run comes at least once.

        Waits for the log to be opened. Of the entries up to ``after`` it gives those amended since ``revision``, or all
        known amendments if that is None. Pages that are not held are read again, each once for all subscribers that
        need it at the same time.

        Raises:
            Forgotten: the log was forgotten since that revision, or while this subscriber waited.
        """

    async def forget(self, ref: RunRef) -> None:
        """Drop the log: the host has another one under this name.

        Raises:
            Superseded: the lead was lost.
        """

    def lead(self, ref: RunRef) -> AbstractAsyncContextManager[Lead]:
        """Become the one follower of this run in all instances; waits while there is another, whose news reaches the
        listener meanwhile.
        """

    async def aclose(self) -> None:
        """Drop all logs, and stop all tasks."""
