"""Reading a log or a list in pieces, as large as the host gives them.

A host may give fewer entries than it was asked for, and may fail to give as many: its answer is too long, breaks off on
the way, does not come in time, or is any error that it, or what stands before it, answers then. So what a short page
leaves is asked for next, until the host says that this was the end; and of what could not be had half as much is asked
for, down to a single one, which then is left out. An error alone may as well mean that the host is down: less is asked
for when it has given a single one at the same place.
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
"""How many pieces are read at most for one answer to a client, who then is told where to go on; those not counted after
which it was known that less must be asked for.
"""

LONG_ENOUGH = 20.0
"""Seconds after which no other piece is begun for such an answer."""

MOMENT = 0.1
"""Seconds after which a host is asked again that has failed."""

AT_ONCE = 5.0
"""Seconds within which a host that is well gives a single entry, when it took too long for more."""

STEADY = 4
"""After so many pieces that came, twice as much is asked for."""

LESS_STEADY = 64
"""The same at most, where that was too much again and again."""

REMEMBERED = 600.0
"""Seconds for which it is known how much can be had at once."""

GIVEN_UP = 60.0
"""Seconds for which an entry that cannot be had is not asked for again."""

MISSING = 1000
"""So many such entries are remembered of one log."""

BEYOND = 10_000
"""So far ahead of what cannot be had there should be nothing, and nothing can be had from any host that is well."""


class _Found(Protocol):
    @property
    def at_end(self) -> bool: ...

    @property
    def length(self) -> int: ...


F = TypeVar("F", bound=_Found)


def may_be_too_much(error: GatewayError) -> bool:
    """Whether that may have been because too much was asked for. Not where the host asks for patience, refuses whoever
    asks, or was not reached.
    """
    if isinstance(error, UpstreamFailure):
        return isinstance(error, AnswerCut) or (error.may_have_acted and error.retry_after is None)
    return isinstance(error, Rejected)


class Portion:
    """How much of one log or list is asked for at once: ``most``, but for what the host could not give.

    ``fixed``: what is at a position stays there, so it need not be tried again and again if it cannot be had.
    """

    def __init__(self, most: int, *, fixed: bool = False) -> None:
        self.size = most
        self.doubted = False
        """More than a single one did not come when it was asked for last, which may have passed."""
        self._fixed = fixed
        self._most = most
        self._came = 0
        self._steady = STEADY
        self._growing = False
        self._missing: OrderedDict[int, float] = OrderedDict()

    def of(self, start: int, limit: int) -> int:
        """How many to ask for of ``limit`` from ``start`` on; 0 when the one there cannot be had."""
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
        """They were too many."""
        self._steady = min(2 * self._steady, LESS_STEADY) if self._growing else STEADY
        self._growing = False
        self.size, self._came = max(1, asked // 2), 0

    def doubt(self, asked: int) -> None:
        """They did not come, and a single one did: once, that may have been because of something that has passed."""
        if self.doubted or self._growing:
            self.failed(asked)
        self.doubted = True

    def give_up(self, position: int) -> None:
        """That one cannot be had. What comes behind it may be as small as ever."""
        self._steady = 1
        if self._fixed:
            self._missing[position] = loop_time() + GIVEN_UP
            if len(self._missing) > MISSING:
                self._missing.popitem(last=False)


class Portions:
    """What is known of how much of a log or list can be had at once."""

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
    """What can be had at once of ``limit`` from ``start`` on; None for the one there, if that cannot be had.

    ``read`` says besides how many it has asked for in the end: a single one where it found that more may be too much.
    It raises ``AnswerCut`` for what is surely too much, and for a single one only when it is sure that the host is well
    otherwise.
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
    """What there is of ``limit`` from ``start`` on, in ``AT_MOST`` pieces; None for each that cannot be had.

    Raises:
        GatewayError: the first of them was not to be had. What came is given without those behind it.
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
    """A stretch of a log as one page, with a ``placeholder`` for each entry that cannot be had."""
    found = await pieces(read, start, limit, portion)
    had = [page for page in found if page is not None]
    last = had[-1] if had else (await read(start + BEYOND, 1))[0]  # nothing but the run is wanted of it
    if found == [last]:
        return last
    entries = [entry for page in found for entry in ((placeholder(),) if page is None else page.entries)]
    ended = found[-1] is not None and last.at_end
    return LogPage(last.run, start, tuple(entries), ended, _paging(last.paging, start, limit), last.newest_first)


async def listing_of(
    read: Callable[[int, int], Awaitable[tuple[Listing[T], int]]], start: int, limit: int, portion: Portion
) -> Listing[T]:
    """A stretch of a list as one page, with a gap for each that cannot be had."""
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
    """The host's account of a page that it would have given had it given all that was asked for."""
    total = paging.total
    return Paging(
        total,
        None if paging.page is None else start // limit + 1,
        None if paging.size is None else limit,
        None if paging.pages is None or total is None else -(-total // limit),
    )


def proven(read: Callable[[int, int, int], Awaitable[T]]) -> Callable[[int, int], Awaitable[tuple[T, int]]]:
    """Reading for ``piece`` where somebody waits for the answer. The third that ``read`` takes is how often it may ask.

    What fails is followed by a single one, and that, if it fails, by what there should be none of: a host that is down
    is asked three times. If it is well it is asked again for the single one, more than once.
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
    except AnswerCut as error:  # then it is not for what was asked for
        raise UpstreamError(error.message) from error
    if isinstance(fault, AnswerTooLong):
        raise fault
    try:
        return await read(start, 1, 3)
    except (UpstreamFailure, Rejected) as error:
        if isinstance(error, AnswerCut) or not may_be_too_much(error):
            raise
        raise AnswerCut from error
