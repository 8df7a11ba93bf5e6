"""The broker inside one process: one shared window per run, all windows together within a number of bytes."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from codegen_api.brokers import Batch, Tail
from codegen_api.brokers.memory.window import Window
from codegen_api.positions import Missed
from codegen_api.runs import Changed, Cursor, LogEntry, LogPage, RunRef


class MemoryBroker:
    """Windows in memory. Beyond ``max_bytes`` the least recently used ones are let go, oldest entries first."""

    def __init__(self, *, max_bytes: int = 96 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._revision = 0  # no window begins below it, so that a revision never names two different things
        self._windows: OrderedDict[RunRef, Window] = OrderedDict()
        self._leads: dict[RunRef, asyncio.Lock] = {}
        self._candidates: Counter[RunRef] = Counter()

    async def publish(self, news: LogPage | Changed) -> None:
        ref = news.run.ref
        with self._altering(ref) as window:
            if isinstance(news, LogPage):
                window.take_in(news.after, news.entries)
            else:
                window.change(news)
        window.wake()

    async def note(self, page: LogPage) -> None:
        with self._altering(page.run.ref) as window:
            window.note(page.after, page.entries)

    async def doubt(self, ref: RunRef) -> None:
        if ref in self._windows:
            with self._altering(ref) as window:
                window.close()

    async def tail(self, ref: RunRef) -> Tail | None:
        window = self._windows.get(ref)
        if window is None or not window.opened:
            return None
        return Tail(window.tail, window.known, window.recent(), window.changed)

    async def held(self, ref: RunRef, after: Cursor) -> tuple[LogEntry, ...]:
        window = self._windows.get(ref)
        return () if window is None else window.held(after)

    async def missed(self, ref: RunRef, after: Cursor) -> Missed:
        window = self._windows.get(ref)
        return Missed() if window is None else window.missed(after, None)

    async def subscribe(self, ref: RunRef, after: Cursor, revision: int | None = None) -> AsyncGenerator[Batch, None]:
        window = self._window(ref)
        self._windows.move_to_end(ref)
        window.subscribers += 1
        described = False
        try:
            while True:
                batch = window.batch(after, revision, described=described)
                if batch is None:
                    await window.news()
                    continue
                with self._counting(window):
                    window.keep(batch, room=self._max_bytes - self._held)
                after, revision = batch.cursor, batch.revision
                described = described or batch.changed is not None
                yield batch
        finally:
            window.subscribers -= 1
            if not window.subscribers:
                with self._counting(window):
                    window.let_go_kept()
            if not window.opened and not window.subscribers and self._windows.get(ref) is window and window.is_blank:
                self._drop(ref)  # nobody ever published

    async def forget(self, ref: RunRef) -> None:
        if ref in self._windows:
            window = self._drop(ref)
            window.forgotten = True
            window.wake()

    @asynccontextmanager
    async def lead(self, ref: RunRef) -> AsyncIterator[None]:
        lock = self._leads.setdefault(ref, asyncio.Lock())
        self._candidates[ref] += 1
        try:
            async with lock:
                yield
        finally:
            self._candidates[ref] -= 1
            if not self._candidates[ref]:
                del self._candidates[ref], self._leads[ref]

    async def aclose(self) -> None:
        for ref in list(self._windows):
            await self.forget(ref)

    @property
    def held_bytes(self) -> int:
        """What all windows together hold now."""
        return self._held

    @contextmanager
    def _altering(self, ref: RunRef) -> Iterator[Window]:
        window = self._window(ref)
        with self._counting(window):
            yield window
        self._windows.move_to_end(ref)
        self._let_go(ref)

    @contextmanager
    def _counting(self, window: Window) -> Iterator[None]:
        before = window.size
        yield
        if not window.dropped:
            self._held += window.size - before

    def _window(self, ref: RunRef) -> Window:
        window = self._windows.get(ref)
        if window is None:
            window = self._windows[ref] = Window(self._revision)
            self._held += window.size
        return window

    def _drop(self, ref: RunRef) -> Window:
        window = self._windows.pop(ref)
        window.dropped = True
        self._held -= window.size
        # nobody can tell what changes between this window and the next: who knows this one has to read again
        self._revision = max(self._revision, window.revision + 1)
        return window

    def _let_go(self, newest: RunRef) -> None:
        """Make room: kept batches go first, then windows that nobody watches, then the oldest entries of the others."""
        if self._held <= self._max_bytes:
            return
        for window in self._windows.values():
            with self._counting(window):
                window.let_go_kept()
        for ref, window in list(self._windows.items()):
            if self._held <= self._max_bytes:
                return
            if not window.subscribers and ref != newest:
                self._drop(ref)
        for window in list(self._windows.values()):
            if self._held <= self._max_bytes:
                return
            with self._counting(window):
                window.trim(self._held - self._max_bytes)
