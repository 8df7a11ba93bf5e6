"""Searches the host's list of runs by criteria that the host cannot filter by."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from codegen_api.runs import Run, RunRef
from codegen_api.upstreams import Listing

SEARCHED_PAGES = 10
"""Maximum pages read from the host per answer. A page that comes in pieces counts once per piece."""

MAX_INDEXED = 20_000
"""Maximum runs indexed per list; the newest are kept."""

MAX_SHIFT = 200
"""Places by which a list may shift between two page reads before it counts as a different list."""

FIRST_STEP_BACK = 100
"""Places to step back at first when a search began behind its target; doubled each time."""

Wanted = Callable[[Run], bool]
OwnerOf = Callable[[Run], str | None]
IndexEntry = tuple[RunRef, str | None]
"""A run in a list and its owner mark; None if the owner is not known."""

_UNKNOWN: IndexEntry = (RunRef("", ""), None)


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """Runs from a list. ``next_skip`` says where to continue; None at the end. ``searched``: they were found by a
    search. ``unseen``: some runs on the way could not be read.
    """

    listing: Listing[Run]
    next_skip: int | None = None
    searched: bool = False
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """The result of a search, and the place in the host's list where to continue; None at its end.

    ``last`` is the last run examined and its place; None if there was none. ``total`` is the length that the host
    claims.
    """

    runs: tuple[Run, ...]
    next_place: int | None
    last: tuple[RunRef, int] | None
    total: int | None
    unseen: bool


class RunIndex:
    """An index of one list of the host, newest first: the runs from its front on, and their owners.

    Many callers look through the same list for their own runs. With the index it is read once for all of them, and
    after that only its front and the pages with a match.
    """

    def __init__(self, owner_of: OwnerOf, *, at_most: int = MAX_INDEXED) -> None:
        self._owner_of = owner_of
        self._at_most = at_most
        self._known: list[IndexEntry] = []
        self._complete = False  # the known part reaches the end of the list

    def add_page(self, place: int, listing: Listing[Run]) -> bool:
        """Update the index with a page read from ``place`` on. False if the list is a different one there: runs were
        removed before it, so that what the index said of later places was wrong.
        """
        read = [(run.ref, self._owner_of(run)) for run in listing.items]
        for gap in listing.gaps:
            read.insert(gap, _UNKNOWN)
        before = len(self._known)
        known = self._front(read) if place == 0 else self._behind(place, read)
        matches = bool(known) or place == 0 or place > before
        self._complete = (self._complete or listing.at_end) and bool(known)
        if listing.at_end:
            del known[place + len(read) :]
        if len(known) > self._at_most:
            del known[self._at_most :]
            self._complete = False
        self._known = known
        return matches

    def next(self, place: int, may_match: Callable[[str | None], bool]) -> int | None:
        """The first place from ``place`` on whose owner ``may_match`` (None if unknown); None at the end of the
        list.
        """
        for at in range(place, len(self._known)):
            if may_match(self._known[at][1]):
                return at
        return None if self._complete else max(place, len(self._known))

    def at(self, place: int) -> RunRef | None:
        """The run at this place; None if not known."""
        known = self._known[place] if place < len(self._known) else _UNKNOWN
        return None if known is _UNKNOWN else known[0]

    def _front(self, read: list[IndexEntry]) -> list[IndexEntry]:
        """The index after a read of the list's front, where newer runs may have pushed the others back."""
        known = [each for each in self._known if each != _UNKNOWN]
        new = read.index(known[0]) if known and known[0] in read else len(read)
        if known[: len(read) - new] == read[new:] and new < len(read):
            return read + known[len(read) - new :]
        self._complete = False
        return read

    def _behind(self, place: int, read: list[IndexEntry]) -> list[IndexEntry]:
        """The index after a read of a later page; empty if the list no longer matches."""
        start, known = place, self._known
        if (
            read and read[0] in known[max(0, place - MAX_SHIFT) : place]
        ):  # the list has shifted since the front was read
            start = known.index(read[0], max(0, place - MAX_SHIFT))
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
    overshot: Callable[[Listing[Run]], bool] = lambda _: False,
    skip: int = 0,
    limit: int = 1,
    pages: int = SEARCHED_PAGES,
) -> Search:
    """Collect the first ``limit`` wanted runs from ``place`` on, after skipping ``skip`` of them.

    ``read`` reads a page from a place on. ``next_place`` maps a place to the next one worth reading, None for the end.
    ``overshot`` says of a page whether the target lies before it: the search then steps back first.
    """
    found: list[Run] = []
    met: set[RunRef] = set()  # a run that newer ones push onto the next page comes twice
    last: tuple[RunRef, int] | None = None
    unseen, step_back = False, FIRST_STEP_BACK
    on: int | None = place
    while pages > 0 and on is not None:
        place = on
        listing = await read(place)
        pages -= listing.pieces
        unseen = unseen or bool(listing.gaps)
        if step_back and place and overshot(listing):
            on, step_back = max(0, place - step_back), 2 * step_back
            continue
        step_back = 0
        for index, run in enumerate(listing.items):
            last = run.ref, place + listing.place(index)
            if run.ref in met or not wanted(run):
                continue
            met.add(run.ref)
            if skip:
                skip -= 1
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
    """Whether this is the run's status, in the host's words or ours, ignoring case."""
    return wanted.lower() == run.status or (run.raw_status is not None and wanted.upper() == run.raw_status.upper())
