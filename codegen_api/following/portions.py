"""Reading a log or a list in pieces, as large as the host gives them.

A host may give fewer entries than it was asked for: the rest is asked for next, until the host says that this was the
end. Or it may fail to give as many: its answer is too long, breaks off, comes too late, or is any error of the host or
a proxy. Then half as much is asked for, down to a single entry, which is left out if it fails, too. As an error may
also mean that the host is down, less is asked for only after the host has given a single entry at the same place.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Protocol, TypeVar

from cachetools import TTLCache

from codegen_api.errors import (
    AnswerCut,
    AnswerTooLong,
    GatewayError,
    Rejected,
    Unavailable,
    UpstreamError,
    UpstreamFailure,
    UpstreamTimeout,
)
from codegen_api.following.rights import loop_time
from codegen_api.runs import UNCOUNTED, LogEntry, LogPage, Paging
from codegen_api.upstreams import Listing

T = TypeVar("T")

AT_MOST = 10
"""Maximum pieces read for one answer to a client, which says where to go on. A piece after which less must be asked for
is not counted.
"""

LONG_ENOUGH = 20.0
"""Seconds after which no further piece is begun for such an answer."""

MOMENT = 0.1
"""Seconds after which a host that has failed is asked again."""

AT_ONCE = 5.0
"""Seconds within which a healthy host gives a single entry, after it took too long for more."""

STEADY = 4
"""Number of successful pieces after which twice as much is asked for."""

LESS_STEADY = 64
"""Maximum of that number, where twice as much was too much again and again."""

REMEMBERED = 600.0
"""Seconds for which the size of a portion is remembered."""

GIVEN_UP = 60.0
"""Seconds for which an unreadable entry is not asked for again."""

MISSING = 1000
"""Maximum unreadable entries remembered per log."""

BEYOND = 10_000
"""Distance behind an unreadable entry at which there should be none: a healthy host answers there with nothing."""


class _Found(Protocol):
    @property
    def at_end(self) -> bool: ...

    @property
    def length(self) -> int: ...


F = TypeVar("F", bound=_Found)


def may_be_too_much(error: GatewayError) -> bool:
    """Whether the error may mean that too much was asked for: not if the host asks for patience, refuses the caller, or
    was not reached.
    """
    if isinstance(error, UpstreamFailure):
        return isinstance(error, AnswerCut) or (error.may_have_acted and error.retry_after is None)
    return isinstance(error, Rejected)


class Portion:
    """How much of one log or list is asked for at once: ``most``, or less where the host could not give that.

    ``fixed``: entries keep their positions, so an unreadable one need not be tried again each time.
    """

    def __init__(self, most: int, *, fixed: bool = False) -> None:
        self.size = most
        self.doubted = False
        """Whether the last request for more than one entry failed, for a reason that may have passed."""
        self._fixed = fixed
        self._most = most
        self._came = 0
        self._steady = STEADY
        self._growing = False
        self._missing: OrderedDict[int, float] = OrderedDict()

    def of(self, start: int, limit: int) -> int:
        """How many of ``limit`` to ask for from ``start`` on; 0 if the entry there is unreadable."""
        asked = min(limit, self.size)
        if self._missing:
            now = loop_time()
            for ahead in range(asked):
                if now < self._missing.get(start + ahead, now):
                    return ahead
        return asked

    def came(self, start: int, asked: int) -> None:
        for position in [position for position in self._missing if start <= position < start + asked]:
            del self._missing[position]
        self.doubted = self.doubted and asked == 1
        if asked < self.size or self.size == self._most:
            return
        self._came += 1
        self._growing = self._came >= self._steady
        if self._growing:
            self.size, self._came = min(2 * self.size, self._most), 0

    def failed(self, asked: int) -> None:
        """Note that so many are too many."""
        self._steady = min(2 * self._steady, LESS_STEADY) if self._growing else STEADY
        self._growing = False
        self.size, self._came = max(1, asked // 2), 0

    def doubt(self, asked: int) -> None:
        """Note that so many failed and a single one did not. The first time, that may be a fault that has passed."""
        if self.doubted or self._growing:
            self.failed(asked)
        self.doubted = True

    def give_up(self, position: int) -> None:
        """Note that the entry at this position is unreadable. Those behind it may be as small as ever."""
        self._steady = 1
        if self._fixed:
            self._missing[position] = loop_time() + GIVEN_UP
            if len(self._missing) > MISSING:
                self._missing.popitem(last=False)


class Portions:
    """The portion of each log and list."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: TTLCache[Hashable, Portion] = TTLCache(10_000, REMEMBERED, timer=loop_time)

    def of(self, key: Hashable, *, fixed: bool = False) -> Portion:
        portion = self._known.get(key) or Portion(self._most, fixed=fixed)
        self._known[key] = portion
        return portion


async def piece(
    read: Callable[[int, int], Awaitable[tuple[T, int]]], start: int, limit: int, portion: Portion
) -> T | None:
    """The next piece of ``limit`` from ``start`` on; None if the entry there is unreadable.

    ``read`` also returns how many it asked for in the end: one, if more may have been too much. It raises ``AnswerCut``
    for what is surely too much, and for a single entry only if the host is surely well otherwise.
    """
    while asked := portion.of(start, limit):
        try:
            found, given = await read(start, asked)
        except AnswerCut:
            portion.failed(asked)
            if asked == 1:
                portion.give_up(start)
                return None
        else:
            portion.came(start, given)
            if given < asked:
                portion.doubt(asked)
            return found
    return None


async def pieces(
    read: Callable[[int, int], Awaitable[tuple[F, int]]], start: int, limit: int, portion: Portion
) -> list[F | None]:
    """Up to ``limit`` from ``start`` on, in at most ``AT_MOST`` pieces; None for each unreadable entry.

    Raises:
        GatewayError: the first piece failed. If a later one fails, those before it are returned.
    """
    found: list[F | None] = []
    position, at_most = start, AT_MOST
    until = loop_time() + LONG_ENOUGH
    while position < start + limit and at_most and (not found or loop_time() < until):
        before = portion.size
        try:
            came = await piece(read, position, start + limit - position, portion)
        except (Unavailable, UpstreamFailure):
            if not found:
                raise
            break
        found.append(came)
        if portion.size >= before:
            at_most -= 1
        position += 1 if came is None else came.length
        if came is not None and (came.at_end or not came.length):
            break
    return found


async def page_of(
    read: Callable[[int, int], Awaitable[tuple[LogPage, int]]],
    start: int,
    limit: int,
    portion: Portion,
    placeholder: Callable[[], LogEntry],
) -> LogPage:
    """A stretch of a log as one page, with a ``placeholder`` for each unreadable entry."""
    found = await pieces(read, start, limit, portion)
    had = [page for page in found if page is not None]
    last = had[-1] if had else (await read(start + BEYOND, 1))[0]  # read for its run only
    if found == [last]:
        return last
    entries = [entry for page in found for entry in ((placeholder(),) if page is None else page.entries)]
    ended = found[-1] is not None and last.at_end
    return LogPage(last.run, start, tuple(entries), ended, _paging(last.paging, start, limit), last.newest_first)


async def listing_of(
    read: Callable[[int, int], Awaitable[tuple[Listing[T], int]]], start: int, limit: int, portion: Portion
) -> Listing[T]:
    """A stretch of a list as one page, with a gap for each unreadable item."""
    found: Sequence[Listing[T] | None] = await pieces(read, start, limit, portion)
    had = [listing for listing in found if listing is not None]
    if len(had) == len(found) == 1:
        return had[0]
    items = tuple(item for listing in had for item in listing.items)
    gaps: list[int] = []
    place = 0
    for listing in found:
        gaps += [place] if listing is None else [place + gap for gap in listing.gaps]
        place += 1 if listing is None else listing.length
    paging = _paging(had[-1].paging, start, limit) if had else UNCOUNTED
    return Listing(items, paging, found[-1] is not None and had[-1].at_end, tuple(gaps), len(found))


def _paging(paging: Paging, start: int, limit: int) -> Paging:
    """The paging that the host would give for a page with all that was asked for."""
    total = paging.total
    return Paging(
        total,
        None if paging.page is None else start // limit + 1,
        None if paging.size is None else limit,
        None if paging.pages is None or total is None else -(-total // limit),
    )


def proven(read: Callable[[int, int, int], Awaitable[T]]) -> Callable[[int, int], Awaitable[tuple[T, int]]]:
    """A ``read`` for ``piece``, for a caller who waits for the answer. The third argument is the number of tries.

    If a request fails, one for a single entry follows, and if that fails, one behind the end of the log or list: a host
    that is down is asked three times. If the host is well, it is asked for the single entry again, up to three times.
    """

    async def reading(start: int, limit: int) -> tuple[T, int]:
        quickly = None
        if limit > 1:
            try:
                return await read(start, limit, 1), limit
            except (UpstreamFailure, Rejected) as error:
                if isinstance(error, AnswerCut) or not may_be_too_much(error):
                    raise
                if isinstance(error, UpstreamTimeout):
                    quickly = AT_ONCE
            await asyncio.sleep(MOMENT)
        try:
            async with asyncio.timeout(quickly):
                return await _single(read, start), 1
        except TimeoutError as error:
            raise UpstreamTimeout from error

    return reading


async def _single(read: Callable[[int, int, int], Awaitable[T]], start: int) -> T:
    try:
        return await read(start, 1, 1)
    except (UpstreamFailure, Rejected) as error:
        if not may_be_too_much(error):
            raise
        fault = error
    await asyncio.sleep(MOMENT)
    try:
        await read(start + BEYOND, 1, 1)
    except AnswerCut as error:  # there is nothing to be too much: it is another fault
        raise UpstreamError(error.message) from error
    if isinstance(fault, AnswerTooLong):
        raise fault
    try:
        return await read(start, 1, 3)
    except (UpstreamFailure, Rejected) as error:
        if isinstance(error, AnswerCut) or not may_be_too_much(error):
            raise
        raise AnswerCut from error
