"""Where in a log an event is: the host finds a page by the id of its first event, the gateway by its position."""

from cachetools import LRUCache

from codegen_api.runs import Cursor

GRID = 100
"""Of so many events one is remembered."""
MOST = 10_000
"""So many are remembered of all logs. They never change."""


class Bookmarks:
    """Ids of events, by the run and the position."""

    def __init__(self) -> None:
        self._names: LRUCache[tuple[str, Cursor], str] = LRUCache(MOST)
        self._last: LRUCache[str, Cursor] = LRUCache(MOST)  # the largest position of each log

    def keep(self, run: str, position: Cursor, name: str) -> None:
        self._names[run, position] = name
        self._last[run] = max(position, self._last.get(run, 1))

    def before(self, run: str, position: Cursor) -> tuple[Cursor, str | None]:
        """The position that is known at or before this one, and the id there; the log's start, if nothing is known."""
        position = min(position, self._last.get(run, 1))
        for place in (position, position - 1, *range((position - 1) // GRID * GRID + 1, 1, -GRID)):
            name = self._names.get((run, place))
            if name is not None:
                return place, name
        return 1, None

    def forget(self, run: str) -> None:
        """Another log has come under this name."""
        self._last.pop(run, None)
        for key in [key for key in self._names if key[0] == run]:
            del self._names[key]
