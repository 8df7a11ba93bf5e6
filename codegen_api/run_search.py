"""Searching the host's list of runs for those that it cannot pick out itself."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from codegen_api.runs import Run, RunRef
from codegen_api.upstreams import Listing

SEARCHED_PAGES = 10
"""How many of the host's pages are read at most for one answer. Where it gives them in pieces, each piece is one."""

INDEXED = 20_000
"""So many runs of a list are remembered, the newest ones."""

MOVED = 200
"""By so many places a list may have moved on between two of its pages, and is still taken for the same."""

STRIDE = 100
"""By so many places a search goes back at first, when it began behind the place that is meant; then by ever more."""

Wanted = Callable[[Run], bool]
OwnerOf = Callable[[Run], str | None]
Listed = tuple[RunRef, str | None]
"""A run in a list, and its owner; None where it may be anybody's."""

_UNKNOWN: Listed = (RunRef("", ""), None)


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """Runs of a list, with an account of it. ``next_skip`` says where to go on; None at its end. ``searched``: the list
    was searched for them. ``unseen``: some runs on the way could not be had.
    """

    listing: Listing[Run]
    next_skip: int | None = None
    searched: bool = False
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, and the place in the host's list where to go on; None at its end.

    ``last`` is the last run that was looked at, and its place; None when it came to none. ``total`` is the host's word
    on how long that list is.
    """

    runs: tuple[Run, ...]
    next_place: int | None
    last: tuple[RunRef, int] | None
    total: int | None
    unseen: bool


class RunIndex:
    """What is known of one list of the host's, newest first: which runs it holds from its front on, and whose they are.

    A list that many look through for their own runs is read once for all of them, and then only its front and the pages
    that hold something of one's own.
    """

    def __init__(self, owner_of: OwnerOf, *, at_most: int = INDEXED) -> None:
        self._owner_of = owner_of
        self._at_most = at_most
        self._known: list[Listed] = []
        self._whole = False  # nothing is behind what is known

    def take_in(self, place: int, listing: Listing[Run]) -> None:
        """The host's list was read from ``place`` on, and this was there."""
        read = [(run.ref, self._owner_of(run)) for run in listing.items]
        for gap in listing.gaps:
            read.insert(gap, _UNKNOWN)
        known = self._front(read) if place == 0 else self._behind(place, read)
        self._whole = (self._whole or listing.at_end) and bool(known)
        if listing.at_end:
            del known[place + len(read) :]
        if len(known) > self._at_most:
            del known[self._at_most :]
            self._whole = False
        self._known = known

    def next(self, place: int, hopeful: Callable[[str | None], bool]) -> int | None:
        """The first place from ``place`` on where a run's owner is ``hopeful`` (None: it may be anybody's); None when
        there is no such place up to the end of the list.
        """
        for at in range(place, len(self._known)):
            if hopeful(self._known[at][1]):
                return at
        return None if self._whole else max(place, len(self._known))

    def at(self, place: int) -> RunRef | None:
        """The run at this place; None where that is not known."""
        known = self._known[place] if place < len(self._known) else _UNKNOWN
        return None if known is _UNKNOWN else known[0]

    def _front(self, read: list[Listed]) -> list[Listed]:
        """What is known after the front of the list was read: newer runs push the others on."""
        known = [each for each in self._known if each != _UNKNOWN]
        new = read.index(known[0]) if known and known[0] in read else len(read)
        if known[: len(read) - new] == read[new:] and new < len(read):
            return read + known[len(read) - new :]
        self._whole = False
        return read

    def _behind(self, place: int, read: list[Listed]) -> list[Listed]:
        """The same for a page behind it; nothing when the list is not what it was."""
        start, known = place, self._known
        if read and read[0] in known[max(0, place - MOVED) : place]:  # newer runs came since the front was read
            start = known.index(read[0], max(0, place - MOVED))
        there = known[start : start + len(read)]
        if start > len(known) or there != read[: len(there)]:
            return []
        return [_UNKNOWN] * (place - start) + known[:start] + read + known[start + len(read) :]


async def search(
    read: Callable[[int], Awaitable[Listing[Run]]],
    wanted: Wanted,
    *,
    next_place: Callable[[int], int | None] = lambda place: place,
    place: int = 0,
    passed: Callable[[Listing[Run]], bool] = lambda _: False,
    passing: int = 0,
    limit: int = 1,
    pages: int = SEARCHED_PAGES,
) -> Search:
    """The first ``limit`` runs that are wanted, from ``place`` on, after ``passing`` others; ``read`` reads a page of
    the list from a place on, and ``next_place`` says where from a place on there may be some; None for nowhere.

    ``passed`` says of a page whether what is meant lies before it: then that is looked for there first.
    """
    found: list[Run] = []
    met: set[RunRef] = set()  # a run that newer ones push on to the next page is met twice
    last: tuple[RunRef, int] | None = None
    unseen, stride = False, STRIDE
    on: int | None = place
    while pages > 0 and on is not None:
        place = on
        listing = await read(place)
        pages -= listing.pieces
        unseen = unseen or bool(listing.gaps)
        if stride and place and passed(listing):
            on, stride = max(0, place - stride), 2 * stride
            continue
        stride = 0
        for index, run in enumerate(listing.items):
            last = run.ref, place + listing.place(index)
            if run.ref in met or not wanted(run):
                continue
            met.add(run.ref)
            if passing:
                passing -= 1
                continue
            found.append(run)
            if len(found) == limit:
                behind = listing.place(index) + 1
                at_end = listing.at_end and behind == listing.length
                on = None if at_end else next_place(place + behind)
                return Search(tuple(found), on, last, listing.paging.total, unseen)
        on = None if listing.at_end else next_place(place + listing.length)
    return Search(tuple(found), on, last, listing.paging.total, unseen)


def has_status(run: Run, wanted: str) -> bool:
    """Whether this is the run's status, in the host's words or ours, in either case."""
    return wanted.lower() == run.status or (run.raw_status is not None and wanted.upper() == run.raw_status.upper())
