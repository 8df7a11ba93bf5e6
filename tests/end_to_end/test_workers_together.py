"""Four workers of one gateway, and a Redis: tickets, keys, budgets and drains are those of one."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import ALICE, STARTING, WAIT, Sandbox, Server, gateway, sandbox
from tests.end_to_end.test_tickets import minted
from tests.end_to_end.viewing import Broken, Viewer
from tests.redis_servers import redis_server

SECRET = "one-secret-for-all-of-four-workers"
WORKERS = 4
VIEWERS = 40
DRAIN = 3


@pytest.fixture(scope="module")
def counting() -> Iterator[Sandbox]:
    """A host that enforces its limits."""
    with sandbox(limits="table") as host:
        yield host


@pytest.fixture(scope="module")
def server(counting: Sandbox) -> Iterator[Server]:
    settings: dict[str, Any] = {"secret_key": SECRET, "drain_seconds": DRAIN, "upstream_requests_per_minute": 60}
    with redis_server() as redis, gateway(counting, "--workers", str(WORKERS), redis_url=redis.url, **settings) as made:
        yield made


def test_a_ticket_is_good_at_every_worker(counting: Sandbox, server: Server) -> None:
    url = minted(server, 12345)
    for _ in range(3 * WORKERS):  # each on a connection of its own
        assert server.get(url + "&last_event_id=28.end", headers={}).status_code == 204


def test_one_key_makes_one_run_through_whichever_worker(counting: Sandbox, server: Server) -> None:
    before = counting.requests("create")

    async def main() -> set[int]:
        async with httpx.AsyncClient(timeout=WAIT, limits=httpx.Limits(max_keepalive_connections=0)) as client:

            async def create() -> int:
                headers = {**ALICE, "Idempotency-Key": "one for all workers"}
                while True:
                    answer = await client.post(server.url + "/agent-runs", json={"prompt": "Sweep"}, headers=headers)
                    if answer.status_code != 409:  # under way at another one
                        assert answer.status_code in (200, 201), answer.text
                        run: int = answer.json()["id"]
                        return run
                    await asyncio.sleep(float(answer.headers["Retry-After"]))

            return set(await asyncio.gather(*(create() for _ in range(VIEWERS))))

    assert len(asyncio.run(main())) == 1
    assert counting.requests("create") == before + 1


def test_the_workers_keep_within_one_limit_and_are_drained_together(counting: Sandbox, server: Server) -> None:
    run = counting.seed(count=2, status="ACTIVE")

    async def main() -> list[Viewer]:
        viewers = [Viewer(server.url, run) for _ in range(VIEWERS)]
        async with asyncio.TaskGroup() as group:
            for viewer in viewers:
                group.create_task(watch(viewer))
            for number in range(5):
                await asyncio.to_thread(counting.append, run, f"piece of news {number}")
                await asyncio.gather(*(viewer.until("log", 3 + number) for viewer in viewers))
            server.process.send_signal(signal.SIGTERM)
        return viewers

    async def watch(viewer: Viewer) -> None:
        with suppress(Broken):
            await viewer.watch(within=STARTING)

    viewers = asyncio.run(main())
    assert server.process.wait(WAIT) == 0
    log = counting.log(run)
    for viewer in viewers:
        assert viewer.entries == log
        assert viewer.events[-1].name == "notice"
        assert viewer.events[-1].data["code"] in ("reconnect", "shutting_down")
    assert counting.admin("GET", "requests")["429"] == 0
