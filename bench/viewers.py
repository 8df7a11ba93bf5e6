"""Viewers of live logs that cost little: all in one process, over raw sockets. Costs some 2 us for an entry whose stamp
is read, and a tenth of it for one that is only counted.
"""

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from bench.host import MARK, RUN, STAMP_LENGTH, entry
from bench.machine import Failed, Server
from bench.peers import TOKENS
from bench.traffic import Requester

PATIENCE = 120.0
"""Seconds after which entries that have not come will not come."""

OPENING = 50
"""So many viewers connect at a time."""

_KEPT = len(MARK) + STAMP_LENGTH
_buffer = bytearray(_KEPT + 1024 * 1024)  # one for all: nothing is kept of what is only counted
_view = memoryview(_buffer)


class Audience:
    """All viewers of a source: what they saw, and who waits for it."""

    def __init__(self, source: "Source", *, stamps: bool) -> None:
        self.stamps = stamps
        self.delivered = 0
        self.opened = 0
        self.since_read: list[float] = []
        self.since_appeared: list[float] = []
        self._source = source
        self._viewers: list[Viewer] = []
        self._stuck: list[socket.socket] = []
        self._fault: str | None = None
        self._closing = False
        self._news = asyncio.Event()

    async def __aenter__(self) -> "Audience":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        for viewer in self._viewers:
            viewer.close()
        for stuck in self._stuck:
            stuck.close()

    async def open(self, runs: Sequence[int], at_once: int = OPENING) -> None:
        """A viewer of each of ``runs``, so many at a time; all get the head of their answer."""
        for start in range(0, len(runs), at_once):
            some = runs[start : start + at_once]
            await asyncio.gather(*map(self._connect, some))
            await self.until(lambda: self.opened >= len(self._viewers))

    async def _connect(self, run: int) -> None:
        request = self._source.request(run, len(self._viewers))
        viewer = Viewer(request, self)
        self._viewers.append(viewer)
        await asyncio.get_running_loop().create_connection(lambda: viewer, "127.0.0.1", self._source.server.port)

    async def stick(self, count: int) -> None:
        """So many more viewers, who ask and never read."""
        loop = asyncio.get_running_loop()
        for number in range(count):
            stuck = socket.socket()
            self._stuck.append(stuck)
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.setblocking(False)
            await loop.sock_connect(stuck, ("127.0.0.1", self._source.server.port))
            await loop.sock_sendall(stuck, self._source.request(RUN, number))

    async def warm(self) -> None:
        """One entry to everybody, which ends the pause that a quiet log is given, and is not counted."""
        await self._source.publish(1, 0)
        await self.until(lambda: self.delivered >= len(self._viewers))
        self.forget()

    def forget(self) -> None:
        self.delivered = 0
        self.since_read.clear()
        self.since_appeared.clear()

    def came(self, count: int) -> None:
        self.delivered += count
        self._news.set()

    def has_opened(self) -> None:
        self.opened += 1
        self._news.set()

    def failed(self, why: str) -> None:
        if not self._closing:
            self._fault = self._fault or why
            self._news.set()

    async def until(self, ready: Callable[[], bool]) -> None:
        """Raises ``Failed`` where it does not come to that."""
        if not await self._wait(ready, PATIENCE):
            raise Failed(f"{self.opened} streams are open, {self.delivered} entries came within {PATIENCE:.0f} s")

    async def pause(self, seconds: float) -> None:
        """Let time pass, in which no stream may break."""
        await self._wait(lambda: False, seconds)

    async def _wait(self, ready: Callable[[], bool], within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                while True:
                    if self._fault:
                        raise Failed(self._fault)
                    if ready():
                        return True
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False


class Viewer(asyncio.BufferedProtocol):
    """Counts the entries of a stream; each number once and in order, where stamps are read."""

    def __init__(self, request: bytes, audience: Audience) -> None:
        self._request = request
        self._audience = audience
        self._kept = b""
        self._opened = False
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._transport.write(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _view[_KEPT:]

    def buffer_updated(self, nbytes: int) -> None:
        start, stop = _KEPT - len(self._kept), _KEPT + nbytes
        _buffer[start:_KEPT] = self._kept
        if not self._opened:
            self._opened = True
            if b" 200 " not in _buffer[start : start + 16]:
                self._audience.failed(f"a stream was refused: {bytes(_buffer[start:stop])[:500]!r}")
            self._audience.has_opened()
        if self._audience.stamps:
            self._read_stamps(start, stop)
        else:
            if count := _buffer.count(MARK, start, stop):
                self._audience.came(count)
            self._kept = bytes(_view[max(start, stop - len(MARK) + 1) : stop])

    def connection_lost(self, exc: Exception | None) -> None:
        self._audience.failed(f"a stream ended: {exc!r}")

    def close(self) -> None:
        self._transport.abort()

    def _read_stamps(self, start: int, stop: int) -> None:
        audience, now, count = self._audience, time.monotonic_ns(), 0
        while True:
            at = _buffer.find(MARK, start, stop)
            if at < 0:
                self._kept = bytes(_view[max(start, stop - len(MARK) + 1) : stop])
                break
            if stop - at < _KEPT:
                self._kept = bytes(_view[at:stop])
                break
            start = at + _KEPT
            try:
                number, appeared, read = map(int, bytes(_view[at + len(MARK) : start]).split())
            except ValueError:
                audience.failed(f"this is no entry: {bytes(_view[at:start])!r}")
                return
            if self._number and number != self._number + 1:
                audience.failed(f"entry {number} came after {self._number}")
            self._number = number
            count += 1
            if appeared:
                audience.since_read.append((now - read) / 1e9)
                audience.since_appeared.append((now - appeared) / 1e9)
        if count:
            audience.came(count)


class Source(Protocol):
    """A server of streams, and how to have entries appear in them."""

    @property
    def server(self) -> Server: ...

    def request(self, run: int, number: int) -> bytes:
        """What viewer ``number`` asks for who wants to see ``run``."""

    async def publish(self, count: int, every: float, first: int = RUN, runs: int = 1) -> None:
        """``count`` entries, one each ``every`` seconds, to one of the runs after another. Returns at once, or when
        they have been published.
        """


@dataclass(frozen=True)
class Followed:
    """The gateway, which reads the log of a host."""

    server: Server
    host: Server
    tokens: int = TOKENS

    def request(self, run: int, number: int) -> bytes:
        return _get(self.server.port, f"/agent-runs/{run}/logs/stream", f"bench-{number % self.tokens}")

    async def publish(self, count: int, every: float, first: int = RUN, runs: int = 1) -> None:
        await tell(self.host, f"grow?first={first}&runs={runs}&count={count}&every={every}")

    async def reads(self) -> int:
        """How many pages of logs the host has been asked for."""
        requests: dict[str, int] = json.loads(await tell(self.host, "requests"))
        return requests.get("log", 0)


class Channels:
    """A server that is sent entries by POST, each as soon as the one before is taken."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._number = 0

    def request(self, run: int, number: int) -> bytes:
        return _get(self.server.port, f"/sub/{run}", f"bench-{number % TOKENS}")

    async def publish(self, count: int, every: float, first: int = RUN, runs: int = 1) -> None:
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[None] = loop.create_future()

        def fail(why: str) -> None:
            if not taken.done():
                taken.set_exception(Failed(why))

        _, publisher = await loop.create_connection(
            lambda: Requester(lambda _: taken.set_result(None), fail), "127.0.0.1", self.server.port
        )
        began = loop.time()
        for number in range(count):
            if every and (wait := began + number * every - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._number += 1
            now = time.monotonic_ns()
            body = entry(self._number, now, now, 300)
            head = f"POST /pub/{first + number % runs} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            publisher.send(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), b"")
            await taken
            taken = loop.create_future()
        publisher.close()


async def tell(host: Server, what: str) -> bytes:
    """Have ``bench.host`` do something."""

    def ask() -> bytes:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{host.url}/bench/{what}", timeout=60) as answer:
            content: bytes = answer.read()
            return content

    return await asyncio.to_thread(ask)


def _get(port: int, path: str, token: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()
