"""Maps positions in logs to ids of events: the host finds a page by the id of its first event, not by position."""

from cachetools import LRUCache

from codegen_api.runs import Cursor

GRID = 100
"""One in this many events is remembered."""
MOST = 10_000
"""Maximum bookmarks of all logs together. They never change."""


class Bookmarks:
    """Ids of events by run and position."""

    def __init__(self) -> None:
        self._ids: LRUCache[tuple[str, Cursor], str] = LRUCache(MOST)
        self._last: LRUCache[str, Cursor] = LRUCache(MOST)  # the largest position of each log

    def keep(self, run: str, position: Cursor, event_id: str) -> None:
        self._ids[run, position] = event_id
        self._last[run] = max(position, self._last.get(run, 1))

    def before(self, run: str, position: Cursor) -> tuple[Cursor, str | None]:
        """The nearest known position at or before this one, and the id there; 1 and None if none is known."""
        position = min(position, self._last.get(run, 1))
        for place in (position, position - 1, *range((position - 1) // GRID * GRID + 1, 1, -GRID)):
            event_id = self._ids.get((run, place))
            if event_id is not None:
                return place, event_id
        return 1, None

    def forget(self, run: str) -> None:
        """Forget a run whose log has been replaced."""
        self._last.pop(run, None)
        for key in [key for key in self._ids if key[0] == run]:
            del self._ids[key]
