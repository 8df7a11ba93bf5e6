"""The feed over real sockets: many viewers, what they cost the host, and a restart of the gateway under them."""

import asyncio
import os
import signal
import time
from contextlib import closing
from typing import Any

import pytest

from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import ALICE, BOB, WAIT, Sandbox, Server, gateway
from tests.end_to_end.viewing import Connection, Event

VIEWERS = 30
RUNS = 20
PATH = f"/agent-runs/stream?limit={RUNS}"


EVERY = 20.0
"""Seconds between reads of the list."""


def due(since: float) -> int:
    """How often one credential's list may have been read since then."""
    return 1 + int((time.monotonic() - since) / EVERY)


class Page:
    """A page that shows a list of runs."""

    def __init__(self) -> None:
        self.position: str | None = None
        self.runs: dict[int, str] = {}
        self.told: list[tuple[str, Any]] = []
        self.news = asyncio.Event()

    async def watch(self, server: Server, headers: dict[str, str] = ALICE) -> None:
        """Until the stream ends."""
        known = {} if self.position is None else {"Last-Event-ID": self.position}
        connection = await Connection.open(server.url, PATH, {**headers, **known})
        with closing(connection):
            await connection.head()
            assert connection.status == 200
            async for event in connection.events():
                self.take(event)

    def take(self, event: Event) -> None:
        self.position = event.id or self.position
        match event.name:
            case "list":
                self.runs = {name: status for name, status in self.runs.items() if name in event.data["ids"]}
            case "run":
                self.runs[event.data["id"]] = event.data["run_status"]
            case "removed":
                del self.runs[event.data["id"]]
        if event.name:
            self.told.append((event.name, event.data))
        self.news.set()

    async def sees(self, runs: dict[int, str]) -> None:
        async with asyncio.timeout(WAIT):
            while self.runs != runs:
                self.news.clear()
                await self.news.wait()


@pytest.mark.wire("feed-shared", "feed-position", "feed-ends", "drain-streams")
async def test_nothing_is_lost_over_a_restart_and_thirty_viewers_cost_as_much_as_one(host: Sandbox) -> None:
    runs = [host.seed(status="ACTIVE") for _ in range(RUNS)]
    pages, other = [Page() for _ in range(VIEWERS)], Page()
    expected = dict.fromkeys(runs, "running")
    with gateway(host, drain_seconds=2, **BRISK) as server:
        host.forget_requests()
        began = time.monotonic()
        watching = [asyncio.create_task(page.watch(server)) for page in pages]
        watching.append(asyncio.create_task(other.watch(server, BOB)))
        for page in [*pages, other]:
            await page.sees(expected)
        assert host.requests("list") <= 2 * due(began)  # alice's and bob's
        server.request("POST", f"/agent-runs/{runs[3]}/cancel")
        expected[runs[3]] = "cancelled"
        for page in pages:
            await page.sees(expected)  # at once, from the gateway itself
        assert host.requests("list") <= 2 * due(began) + 2
        os.kill(server.pid, signal.SIGTERM)
        async with asyncio.timeout(WAIT):
            await asyncio.gather(*watching)
        for page in pages:
            assert page.told[-1][1]["code"] == "reconnect"
            assert page.told[-1][1]["last_event_id"] == page.position
    host.patch(runs[5], status="COMPLETE")
    expected[runs[5]] = "completed"
    new = host.seed(status="ACTIVE")
    expected[new] = "running"
    del expected[runs[0]]
    with gateway(host, drain_seconds=0.5, **BRISK) as server:
        before = [len(page.told) for page in pages]
        host.forget_requests()
        began = time.monotonic()
        watching = [asyncio.create_task(page.watch(server)) for page in pages]
        for page, told in zip(pages, before, strict=True):
            await page.sees(expected)
            assert sorted(data["id"] for name, data in page.told[told:] if name == "run") == [runs[5], new]
        assert host.requests("list") <= due(began)
        os.kill(server.pid, signal.SIGTERM)
        async with asyncio.timeout(WAIT):
            await asyncio.gather(*watching)
