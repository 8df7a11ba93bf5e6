"""One run at Redis: which instance leads, what it publishes, and what the others receive."""

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
from codegen_api.brokers.redis.intake import START, Intake, parse_id, parse_items
from codegen_api.brokers.redis.pubsub import PubSub
from codegen_api.brokers.redis.scripts import CONTEND, PUBLISH, RELEASE, RENEW, WRITE
from codegen_api.redis_link import RedisAway, RedisLink
from codegen_api.runs import Changed, Cursor, LogEntry, LogPage, RunRef, from_json, to_json
from codegen_api.telemetry import Observer

LEASE = 5.0
"""Seconds after which another instance may lead, if the leader has not renewed its lease."""

MARGIN = 0.5
"""Seconds before that at which the leader itself regards its lease as expired."""

MOST_ITEMS = 1000
"""Approximate number of last items kept in the stream of a run."""

PUBLISHED_BYTES = 64 * 1024
"""Larger items are only announced, and receivers read them from the stream."""

WRITTEN_BYTES = 1024 * 1024
"""Approximate bytes per write, as a call must complete within its time limit."""


class _Mode(enum.Enum):
    WAITING = enum.auto()
    LEADING = enum.auto()
    ALONE = enum.auto()


class Relay(Intake, Lead):
    """The relay of one run, and the ``Lead`` of its follower here. Viewers here read from ``memory``.

    While Redis is away, every instance leads for itself. What it read then is not on the stream, so the instance that
    leads when Redis is back begins a new one.
    """

    def __init__(
        self,
        link: RedisLink,
        pubsub: PubSub,
        memory: Broker,
        ref: RunRef,
        on_news: Callable[[News], None],
        on_order: Callable[[bytes], None],
        *,
        keep: float,
        observer: Observer,
    ) -> None:
        super().__init__(link, memory, ref, on_news)
        self._observer = observer
        self._pubsub = pubsub
        self._on_order = on_order
        self._keep = round(keep * 1000)
        self._token = secrets.token_hex(8)
        self._mode = _Mode.WAITING
        self._lease = ""
        self._until = 0.0
        self._new_base = False  # nothing may be appended to the stream that is there
        self._unpublished: Changed | None = None  # the last description, until it is on the stream
        self._syncing = asyncio.Lock()  # while reading from the stream
        self._writing = asyncio.Lock()
        self._more_came = False
        self._handed_over = True  # whether the last known leader released the lease
        self._lease_freed = asyncio.Event()
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
            self._lease_freed.clear()
            try:
                await self._pubsub.subscribe(self.keys.news)
                seconds = await self._sync(contend=True)
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
                    await self._lease_freed.wait()

    async def _renew(self) -> None:
        while self._mode is _Mode.LEADING:
            await asyncio.sleep(LEASE / 3)
            with suppress(RedisAway):
                await self.tell(None)

    def on_disconnected(self) -> None:
        """Redis is away or was emptied, or the Pub/Sub connection is gone."""
        self._lease_freed.set()
        if self._mode is _Mode.LEADING:
            self._give_up()

    def on_subscribed(self) -> None:
        """Messages arrive from now on; earlier ones may have been missed."""
        if self._mode is _Mode.ALONE:
            self._give_up()
        elif self._mode is _Mode.WAITING and self.following:
            self._spawn(self._catch_up())

    def _give_up(self) -> None:
        self._mode = _Mode.WAITING
        self._on_news(RunTouched())  # wakes the follower

    async def leave(self) -> None:
        """Stop, and let another instance lead."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        with suppress(RedisAway):
            if self._lease:
                await self._link.run_script(RELEASE, [self.keys.lease], [self._lease, self.keys.news])
        await self._pubsub.unsubscribe(self.keys.news)

    def _spawn(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what the leader publishes ------------------------------------------------------------------------------------

    async def publish(self, news: LogPage | Changed, asked: float) -> None:
        """Put ``news`` on the stream. Raises ``Superseded`` if this is not the leader."""
        at = self._link.redis_time(asked)
        async with self._writing:
            if not self.held:
                raise Superseded
            if isinstance(news, Changed):
                self.described_at = at
                self.changed = self._unpublished = news
                await self._write([])
            else:
                await self._publish_page(news, at)

    async def _publish_page(self, page: LogPage, at: float) -> None:
        if self._mode is _Mode.ALONE:
            self.alone_at = asyncio.get_running_loop().time()
        elif self.last == START or self._new_base:
            await self._write([(f"o{page.after}", encoding.encode_opening(page.after, at))])
        part: dict[Cursor, LogEntry] = {}
        for position, entry in enumerate(page.entries, page.after + 1):
            self.read_at[position] = at
            sent = self.relayed.get(position)
            if self._mode is _Mode.LEADING and (sent is None or not (entry.absent or sent == zlib.crc32(entry.json))):
                part[position] = entry
                if sum(each.size for each in part.values()) >= WRITTEN_BYTES:
                    await self._write_entries(part, at)
                    part = {}
        if part:
            await self._write_entries(part, at)
        self.forget_old()

    async def _write_entries(self, entries: dict[Cursor, LogEntry], at: float) -> None:
        top = self.last[0]
        items = []
        for position, entry in entries.items():
            kind = "a" if position > top else "o"
            items.append((f"{kind}{position}", encoding.encode_entry(position, at, entry)))
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
            self.changed = self._unpublished = None
            self._new_base = True
            await self._write([])

    async def tell(self, look: Looked | None) -> None:
        """Renew the lease, and tell the others what the leader knows. If it raises, they may not have received it."""
        if self._mode is not _Mode.LEADING:
            return
        began, lease = asyncio.get_running_loop().time(), self._lease
        text = b"" if look is None else encoding.encode_look(look, self._link.redis_time(0))
        kept = await self._link.run_script(
            RENEW,
            [self.keys.lease, self.keys.head, self.keys.stream],
            [lease, round(LEASE * 1000), self._keep, self.keys.news, text],
        )
        if lease == self._lease and self._mode is _Mode.LEADING:
            if kept:
                self._until = began + LEASE - MARGIN
            else:
                self._give_up()

    async def _write(self, items: Sequence[tuple[str, bytes]], *, amended: set[int] | None = None) -> bool:
        """Write to the stream. Returns whether it is at Redis now; if not, this instance reads alone."""
        described = b""
        if self._mode is _Mode.LEADING:
            base = secrets.token_hex(8) if self._new_base else ""
            if self._unpublished is not None:
                at = self._link.redis_time(self._unpublished.seen)
                described = encoding.encode_changed(self._unpublished, at)
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
                self.base, self.last = base or self.base, parse_id(last)
                self._new_base, self._unpublished = False, None
                return True
        self.alone_at = asyncio.get_running_loop().time()
        return False

    # -- what the others receive --------------------------------------------------------------------------------------

    async def receive(self, published: bytes) -> None:
        """Handle a message of another instance."""
        head, _, body = published.partition(b"\n")
        kind, *rest = head.split(b" ")
        if kind == b"free":
            self._handed_over = True
            self._lease_freed.set()
        elif kind == b"wanted":
            message: Any = from_json(body)
            origin, since, refreshed, given = message
            if origin != self._token:
                asked = -math.inf if since is None else self._link.loop_time(since)
                self._on_news(LookWanted(asked, tuple(refreshed), given))
        elif self._mode is _Mode.WAITING and self.following:
            base, before, last = rest[0].decode(), parse_id(rest[1]), parse_id(rest[2])
            same = base == self.base
            if self._syncing.locked():
                self._more_came = True
            elif same and kind != b"looked" and last <= self.last:
                pass  # taken in already
            elif not same or before != self.last or kind == b"more":
                self._spawn(self._catch_up())
            elif kind == b"items":
                await self.apply(parse_items(body))
                now = self._link.redis_time(asyncio.get_running_loop().time())
                self._observer.relayed(max(0.0, now - float(rest[3])))
            else:
                await self.take_look(body)

    async def request_look(self, wanted: LookWanted) -> None:
        """Send this to the leader."""
        message = to_json([self._token, self._link.redis_time(wanted.since), wanted.refreshed, wanted.given])
        await self._link.run_script(PUBLISH, [self.keys.lease], [self.keys.news, b"wanted\n" + message])

    async def _catch_up(self) -> None:
        with suppress(RedisAway):
            await self._sync(contend=False)

    async def _sync(self, *, contend: bool) -> float | None:
        """Take in the whole stream and, with ``contend``, try to lead: None on success, else seconds to wait."""
        async with self._syncing:
            while True:
                self._more_came = False
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
                        self._on_order(order)
                if mine and not self._handed_over:
                    self._observer.taken_over()
                self._handed_over = mine or not lease
                if not mine and not self.following:
                    await self._memory.doubt(self._ref)
                    self.following = True
                continues = await self.load(base.decode(), epoch.decode(), described, parse_id(last))
                if mine:
                    await self._begin_to_lead(lease.decode(), began, continues=continues, described=bool(described))
                    return None
                if looked and base:
                    await self.take_look(looked)
                if not self._more_came:
                    return max(0.0, int(left) / 1000) + 0.05

    async def _begin_to_lead(self, lease: str, began: float, *, continues: bool, described: bool) -> None:
        self.following = True
        self._mode, self._lease, self._until = _Mode.LEADING, lease, began + LEASE - MARGIN
        if not continues or self.alone_at > -math.inf:
            self.anew = self._new_base = True
            self.alone_at = -math.inf
            self.relayed.clear()
        self.held_back.clear()
        if self._new_base or not described:
            tail = await self._memory.tail(self._ref)
            last = self.changed or (None if tail is None else tail.changed)
            # without the end: viewers elsewhere leave at that, so what they lack must be read and published first
            self._unpublished = replace(last, length=None) if last is not None and self.anew else last
