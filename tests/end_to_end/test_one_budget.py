"""Several gateways in front of one host that counts: together they keep within what it allows.

``INSTANCES`` (2) and ``SECONDS`` (15) in the environment say how many and for how long: 6 and 200 each night.
"""

import asyncio
import os
import time
from contextlib import ExitStack

from tests.end_to_end.processes import STARTING, Sandbox, Server, gateway, sandbox
from tests.end_to_end.viewing import Broken, Viewer
from tests.redis_servers import redis_server

INSTANCES = int(os.environ.get("INSTANCES", "2"))
SECONDS = float(os.environ.get("SECONDS", "15"))
RUNS_EACH = 5
"""Runs that are followed through one instance."""

SETTINGS = {"upstream_requests_per_minute": 60, "stream_max_age_seconds": 3600}
ALLOWED = 60


def refused(host: Sandbox) -> int:
    count: int = host.admin("GET", "requests")["429"]
    return count


async def follow(viewer: Viewer) -> None:
    """Come back as often as one is told to."""
    while True:
        try:
            connection = await viewer.connect()
            if connection.status == 200:
                await viewer.read(STARTING + SECONDS)
            else:
                await connection.body()
        except Broken:
            pass
        await asyncio.sleep(1)


async def create_now_and_then(gateways: list[Server], until: float) -> int:
    """Creates through one instance after another, which wait for nobody; how many there were."""
    count = 0
    while time.monotonic() < until:
        began = time.monotonic()
        answer = await asyncio.to_thread(
            gateways[count % len(gateways)].request, "POST", "/agent-runs", json={"prompt": "Tidy up the cellar"}
        )
        assert answer.status_code == 201, answer.text
        assert time.monotonic() < began + 5
        count += 1
        await asyncio.sleep(8)
    return count


def test_several_instances_stay_within_what_the_host_allows_one_token() -> None:
    async def main(host: Sandbox, gateways: list[Server]) -> None:
        runs = [host.seed(user="alice", status="ACTIVE", count=3) for _ in range(RUNS_EACH * len(gateways))]
        viewers = [Viewer(gateways[number % len(gateways)].url, run) for number, run in enumerate(runs)]
        following = [asyncio.create_task(follow(viewer)) for viewer in viewers]
        until, number = time.monotonic() + SECONDS, 0
        creating = asyncio.create_task(create_now_and_then(gateways, until))
        while time.monotonic() < until:
            await asyncio.sleep(2)
            number += 1
            await asyncio.to_thread(host.append, runs[number % len(runs)], f"a piece of news, number {number}")
            assert await asyncio.to_thread(refused, host) == 0
        created = await creating
        log = await asyncio.to_thread(host.admin, "GET", "requests")
        told = {name: each["total"] for name, each in log["operations"].items()}
        assert created >= SECONDS / 16
        assert told["create"] == created
        if SECONDS > 120:  # that is not because they asked for too little
            assert sum(told.values()) > 0.7 * ALLOWED * SECONDS / 60
            assert all(len(viewer.entries) >= 3 for viewer in viewers)
        for task in following:
            task.cancel()
        done = await asyncio.gather(*following, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in done), done
        print(f"{len(gateways)} instances, {len(runs)} runs, {SECONDS:g} s: {told}, refused {log['429']}")

    with sandbox(limits="shared") as host, redis_server() as redis, ExitStack() as stack:
        settings = {**SETTINGS, "redis_url": redis.url, "secret_key": "one-secret-for-all-instances-here"}
        gateways = [stack.enter_context(gateway(host, **settings)) for _ in range(INSTANCES)]
        asyncio.run(asyncio.wait_for(main(host, gateways), STARTING + SECONDS))
