"""The broker of one process: one log per run, and a limit for the bytes of all logs together."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from codegen_api.brokers import PAGE, Batch, Forgotten, Lead, News, PeerNews, ReadPage, Tail
from codegen_api.brokers.memory.log import Log, NotHeld
from codegen_api.brokers.memory.pages import HeldPage, Shelf
from codegen_api.positions import Missed
from codegen_api.runs import Changed, Cursor, LogEntry, LogPage, RunRef
from codegen_api.singleflight import Singleflight
from codegen_api.taps import Tap


class MemoryBroker:
    """A ``Broker`` in memory. Beyond ``max_bytes`` it drops unused logs, the least recently used first, and then pages
    of the others. No viewer loses its place by that: pages are read again.
    """

    shared = False

    def __init__(self, *, max_bytes: int = 128 * 1024 * 1024) -> None:
        self._shelf = Shelf(max_bytes)
        self._revision = 0  # where new logs begin, so that no revision is used twice
        self._logs: dict[RunRef, Log] = {}
        self._users: Counter[RunRef] = Counter()  # how many lead or read
        self._unused: OrderedDict[RunRef, None] = OrderedDict()
        self._leads: WeakValueDictionary[RunRef, asyncio.Lock] = WeakValueDictionary()
        self._flights: Singleflight[tuple[Log, int, int, ReadPage], HeldPage] = Singleflight()

    def listen(self, listener: Callable[[RunRef, News], None]) -> None:
        pass  # there are no other instances

    async def tell(self, ref: RunRef, news: PeerNews) -> None:
        pass

    async def publish(self, news: LogPage | Changed, *, asked: float | None = None) -> None:
        log = self._log(news.run.ref)
        if isinstance(news, LogPage):
            log.take_in(news.after, news.entries)
        else:
            log.change(news)
        if news.run.ref in self._unused:
            self._unused.move_to_end(news.run.ref)
        self._make_room(but=news.run.ref)
        log.wake()

    async def doubt(self, ref: RunRef) -> None:
        if ref in self._logs:
            self._logs[ref].close()

    async def tail(self, ref: RunRef) -> Tail | None:
        log = self._logs.get(ref)
        return None if log is None or not log.opened else Tail(log.tail, log.known, log.recent(), log.changed)

    async def missed(self, ref: RunRef, after: Cursor) -> Missed:
        log = self._logs.get(ref)
        return Missed() if log is None else log.missed(after)

    async def entries(
        self, ref: RunRef, cursors: Iterable[Cursor], read: ReadPage
    ) -> AsyncGenerator[tuple[Cursor, LogEntry], None]:
        spare: HeldPage | None = None
        log = self.acquire(ref)
        try:
            for cursor in cursors:
                while (entry := log.entry(cursor, spare)) is None:
                    spare = await self.reread(log, cursor, read)
                yield cursor, entry
        finally:
            self.release(ref)

    def subscribe(self, ref: RunRef, after: Cursor, revision: int | None, read: ReadPage) -> Tap[Batch]:
        return Subscription(self, ref, after, revision, read)

    async def forget(self, ref: RunRef) -> None:
        if ref in self._logs:
            self._drop(ref)

    @asynccontextmanager
    async def lead(self, ref: RunRef) -> AsyncIterator[Lead]:
        lock = self._leads.setdefault(ref, asyncio.Lock())
        self.acquire(ref)
        try:
            async with lock:
                yield Lead()
        finally:
            self.release(ref)

    async def aclose(self) -> None:
        for ref in list(self._logs):
            self._drop(ref)
        await self._flights.aclose()

    @property
    def held_bytes(self) -> int:
        """Bytes of all logs together."""
        return self._shelf.held

    async def reread(self, log: Log, position: Cursor, read: ReadPage) -> HeldPage | None:
        """Read the page of that entry, once for all who need it in its present revision. Returns None if the log holds
        it now.
        """
        number = (position - 1) // PAGE
        key = (log, number, log.revised(number), read)
        page = await self._flights.share(key, lambda: self._fetch(log, number, read))
        return None if log.holds(number) else page

    async def _fetch(self, log: Log, number: int, read: ReadPage) -> HeldPage:
        since = log.revision
        page = HeldPage(log, number, [*await read(number)], since)
        log.fill_in(page)
        self._make_room()
        return page

    def acquire(self, ref: RunRef) -> Log:
        """The log, which is kept until as many calls of ``release``."""
        log = self._log(ref)
        self._users[ref] += 1
        self._unused.pop(ref, None)
        return log

    def release(self, ref: RunRef) -> None:
        self._users[ref] -= 1
        if not self._users[ref]:
            del self._users[ref]
            if ref in self._logs:
                self._unused[ref] = None
                if self._logs[ref].is_blank:
                    self._drop(ref)  # nothing was ever published

    def _log(self, ref: RunRef) -> Log:
        log = self._logs.get(ref)
        if log is None:
            log = self._logs[ref] = Log(self._shelf, self._revision)
            if ref not in self._users:
                self._unused[ref] = None
        return log

    def _drop(self, ref: RunRef) -> None:
        log = self._logs.pop(ref)
        self._unused.pop(ref, None)
        log.drop()
        # changes between this log and the next go unseen, so viewers of this one must begin again
        self._revision = max(self._revision, log.revision + 1)

    def _make_room(self, *, but: RunRef | None = None) -> None:
        """Evict until the bound holds.

        Unused logs go first, and whole: their next follower reads them again anyway. Only the copies are lost, by which
        changes are noticed. Then pages go, the least recently used first, and in each the oldest entries first: so even
        if a log's last page alone is too large, waiting viewers get its end. Copies of these entries are kept, so a
        viewer that lacks a page can go on: the page is read again.
        """
        while self._shelf.room < 0 and (ref := next((each for each in self._unused if each != but), None)) is not None:
            self._drop(ref)
        while self._shelf.room < 0 and (page := self._shelf.next_victim()) is not None:
            page.log.trim(page, -self._shelf.room)


class Subscription(Tap[Batch]):
    """Everything after a position. It needs a task only while a page is read again."""

    __slots__ = ("_after", "_broker", "_described", "_log", "_read", "_reading", "_ref", "_revision", "_spare")

    def __init__(self, broker: MemoryBroker, ref: RunRef, after: Cursor, revision: int | None, read: ReadPage) -> None:
        super().__init__()
        self._broker = broker
        self._ref = ref
        self._after = after
        self._revision = revision
        self._read = read
        self._described: Changed | None = None
        self._spare: HeldPage | None = None
        self._log: Log | None = None
        self._reading: asyncio.Task[HeldPage | None] | None = None

    def take(self) -> Batch | None:
        log = self._log
        if self.over:
            return None
        if log is None:
            log = self._log = self._broker.acquire(self._ref)
            log.add_listener(self)
        if self._reading is not None:
            if not self._reading.done():
                return None
            reading, self._reading = self._reading, None
            self._spare = reading.result()
        try:
            batch = log.batch(self._after, self._revision, self._described, self._spare)
        except Forgotten:
            self._leave()
            raise
        except NotHeld as lacking:
            self._reading = asyncio.ensure_future(self._broker.reread(log, lacking.position, self._read))
            self._reading.add_done_callback(lambda _: self.notify())
            return None
        if batch is None:
            return None
        self._after, self._revision, self._described = batch.cursor, batch.revision, batch.changed or self._described
        if self._spare is None:
            log.keep(batch)
        elif self._after >= self._spare.last:
            self._spare = None  # a slow viewer must not hold on to it
        return batch

    def on_news(self, batches: dict[tuple[Cursor, int | None], Batch | None], now: float) -> None:
        """The log has news, at ``now``. ``batches`` caches the next batch for each position, for all listeners."""
        sink, log = self.sink, self._log
        if log is None or self._reading is not None or self._spare is not None or self._described is not log.changed:
            sink.notify()
            return
        while True:
            position = (self._after, self._revision)
            if position not in batches:
                try:
                    batches[position] = log.batch(self._after, self._revision, self._described, None)
                except (Forgotten, NotHeld):
                    sink.notify()
                    return
            batch = batches[position]
            if batch is None:
                if not sink.idle:
                    sink.notify()
                return
            if batch.changed is not None or not sink.offer(batch, now):
                sink.notify()
                return
            self._after, self._revision = batch.cursor, batch.revision

    def _leave(self) -> None:
        self.over = True
        if self._log is not None:
            self._log.remove_listener(self)
            self._log = self._spare = None
            self._broker.release(self._ref)

    async def aclose(self) -> None:
        self._leave()
        if self._reading is not None:
            reading, self._reading = self._reading, None
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
