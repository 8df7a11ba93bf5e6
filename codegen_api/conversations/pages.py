"""Turns that are over, read from the host page by page: each page once for all who read it, by each reader's right."""

from collections.abc import AsyncGenerator, Callable
from functools import partial

from cachetools import LRUCache

from codegen_api.conversations.progress import TurnEntry
from codegen_api.errors import UpstreamError
from codegen_api.following import loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import Cursor, LogEntry
from codegen_api.singleflight import Singleflight
from codegen_api.stores import Turn

FRESH = 5.0
"""Seconds for which a page is believed at least."""

LASTING = 0.1
"""The part of the time for which a turn has been over that a page of it is believed: what has stayed as it was for long
will stay so for some time. Caches of the web estimate in the same way.
"""

Entries = tuple[TurnEntry, ...]


class Pages:
    """Reads what is over, and keeps ``max_bytes`` of it for whoever reads it again. ``clock`` gives seconds since the
    epoch.
    """

    def __init__(self, gateway: Gateway, *, max_bytes: int, clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._clock = clock
        self._kept: LRUCache[tuple[str, Cursor], tuple[float, Entries]] = LRUCache(max_bytes, getsizeof=_size)
        self._flights: Singleflight[tuple[str, Cursor, str], Entries] = Singleflight()

    async def read(self, caller: Caller, turn: Turn, offset: int = 0) -> AsyncGenerator[Entries, None]:
        """What comes behind ``offset`` in a turn that is over; raises ``GatewayError`` where that is not shown."""
        end = turn.begin if turn.end is None else turn.end
        size = self._gateway.page_size
        while turn.run is not None and (cursor := turn.begin + offset) < end:
            start = cursor // size * size
            await self._gateway.view(caller, turn.run.organization, turn.run.id)
            good_until, page = self._kept.get((turn.id, start)) or (float("-inf"), ())
            if loop_time() >= good_until:
                flight = (turn.id, start, caller.credential.digest)
                page = await self._flights.share(flight, partial(self._fetch, caller, turn, start, end))
            if page[0].offset <= offset:
                page = tuple(came for came in page if came.offset > offset)
            offset = page[-1].offset
            yield page

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _fetch(self, caller: Caller, turn: Turn, start: Cursor, end: Cursor) -> Entries:
        """The page of the log from ``start`` on, as far as it is the turn's."""
        assert turn.run is not None  # noqa: S101 - it is read
        entries: list[LogEntry] = []
        size = self._gateway.page_size
        while (after := start + len(entries)) < min(start + size, end):  # the host may give it in pieces
            read = await self._gateway.read_log(
                caller, turn.run.organization, turn.run.id, after, start + size - after, newest_first=False
            )
            if not read.entries:
                raise UpstreamError("The host shows less of this log than it did.")
            entries += read.entries
        page = tuple(
            TurnEntry(position - turn.begin, entry)
            for position, entry in enumerate(entries, start + 1)
            if turn.begin < position <= end
        )
        over = self._clock() - turn.updated
        good_until = loop_time() + (FRESH if any(came.entry.absent for came in page) else max(FRESH, LASTING * over))
        if _size((good_until, page)) <= self._kept.maxsize:
            self._kept[turn.id, start] = (good_until, page)
        return page


def _size(kept: tuple[float, Entries]) -> int:
    return 100 + sum(came.entry.size for came in kept[1])
