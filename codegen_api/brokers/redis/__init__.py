"""The broker for several instances: Redis relays what a run's one follower reads to the memory of each process.

Viewers read only from the memory of their own process. While Redis is away, each instance reads for itself.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from codegen_api.brokers import (
    PAGE,
    Batch,
    Broker,
    Lead,
    Looked,
    LookWanted,
    News,
    PeerNews,
    ReadPage,
    RunCancelled,
    RunResumed,
    RunTouched,
    Superseded,
    Tail,
)
from codegen_api.brokers.redis import encoding
from codegen_api.brokers.redis.pubsub import PubSub
from codegen_api.brokers.redis.relay import Relay
from codegen_api.brokers.redis.scripts import FIND_PAGE, KEEP_PAGE, ORDER, PUBLISH, RunKeys, orders_channel
from codegen_api.positions import SETTLING, Missed
from codegen_api.redis_link import RedisAway, RedisLink, RedisNews
from codegen_api.runs import Changed, Cursor, Json, LogEntry, LogPage, RunRef, from_json, to_json
from codegen_api.taps import Tap
from codegen_api.telemetry import Observer

ORDERS_KEPT = 30.0
"""Seconds for which a new follower of a run still learns of its last resume and cancel."""

KEPT = 300.0
"""Seconds after which Redis drops what is not renewed."""

READING = 10.0
"""Seconds after which another instance reads a page, if the one that reads it for all has not delivered it."""

LOOKING = 0.1
"""Seconds between two checks whether that page is there."""

LARGEST_PAGE = 4 * 1024 * 1024
"""Maximum bytes of a page kept for other instances."""


@dataclass(frozen=True, slots=True)
class _SharedRead:
    """Reads a page again: from Redis if another instance has put it there, else by ``read``, for all instances."""

    broker: "RedisBroker"
    ref: RunRef
    read: ReadPage

    async def __call__(self, number: int) -> Sequence[LogEntry]:
        return await self.broker.read_page(self.ref, number, self.read)


class RedisBroker:
    """A ``Broker``; ``memory`` is that of this process. Redis drops what is not renewed for ``keep`` seconds."""

    shared = True

    def __init__(
        self, link: RedisLink, memory: Broker, *, keep: float = KEPT, observer: Observer | None = None
    ) -> None:
        self._observer = observer or Observer()
        self._link = link
        self._memory = memory
        self._keep = keep
        self._orders_channel = orders_channel(link.prefix)
        self._origin = secrets.token_hex(8)
        self._known_orders: LRUCache[bytes, bool] = LRUCache(1000)
        self._listener: Callable[[RunRef, News], None] = lambda ref, news: None
        self._relays: dict[RunRef, Relay] = {}
        self._by_channel: dict[str, Relay] = {}
        self._pubsub = PubSub(link, self._on_message, self._on_subscribed, self._on_disconnected)
        link.listeners.append(self._on_link_news)

    def listen(self, listener: Callable[[RunRef, News], None]) -> None:
        self._listener = listener

    async def tell(self, ref: RunRef, news: PeerNews) -> None:
        relay = self._relays.get(ref)
        with suppress(RedisAway):
            if not isinstance(news, Looked | LookWanted):
                await self._send_order(ref, news)
            elif relay is not None:
                await (relay.tell(news) if isinstance(news, Looked) else relay.request_look(news))

    async def publish(self, news: LogPage | Changed, *, asked: float | None = None) -> None:
        relay = self._relays.get(news.run.ref)
        if relay is not None:
            if isinstance(news, Changed):
                asked = news.seen
            await relay.publish(news, asyncio.get_running_loop().time() if asked is None else asked)
        await self._memory.publish(news)

    async def doubt(self, ref: RunRef) -> None:
        await self._memory.doubt(ref)

    async def tail(self, ref: RunRef) -> Tail | None:
        return await self._memory.tail(ref)

    async def missed(self, ref: RunRef, after: Cursor) -> Missed:
        return await self._memory.missed(ref, after)

    def entries(
        self, ref: RunRef, cursors: Iterable[Cursor], read: ReadPage
    ) -> AsyncGenerator[tuple[Cursor, LogEntry], None]:
        return self._memory.entries(ref, cursors, _SharedRead(self, ref, read))

    def subscribe(self, ref: RunRef, after: Cursor, revision: int | None, read: ReadPage) -> Tap[Batch]:
        return self._memory.subscribe(ref, after, revision, _SharedRead(self, ref, read))

    async def forget(self, ref: RunRef) -> None:
        if ref in self._relays:
            await self._relays[ref].forget()
        await self._memory.forget(ref)

    @asynccontextmanager
    async def lead(self, ref: RunRef) -> AsyncIterator[Lead]:
        async with self._memory.lead(ref):
            relay = Relay(
                self._link,
                self._pubsub,
                self._memory,
                ref,
                lambda news: self._listener(ref, news),
                self._on_order,
                keep=self._keep,
                observer=self._observer,
            )
            self._relays[ref] = self._by_channel[relay.keys.news] = relay
            try:
                with suppress(RedisAway):
                    await self._pubsub.subscribe(self._orders_channel)
                await relay.regained()
                yield relay
            finally:
                del self._relays[ref], self._by_channel[relay.keys.news]
                await relay.leave()

    async def aclose(self) -> None:
        self._link.listeners.remove(self._on_link_news)
        await self._pubsub.aclose()
        await self._memory.aclose()

    # -- pages that are read again ------------------------------------------------------------------------------------

    async def read_page(self, ref: RunRef, number: int, read: ReadPage) -> Sequence[LogEntry]:
        """Read a page again: once for all instances, if its entries are not expected to change any more."""
        relay, tail = self._relays.get(ref), await self._memory.tail(ref)
        settled = tail is not None and (number + 1) * PAGE <= tail.cursor - SETTLING
        if relay is None or not settled or not relay.base:
            return await read(number)
        keys = [relay.keys.page(relay.base, number), relay.keys.reading(number), relay.keys.head]
        token = secrets.token_hex(8)
        try:
            while True:
                page, mine, rereads = await self._link.run_script(FIND_PAGE, keys, [token, round(READING * 1000)])
                if page:
                    return encoding.decode_page(page)
                if mine:
                    break
                await asyncio.sleep(LOOKING)
        except RedisAway:
            return await read(number)
        text = b""
        try:
            entries = await read(number)
            if len(entries) == PAGE and not any(entry.absent for entry in entries):
                text = encoding.encode_page(entries)
        finally:
            kept: list[str | bytes | float] = [token, rereads, text if len(text) <= LARGEST_PAGE else b""]
            with suppress(RedisAway):
                await self._link.run_script(KEEP_PAGE, keys, [*kept, round(self._keep * 1000)])
        return entries

    # -- messages of other instances ----------------------------------------------------------------------------------

    async def _send_order(self, ref: RunRef, news: RunResumed | RunCancelled | RunTouched) -> None:
        keys = RunKeys(self._link.prefix, ref)
        head: list[Json] = [self._origin, ref.organization, ref.id]
        match news:
            case RunTouched():
                touched = to_json([*head, "touched"])
                await self._link.run_script(PUBLISH, [keys.lease], [self._orders_channel, touched])
                return
            case RunResumed():
                run = encoding.encode_run(news.run)
                key, message = keys.resumed, [*head, "resumed", self._link.redis_time(news.at), run, news.length]
            case RunCancelled():
                key, message = keys.cancelled, [*head, "cancelled", self._link.redis_time(news.at)]
        await self._link.run_script(ORDER, [key], [to_json(message), round(ORDERS_KEPT * 1000), self._orders_channel])

    def _on_order(self, text: bytes) -> None:
        message: Any = from_json(text)
        origin, organization, id_, kind, *more = message
        if origin == self._origin or (kind != "touched" and text in self._known_orders):
            return
        ref = RunRef(organization, id_)
        news: News
        match kind, more:
            case "touched", _:
                news = RunTouched()
            case "cancelled", [at]:
                news = RunCancelled(self._link.loop_time(at))
            case "resumed", [at, run, length]:
                resumed = None if run is None else encoding.decode_run(run, ref)
                news = RunResumed(self._link.loop_time(at), resumed, length)
            case _:
                return
        self._known_orders[text] = True
        self._listener(ref, news)

    async def _on_message(self, channel: str, data: bytes) -> None:
        if channel == self._orders_channel:
            self._on_order(data)
        elif channel in self._by_channel:
            with suppress(RedisAway, Superseded):
                await self._by_channel[channel].receive(data)

    def _on_subscribed(self, channel: str) -> None:
        if channel in self._by_channel:
            self._by_channel[channel].on_subscribed()

    def _on_disconnected(self) -> None:
        for relay in list(self._relays.values()):
            relay.on_disconnected()

    def _on_link_news(self, news: RedisNews) -> None:
        if news is not RedisNews.EMPTIED:
            self._observer.connected(news is RedisNews.BACK)
        if news in (RedisNews.AWAY, RedisNews.EMPTIED):
            self._on_disconnected()
