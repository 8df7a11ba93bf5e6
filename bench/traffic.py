"""Requests, one after another or at a pace, over connections that are kept. Costs some 20 us a request."""

import asyncio
import itertools
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from bench.machine import STARTING, Failed, Meter

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

Make = Callable[[int], tuple[bytes, bytes]]
"""The request with this number, and what its answer contains."""


def gets(port: int, path: str, *, runs: int = 1_000_000) -> Make:
    """GETs of so many different runs."""

    def make(number: int) -> tuple[bytes, bytes]:
        run = 1000 + number % runs
        head = (
            f"GET {path}{run} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer bench-{number % 10}\r\n\r\n"
        )
        return head.encode(), b'"id":%d,' % run

    return make


class Requester(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, done: "Callable[[Requester], None]", failed: Callable[[str], None]) -> None:
        self.began = 0.0
        self._done = done
        self._failed = failed
        self._received = b""
        self._wanted = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def send(self, request: bytes, wanted: bytes) -> None:
        self._wanted, self._busy, self.began = wanted, True, time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._received, 0, end)
        whole = len(self._received) >= end + int(length[1]) if length else self._received.endswith(b"\r\n0\r\n\r\n")
        if not whole:
            return
        answer, self._received, self._busy = self._received, b"", False
        if answer[9] != 0x32 or self._wanted not in answer:  # 2xx
            self._failed(f"answer {answer[:500]!r}, where {self._wanted!r} was to be in it")
        else:
            self._done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._failed(f"the connection was closed: {exc!r}")

    def close(self) -> None:
        self._busy = False
        self._transport.close()


async def closed_loop(
    port: int, make: Make, meter: Meter, *, connections: int, warm: float, seconds: float
) -> list[float]:
    """As many requests as can be, each connection with one under way: how long each took while ``meter`` ran."""
    numbers, took = itertools.count(), list[float]()
    measuring, over, answered = False, False, set[Requester]()

    def done(requester: Requester) -> None:
        answered.add(requester)
        if measuring:
            took.append(time.perf_counter() - requester.began)
        if not over:
            requester.send(*make(next(numbers)))

    async with _connected(port, connections, done) as (requesters, failed):
        for requester in requesters:
            requester.send(*make(next(numbers)))
        async with asyncio.timeout(STARTING):
            while len(answered) < connections:
                await _pause(0.01, failed)
        await _pause(warm, failed)
        measuring = True
        meter.start()
        await _pause(seconds, failed)
        measuring, over = False, True
        meter.stop()
    if not took:
        raise Failed(f"no answer came within {seconds} s")
    return took


async def paced(
    port: int, make: Make, meter: Meter, *, rate: float, connections: int, warm: float, seconds: float
) -> list[float]:
    """``rate`` requests a second, whether those before were answered or not, over the connection that was unused
    longest or, if there is none, the next that gets free: how long each took, the waiting for a connection included.
    """
    waiting: deque[tuple[float, int]] = deque()
    free: deque[Requester] = deque()
    took: list[float] = []

    def done(requester: Requester) -> None:
        if requester.began >= since:
            took.append(time.perf_counter() - requester.began)
        if waiting:
            began, number = waiting.popleft()
            requester.send(*make(number))
            requester.began = began
        else:
            free.append(requester)

    async with _connected(port, connections, done) as (requesters, failed):
        free.extend(requesters)
        began = time.perf_counter()
        since = began + warm
        meter.start()
        for number in range(int((warm + seconds) * rate)):
            if (wait := began + number / rate - time.perf_counter()) > 0:
                await _pause(wait, failed)
            if free:
                free.popleft().send(*make(number))
            else:
                waiting.append((time.perf_counter(), number))
        meter.stop()
        async with asyncio.timeout(STARTING):
            while len(free) < connections:
                await _pause(0.01, failed)
    return took


@asynccontextmanager
async def _connected(
    port: int, connections: int, done: Callable[[Requester], None]
) -> AsyncIterator[tuple[list[Requester], "asyncio.Future[None]"]]:
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()

    def fail(why: str) -> None:
        if not failed.done():
            failed.set_exception(Failed(why))

    made = [await loop.create_connection(lambda: Requester(done, fail), "127.0.0.1", port) for _ in range(connections)]
    try:
        yield [requester for _, requester in made], failed
    finally:
        for _, requester in made:
            requester.close()
        failed.cancel()


async def _pause(seconds: float, failed: "asyncio.Future[None]") -> None:
    await asyncio.wait([failed], timeout=seconds)
    if failed.done():
        failed.result()
