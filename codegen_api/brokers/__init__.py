"""The contract of a broker: the log of each run, which its follower writes and its viewers read.

A log is kept in pages of 100 entries, with the latest description of the run. Pages may be let go at any time, as they
can be read again. A broker decides nothing: what to read, when a run has ended and who may see it is settled elsewhere.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from codegen_api.positions import Missed, Position
from codegen_api.runs import Amended, Appended, Changed, Cursor, LogEntry, LogPage, Run, RunRef
from codegen_api.taps import Tap

BATCH_BYTES = 64 * 1024
"""The most that one batch holds (unless a single entry is larger): what a stuck connection can pin."""

PAGE = 100
"""So many entries make a page. Page 0 has entries 1 to 100."""

ReadPage: TypeAlias = Callable[[int], Awaitable[Sequence[LogEntry]]]
"""Reads a page again, by its number, as the host has it now. Waits a moment before it gives less than there should be.
"""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Batch:
    """What a subscriber lacked, in order, and the position (``cursor``, ``revision``) at which it stands now.

    ``changed`` is the latest description of the run when it is news and every entry has been given.
    ``positions`` are where a viewer is behind each of the entries.
    Viewers at the same position are given the same object, so that it can be encoded once for all.
    """

    entries: tuple[Appended | Amended, ...]
    changed: Changed | None
    cursor: Cursor
    revision: int
    positions: tuple[Position, ...] = ()


@dataclass(frozen=True, slots=True)
class Tail:
    """What a new follower needs to go on from: the position reached, and up to 100 entries that lead there.

    ``known``: what is behind this position was seen here, so that changes of it can be noticed.
    """

    cursor: Cursor
    known: Cursor
    recent: tuple[LogEntry, ...] = field(repr=False)
    changed: Changed | None


class Forgotten(Exception):
    """The log was replaced by another one: nothing that was read of it holds."""


class Superseded(Exception):
    """Somebody else leads by now, or will: nothing may be published."""


# -- what instances tell each other of a run; all times are those of the event loop that hears of them ----------------


@dataclass(frozen=True, slots=True)
class Looked:
    """What the leader knows of the log beside what it has published.

    ``at``: when its last look began that went through. ``born``: since when it has read. ``revision``: that of the log,
    at hosts that give one. ``run``, as the host was asked for it at ``described``, where nobody was told of it yet.
    ``refreshed``: behind which positions that look read the last entries again. ``trouble``: why the log is late, and
    in how many seconds the host is asked again. ``given`` is as in ``LookWanted``, of all instances that are known.
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
    """Somebody elsewhere wants the leader to have looked since then, and to read the last entries up to there again.

    ``given``: what is behind this position was given to somebody there, so that its changes are of interest.
    """

    since: float
    refreshed: tuple[Cursor, ...] = ()
    given: Cursor | None = None


@dataclass(frozen=True, slots=True)
class RunResumed:
    """The host answered a resume, with ``run``, of a log that was of this ``length`` before, as far as it is known."""

    at: float
    run: Run | None
    length: Cursor | None


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """The host answered a cancel."""

    at: float


@dataclass(frozen=True, slots=True)
class RunTouched:
    """Somebody has altered the run through a gateway, or there is another reason to see at once how it is."""


@dataclass(frozen=True, slots=True)
class NewLog:
    """The log was replaced by another one."""


Told: TypeAlias = Looked | LookWanted | RunResumed | RunCancelled | RunTouched
News: TypeAlias = LogPage | Changed | NewLog | Told


class Lead:
    """Being the one follower of a run, as long as it lasts: for good, where there are no other instances."""

    anew = False
    """Whether the others may lack what this instance knows of the end of the log: it has to be read again."""

    @property
    def held(self) -> bool:
        """Whether it still is so."""
        return True

    async def regained(self) -> None:
        """Until it is so again."""


class Broker(Protocol):
    """Where logs pass from their follower to their viewers. A log that somebody leads or reads is not forgotten.

    Several instances may have one in common: what the leader publishes reaches the viewers of all.
    """

    shared: bool
    """Whether there may be other instances, who have to be told."""

    def listen(self, listener: Callable[[RunRef, News], None]) -> None:
        """Have it called with what other instances publish and tell, of runs of which somebody here is the follower or
        wants to be; of a ``RunResumed``, ``RunCancelled`` and ``RunTouched`` always.
        """

    async def tell(self, ref: RunRef, news: Told) -> None:
        """Tell the other instances, if there are any. What the leader tells when it does not lead any more is lost."""

    async def publish(self, news: LogPage | Changed, *, asked: float | None = None) -> None:
        """Take in a stretch of the log or a new description of the run. Publishing the same twice does nothing.

        The first stretch opens the log. An entry that was seen before and differs is an amendment. What lies between
        the end of the log and a stretch that begins behind it is read again when somebody needs it. ``asked``: when the
        host was asked for the stretch (default: now).

        Raises:
            Superseded: the lead was lost.
        """

    async def doubt(self, ref: RunRef) -> None:
        """Nobody has followed the run for a while: show nothing of it until it is opened by a stretch as it is now."""

    async def tail(self, ref: RunRef) -> Tail | None:
        """Where the log of this run ends; None when nothing may be shown of it."""

    async def missed(self, ref: RunRef, after: Cursor) -> Missed:
        """What somebody who comes back to this position may not know."""

    def entries(
        self, ref: RunRef, cursors: Iterable[Cursor], read: ReadPage
    ) -> AsyncGenerator[tuple[Cursor, LogEntry], None]:
        """These entries of the log, one after another, as they are now.

        Raises:
            Forgotten: the log was forgotten meanwhile.
        """

    def subscribe(self, ref: RunRef, after: Cursor, revision: int | None, read: ReadPage) -> Tap[Batch]:
        """Everything behind the position, then everything that comes, with no gap and no repeat, for ever. The
        description of the run comes at least once.

        Waits for a log that is not open yet. Entries up to ``after`` that were amended are given when that was after
        ``revision``; who has none (None) is given all that are known. Pages that are not held are read again, each
        once for all who need it at the same time.

        Raises:
            Forgotten: the log was forgotten while this subscriber waited, or since that revision.
        """

    async def forget(self, ref: RunRef) -> None:
        """Drop the log: the host has another one under this name.

        Raises:
            Superseded: the lead was lost.
        """

    def lead(self, ref: RunRef) -> AbstractAsyncContextManager[Lead]:
        """Be the one follower of this run, over all instances; waits while there is another. What that one publishes
        and tells is heard meanwhile.
        """

    async def aclose(self) -> None:
        """Let go of everything."""
