"""What came of turns, for whoever reads a conversation: each time by the caller's right, and kept when it is over."""

from collections.abc import Callable
from contextlib import aclosing

from cachetools import LRUCache

from codegen_api.conversations.checkpoints import Stretch
from codegen_api.conversations.progress import Caught, Over
from codegen_api.conversations.turns import Turns
from codegen_api.following import Leaving, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import LogEntry
from codegen_api.stores import Turn

KEPT_BYTES = 32 * 1024 * 1024
"""What is kept of turns that are over, for whoever reads a conversation again."""

SETTLING = 60.0
"""Seconds after its end in which the host may still fill in entries of a turn."""

FRESH = 5.0
"""Seconds for which such a turn is not read again."""


class Reading:
    """Reads the stretches of turns. ``clock`` gives seconds since the epoch."""

    def __init__(self, gateway: Gateway, turns: Turns, *, clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._turns = turns
        self._clock = clock
        self._kept: LRUCache[str, tuple[float, tuple[LogEntry, ...]]] = LRUCache(KEPT_BYTES, getsizeof=_size)

    async def entries(self, caller: Caller, owner: str, stretch: Stretch) -> tuple[LogEntry, ...]:
        """What has come of a turn by now, up to where the stretch goes."""
        turn = stretch.turn
        if turn.run is None:
            return ()
        if turn.end is None:
            return await self._so_far(caller, owner, turn, stretch.upto)
        await self._gateway.view(caller, turn.run.organization, turn.run.id)
        good_until, entries = self._kept.get(turn.id) or (float("-inf"), ())
        if len(entries) != turn.end - turn.begin or loop_time() >= good_until:
            settled = self._clock() - turn.updated > SETTLING
            good_until = float("inf") if settled else loop_time() + FRESH
            entries = await self._so_far(caller, owner, turn, None)
            if _size((good_until, entries)) <= KEPT_BYTES:
                self._kept[turn.id] = (good_until, entries)
        return entries if stretch.upto is None else entries[: stretch.upto]

    async def _so_far(self, caller: Caller, owner: str, turn: Turn, upto: int | None) -> tuple[LogEntry, ...]:
        entries: dict[int, LogEntry] = {}
        async with aclosing(self._turns.follow(caller, owner, turn)) as progress:
            async for news in progress:
                if isinstance(news, tuple):
                    entries.update((came.offset, came.entry) for came in news)
                if isinstance(news, Caught | Over | Leaving) or (upto is not None and len(entries) >= upto):
                    break
        return tuple(entries[offset] for offset in sorted(entries) if upto is None or offset <= upto)


def _size(kept: tuple[float, tuple[LogEntry, ...]]) -> int:
    return 100 + sum(entry.size for entry in kept[1])
