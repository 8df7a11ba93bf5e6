"""What dialects have made of entries lately, kept for all who read the same."""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, cast

from cachetools import LRUCache

from codegen_api.conversations.progress import TurnEntry
from codegen_api.runs import LogEntry, Step
from codegen_api.stores import Turn

R = TypeVar("R")


class Sized(Protocol):
    """What a dialect makes of an entry, and knows the size of."""

    @property
    def size(self) -> int:
        """What holding it costs, in bytes."""
        ...


S = TypeVar("S", bound=Sized)


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

    def of_turn(
        self, dialect: str, turn: Turn, make: Callable[[Turn, TurnEntry, Step], S], step: Callable[[LogEntry], Step]
    ) -> Callable[[TurnEntry], S]:
        """What a dialect makes of the entries of a turn, if that is the same for all its clients."""

        def render(came: TurnEntry) -> S:
            key = (dialect, turn.id, came.offset)
            return self.of(key, came.entry, lambda: make(turn, came, step(came.entry)), lambda made: made.size)

        return render
