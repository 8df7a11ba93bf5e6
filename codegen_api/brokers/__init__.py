"""The contract of a broker: where a run's follower leaves what it read, and its viewers find it.

A broker keeps the recent stretch of each log, its *window*, and the latest description of the run. It decides nothing:
what to read, when a run has ended and who may see it is settled elsewhere.
"""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from codegen_api.positions import Missed, Position
from codegen_api.runs import Amended, Appended, Changed, Cursor, LogEntry, LogPage, RunRef

BATCH_BYTES = 64 * 1024
"""The most that one batch holds (unless a single entry is larger): what a stuck connection can pin."""


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


class Evicted(Exception):
    """What was asked for is no longer in the window: new entries, or changes of entries that were given.

    ``first``: the first position that the window still holds (one past the tail when it holds none).
    ``missed``: what has to be told besides what comes before ``first``; then the window has the rest.
    """

    def __init__(self, first: Cursor, missed: Missed) -> None:
        super().__init__(first, missed)
        self.first = first
        self.missed = missed


class Forgotten(Exception):
    """The log was replaced by another one: nothing that was read of it holds."""


class Broker(Protocol):
    """Where logs pass from their follower to their viewers."""

    async def publish(self, news: LogPage | Changed) -> None:
        """Take in a page or a new description of the run. Publishing the same page twice does nothing.

        The first page of a run opens its window. An entry that was there already, or was noted, and differs is an
        amendment. With a page that begins behind the tail the window begins anew, and what is before counts as evicted.
        """
        ...

    async def note(self, page: LogPage) -> None:
        """Remember of a page how its entries look, and nothing else: somebody is about to be given what is not in the
        window.
        """
        ...

    async def doubt(self, ref: RunRef) -> None:
        """Nobody has followed the run for a while: close its window, until it is opened by a page as it is now."""
        ...

    async def tail(self, ref: RunRef) -> Tail | None:
        """Where the window of this run ends; None when there is none, or it is closed."""
        ...

    async def held(self, ref: RunRef, after: Cursor) -> tuple[LogEntry, ...]:
        """The next entries behind a position, as many as go into a batch; none when the window does not hold them."""
        ...

    async def missed(self, ref: RunRef, after: Cursor) -> Missed:
        """What somebody who comes back to this position may not know."""
        ...

    def subscribe(self, ref: RunRef, after: Cursor, revision: int | None = None) -> AsyncGenerator[Batch, None]:
        """Everything behind the position, then everything that comes, with no gap and no repeat, for ever. The
        description of the run comes at least once.

        Waits for a window that is not there yet. Entries up to ``after`` that were amended are given when that was
        after ``revision``; who has none (None) is given all that are known.

        Raises:
            Evicted: the window does not hold what is to be given.
            Forgotten: the log was forgotten while this subscriber waited.
        """
        ...

    async def forget(self, ref: RunRef) -> None:
        """Drop the window: the host has another log under this name."""
        ...

    def lead(self, ref: RunRef) -> AbstractAsyncContextManager[None]:
        """Be the one follower of this run, over all instances; waits while there is another."""
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...
