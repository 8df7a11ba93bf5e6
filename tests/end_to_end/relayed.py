"""Several gateways over one Redis and one host, and viewers who go to another gateway when theirs is gone."""

import asyncio
import itertools
import os
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.end_to_end import processes
from tests.end_to_end.processes import Sandbox, Server, eventually
from tests.end_to_end.viewing import Broken, Viewer
from tests.redis_servers import RedisServer, redis_server

WHOLE = os.environ.get("RELAY") == "whole"
"""As much of everything as several instances have to bear; else a little of it."""

LEASE = 5.0

PLENTY: dict[str, Any] = {"upstream_requests_per_minute": 100_000, "streams_per_caller": 1000}
"""Limits that nothing here meets."""


SECRET = "one-secret-for-all-of-these-gateways"


@dataclass
class Cluster:
    """Gateways that can be killed and started again."""

    host: Sandbox
    redis: RedisServer
    settings: dict[str, object]
    stack: ExitStack
    servers: list[Server] = field(default_factory=list)
    _running: dict[str, AbstractContextManager[Server]] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def start(self) -> None:
        starting = processes.gateway(self.host, redis_url=self.redis.url, secret_key=SECRET, **self.settings)
        server = starting.__enter__()
        self._running[server.url] = starting
        self.servers.append(server)

    def end(self, server: Server) -> None:
        """Forget one, dead or alive."""
        self.servers.remove(server)
        self._running.pop(server.url).__exit__(None, None, None)

    def close(self) -> None:
        for server in list(self.servers):
            self.end(server)

    def reader(self) -> Server:
        """The one that reads logs just now."""

        def found() -> list[Server]:
            before = [reads(server) for server in self.servers]
            asyncio.run(asyncio.sleep(0.5))
            return [server for server, count in zip(self.servers, before, strict=True) if reads(server) > count]

        return eventually(found, lambda servers: len(servers) == 1)[0]


def reads(server: Server) -> int:
    """How many pages of logs it has asked the host for."""
    text = server.get("/metrics", headers={}).text
    pattern = r'upstream_request_duration_seconds_count\{operation="read_log",outcome="\w+"\} ([0-9.]+)'
    return sum(int(float(count)) for count in re.findall(pattern, text))


@contextmanager
def cluster(host: Sandbox, count: int = 3, redis: RedisServer | None = None, **settings: object) -> Iterator[Cluster]:
    with ExitStack() as stack:
        redis = redis or stack.enter_context(redis_server())
        them = Cluster(host, redis, {**PLENTY, **settings}, stack)
        stack.callback(them.close)
        for _ in range(count):
            them.start()
        yield them


async def stay(viewer: Viewer, them: Cluster, within: float) -> None:
    """Watch until the end was told, wherever there is a gateway."""
    async with asyncio.timeout(within):
        while not viewer.of("end"):
            with suppress(Broken, OSError, TimeoutError):
                await viewer.watch(within=within)
            if not viewer.of("end"):
                await asyncio.sleep(0.1)
                viewer.url = random.choice(them.urls)


@asynccontextmanager
async def growing(host: Sandbox, run: int, every: float = 0.2) -> AsyncIterator[None]:
    """The run makes entries for as long as this lasts; then it ends."""
    going = True

    async def grow() -> None:
        for number in itertools.count():
            if not going:
                return
            await asyncio.to_thread(host.append, run, f"step {number} of {run}")
            await asyncio.sleep(every)

    task = asyncio.create_task(grow())
    try:
        yield
    finally:
        going = False
        await task
        await asyncio.to_thread(host.patch, run, status="COMPLETE")


def check_whole(viewers: list[Viewer], log: list[dict[str, object]]) -> None:
    """Each has every entry once and in order (as it has checked itself), with its last version, and one end."""
    for viewer in viewers:
        assert viewer.entries == log
        assert not viewer.of("resync") + viewer.of("failure")
        assert len(viewer.of("log")) == len(log)
        assert viewer.of("end")[-1].data["total_logs"] == len(log)
