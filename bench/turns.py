"""Turns through the Agent Protocol, many at once: each is one request, whose answer is the stream of its events."""

import asyncio
import json
import time
from typing import cast

from bench.machine import Failed, Meter, Server

PATIENCE = 120.0


class Posted(asyncio.Protocol):
    """A POST on a connection of its own. ``first`` is when the first event came."""

    def __init__(self, port: int, path: str, body: object) -> None:
        self.received = b""
        self.first: float | None = None
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer bench-1\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._request = head.encode() + content

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.first is None and b"\nevent: " in self.received:
            self.first = time.perf_counter()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and b" 200 " in self.received[:16]:
            self.done.set_result(time.perf_counter())
        else:
            self.done.set_exception(Failed(f"{exc!r} after {self.received[:500]!r}"))


async def play(server: Server, meter: Meter, *, at_once: int, batches: int) -> list[tuple[float, float]]:
    """``batches`` times so many turns, each in a thread of its own: after how many seconds the first and the last event
    of each came. One batch before is not counted.
    """
    played: list[tuple[float, float]] = []
    for counted in (False, True):
        threads = [[await _thread(server.port) for _ in range(at_once)] for _ in range(batches if counted else 1)]
        meter.start()
        for some in threads:
            began = time.perf_counter()
            times = await asyncio.gather(*(_turn(server.port, thread) for thread in some))
            played += [(first - began, last - began) for first, last in times if counted]
        meter.stop()
    return played


async def _thread(port: int) -> str:
    made = await _post(port, "/threads", {})
    thread: str = json.loads(made.received[made.received.index(b"{") : made.received.rindex(b"}") + 1])["thread_id"]
    return thread


async def _turn(port: int, thread: str) -> tuple[float, float]:
    """When its first event came, and when its last."""
    messages = [{"role": "user", "content": "Mend the build, please."}]
    asked = {"assistant_id": "agent", "input": {"messages": messages}, "stream_mode": ["values"]}
    played = await _post(port, f"/threads/{thread}/runs/stream", asked)
    if played.first is None or b"event: error" in played.received or b"Mend the build" not in played.received:
        raise Failed(f"this is no turn: {played.received[:2000]!r}")
    return played.first, await played.done


async def _post(port: int, path: str, body: object) -> Posted:
    loop = asyncio.get_running_loop()
    _, posted = await loop.create_connection(lambda: Posted(port, path, body), "127.0.0.1", port)
    async with asyncio.timeout(PATIENCE):
        await posted.done
    return posted
