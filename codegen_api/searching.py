"""Searching the host's list of runs for those that it cannot pick out itself."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from codegen_api.runs import Run
from codegen_api.upstreams import Listing

SEARCHED_PAGES = 10
"""How many of the host's pages are read at most for one answer."""

Wanted = Callable[[Run], bool]


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, and the place in the host's list behind the last run that was looked at; None at its end.

    ``total`` is the host's word on how long that list is.
    """

    runs: tuple[Run, ...]
    next_place: int | None
    total: int | None


async def search(
    read: Callable[[int], Awaitable[Listing[Run]]],
    wanted: Wanted,
    *,
    place: int = 0,
    passing: int = 0,
    limit: int = 1,
    pages: int = SEARCHED_PAGES,
) -> Search:
    """The first ``limit`` runs that are wanted, from ``place`` on, after ``passing`` others; ``read`` reads a page of
    the list from a place on.
    """
    found: list[Run] = []
    for _ in range(pages):
        listing = await read(place)
        for index, run in enumerate(listing.items, 1):
            if not wanted(run):
                continue
            if passing:
                passing -= 1
                continue
            found.append(run)
            if len(found) == limit:
                at_end = listing.at_end and index == len(listing.items)
                return Search(tuple(found), None if at_end else place + index, listing.paging.total)
        place += len(listing.items)
        if listing.at_end:
            return Search(tuple(found), None, listing.paging.total)
    return Search(tuple(found), place, listing.paging.total)


def has_status(run: Run, wanted: str) -> bool:
    """Whether this is the run's status, in the host's words or ours, in either case."""
    return wanted.lower() == run.status or (run.raw_status is not None and wanted.upper() == run.raw_status.upper())
