"""A stand-in for the hosted API that costs next to nothing: one run, whose log is made up as it is asked for.

Only the routes that a live log needs, for any token, without limits. ``/bench/...`` makes the log grow and end, and
says what was asked.
"""

import argparse
import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop

ORGANIZATION = 1
RUN = 7


class Log:
    """The run and its log. Entries are ``size`` bytes long, and name their number and when they appeared."""

    def __init__(self, entries: int, size: int, *, totals: bool) -> None:
        self.status = "ACTIVE"
        self._backlog = entries
        self._size = size
        self._totals = totals
        self._live: list[bytes] = []  # what came since, with its time

    @property
    def length(self) -> int:
        return self._backlog + len(self._live)

    def grow(self) -> None:
        """One entry more, now."""
        self._live.append(self._entry(self.length + 1, time.monotonic_ns()))

    def page(self, skip: int, limit: int) -> bytes:
        last = min(skip + limit, self.length)
        old = [self._entry(number, 0) for number in range(skip + 1, min(last, self._backlog) + 1)]
        new = self._live[max(0, skip - self._backlog) : max(0, last - self._backlog)]
        total = b"%d" % self.length if self._totals else b"null"
        return b'%b,"logs":[%b],"total_logs":%b,"page":%d,"size":%d,"pages":null}' % (
            self.run()[:-1],
            b",".join(old + new),
            total,
            skip // limit + 1,
            limit,
        )

    def run(self) -> bytes:
        return json.dumps({"id": RUN, "organization_id": ORGANIZATION, "status": self.status}).encode()

    def _entry(self, number: int, appeared: int) -> bytes:
        start = (
            b'{"agent_run_id":%d,"created_at":"2026-11-01 12:00:00.%06d","message_type":"ACTION","tool_name":"run",'
            b'"thought":"%d %d","tool_output":"' % (RUN, number % 1_000_000, number, appeared)
        )
        return start + b"x" * (self._size - len(start) - 2) + b'"}'


class Host:
    """What is answered to whom; ``requests`` counts it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.requests: Counter[str] = Counter()
        self._growing: asyncio.Task[None] | None = None

    def answer(self, target: str) -> bytes | None:
        """The JSON for a request; None when there is no such thing."""
        address = urlsplit(target)
        query = {name: float(values[-1]) for name, values in parse_qs(address.query).items()}
        for pattern, operation, respond in self._routes(query):
            if re.fullmatch(pattern, address.path):
                if operation is not None:
                    self.requests[operation] += 1
                return respond()
        self.requests["unknown"] += 1
        return None

    def _routes(self, query: dict[str, float]) -> list[tuple[str, str | None, Callable[[], bytes]]]:
        run = rf"/organizations/{ORGANIZATION}/agent/run/{RUN}"
        return [
            (f"/v1/alpha{run}/logs", "log", lambda: self.log.page(int(query["skip"]), int(query["limit"]))),
            (f"/v1{run}", "run", self.log.run),
            ("/v1/users/me", "me", lambda: b'{"id":1}'),
            ("/bench/grow", None, lambda: self._grow(int(query["count"]), query["every"])),
            ("/bench/end", None, self._end),
            ("/bench/requests", None, lambda: json.dumps(self.requests).encode()),
        ]

    def _grow(self, count: int, every: float) -> bytes:
        async def growing() -> None:
            for _ in range(count):
                self.log.grow()
                await asyncio.sleep(every)

        self._growing = asyncio.ensure_future(growing())
        return b"{}"

    def _end(self) -> bytes:
        self.log.status = "COMPLETE"
        return b"{}"


class Connection(asyncio.Protocol):
    """Just enough HTTP: requests without bodies, one after another."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            body = self._host.answer(head.split(b" ", 2)[1].decode())
            status = b"404 Not Found" if body is None else b"200 OK"
            body = body or b'{"detail":"Not Found"}'
            self._transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )


async def serve(host: Host) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(host), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--no-totals", action="store_true")
    given = parser.parse_args()
    uvloop.run(serve(Host(Log(given.entries, given.size, totals=not given.no_totals))))


if __name__ == "__main__":
    main()
