"""What was read again of logs from before their windows, kept for the next viewer who comes late."""

from collections.abc import Awaitable, Callable, Hashable
from weakref import WeakValueDictionary

from cachetools import LRUCache

from codegen_api.brokers import Batch
from codegen_api.positions import SETTLING
from codegen_api.runs import Cursor, LogEntry, LogPage, RunRef
from codegen_api.singleflight import Singleflight

Entries = tuple[LogEntry, ...]


class OldPages:
    """Full pages of logs, by run and number, bounded in bytes. They are believed for as long as the run is followed:
    whatever has changed in them is seen at its end, when they are read once more.
    """

    def __init__(self, max_bytes: int) -> None:
        self._held: LRUCache[tuple[RunRef, int], Entries] = LRUCache(max_bytes, getsizeof=_size)

    @property
    def held_bytes(self) -> int:
        return int(self._held.currsize)

    def get(self, ref: RunRef, number: int) -> Entries | None:
        return self._held.get((ref, number))

    def keep(self, ref: RunRef, number: int, entries: Entries) -> None:
        if _size(entries) <= self._held.maxsize:  # the cache refuses what could never fit
            self._held[ref, number] = entries

    def forget(self, ref: RunRef) -> None:
        """The host has another log under this name."""
        for key in [key for key in self._held if key[0] == ref]:
            del self._held[key]


class Past:
    """What lies before the window of one log, in full pages of ``size``, read once for all viewers.

    ``read`` reads behind a position, as many as it says or fewer, ``tail`` says how long the log is.
    """

    def __init__(
        self,
        ref: RunRef,
        pages: OldPages,
        *,
        size: int,
        read: Callable[[Cursor, int], Awaitable[LogPage]],
        tail: Callable[[], Cursor],
    ) -> None:
        self.batches: WeakValueDictionary[Hashable, Batch] = WeakValueDictionary()
        """What viewers who read again hold just now, for others at the same place: built and encoded once for all."""
        self._ref = ref
        self._pages = pages
        self._size = size
        self._read = read
        self._tail = tail
        self._forgotten = 0
        self._flights: Singleflight[tuple[int, int | None], Entries] = Singleflight()

    async def page(self, number: int, revision: int | None) -> Entries:
        """Page ``number``, counted from 0, as it was when the window had come to ``revision``, or later."""
        held = self._pages.get(self._ref, number)
        return held or await self._flights.share((number, revision), lambda: self._fetch(number))

    def holds(self, number: int) -> bool:
        """Whether that page is there without being read."""
        return self._pages.get(self._ref, number) is not None

    def keep(self, after: Cursor, entries: Entries, tail: Cursor) -> None:
        """Keep what was read, if nothing in it can be amended any more in a log of this length."""
        full = len(entries) == self._size and after % self._size == 0 and after + self._size <= tail - SETTLING
        if full and not any(entry.absent for entry in entries):
            self._pages.keep(self._ref, after // self._size, entries)

    def forget(self) -> None:
        """The host has another log under this name."""
        self._forgotten += 1
        self._pages.forget(self._ref)

    async def aclose(self) -> None:
        """End what is under way."""
        await self._flights.aclose()

    async def _fetch(self, number: int) -> Entries:
        forgotten, after = self._forgotten, number * self._size
        entries: Entries = ()
        while len(entries) < self._size:  # the host may give it in pieces
            page = await self._read(after + len(entries), self._size - len(entries))
            entries += page.entries
            if not page.entries or page.last >= self._tail():
                break
        if forgotten == self._forgotten:
            self.keep(after, entries, self._tail())
        return entries


def _size(entries: Entries) -> int:
    return sum(entry.size for entry in entries)
