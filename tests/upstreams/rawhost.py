"""A host made of a bare TCP server, which can misbehave in every way that a real one can."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

ANSWERED = 30.0
"""Seconds after which a wait in these tests has failed."""


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Conversation:
    """One connection, as a script sees it after each request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Received
    count: int
    """How many requests the host has had by now, over all connections."""

    async def say(self, *pieces: bytes) -> None:
        """Send pieces, each of which the client has read before the next one goes."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(20):
                await asyncio.sleep(0)

    def reset(self) -> None:
        """Cut the connection with an RST."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Conversation], Awaitable[object]]
"""What the host does with each request. It closes the connection afterwards, unless True is returned."""


@dataclass
class RawHost:
    """What has happened to the host so far."""

    url: str = ""
    connections: int = 0
    requests: list[Received] = field(default_factory=list)


def answer(
    body: bytes, *headers: str, status: str = "200 OK", kind: str = "application/json", close: bool = True
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    lines += ["Connection: close"] if close else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def saying(*pieces: bytes) -> Script:
    """A script that sends these bytes and closes the connection."""
    return lambda conversation: conversation.say(*pieces)


async def silence(_conversation: Conversation) -> None:
    await asyncio.Event().wait()


async def read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in head[1:] if line)
    headers = {name.lower(): value for name, _, value in pairs}
    return Received(head[0], headers, await reader.readexactly(int(headers.get("content-length", "0"))))


@contextlib.asynccontextmanager
async def raw_host(script: Script, certificate: ssl.SSLContext | None = None) -> AsyncIterator[RawHost]:
    host = RawHost()
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            try:
                while True:
                    request = await read_request(reader)
                    host.requests.append(request)
                    if await script(Conversation(reader, writer, request, len(host.requests))) is not True:
                        break
            finally:
                writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(converse(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=certificate)
    scheme = "https" if certificate else "http"
    host.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield host
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(server.wait_closed(), ANSWERED)


def unused_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
