"""The contract of a broker: the log of each run, which its follower writes and its viewers read.

A log is kept in pages of 100 entries, with the latest description of the run. Pages may be let go at any time, as they
can be read again. A broker decides nothing: what to read, when a run has ended and who may see it is settled elsewhere.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from codegen_api.positions import Missed, Position
from codegen_api.runs import Amended, Appended, Changed, Cursor, LogEntry, LogPage, RunRef

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


class Broker(Protocol):
    """Where logs pass from their follower to their viewers. A log that somebody leads or reads is not forgotten."""

    async def publish(self, news: LogPage | Changed) -> None:
        """Take in a stretch of the log or a new description of the run. Publishing the same twice does nothing.

        The first stretch opens the log. An entry that was seen before and differs is an amendment. What lies between
        the end of the log and a stretch that begins behind it is read again when somebody needs it.
        """
        ...

    async def doubt(self, ref: RunRef) -> None:
        """Nobody has followed the run for a while: show nothing of it until it is opened by a stretch as it is now."""
        ...

    async def tail(self, ref: RunRef) -> Tail | None:
        """Where the log of this run ends; None when nothing may be shown of it."""
        ...

    async def missed(self, ref: RunRef, after: Cursor) -> Missed:
        """What somebody who comes back to this position may not know."""
        ...

    def entries(
        self, ref: RunRef, cursors: Iterable[Cursor], read: ReadPage
    ) -> AsyncGenerator[tuple[Cursor, LogEntry], None]:
        """These entries of the log, one after another, as they are now.

        Raises:
            Forgotten: the log was forgotten meanwhile.
        """
        ...

    def subscribe(
        self, ref: RunRef, after: Cursor, revision: int | None, read: ReadPage
    ) -> AsyncGenerator[Batch, None]:
        """Everything behind the position, then everything that comes, with no gap and no repeat, for ever. The
        description of the run comes at least once.

        Waits for a log that is not open yet. Entries up to ``after`` that were amended are given when that was after
        ``revision``; who has none (None) is given all that are known. Pages that are not held are read again, each
        once for all who need it at the same time.

        Raises:
            Forgotten: the log was forgotten while this subscriber waited, or since that revision.
        """
        ...

    async def forget(self, ref: RunRef) -> None:
        """Drop the log: the host has another one under this name."""
        ...

    def lead(self, ref: RunRef) -> AbstractAsyncContextManager[None]:
        """Be the one follower of this run, over all instances; waits while there is another."""
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...
