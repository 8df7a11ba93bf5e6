"""Lists of runs: with filters that the host lacks, and of a caller's own runs where callers share a token."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

from cachetools import LRUCache

from codegen_api.following import loop_time
from codegen_api.gateway.host_reads import Reads
from codegen_api.gateway.ownership import Ownership
from codegen_api.identity import ALL, READ, Caller
from codegen_api.runs import Paging, Run, RunRef
from codegen_api.upstreams import Listing, RunFilter

SEARCHED_PAGES = 10
"""Maximum pages read from the host per answer. A page that comes in pieces counts once per piece."""

MAX_INDEXED = 20_000
"""Maximum runs indexed per list; the newest are kept."""

MAX_SHIFT = 200
"""Places by which a list may shift between two page reads before it counts as a different list."""

FIRST_STEP_BACK = 100
"""Places to step back at first when a search began behind its target; doubled each time."""

MAX_LISTS = 16
"""Number of indexed lists: one per organization and filter."""

_ID = 24
"""Bits of a run id in a bookmark: enough to tell neighbours apart, and which of two is newer."""
_DIGITS, _SHIFT = 10, 3
"""A place is stored as a floating-point number: its leading bits, and the bits of the exponent."""
_PLACES = 1 << (_DIGITS + (1 << _SHIFT) - 1)
"""The largest place that can be stored."""

Key = tuple[str, str, RunFilter]


IndexEntry = tuple[RunRef, str | None]
"""A run in a list and its owner mark; None if the owner is not known."""

_UNKNOWN: IndexEntry = (RunRef("", ""), None)


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """Runs from a list. ``next_skip`` says where to continue; None at the end. ``searched``: they were found by a
    search. ``unseen``: some runs on the way could not be read. ``asked``: when (event loop time) the host was asked for
    the first of the pages that were searched for the caller's own runs.
    """

    listing: Listing[Run]
    next_skip: int | None = None
    searched: bool = False
    unseen: bool = False
    asked: float = math.inf


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

    def __init__(self, owner_of: Callable[[Run], str | None], *, at_most: int = MAX_INDEXED) -> None:
        self._owner_of = owner_of
        self._at_most = at_most
        self._known: list[IndexEntry] = []
        self._complete = False  # the known part reaches the end of the list

    def add_page(self, place: int, listing: Listing[Run]) -> bool:
        """Update the index with a page read from ``place`` on. False if the list differs there: runs before it were
        removed, so that the index was wrong about later places.
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
        start, known, nearest = place, self._known, max(0, place - MAX_SHIFT)
        if read and read[0] in known[nearest:place]:  # the list has shifted since the front was read
            start = known.index(read[0], nearest)
        there = known[start : start + len(read)]
        if start > len(known) or there != read[: len(there)]:
            return []
        return [_UNKNOWN] * (place - start) + known[:start] + read + known[start + len(read) :]


class Bookmark:
    """A position in a list that is newest first: behind the run of this ``number``, which stands for its id.

    Places shift while others start and remove runs, so ``place`` only says where to begin looking for that run. Unless
    ids are growing numbers, nothing else helps: a run that is found neither there nor a hundred places before counts as
    gone, and runs may then be listed twice.
    """

    def __init__(self, number: int, place: int) -> None:
        self.number = number
        self.place = place
        self._met = self._missing = False

    @classmethod
    def decode(cls, value: int) -> "Bookmark":
        place, number = divmod(value, 1 << _ID)
        digits, shift = divmod(place, 1 << _SHIFT)
        return cls(number, digits << shift)

    def encode(self) -> int:
        shift = max(0, self.place.bit_length() - _DIGITS)
        return ((self.place >> shift) << _SHIFT | shift) << _ID | self.number

    def moved(self, ref: RunRef, place: int) -> "Bookmark":
        """The bookmark moved behind the run at ``place``; if that run precedes its own, only the place is updated."""
        return Bookmark(_number(ref) if self.precedes(ref) else self.number, place)

    def precedes(self, ref: RunRef) -> bool:
        """Whether this run lies behind the bookmark. Call it for each run in list order."""
        met, self._met = self._met, self._met or self.number == _number(ref)
        return met or self.older(ref)

    def arrive(self, refs: Sequence[RunRef], place: int) -> None:
        """Note that a page with these runs was read from ``place`` on."""
        if self._met or all(ref.id.isdecimal() for ref in refs):
            return
        before, self._missing = self._missing, self.number not in map(_number, refs)
        self._met = self._missing and (before or place == 0)

    def overshot(self, page: Listing[Run]) -> bool:
        """Whether the bookmark's run lies before this page, the last one read."""
        return (self._missing and not self._met) or (self.older(page.items[0].ref) if page.items else not page.length)

    def older(self, ref: RunRef) -> bool:
        """Whether this run is older than the one marked, as far as ids tell."""
        return ref.id.isdecimal() and 0 < (self.number - _number(ref)) % (1 << _ID) < 1 << (_ID - 1)


class ListStart(Bookmark):
    """The beginning of the list."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def older(self, ref: RunRef) -> bool:
        return True


def _number(ref: RunRef) -> int:
    return (int(ref.id) if ref.id.isdecimal() else crc32(ref.id.encode())) % (1 << _ID)


async def search(
    read: Callable[[int], Awaitable[Listing[Run]]],
    wanted: Callable[[Run], bool],
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
    met: set[RunRef] = set()  # newer runs may push a run onto the next page, where it is read again
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


class RunLists:
    """Lists runs. Where callers share a token and the host lists everybody's runs, one index serves all of them."""

    def __init__(self, reads: Reads, ownership: Ownership, page_size: int) -> None:
        self._reads = reads
        self._ownership = ownership
        self._page_size = page_size
        self._indexes: LRUCache[Key, RunIndex] = LRUCache(MAX_LISTS)

    async def list(
        self,
        caller: Caller,
        organization: str,
        skip: int,
        limit: int,
        only: RunFilter,
        status: str | None,
        front: Listing[Run] | None = None,
    ) -> FoundRuns:
        """As ``Gateway.list``. ``front`` is the first page of the host's list, if it was read already."""
        if caller.shared and only.user_id == str(caller.principal.number):
            caller, only = replace(caller, scopes=frozenset({READ})), replace(only, user_id=None)
        if caller.shared and READ + ALL not in caller.scopes:
            return await self._own(caller, (caller.credential.digest, organization, only), skip, limit, status, front)

        def read(place: int, amount: int) -> Awaitable[Listing[Run]]:
            return self._reads.runs(caller.credential, organization, place, amount, only)

        if status is None:
            listing = await read(skip, limit)
            return FoundRuns(listing, listing.next(skip), unseen=bool(listing.gaps))
        found = await search(
            lambda place: read(place, self._page_size), lambda run: has_status(run, status), place=skip, limit=limit
        )
        # the number of matches is unknown, so pages have no number
        listing = Listing(found.runs, Paging(found.total, None, limit, None), found.next_place is None)
        return FoundRuns(listing, found.next_place, searched=True, unseen=found.unseen)

    async def _own(
        self, caller: Caller, key: Key, skip: int, limit: int, status: str | None, front: Listing[Run] | None
    ) -> FoundRuns:
        """The caller's own runs. ``skip`` is a number of runs, or where an earlier search stopped."""
        sealed = self._ownership.unseal(skip)
        _, organization, only = key
        index = self._indexes.setdefault(key, RunIndex(self._ownership.owner_of))
        marks = self._ownership.marks_of(caller)
        fits, pages, asked = True, SEARCHED_PAGES, math.inf

        async def page(place: int) -> tuple[float, Listing[Run]]:
            began = loop_time()
            return began, await self._reads.runs(caller.credential, organization, place, self._page_size, only)

        async def read(place: int) -> Listing[Run]:
            nonlocal fits, pages, asked
            if place == 0 and front is not None and fits:
                listing = front
            else:
                began, listing = await self._reads.share(("runs", key, place), lambda: page(place))
                asked = min(asked, began)  # a shared read may have begun earlier
            fits, pages = index.add_page(place, listing) and fits, pages - listing.pieces
            mark.arrive([run.ref for run in listing.items], place)
            return listing

        def wanted(run: Run) -> bool:
            behind = mark.precedes(run.ref)  # must be called for every run
            return behind and self._ownership.may_list(caller, run) and (status is None or has_status(run, status))

        for _ in range(2):  # again if the index has turned out wrong and led past some runs
            mark = ListStart() if sealed is None else Bookmark.decode(sealed)
            found = await search(
                read,
                wanted,
                next_place=lambda place: index.next(place, marks.__contains__),
                place=mark.place,
                overshot=mark.overshot,
                skip=skip if sealed is None else 0,
                limit=limit,
                pages=max(1, pages),
            )
            if fits:
                break
        on = found.next_place
        if on is not None:
            if found.last is None:
                mark = Bookmark(mark.number, on)
            else:
                known = index.at(on - 1)  # none of the caller's runs lies before that place
                mark = mark.moved(*found.last) if known is None else mark.moved(known, on - 1)
            on = self._ownership.seal(mark.encode()) if mark.place < _PLACES else None
        # how many runs others have, and where in the list this one is, must not be disclosed
        listing = Listing(found.runs, Paging(None, None, limit, None), on is None)
        return FoundRuns(listing, on, searched=True, unseen=found.unseen, asked=asked)
