"""Lists of a caller's own runs, where callers share a token and the host lists everybody's."""

from cachetools import LRUCache

from codegen_api.errors import Unsupported
from codegen_api.host_reads import Reads
from codegen_api.identity import Caller
from codegen_api.ownership import Ownership
from codegen_api.run_search import FoundRuns, RunIndex, has_status, search
from codegen_api.runs import Paging, Run, RunRef
from codegen_api.singleflight import Singleflight
from codegen_api.upstreams import Listing, RunFilter

MAX_LISTS = 16
"""Number of indexed lists: one per organization and filter."""

_ID = 24
"""Bits of a run id in a bookmark: enough to tell neighbours apart, and which of two is newer."""
_DIGITS, _SHIFT = 10, 3
"""A place is stored as a floating-point number: its leading bits, and the bits of the exponent."""
_PLACES = 1 << (_DIGITS + (1 << _SHIFT) - 1)
"""The largest place that can be stored."""

Key = tuple[str, str, RunFilter]


class Bookmark:
    """A position in a list that is newest first: behind the run whose id ends in ``number``.

    Places shift while others start and remove runs, so ``place`` only says where to begin looking for that run.
    """

    def __init__(self, number: int, place: int) -> None:
        self.number = number
        self.place = place
        self._met = False

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
        """Whether this run lies behind the bookmark. To be asked of each run in list order."""
        met, self._met = self._met, self._met or self.number == _number(ref)
        return met or self.older(ref)

    def older(self, ref: RunRef) -> bool:
        """Whether this run is older than the one marked."""
        return 0 < (self.number - _number(ref)) % (1 << _ID) < 1 << (_ID - 1)


class ListStart(Bookmark):
    """The beginning of the list."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def older(self, ref: RunRef) -> bool:
        return True


def _number(ref: RunRef) -> int:
    if not ref.id.isdecimal():  # places in the list are kept by numbers that grow
        raise Unsupported("This host's ids are no numbers, so the gateway cannot list your runs alone.")
    return int(ref.id) % (1 << _ID)


class OwnRuns:
    """Finds a caller's own runs. Owners are indexed once for all callers."""

    def __init__(self, reads: Reads, ownership: Ownership, page_size: int) -> None:
        self._reads = reads
        self._ownership = ownership
        self._page_size = page_size
        self._indexes: LRUCache[Key, RunIndex] = LRUCache(MAX_LISTS)
        self._flights: Singleflight[tuple[int, Key, int], Listing[Run]] = Singleflight()

    async def list(
        self,
        caller: Caller,
        organization: str,
        skip: int,
        limit: int,
        only: RunFilter,
        status: str | None,
        *,
        writes: int,
    ) -> FoundRuns:
        """The caller's own runs. ``skip`` is a number of runs, or where an earlier search stopped. Reads that began
        after the same number of ``writes`` are shared.
        """
        sealed = self._ownership.unseal(skip)
        mark = ListStart() if sealed is None else Bookmark.decode(sealed)
        key = (caller.credential.digest, organization, only)
        index = self._indexes.setdefault(key, RunIndex(self._ownership.owner_of))
        marks = self._ownership.marks_of(caller)

        async def read(place: int) -> Listing[Run]:
            listing = await self._flights.share(
                (writes, key, place),
                lambda: self._reads.runs(caller.credential, organization, place, self._page_size, only),
            )
            index.add_page(place, listing)
            return listing

        def wanted(run: Run) -> bool:
            behind = mark.precedes(run.ref)  # must be called for every run
            return behind and self._ownership.may_list(caller, run) and (status is None or has_status(run, status))

        found = await search(
            read,
            wanted,
            next_place=lambda place: index.next(place, marks.__contains__),
            place=mark.place,
            overshot=lambda page: mark.older(page.items[0].ref) if page.items else not page.length,
            skip=skip if sealed is None else 0,
            limit=limit,
        )
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
        return FoundRuns(listing, on, searched=True, unseen=found.unseen)

    async def aclose(self) -> None:
        await self._flights.aclose()
