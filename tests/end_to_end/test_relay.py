"""Three gateways and one Redis: what it costs the host, and what viewers notice when gateways and Redis come and go."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from tests.end_to_end import processes
from tests.end_to_end.processes import WAIT, Sandbox, eventually
from tests.end_to_end.relayed import LEASE, PLENTY, WHOLE, Cluster, check_whole, cluster, growing, stay
from tests.end_to_end.viewing import Viewer
from tests.redis_faults import DEBUGGABLE, FAULTS, PASSING, away, back
from tests.redis_servers import redis_server

ROUNDS = int(os.environ.get("ROUNDS", "2"))
RUNS, VIEWERS = (20, 300) if WHOLE else (4, 24)
LOOKS: dict[str, Any] = {"upstream_read_interval_seconds": 1}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with processes.sandbox() as host:
        yield host


async def followed(host: Sandbox, urls: list[str], seconds: float) -> float:
    """How often the host was read in a second for viewers of all runs, who get every entry."""
    runs = [await asyncio.to_thread(host.seed, entries=[]) for _ in range(RUNS)]
    crowds = [[Viewer(urls[(n + at) % len(urls)], run) for n in range(VIEWERS // RUNS)] for at, run in enumerate(runs)]
    host.forget_requests()
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for crowd in crowds:
            for viewer in crowd:
                group.create_task(viewer.watch(within=seconds + WAIT))
        for step in range(int(2 * seconds)):
            await asyncio.gather(*(asyncio.to_thread(host.append, run, f"step {step} of {run}") for run in runs))
            await asyncio.sleep(max(0.0, began + step / 2 - time.monotonic()))
        total, lasted = await asyncio.to_thread(host.requests, "logs"), time.monotonic() - began
        await asyncio.gather(*(asyncio.to_thread(host.patch, run, status="COMPLETE") for run in runs))
    for run, crowd in zip(runs, crowds, strict=True):
        log = await asyncio.to_thread(host.log, run)
        assert len(log) == int(2 * seconds)
        check_whole(crowd, log)
    return total / lasted


def test_three_instances_read_no_more_than_one(sandbox: Sandbox) -> None:
    async def main(one: str, three: list[str]) -> tuple[float, float]:
        seconds = 20 if WHOLE else 12
        return await asyncio.gather(followed(other, [one], seconds), followed(sandbox, three, seconds))

    with (
        processes.sandbox() as other,
        processes.gateway(other, **PLENTY, **LOOKS) as alone,
        cluster(sandbox, **LOOKS) as them,
    ):
        expected, counted = asyncio.run(main(alone.url, them.urls))
    assert counted <= 1.1 * expected, f"{counted} reads a second instead of {expected}"


def test_a_resume_through_one_instance_reaches_the_viewers_of_all(sandbox: Sandbox) -> None:
    async def main(them: Cluster) -> None:
        run = await asyncio.to_thread(sandbox.create, "quick")
        viewers = [Viewer(url, run) for url in them.urls]
        await asyncio.gather(*(viewer.watch() for viewer in viewers))
        first = them.servers[0]
        answer = await asyncio.to_thread(first.request, "POST", f"/agent-runs/{run}/resume", json={"prompt": "Go on"})
        assert answer.status_code == 200
        await asyncio.gather(*(viewer.watch() for viewer in viewers))
        log = await asyncio.to_thread(sandbox.log, run)
        assert len(log) == 6
        for viewer in viewers:
            assert viewer.entries == log
            assert [end.id for end in viewer.of("end")] == ["3.end", "6.end"]

    with cluster(sandbox) as them:
        asyncio.run(main(them))


async def all_go_on(host: Sandbox, run: int, viewers: list[Viewer], within: float) -> None:
    """Each gets something that is new now."""
    length = len(await asyncio.to_thread(host.log, run))
    await asyncio.to_thread(eventually, lambda: all(len(viewer.entries) > length for viewer in viewers), within=within)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_when_the_reader_dies_or_sleeps_another_one_takes_over(sandbox: Sandbox, how: str) -> None:
    async def main(them: Cluster) -> None:
        run = await asyncio.to_thread(sandbox.seed, entries=[])
        viewers = [Viewer(them.urls[n % 3], run) for n in range(6)]
        within = ROUNDS * 40 + WAIT
        async with asyncio.TaskGroup() as group:
            for viewer in viewers:
                group.create_task(stay(viewer, them, within))
            async with growing(sandbox, run):
                for _ in range(ROUNDS):
                    reader = await asyncio.to_thread(them.reader)
                    elsewhere = [viewer for viewer in viewers if viewer.url != reader.url]
                    if how == "killed":
                        reader.process.kill()
                    else:
                        reader.process.send_signal(signal.SIGSTOP)
                    await all_go_on(sandbox, run, elsewhere, LEASE + 10)
                    if how == "killed":
                        await asyncio.to_thread(them.end, reader)
                        await asyncio.to_thread(them.start)
                    else:
                        reader.process.send_signal(signal.SIGCONT)
                    await all_go_on(sandbox, run, viewers, WAIT)
        check_whole(viewers, await asyncio.to_thread(sandbox.log, run))

    with cluster(sandbox) as them:
        asyncio.run(main(them))


@pytest.mark.parametrize("how", [*FAULTS, "asleep"] if WHOLE else ["killed", "emptied"])
def test_whatever_becomes_of_redis_nobody_loses_an_entry(sandbox: Sandbox, how: str) -> None:
    async def main(them: Cluster) -> None:
        runs = [await asyncio.to_thread(sandbox.seed, entries=[]) for _ in range(RUNS)]
        crowds = [[Viewer(them.urls[n % 3], run) for n in range(100 // RUNS)] for run in runs]
        async with asyncio.TaskGroup() as group:
            for crowd in crowds:
                for viewer in crowd:
                    group.create_task(viewer.watch(within=8 * WAIT))
            async with AsyncExitStack() as stack:
                for run in runs:
                    await stack.enter_async_context(growing(sandbox, run, every=0.5))
                for run, crowd in zip(runs, crowds, strict=True):
                    await all_go_on(sandbox, run, crowd, WAIT)
                await asyncio.to_thread(away, them.redis, how)
                if how not in PASSING:
                    await asyncio.to_thread(all_say, them, "unavailable (fallback to memory)")
                for run, crowd in zip(runs, crowds, strict=True):
                    await all_go_on(sandbox, run, crowd, WAIT)
                await asyncio.to_thread(back, them.redis, how)
                await asyncio.to_thread(all_say, them, "connected")
                for run, crowd in zip(runs, crowds, strict=True):
                    await all_go_on(sandbox, run, crowd, WAIT)
        for run, crowd in zip(runs, crowds, strict=True):
            check_whole(crowd, await asyncio.to_thread(sandbox.log, run))

    with redis_server(*DEBUGGABLE) as redis, cluster(sandbox, redis=redis, **LOOKS) as them:
        asyncio.run(main(them))


def all_say(them: Cluster, what: str) -> None:
    for server in them.servers:
        eventually(partial(server.health, "redis"), lambda said: said == what)
        assert server.health("status") == ("healthy" if what == "connected" else "degraded")


def test_nobody_loses_an_entry_who_attaches_while_a_run_makes_350_a_second(sandbox: Sandbox) -> None:
    count, seconds = (200, 20) if WHOLE else (40, 6)

    async def main(them: Cluster) -> None:
        run = await asyncio.to_thread(sandbox.seed, entries=[])
        viewers = [Viewer(them.urls[n % 3], run) for n in range(count)]

        async def attach(number: int) -> None:
            await asyncio.sleep(seconds * number / count)
            await viewers[number].watch(within=WAIT + 2 * seconds)

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(attach(number))
            for step in range(seconds * 10):
                texts = [f"step {step}, {number}" for number in range(35)]
                began = asyncio.get_running_loop().time()
                await asyncio.to_thread(sandbox.append, run, *texts)
                await asyncio.sleep(max(0.0, began + 0.1 - asyncio.get_running_loop().time()))
            await asyncio.to_thread(sandbox.patch, run, status="COMPLETE")
        log = await asyncio.to_thread(sandbox.log, run)
        assert len(log) == 350 * seconds
        check_whole(viewers, log)

    with cluster(sandbox, upstream_read_interval_seconds=0.2) as them:
        asyncio.run(main(them))
