"""Lists of one's own runs, where callers share a token and the host shows everybody's."""

from cachetools import LRUCache

from codegen_api.flights import Flights
from codegen_api.identity import Caller
from codegen_api.ownership import Ownership
from codegen_api.reads import Reads
from codegen_api.runs import Paging, Run
from codegen_api.searching import Found, RunIndex, has_status, search
from codegen_api.upstreams import Listing, RunFilter

LISTS = 16
"""So many lists are remembered: one for each organization, and for each filter of the host's own."""

Key = tuple[str, str, RunFilter]


class OwnRuns:
    """Finds them. Which runs are whose is remembered, for all who look."""

    def __init__(self, reads: Reads, ownership: Ownership, page_size: int) -> None:
        self._reads = reads
        self._ownership = ownership
        self._page_size = page_size
        self._indexes: LRUCache[Key, RunIndex] = LRUCache(LISTS)
        self._flights: Flights[tuple[int, Key, int], Listing[Run]] = Flights()

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
    ) -> Found:
        """The caller's own runs: ``skip`` counts them, or is where a search stopped. Reads that began after the same
        number of ``writes`` are one.
        """
        sealed = self._ownership.unseal(skip)
        key = (caller.credential.digest, organization, only)
        index = self._indexes.setdefault(key, RunIndex(self._ownership.owner_of))
        marks = self._ownership.marks_of(caller)

        async def read(place: int) -> Listing[Run]:
            listing = await self._flights.share(
                (writes, key, place),
                lambda: self._reads.runs(caller.credential, organization, place, self._page_size, only),
            )
            index.take_in(place, listing)
            return listing

        found = await search(
            read,
            lambda run: self._ownership.sees(caller, run) and (status is None or has_status(run, status)),
            next_place=lambda place: index.next(place, marks.__contains__),
            place=sealed or 0,
            passing=skip if sealed is None else 0,
            limit=limit,
        )
        # what others have is theirs: neither how many there are nor where in their list is told
        listing = Listing(found.runs, Paging(None, None, limit, None), found.next_place is None)
        next_skip = None if found.next_place is None else self._ownership.seal(found.next_place)
        return Found(listing, next_skip, searched=True, unseen=found.unseen)

    async def aclose(self) -> None:
        """End what is under way."""
        await self._flights.aclose()
