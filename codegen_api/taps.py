"""Taps: what comes bit by bit, taken without a task for whoever takes it.

A coroutine that waits for the next thing costs a task, a future and a time-out each time, and kilobytes while it waits.
Most viewers wait nearly always. So what they are sent is taken from objects that give what is there at once, and tell
their sink when there may be more.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Sink:
    """What a tap runs into."""

    __slots__ = ()

    @property
    def rests(self) -> bool:
        """Whether it has taken everything there was, and waits for nothing but more of the same."""
        return False

    def ring(self) -> None:
        """There may be something to take, or perhaps not."""

    def offer(self, item: Any, now: float) -> bool:
        """Here is the next thing, at ``now`` (the event loop's time): whether it was put through at once, to the end.
        If not, it is as if it had not been offered. A short cut for what many wait for; who ``rests`` may be offered.
        """
        return False


NOBODY = Sink()


class _Bell(Sink):
    __slots__ = ("rung",)

    def __init__(self) -> None:
        self.rung: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ring(self) -> None:
        if not self.rung.done():
            self.rung.set_result(None)


class Tap(Sink, Generic[T]):
    """Things that come, in order. ``over``: nothing comes any more. The ``sink`` is told when there may be something,
    after ``take`` has given None. It is also an asynchronous iterator, and the sink of what it taps itself. To be
    closed.
    """

    __slots__ = ("__weakref__", "over", "sink")

    def __init__(self) -> None:
        self.over = False
        self.sink: Sink = NOBODY

    def take(self) -> T | None:
        """The next thing, if it is there; never waits. Raises whatever went wrong on its way."""
        raise NotImplementedError  # no ABC: whether something is a tap is asked for each item, which an ABC makes slow

    async def aclose(self) -> None:
        """Let go of everything."""

    def ring(self) -> None:
        self.sink.ring()

    def __aiter__(self) -> "Tap[T]":
        return self

    async def __anext__(self) -> T:
        while (item := self.take()) is None:
            if self.over:
                raise StopAsyncIteration
            self.sink = bell = _Bell()
            try:
                await bell.rung
            finally:
                self.sink = NOBODY
        return item


class Pulled(Tap[T]):
    """What an asynchronous generator gives, which runs only while something is wanted of it. If that is a tap, the rest
    comes of it; the generator stays where it is until the end.
    """

    __slots__ = ("_item", "_pump", "_rest", "_source", "_wanted")

    def __init__(self, source: "AsyncGenerator[T | Tap[T], None]") -> None:
        super().__init__()
        self._source = source
        self._item: T | None = None
        self._rest: Tap[T] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._wanted: asyncio.Future[None] | None = None

    def take(self) -> T | None:
        if self.over:
            return None
        if self._rest is not None:
            item = self._rest.take()
            self.over = self._rest.over
            return item
        item, self._item = self._item, None
        if item is not None:
            return item
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._run())
        elif self._pump.done():
            self.over = True
            self._pump.result()
        elif self._wanted is not None:
            self._wanted.set_result(None)
            self._wanted = None
        return None

    def offer(self, item: Any, now: float) -> bool:
        return self.sink.offer(item, now)

    async def _run(self) -> None:
        try:
            async for item in self._source:
                if isinstance(item, Tap):
                    self._rest, self._pump = cast("Tap[T]", item), None
                    self._rest.sink = self
                    return
                self._item = item
                self._wanted = wanted = asyncio.get_running_loop().create_future()
                self.ring()
                await wanted
        finally:
            # when this task is done
            asyncio.get_running_loop().call_soon(self.ring)

    async def aclose(self) -> None:
        self.over = True
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
            if not self._pump.cancelled():
                self._pump.exception()  # closing a generator that runs would raise, and hide what went wrong
        try:
            if self._rest is not None:
                await self._rest.aclose()
        finally:
            await self._source.aclose()
