"""What dialects have made of entries lately, kept for all who read the same."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from cachetools import LRUCache

from codegen_api.runs import LogEntry

R = TypeVar("R")


class RenderCache:
    """``max_bytes`` of it, for all dialects together."""

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[Hashable, tuple[LogEntry, Any, int]] = LRUCache(max_bytes, getsizeof=lambda kept: kept[2])

    @property
    def held_bytes(self) -> int:
        return int(self._kept.currsize)

    def of(self, key: Hashable, entry: LogEntry, render: Callable[[], R], size: Callable[[R], int]) -> R:
        """What ``entry`` is rendered as under ``key``, which says by whom and how; it is rendered if that is not known.
        ``size`` says what holding it costs, in bytes.
        """
        kept = self._kept.get(key)
        if kept is not None and (kept[0] is entry or kept[0] == entry):
            return cast("R", kept[1])
        rendered = render()
        cost = entry.size + size(rendered)
        if cost <= self._kept.maxsize:  # the cache refuses what could never fit
            self._kept[key] = entry, rendered, cost
        return rendered
