"""A stand-in for the hosted API that costs next to nothing: any number of runs, whose logs grow as they are told to.

Only the routes that live logs and turns need, for any token, without limits. ``/bench/...`` makes logs grow, and says
what was asked. An entry says its number, when it appeared, and when it was first read from here.
"""

import argparse
import asyncio
import itertools
import re
import time
from collections import Counter
from typing import cast
from urllib.parse import parse_qs, urlsplit

import orjson
import uvloop

ORGANIZATION = 1
RUN = 7
"""A run; any other number is one, too."""

MARK = b'"thought":"'
"""What stands in each entry once, before ``STAMP``."""

STAMP = b"%08d %018d %018d"
"""Of at most 18 digits in a row: longer integers have to be parsed by another, slower parser, and agents write none."""

STAMP_LENGTH = len(STAMP % (0, 0, 0))
CREATED = 1_000_000_000
"""The first number of runs that were created here."""


def entry(number: int, appeared: int, read: int, size: int, *, kind: bytes = b"ACTION") -> bytes:
    """``size`` bytes of JSON, or as few as can be."""
    start = b'{"agent_run_id":%d,"created_at":"2026-11-01 12:00:00.%06d","message_type":"%b","tool_name":"run",' % (
        RUN,
        number % 1_000_000,
        kind,
    )
    start += MARK + STAMP % (number, appeared, read) + b'","tool_output":"'
    return start + b"x" * (size - len(start) - 2) + b'"}'


class Log:
    """A run and its log."""

    def __init__(self, number: int, backlog: int, size: int, *, totals: bool) -> None:
        self.status = "ACTIVE"
        self.metadata: object = None
        self._number = number
        self._backlog = backlog
        self._size = size
        self._totals = totals
        self._appeared: list[int] = []  # when what came since did
        self._read: list[bytes] = []  # as many of those as have been read

    @property
    def length(self) -> int:
        return self._backlog + len(self._appeared)

    def grow(self) -> None:
        """One entry more, now."""
        self._appeared.append(time.monotonic_ns())

    def answer(self, kinds: list[bytes]) -> None:
        """All that a short run does, at once."""
        self._read = [entry(number, 0, 0, self._size, kind=kind) for number, kind in enumerate(kinds, 1)]
        self._appeared = [0 for _ in kinds]
        self.status = "COMPLETE"

    def page(self, skip: int, limit: int) -> bytes:
        last, backlog = min(skip + limit, self.length), self._backlog
        now = time.monotonic_ns()
        for index in range(len(self._read), last - backlog):
            self._read.append(entry(backlog + index + 1, self._appeared[index], now, self._size))
        old = [entry(number, 0, 0, self._size) for number in range(skip + 1, min(last, backlog) + 1)]
        new = self._read[max(0, skip - backlog) : max(0, last - backlog)]
        return b'%b,"logs":[%b],"total_logs":%b,"page":%d,"size":%d,"pages":null}' % (
            self.run()[:-1],
            b",".join(old + new),
            b"%d" % self.length if self._totals else b"null",
            skip // limit + 1,
            limit,
        )

    def run(self) -> bytes:
        said = {"id": self._number, "organization_id": ORGANIZATION, "status": self.status}
        return orjson.dumps(said if self.metadata is None else {**said, "metadata": self.metadata})


class Host:
    """What is answered to whom; ``requests`` counts it."""

    def __init__(self, backlog: int, size: int, *, totals: bool) -> None:
        self.requests: Counter[str] = Counter()
        self._logs: dict[int, Log] = {}
        self._backlog = backlog
        self._size = size
        self._totals = totals
        self._numbers = itertools.count(CREATED)
        self._growing: set[asyncio.Task[None]] = set()

    def answer(self, method: bytes, target: str, body: bytes) -> bytes | None:
        """The JSON for a request; None when there is no such thing."""
        address = urlsplit(target)
        query = {name: float(values[-1]) for name, values in parse_qs(address.query).items() if name != "reverse"}
        if match := _RUN.fullmatch(address.path):
            log = self._log(int(match["run"]))
            self.requests["log" if match["logs"] else "run"] += 1
            if not match["logs"]:
                return log.run()
            skip, limit = int(query["skip"]), int(query["limit"])
            return log.page(max(0, log.length - limit) if "reverse=true" in address.query else skip, limit)
        if address.path.startswith("/bench/"):
            return self._told(address.path.removeprefix("/bench/"), query)
        if address.path == "/v1/users/me":
            self.requests["me"] += 1
            return b'{"id":1}'
        if address.path == f"/v1/organizations/{ORGANIZATION}/agent/run" and method == b"POST":
            return self._create(body)
        self.requests["unknown"] += 1
        return None

    def _log(self, number: int) -> Log:
        log = self._logs.get(number)
        if log is None:
            log = self._logs[number] = Log(number, self._backlog, self._size, totals=self._totals)
        return log

    def _create(self, body: bytes) -> bytes:
        self.requests["create"] += 1
        number = next(self._numbers)
        log = self._logs[number] = Log(number, 0, self._size, totals=self._totals)
        log.metadata = orjson.loads(body).get("metadata")
        said = log.run()
        log.answer([b"ACTION", b"ACTION", b"FINAL_ANSWER"])
        return said

    def _told(self, what: str, query: dict[str, float]) -> bytes | None:
        if what == "requests":
            return orjson.dumps(self.requests)
        if what != "grow":
            return None
        runs = [self._log(int(query["first"]) + number) for number in range(int(query["runs"]))]
        task = asyncio.ensure_future(_grow(runs, int(query["count"]), query["every"]))
        self._growing.add(task)
        task.add_done_callback(self._growing.discard)
        return b"{}"


_RUN = re.compile(rf"/v1(/alpha)?/organizations/{ORGANIZATION}/agent/run/(?P<run>\d+)(?P<logs>/logs)?")


async def _grow(logs: list[Log], count: int, every: float) -> None:
    """``count`` entries, one after another, to one run after another."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(count):
        if every and (wait := began + number * every - loop.time()) > 0:
            await asyncio.sleep(wait)
        logs[number % len(logs)].grow()


class Connection(asyncio.Protocol):
    """Just enough HTTP: requests one after another."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n") + 4) >= 4:
            head = self._received[:end]
            method, target, _ = head.split(b" ", 2)
            length = _LENGTH.search(head) if method == b"POST" else None
            stop = end + (int(length[1]) if length else 0)
            if len(self._received) < stop:
                return
            body = self._host.answer(method, target.decode(), self._received[end:stop])
            self._received = self._received[stop:]
            status = b"404 Not Found" if body is None else b"200 OK"
            body = body or b'{"detail":"Not Found"}'
            self._transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )


_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def serve(host: Host, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(host), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backlog", type=int, default=0, help="entries that each log has from the start")
    parser.add_argument("--size", type=int, default=300, help="bytes of an entry")
    parser.add_argument("--no-totals", action="store_true", help="do not say how long a log is")
    given = parser.parse_args()
    uvloop.run(serve(Host(given.backlog, given.size, totals=not given.no_totals), given.port))


if __name__ == "__main__":
    main()
