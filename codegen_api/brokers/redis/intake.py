"""Copies the stream of a run at Redis into the memory of this process."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from codegen_api.brokers import Broker, NewLog, News
from codegen_api.brokers.redis import encoding
from codegen_api.brokers.redis.scripts import RunKeys
from codegen_api.positions import COMPARED
from codegen_api.redis_link import RedisLink
from codegen_api.runs import UNCOUNTED, Changed, Cursor, LogEntry, LogPage, Run, RunRef, RunStatus

CHUNK = 200
"""Items read from a stream at once."""

CLOCK_TOLERANCE = 1.0
"""Seconds by which two instances may read Redis's clock differently. A leader that has announced an end stops looking,
so a description that seems older by less than this counts as newer: if it is not, the leader will correct it.
"""

StreamId = tuple[int, int]
START: StreamId = (0, 0)


class Intake:
    """Takes in the items of the stream, except those older than what was read here.

    ``base`` names the stream, ``epoch`` the host's log, and ``last`` is the id of the last item taken in. ``relayed``
    has checksums of the last entries as on the stream. ``read_at``: when the host was asked for them as held here, by
    Redis's clock. ``changed`` is the last description of the run. ``alone_at``: when the host was last asked for
    something that is not on the stream. While ``following``, ``on_news`` tells the follower of what comes; before that,
    the follower finds it in the memory.

    An item is held back if the host was asked for it earlier than for what is held here: it may be older. But a host
    may answer the later of two requests with the older state, and instances read Redis's clock slightly differently. So
    the item is taken in after all once the leader has looked since and published nothing else, or has seen the end.
    """

    def __init__(self, link: RedisLink, memory: Broker, ref: RunRef, on_news: Callable[[News], None]) -> None:
        self.keys = RunKeys(link.prefix, ref)
        self.following = False
        self.base = ""
        self.epoch = ""
        self.last = START
        self.relayed: dict[Cursor, int] = {}
        self.read_at: dict[Cursor, float] = {}
        self.changed: Changed | None = None
        self.described_at = 0.0
        self.alone_at = -math.inf
        self.held_back: dict[Cursor, LogEntry] = {}
        self._link = link
        self._memory = memory
        self._ref = ref
        self._on_news = on_news

    async def load(self, base: str, epoch: str, described: bytes, last: StreamId) -> bool:
        """Take in the whole stream. Returns whether it continues the one known before."""
        if not base:
            return False
        continues = base != self.base or last >= self.last
        if base != self.base or not continues:
            self.base, self.last = base, START
            self.relayed.clear()
            self.held_back.clear()
        if epoch and epoch != self.epoch:
            if self.epoch or self.read_at:
                self.read_at.clear()
                self.changed, self.described_at = None, 0.0
                if self.following:
                    self._on_news(NewLog())
                await self._memory.forget(self._ref)
            self.epoch = epoch
        while self.last < last:
            found = await self._link.run(self._next_items)
            await self.apply([(parse_id(id_), fields[b"d"]) for id_, fields in found])
            if len(found) < CHUNK:
                break
        if described:
            await self._describe(encoding.decode_item(described, self._ref))
        return continues

    async def apply(self, items: Sequence[tuple[StreamId, bytes]]) -> None:
        pending: list[LogEntry] = []
        after = 0
        for id_, text in items:
            item = encoding.decode_item(text, self._ref)
            if item.entry is not None:
                self.relayed[item.position] = zlib.crc32(item.entry.json)
                fresh = item.at >= self.read_at.get(item.position, -math.inf)
                if pending and (not fresh or item.position != after + len(pending) + 1):
                    await self._pass_on(after, pending)
                    pending = []
                if not fresh:
                    self.held_back[item.position] = item.entry
                else:
                    self.held_back.pop(item.position, None)
                    self.read_at[item.position] = item.at
                    after = after if pending else item.position - 1
                    pending.append(item.entry)
            else:
                await self._pass_on(after, pending)
                pending = []
                if item.changed is None:
                    await self._pass_on(item.position, [], opening=True)
                else:
                    await self._describe(item)
            self.last = id_
        await self._pass_on(after, pending)
        self.forget_old()

    async def take_look(self, text: bytes) -> None:
        """Take in a ``Looked`` of the leader."""
        look = encoding.decode_look(text, self._ref, self._link.redis_time(0))
        await self._take_held_back(self._link.redis_time(look.at))
        if look.at >= self.alone_at:
            self.alone_at = -math.inf  # the leader has read it all since
        self._on_news(look)

    def forget_old(self) -> None:
        """Forget entries too far from the end to be compared again."""
        for known in (self.relayed, self.read_at, self.held_back):
            if len(known) > 2 * COMPARED:
                first = max(known) - COMPARED
                for position in [position for position in known if position <= first]:
                    del known[position]

    async def _next_items(self, client: Any) -> Any:
        return await client.xrange(self.keys.stream, f"({self.last[0]}-{self.last[1]}", "+", count=CHUNK)

    async def _pass_on(self, after: Cursor, entries: Sequence[LogEntry], *, opening: bool = False) -> None:
        if entries or opening:
            page = LogPage(Run(self._ref, RunStatus.UNKNOWN, None, {}), after, tuple(entries), False, UNCOUNTED)
            await self._memory.publish(page)
            if self.following:
                self._on_news(page)

    async def _take_held_back(self, looked: float) -> None:
        """Take in what was held back, where the leader has ``looked`` since we read."""
        for position in sorted(self.held_back):
            if looked >= self.read_at.get(position, -math.inf):
                await self._pass_on(position - 1, [self.held_back.pop(position)])

    async def _describe(self, item: encoding.StreamItem) -> None:
        changed = item.changed
        if changed is None or item.at == self.described_at or item.at < self.described_at - CLOCK_TOLERANCE:
            return
        self.described_at = item.at
        if changed.length is not None:  # the leader has compared the whole log, and viewers leave now
            await self._take_held_back(math.inf)
        self.changed = replace(changed, seen=self._link.loop_time(changed.seen))
        await self._memory.publish(self.changed)
        if self.following:
            self._on_news(self.changed)


def parse_id(id_: bytes) -> StreamId:
    """An id of a stream as a pair of numbers."""
    number, _, count = id_.decode().partition("-")
    return int(number), int(count)


def parse_items(body: bytes) -> list[tuple[StreamId, bytes]]:
    """The items in a published message: a line with the id and the length before each."""
    found, at = [], 0
    while at < len(body):
        end = body.index(b"\n", at)
        id_, _, size = body[at:end].partition(b" ")
        at = end + 1 + int(size)
        found.append((parse_id(id_), body[end + 1 : at]))
    return found
