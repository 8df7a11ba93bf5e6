"""Viewers that cost little: all in one process, over raw sockets. Most only count; some parse and check every event."""

import asyncio
import re
import resource
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import orjson
import uvloop

from bench.host import RUN
from codegen_api.dialects.native.wire import entry_json
from codegen_api.sse import frame
from tests.end_to_end.processes import eventually

PATIENCE = 3600.0
"""Seconds after which a benchmark has failed, whatever it measures."""

LIVE_EVERY = 0.1
"""Seconds between two entries while the run grows."""

_buffer = bytearray(256 * 1024)  # one for all: nothing is kept of what is only counted


class Wrong(Exception):
    """A viewer was not given what it should have been."""


@dataclass(frozen=True)
class Plan:
    """What is to be viewed, by whom."""

    gateway: str
    host: str
    readers: int
    stuck: int
    checked: int
    tokens: int
    entries: int
    size: int
    live: int


@dataclass(frozen=True)
class Outcome:
    """Seconds that each reader needed for the backlog, and that each live entry needed to each checked reader.

    ``cut``: seconds until the last stuck viewer was cut.
    """

    needed: list[float]
    together: float
    latencies: list[float]
    received_bytes: int
    cut: float | None
    cpu: float


class Reader(asyncio.BufferedProtocol):
    """Takes a chunked answer as fast as it comes and counts it. ``backlog``: how many bytes of events the log is."""

    def __init__(self, request: bytes, backlog: int, changed: Callable[[], None]) -> None:
        self.received = 0
        self.caught_up: float | None = None
        self.ended = False
        self.fault: str | None = None
        self._request = request
        self._backlog = backlog
        self._changed = changed
        self._view = memoryview(_buffer)
        self._in_head = True
        self._status = b""
        self._line = b""
        self._left = 0
        self._last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.began = time.monotonic()
        self._transport.write(self._request)

    def get_buffer(self, sizehint: int) -> bytearray:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        at = 0
        while at < nbytes:
            if self._left:
                piece = self._view[at : min(at + self._left, nbytes)]
                self._left -= len(piece)
                at += len(piece)
                self._take(piece)
                continue
            stop = _buffer.find(b"\n", at, nbytes)
            if stop < 0:
                self._line += _buffer[at:nbytes]
                return
            line, self._line, at = (self._line + _buffer[at:stop]).strip(), b"", stop + 1
            self._take_line(line)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended:
            self.fault = self.fault or f"cut after {self.received} bytes: {exc!r}"
        self._changed()

    def _take_line(self, line: bytes) -> None:
        """A line between the pieces of the body: of the head, the length of a chunk, or nothing."""
        if self._in_head:
            self._status = self._status or line
            self._in_head = bool(line)
        elif line:
            self._left = int(line, 16)
            if not self._left:
                self._finish()

    def _take(self, piece: memoryview) -> None:
        self.received += len(piece)
        if self.received >= self._backlog:
            self._last = (self._last + bytes(piece))[-4096:]
            if self.caught_up is None:
                self.caught_up = time.monotonic()
                self._changed()

    def _finish(self) -> None:
        self.ended = b"event: end\n" in self._last and b" 200 " in self._status
        self._transport.close()


class CheckedReader(Reader):
    """Parses every event: each position once, in order, then one end. Knows how late each live entry was."""

    def __init__(self, request: bytes, backlog: int, changed: Callable[[], None]) -> None:
        super().__init__(request, backlog, changed)
        self.position = 0
        self.latencies: dict[int, float] = {}
        self._text = b""
        self._end_seen = False

    def _take(self, piece: memoryview) -> None:
        *events, self._text = (self._text + bytes(piece)).split(b"\n\n")
        now = time.monotonic_ns()
        for event in events:
            try:
                self._check(event, now)
            except (Wrong, ValueError, KeyError) as error:
                self.fault = self.fault or f"{error!r} at {event[:200]!r}"
        super()._take(piece)

    def _check(self, event: bytes, now: int) -> None:
        if event.startswith(b":"):
            return
        fields = dict(line.split(b": ", 1) for line in event.split(b"\n"))
        data = orjson.loads(fields[b"data"])
        name = fields[b"event"]
        if self._end_seen or name not in (b"status", b"log", b"end"):
            raise Wrong(name)
        if name == b"log":
            number, appeared = map(int, data["thought"].split())
            if not self.position + 1 == number == data["position"] == int(re.split(rb"[-~]", fields[b"id"])[0]):
                raise Wrong(self.position)
            self.position = number
            if appeared:
                self.latencies[number] = (now - appeared) / 1e9
                self._changed()
        elif name == b"end":
            self._end_seen = True
            if data["total_logs"] != self.position or fields[b"id"] != b"%d.end" % self.position:
                raise Wrong(data)

    def _finish(self) -> None:
        super()._finish()
        self.ended = self.ended and self._end_seen and not self._text


def event_bytes(entry_bytes: int, entries: int) -> int:
    """How long the events of a log are whose entries are this long at the host."""
    start = b'{"created_at":"'
    entry = start + b"x" * (entry_bytes + 1 - len(start) - 2) + b'"}'  # the gateway writes a Z behind the time
    first = len(frame("log", entry_json(entry, 1), 1))
    digits = sum(len(str(number)) - 1 for number in range(1, entries + 1))
    return first * entries + 2 * digits  # the position is in it twice


def view(plan: Plan) -> Outcome:
    """Have the run viewed as planned, until everybody has the whole and the stuck ones were cut.

    Raises:
        Wrong: somebody was not given the whole log.
    """
    return uvloop.run(_view(plan))


async def _view(plan: Plan) -> Outcome:
    news = asyncio.Event()
    stuck = [await _stick(plan, number) for number in range(plan.stuck)]
    stuck_since = time.monotonic()
    await asyncio.to_thread(eventually, partial(_viewers, plan), lambda viewers: viewers == plan.stuck, 60)

    backlog = event_bytes(plan.size, plan.entries)
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    cutting = asyncio.ensure_future(_until_cut(plan, readers))
    spacing = max(1, plan.readers // max(1, plan.checked))
    for number in range(plan.readers):
        kind = CheckedReader if number % spacing == 0 and number // spacing < plan.checked else Reader
        make = partial(kind, _request(plan, number), backlog, news.set)
        _, reader = await loop.create_connection(make, *_address(plan))
        readers.append(reader)
    checked = [reader for reader in readers if isinstance(reader, CheckedReader)]

    async def until(ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not ready():
                if faults := [reader.fault for reader in readers if reader.fault]:
                    raise Wrong(f"{len(faults)} readers, the first: {faults[0]}")
                news.clear()
                await news.wait()

    await until(lambda: all(reader.caught_up is not None for reader in readers))
    if plan.live:
        # the first one ends the pause that a quiet log is given, and is not counted
        for count in (1, plan.live):
            reached = checked[0].position + count
            await _tell(plan.host, f"grow?count={count}&every={LIVE_EVERY}")
            await until(partial(_are_at, checked, reached))
    await _tell(plan.host, "end")
    await until(lambda: all(reader.ended for reader in readers))

    total = plan.entries + (1 + plan.live if plan.live else 0)
    least = event_bytes(plan.size, total)
    for reader in readers:
        # besides heartbeats, ids say which changes are known: most of them shortly, the last ones with digests
        if not least < reader.received < least + 32 * total + 32_768:
            raise Wrong(f"{reader.received} bytes of events, where the log alone is {least}")
    if any(reader.position != total for reader in checked):
        raise Wrong("an entry is missing")
    cut = await cutting - stuck_since if stuck else None
    for connection in stuck:
        connection.close()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Outcome(
        needed=[(reader.caught_up or 0) - reader.began for reader in readers],
        together=max(reader.caught_up or 0 for reader in readers) - min(reader.began for reader in readers),
        latencies=[
            late for reader in checked for number, late in reader.latencies.items() if number > total - plan.live
        ],
        received_bytes=sum(reader.received for reader in readers),
        cut=cut,
        cpu=used.ru_utime + used.ru_stime,
    )


def _are_at(readers: list[CheckedReader], position: int) -> bool:
    return all(reader.position >= position for reader in readers)


async def _stick(plan: Plan, number: int) -> socket.socket:
    """A viewer who asks and never reads."""
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stuck, _address(plan))
    await loop.sock_sendall(stuck, _request(plan, number))
    return stuck


async def _until_cut(plan: Plan, readers: list[Reader]) -> float:
    """When the gateway had no viewers but ``readers``: one who reads nothing does not see that it was cut."""
    while True:
        # counted first: whoever comes meanwhile makes the gateway's number larger, not this one
        reading = sum(reader.received > 0 and not reader.ended for reader in readers)
        if await asyncio.to_thread(_viewers, plan) <= reading:
            return time.monotonic()
        await asyncio.sleep(0.5)


def _address(plan: Plan) -> tuple[str, int]:
    url = urlsplit(plan.gateway)
    return url.hostname or "", url.port or 80


def _request(plan: Plan, number: int) -> bytes:
    return (
        f"GET /agent-runs/{RUN}/logs/stream HTTP/1.1\r\nHost: {urlsplit(plan.gateway).netloc}\r\n"
        f"Authorization: Bearer bench-{number % plan.tokens}\r\n\r\n"
    ).encode()


def _viewers(plan: Plan) -> int:
    viewers: int = orjson.loads(_get(f"{plan.gateway}/health"))["viewers"]
    return viewers


async def _tell(host: str, what: str) -> None:
    await asyncio.to_thread(_get, f"{host}/bench/{what}")


def _get(url: str) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=60) as answer:
        content: bytes = answer.read()
        return content
