"""What was read again of logs from before their windows, kept for the next viewer who comes late."""

from cachetools import LRUCache

from codegen_api.runs import LogEntry, RunRef

Entries = tuple[LogEntry, ...]


class OldPages:
    """The host's full pages, by run and number, bounded in bytes. Nothing in them can change any more."""

    def __init__(self, max_bytes: int) -> None:
        self._held: LRUCache[tuple[RunRef, int], Entries] = LRUCache(max_bytes, getsizeof=_size)

    def get(self, ref: RunRef, number: int) -> Entries | None:
        return self._held.get((ref, number))

    def keep(self, ref: RunRef, number: int, entries: Entries) -> None:
        if _size(entries) <= self._held.maxsize:  # the cache refuses what could never fit
            self._held[ref, number] = entries

    def forget(self, ref: RunRef) -> None:
        """The host has another log under this name."""
        for key in [key for key in self._held if key[0] == ref]:
            del self._held[key]


def _size(entries: Entries) -> int:
    return sum(entry.size for entry in entries)
