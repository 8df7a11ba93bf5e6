"""A viewer of a live log over a socket of its own, so that it decides what is buffered, how fast it reads, and how it
leaves."""

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tests.end_to_end.processes import WAIT
from tests.leaks import WATCH

ALICE, BOB = "sandbox-alice", "sandbox-bob"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; ``name`` is empty for a comment. ``at``: when it was read, in monotonic seconds."""

    name: str
    id: str | None
    data: Any
    retry: int | None
    at: float

    @property
    def number(self) -> int:
        """With which its id begins."""
        found = re.match("[0-9]+", self.id or "")
        assert found is not None, self.id
        return int(found[0])


class Broken(Exception):
    """The connection ended before the answer did."""


class Connection:
    """One request and its answer. ``rate``: how many bytes are read in a second."""

    def __init__(self, sock: socket.socket, rate: float | None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._sock = sock
        self._rate = rate
        self._pending = b""

    @classmethod
    async def open(
        cls,
        url: str,
        path: str,
        headers: dict[str, str],
        *,
        method: str = "GET",
        receive_buffer: int | None = None,
        rate: float | None = None,
    ) -> "Connection":
        """Send the request; the head of its answer is still to be read. Raises Broken where it is cut, OSError where
        nobody listens."""
        WATCH.sent(headers)
        host, _, port = url.removeprefix("http://").partition(":")
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if receive_buffer is not None:  # before the connection is there: later it does not shrink
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            loop = asyncio.get_running_loop()
            lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {it}" for name, it in headers.items())]
            await loop.sock_connect(sock, (host, int(port)))
            await loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())
        except BaseException as error:
            sock.close()
            if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
                raise Broken from error  # somebody listened, and cut it before it could ask
            raise
        return cls(sock, rate)

    async def head(self) -> "Connection":
        first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        for name, _, value in (each.partition(":") for each in lines):
            self.headers[name.lower()] = value.strip()
        return self

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Broken where it is cut."""
        if "transfer-encoding" not in self.headers:
            length = int(self.headers.get("content-length", 0))
            while len(self._pending) < length:
                await self._receive()
            yield self._pending[:length]
            return
        while size := int(await self._until(b"\r\n"), 16):
            while size:
                if not self._pending:
                    await self._receive()
                piece, self._pending = self._pending[:size], self._pending[size:]
                size -= len(piece)
                yield piece
            await self._until(b"\r\n")

    async def body(self) -> bytes:
        whole = b"".join([piece async for piece in self.pieces()])
        WATCH.answer(self.status, whole.decode())
        return whole

    async def events(self) -> AsyncIterator[Event]:
        """The events of the stream, until it ends as it should. Raises Broken where it is cut."""
        text = b""
        async for piece in self.pieces():
            *blocks, text = (text + piece).split(b"\n\n")
            for block in blocks:
                yield Event(*_parsed(block), time.monotonic())
        assert not text, f"half an event: {text[:200]!r}"

    def hurry(self) -> None:
        """Read as fast as it comes, from now on."""
        self._rate = None
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def close(self) -> None:
        """Leave with FIN (or RST where there is something unread)."""
        self._sock.close()

    def reset(self) -> None:
        """Leave with RST."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._pending:
            await self._receive()
        found, _, self._pending = self._pending.partition(mark)
        return found

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        size = 1 << 16 if self._rate is None else max(64, int(self._rate / 20))
        try:
            piece = await loop.sock_recv(self._sock, size)
        except ConnectionError as error:
            raise Broken from error
        if not piece:
            raise Broken
        if self._rate is not None:
            await asyncio.sleep(len(piece) / self._rate)
        self._pending += piece


@lru_cache(1 << 14)
def _parsed(block: bytes) -> tuple[str, str | None, Any, int | None]:
    """The name, id, data and retry of an event. Hundreds of viewers get the same bytes; they share what is in them."""
    name, id_, data, retry = "", None, [], None
    for each in block.decode().split("\n"):
        key, _, value = each.partition(":")
        value = value.removeprefix(" ")
        match key:
            case "event":
                name = value
            case "id":
                id_ = value
            case "data":
                data.append(value)
            case "retry":
                retry = int(value)
            case "":
                assert not value
            case _:
                raise AssertionError(f"no field of an event: {each!r}")
    return name, id_, json.loads("\n".join(data)) if data else None, retry


@dataclass
class Viewer:
    """What one viewer has of a log, over as many connections as it took. It checks the order as it goes.

    ``skip`` stays in the URL, as it does in that of an ``EventSource``; what lies before is empty in ``entries``.
    """

    url: str
    run: Any  # an integer or a text, as the host has it
    token: str = ALICE
    organization: int | None = None
    skip: int = 0
    receive_buffer: int | None = None
    rate: float | None = None
    last_id: str | None = None
    entries: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    connection: Connection | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.entries += [{} for _ in range(self.skip)]

    async def connect(self, **headers: str) -> Connection:
        """Come, or come back with the last id; the head of the answer has been read."""
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        if self.organization is not None:
            sent["X-Organization-ID"] = str(self.organization)
        if self.last_id is not None:
            sent["Last-Event-ID"] = self.last_id
        self.connection = await Connection.open(
            self.url,
            f"/agent-runs/{self.run}/logs/stream" + (f"?skip={self.skip}" if self.skip else ""),
            sent,
            receive_buffer=self.receive_buffer,
            rate=self.rate,
        )
        try:
            async with asyncio.timeout(WAIT):
                return await self.connection.head()
        except BaseException:
            self.leave()
            raise

    async def watch(self, within: float = WAIT) -> "Viewer":
        """Read until the stream ends as it should. Raises Broken where it is cut, TimeoutError where it goes on."""
        connection = await self.connect()
        assert connection.status == 200, connection.status
        return await self.read(within)

    async def read(self, within: float = WAIT) -> "Viewer":
        """Read what is left of the stream, and leave."""
        assert self.connection is not None
        try:
            async with asyncio.timeout(within):
                async for event in self.connection.events():
                    self.take(event)
        finally:
            self.leave()
        return self

    def leave(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def take(self, event: Event) -> None:
        self.events.append(event)
        self.news.set()
        if event.id is not None:
            self.last_id = event.id
        match event.name:
            case "log":
                assert event.number == event.data["position"]
                assert event.data["position"] == len(self.entries) + 1, "an entry is lost, repeated or out of order"
                self.entries.append(event.data)
            case "log.amended":
                assert event.number == len(self.entries)
                assert event.data["position"] <= len(self.entries), "amended before it was sent"
                self.entries[event.data["position"] - 1] = event.data
            case "resync":
                self.entries = self.entries[: int(event.id or 0)]
            case "failure":
                WATCH.answer(event.data["status_code"], json.dumps(event.data))

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def notices(self) -> list[str]:
        return [event.data["code"] for event in self.of("notice")]

    async def until(self, name: str, count: int = 1, within: float = WAIT) -> Event:
        """Somebody else is reading for this viewer: wait until it has so many events of this name."""
        async with asyncio.timeout(within):
            while len(self.of(name)) < count:
                self.news.clear()
                await self.news.wait()
        return self.of(name)[count - 1]
