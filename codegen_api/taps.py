"""Taps: sources of items that arrive over time, and that are taken without a task for each taker.

A coroutine that waits for the next item costs a task, a future and a time-out each time, and kilobytes while it waits.
Most viewers wait nearly always. So their items come from objects that give what is available without waiting, and
notify their sink when there may be more.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Sink:
    """What takes the items of a tap."""

    __slots__ = ()

    @property
    def idle(self) -> bool:
        """Whether it has taken everything, and waits only for more of the same."""
        return False

    def notify(self) -> None:
        """Called when there may be something to take."""

    def offer(self, item: Any, now: float) -> bool:
        """Try to pass the next item through to the connection, at ``now`` (the event loop's time). If that is not
        possible at once, return False and change nothing. A short cut for items that many idle sinks wait for.
        """
        return False


NO_SINK = Sink()


class _Waiter(Sink):
    __slots__ = ("notified",)

    def __init__(self) -> None:
        self.notified: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def notify(self) -> None:
        if not self.notified.done():
            self.notified.set_result(None)


class Tap(Sink, Generic[T]):
    """A source of items, in order; ``over`` after the last. When ``take`` has returned None, the tap notifies ``sink``
    once there may be more. A tap is also an asynchronous iterator, and the sink of any tap it takes from. It must be
    closed.
    """

    __slots__ = ("__weakref__", "over", "sink")

    def __init__(self) -> None:
        self.over = False
        self.sink: Sink = NO_SINK

    def take(self) -> T | None:
        """The next item if it is available; never waits. Raises what went wrong at its source."""
        raise NotImplementedError  # no ABC, which makes isinstance slow: it is called for each item

    async def aclose(self) -> None:
        """Release everything it holds."""

    def notify(self) -> None:
        self.sink.notify()

    def __aiter__(self) -> "Tap[T]":
        return self

    async def __anext__(self) -> T:
        while (item := self.take()) is None:
            if self.over:
                raise StopAsyncIteration
            self.sink = waiter = _Waiter()
            try:
                await waiter.notified
            finally:
                self.sink = NO_SINK
        return item


class Pulled(Tap[T]):
    """The items of an asynchronous generator, which runs only when an item is wanted. If it yields a tap, all further
    items come from that tap, and the generator stays suspended until the end.
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
                self.notify()
                await wanted
        finally:
            asyncio.get_running_loop().call_soon(self.notify)  # later, when this task is done

    async def aclose(self) -> None:
        self.over = True
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})  # closing a running generator would raise, and hide the original error
            if not self._pump.cancelled():
                self._pump.exception()  # retrieved, so that asyncio does not log it
        try:
            if self._rest is not None:
                await self._rest.aclose()
        finally:
            await self._source.aclose()
