"""What is known here of the stream of a run, and what is taken from there into the memory of this process."""

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
"""Items that are read from a stream at once."""

APART = 1.0
"""Seconds by which two instances may read the clock of Redis differently. A leader who has told of an end looks no
more, so a description that only seems to be older is taken for newer: if it is not, the leader will see that.
"""

Place = tuple[int, int]
START: Place = (0, 0)


class Intake:
    """Takes in what is on the stream, but for what is older than what was read here.

    ``base`` names the stream and ``epoch`` the host's log, ``last`` is the id up to which it was taken in. ``relayed``:
    what the stream says of the last entries. ``read_at``: when the host was asked for what is known of them here, by
    the clock of Redis. ``changed`` is the last description of the run. ``alone``: when it was last asked for what is
    not on the stream. ``following``: the follower is told of what comes, by ``heard``; until then it is what was, for
    the follower to make up its mind.

    What was asked for before what is known here is held back, because it may be older. But a host may answer the later
    of two questions with the older state, and two instances do not read the clock of Redis quite alike. So it is taken
    in after all once the leader has looked since and told nothing else, or has seen the end.
    """

    def __init__(self, link: RedisLink, memory: Broker, ref: RunRef, heard: Callable[[News], None]) -> None:
        self.keys = RunKeys(link.prefix, ref)
        self.following = False
        self.base = ""
        self.epoch = ""
        self.last = START
        self.relayed: dict[Cursor, int] = {}
        self.read_at: dict[Cursor, float] = {}
        self.changed: Changed | None = None
        self.described_at = 0.0
        self.alone = -math.inf
        self.held_back: dict[Cursor, LogEntry] = {}
        self._link = link
        self._memory = memory
        self._ref = ref
        self._heard = heard

    async def load(self, base: str, epoch: str, described: bytes, last: Place) -> bool:
        """Take in all that is there; whether the stream goes on where it was."""
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
                    self._heard(NewLog())
                await self._memory.forget(self._ref)
            self.epoch = epoch
        while self.last < last:
            found = await self._link.run(self._next_items)
            await self.apply([(place(id_), fields[b"d"]) for id_, fields in found])
            if len(found) < CHUNK:
                break
        if described:
            await self._describe(encoding.item(described, self._ref))
        return continues

    async def apply(self, items: Sequence[tuple[Place, bytes]]) -> None:
        pending: list[LogEntry] = []
        after = 0
        for id_, text in items:
            item = encoding.item(text, self._ref)
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
        self.forget_far()

    async def hear_look(self, text: bytes) -> None:
        """The leader has told this."""
        look = encoding.read_looked(text, self._ref, self._link.redis_time(0))
        await self._take_held_back(self._link.redis_time(look.at))
        if look.at >= self.alone:
            self.alone = -math.inf  # all that was read here has been read there since
        self._heard(look)

    def forget_far(self) -> None:
        """Of what is further back nothing needs to be known."""
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
                self._heard(page)

    async def _take_held_back(self, looked: float) -> None:
        """Take in what the leader, who has looked then, goes by."""
        for position in sorted(self.held_back):
            if looked >= self.read_at.get(position, -math.inf):
                await self._pass_on(position - 1, [self.held_back.pop(position)])

    async def _describe(self, item: encoding.StreamItem) -> None:
        said = item.changed
        if said is None or item.at == self.described_at or item.at < self.described_at - APART:
            return
        self.described_at = item.at
        if said.length is not None:  # by now the leader has compared all of it, and viewers leave
            await self._take_held_back(math.inf)
        self.changed = replace(said, seen=self._link.loop_time(said.seen))
        await self._memory.publish(self.changed)
        if self.following:
            self._heard(self.changed)


def place(id_: bytes) -> Place:
    """An id of a stream as a pair of numbers."""
    number, _, count = id_.decode().partition("-")
    return int(number), int(count)


def parts(body: bytes) -> list[tuple[Place, bytes]]:
    """What was published of a stream: each item behind its id and its length."""
    found, at = [], 0
    while at < len(body):
        end = body.index(b"\n", at)
        id_, _, size = body[at:end].partition(b" ")
        at = end + 1 + int(size)
        found.append((place(id_), body[end + 1 : at]))
    return found
