"""Searching the host's list of runs for those that it cannot pick out itself."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from codegen_api.runs import Paging, Run
from codegen_api.upstreams import Listing

SEARCHED_PAGES = 10
"""How many of the host's pages are read at most for one answer."""

PLACES = 10**12
"""A ``skip`` from here on is a place in the host's list, not a number of runs: where a search for the caller's own runs
goes on.
"""

Wanted = Callable[[Run], bool]


@dataclass(frozen=True, slots=True)
class Found:
    """Runs of a list, with an account of it. Where it was ``searched`` for them, ``next_skip`` says where to go on;
    None at its end.
    """

    listing: Listing[Run]
    next_skip: int | None = None
    searched: bool = False


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


async def find(
    read: Callable[[int], Awaitable[Listing[Run]]], wanted: Wanted, *, skip: int, limit: int, own: bool
) -> Found:
    """A page of what is wanted: runs of one's ``own``, which are counted from the front of the list, or others, which
    are counted by their place in it.
    """
    place, passing = (skip, 0) if not own else (skip - PLACES, 0) if skip >= PLACES else (0, skip)
    found = await search(read, wanted, place=place, passing=passing, limit=limit)
    # a page of what matched has no number: nobody knows how many there are; and what others have is theirs
    listing = Listing(found.runs, Paging(None if own else found.total, None, limit, None), found.next_place is None)
    next_skip = None if found.next_place is None else found.next_place + (PLACES if own else 0)
    return Found(listing, next_skip, searched=True)


def has_status(run: Run, wanted: str) -> bool:
    """Whether this is the run's status, in the host's words or ours, in either case."""
    return wanted.lower() == run.status or (run.raw_status is not None and wanted.upper() == run.raw_status.upper())
