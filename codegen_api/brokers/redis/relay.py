"""One run at Redis: who leads it, what the leader publishes there, and what the others hear."""

import asyncio
import enum
import math
import secrets
import zlib
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from codegen_api.brokers import PAGE, Broker, Lead, Looked, LookWanted, News, RunTouched, Superseded
from codegen_api.brokers.redis import encoding
from codegen_api.brokers.redis.hearing import Hearing
from codegen_api.brokers.redis.intake import START, Intake, parts, place
from codegen_api.brokers.redis.scripts import CONTEND, PUBLISH, RELEASE, TELL, WRITE
from codegen_api.redis_link import RedisAway, RedisLink
from codegen_api.runs import Changed, Cursor, LogEntry, LogPage, RunRef, from_json, to_json
from codegen_api.telemetry import Observer

LEASE = 5.0
"""Seconds after which somebody else leads if the leader says nothing."""

MARGIN = 0.5
"""Seconds before that at which the leader itself takes the lease for lapsed."""

MOST_ITEMS = 1000
"""About so many of its last items stay in the stream of a run."""

PUBLISHED_BYTES = 64 * 1024
"""What is larger is not published, but read from the stream by those who hear of it."""


WRITTEN_BYTES = 1024 * 1024
"""About so much is written at once: a call has to come through within its time."""


class _Mode(enum.Enum):
    WAITING = enum.auto()
    LEADING = enum.auto()
    ALONE = enum.auto()


class Relay(Intake, Lead):
    """The relay of one run, for its follower here: its ``Lead``. ``memory`` is what the viewers here read.

    While Redis is away everybody leads for themselves. When it is back, what was read meanwhile is not on the stream,
    so who leads then begins a new one.
    """

    def __init__(
        self,
        link: RedisLink,
        hearing: Hearing,
        memory: Broker,
        ref: RunRef,
        heard: Callable[[News], None],
        order: Callable[[bytes], None],
        *,
        keep: float,
        observer: Observer,
    ) -> None:
        super().__init__(link, memory, ref, heard)
        self._observer = observer
        self._hearing = hearing
        self._order = order
        self._keep = round(keep * 1000)
        self._token = secrets.token_hex(8)
        self._mode = _Mode.WAITING
        self._lease = ""
        self._until = 0.0
        self._new_base = False  # nothing may be appended to the stream that is there
        self._untold: Changed | None = None  # the last description, if the stream lacks it
        self._busy = asyncio.Lock()  # something is taken from the stream
        self._writing = asyncio.Lock()
        self._behind = False
        self._handed_over = True  # the last leader that is known has let go of the lead
        self._freed = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the lead -----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        if self._mode is _Mode.LEADING:
            return asyncio.get_running_loop().time() < self._until
        return self._mode is _Mode.ALONE

    async def regained(self) -> None:
        self._mode, self.anew = _Mode.WAITING, False
        while True:
            self._freed.clear()
            try:
                await self._hearing.join(self.keys.news)
                seconds = await self._take_up(contend=True)
            except RedisAway:
                self._mode = _Mode.ALONE
                return
            if seconds is None:
                if self._renewing is not None:
                    self._renewing.cancel()
                self._renewing = self._spawn(self._renew())
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._freed.wait()

    async def _renew(self) -> None:
        while self._mode is _Mode.LEADING:
            await asyncio.sleep(LEASE / 3)
            with suppress(RedisAway):
                await self.tell(None)

    def lost(self) -> None:
        """Redis is away, or was emptied, or nothing can be heard of it."""
        self._freed.set()
        if self._mode is _Mode.LEADING:
            self._give_up()

    def joined(self) -> None:
        """What is published from now on will be heard; what was before may not have been."""
        if self._mode is _Mode.ALONE:
            self._give_up()
        elif self._mode is _Mode.WAITING and self.following:
            self._catch_up()

    def _give_up(self) -> None:
        self._mode = _Mode.WAITING
        self._heard(RunTouched())  # the follower may rest

    async def leave(self) -> None:
        """Let somebody else lead."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        with suppress(RedisAway):
            if self._lease:
                await self._link.run_script(RELEASE, [self.keys.lease], [self._lease, self.keys.news])
        await self._hearing.leave(self.keys.news)

    def _spawn(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what the leader publishes ------------------------------------------------------------------------------------

    async def publish(self, news: LogPage | Changed, asked: float) -> None:
        """Put it on the stream. Raises ``Superseded`` if this is not the leader."""
        at = self._link.redis_time(asked)
        async with self._writing:
            if not self.held:
                raise Superseded
            if isinstance(news, Changed):
                self.described_at = at
                self.changed = self._untold = news
                await self._write([])
            else:
                await self._publish_page(news, at)

    async def _publish_page(self, page: LogPage, at: float) -> None:
        if self._mode is _Mode.ALONE:
            self.alone = asyncio.get_running_loop().time()
        elif self.last == START or self._new_base:
            await self._write([(f"o{page.after}", encoding.opening_item(page.after, at))])
        part: dict[Cursor, LogEntry] = {}
        for position, entry in enumerate(page.entries, page.after + 1):
            self.read_at[position] = at
            told = self.relayed.get(position)
            if self._mode is _Mode.LEADING and (told is None or not (entry.absent or told == zlib.crc32(entry.json))):
                part[position] = entry
                if sum(each.size for each in part.values()) >= WRITTEN_BYTES:
                    await self._write_entries(part, at)
                    part = {}
        if part:
            await self._write_entries(part, at)
        self.forget_far()

    async def _write_entries(self, entries: dict[Cursor, LogEntry], at: float) -> None:
        top = self.last[0]
        items = []
        for position, entry in entries.items():
            how = "a" if position > top else "o"
            items.append((f"{how}{position}", encoding.entry_item(position, at, entry)))
        amended = {(position - 1) // PAGE for position in entries if position <= top}
        if await self._write(items, amended=amended):
            self.relayed.update((position, zlib.crc32(entry.json)) for position, entry in entries.items())

    async def forget(self) -> None:
        """Begin a new stream: the host has another log. Raises ``Superseded`` if this is not the leader."""
        async with self._writing:
            if not self.held:
                raise Superseded
            self.epoch = secrets.token_hex(8)
            self.relayed.clear()
            self.read_at.clear()
            self.changed = self._untold = None
            self._new_base = True
            await self._write([])

    async def tell(self, look: Looked | None) -> None:
        """Keep the lease, and tell the others what the leader knows. They may not have heard if it raises."""
        if self._mode is not _Mode.LEADING:
            return
        began, lease = asyncio.get_running_loop().time(), self._lease
        text = b"" if look is None else encoding.looked(look, self._link.redis_time(0))
        kept = await self._link.run_script(
            TELL,
            [self.keys.lease, self.keys.head, self.keys.stream],
            [lease, round(LEASE * 1000), self._keep, self.keys.news, text],
        )
        if lease == self._lease and self._mode is _Mode.LEADING:
            if kept:
                self._until = began + LEASE - MARGIN
            else:
                self._give_up()

    async def _write(self, items: Sequence[tuple[str, bytes]], *, amended: set[int] | None = None) -> bool:
        """Whether it is at Redis now; if not, this instance is alone."""
        described = b""
        if self._mode is _Mode.LEADING:
            base = secrets.token_hex(8) if self._new_base else ""
            if self._untold is not None:
                at = self._link.redis_time(self._untold.seen)
                described = encoding.changed_item(self._untold, at)
                items = [*items, ("o0", described)]
            began = asyncio.get_running_loop().time()
            options: list[str | bytes | float] = [self._lease, round(LEASE * 1000), self._keep, MOST_ITEMS]
            options += [self.keys.news, base, self.epoch, PUBLISHED_BYTES, described]
            pages = [self.keys.page(self.base, number) for number in amended or () if self.base]
            try:
                last = await self._link.run_script(
                    WRITE,
                    [self.keys.lease, self.keys.head, self.keys.stream, *pages],
                    [*options, *(part for item in items for part in item)],
                )
            except RedisAway:
                self._mode = _Mode.ALONE
            else:
                if not last:
                    self._give_up()
                    raise Superseded
                self._until = began + LEASE - MARGIN
                self.base, self.last = base or self.base, place(last)
                self._new_base, self._untold = False, None
                return True
        self.alone = asyncio.get_running_loop().time()
        return False

    # -- what the others take -----------------------------------------------------------------------------------------

    async def take(self, published: bytes) -> None:
        """Somebody has published this."""
        head, _, body = published.partition(b"\n")
        kind, *rest = head.split(b" ")
        if kind == b"free":
            self._handed_over = True
            self._freed.set()
        elif kind == b"wanted":
            said: Any = from_json(body)
            origin, since, refreshed, given = said
            if origin != self._token:
                asked = -math.inf if since is None else self._link.loop_time(since)
                self._heard(LookWanted(asked, tuple(refreshed), given))
        elif self._mode is _Mode.WAITING and self.following:
            base, before, last = rest[0].decode(), place(rest[1]), place(rest[2])
            same = base == self.base
            if self._busy.locked():
                self._behind = True
            elif same and kind != b"looked" and last <= self.last:
                pass  # known
            elif not same or before != self.last or kind == b"more":
                self._catch_up()
            elif kind == b"items":
                await self.apply(parts(body))
                now = self._link.redis_time(asyncio.get_running_loop().time())
                self._observer.relayed(max(0.0, now - float(rest[3])))
            else:
                await self.hear_look(body)

    async def want(self, wanted: LookWanted) -> None:
        """Have the leader hear of it."""
        said = to_json([self._token, self._link.redis_time(wanted.since), wanted.refreshed, wanted.given])
        await self._link.run_script(PUBLISH, [self.keys.lease], [self.keys.news, b"wanted\n" + said])

    def _catch_up(self) -> None:
        async def catching_up() -> None:
            with suppress(RedisAway):
                await self._take_up(contend=False)

        self._spawn(catching_up())

    async def _take_up(self, *, contend: bool) -> float | None:
        """Take in all that the stream has, and lead if nobody else does; else after how many seconds that may be."""
        async with self._busy:
            while True:
                self._behind = False
                began = asyncio.get_running_loop().time()
                keys = self.keys
                found = await self._link.run_script(
                    CONTEND,
                    [keys.lease, keys.head, keys.stream, keys.resumed, keys.cancelled],
                    [self._token, round(LEASE * 1000), int(contend), self._keep],
                )
                lease, left, base, epoch, described, looked, last, resumed, cancelled = found
                mine = contend and lease.decode().endswith(self._token)
                for order in (resumed, cancelled):
                    if order:
                        self._order(order)
                if mine and not self._handed_over:
                    self._observer.taken_over()
                self._handed_over = mine or not lease
                if not mine and not self.following:
                    await self._memory.doubt(self._ref)
                    self.following = True
                continues = await self.load(base.decode(), epoch.decode(), described, place(last))
                if mine:
                    await self._lead(lease.decode(), began, continues=continues, described=bool(described))
                    return None
                if looked and base:
                    await self.hear_look(looked)
                if not self._behind:
                    return max(0.0, int(left) / 1000) + 0.05

    async def _lead(self, lease: str, began: float, *, continues: bool, described: bool) -> None:
        self.following = True
        self._mode, self._lease, self._until = _Mode.LEADING, lease, began + LEASE - MARGIN
        if not continues or self.alone > -math.inf:
            self.anew = self._new_base = True
            self.alone = -math.inf
            self.relayed.clear()
        self.held_back.clear()
        if self._new_base or not described:
            tail = await self._memory.tail(self._ref)
            last = self.changed or (None if tail is None else tail.changed)
            # no end with it: what others lack has to be read and told first, because then their viewers leave
            self._untold = replace(last, length=None) if last is not None and self.anew else last
