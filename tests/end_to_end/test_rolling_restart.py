"""One gateway after another is stopped and replaced while two hundred viewers follow what goes on.

``ROUNDS`` (2) in the environment says how often: ``ROUNDS=100 pytest tests/end_to_end/test_rolling_restart.py``.
``WORKERS`` (1) says of how many processes, which have a Redis in common, each gateway is.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.end_to_end.balancing import Balancer, balancer
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import STARTING, WAIT, Sandbox, Server, entry, eventually, gateway
from tests.end_to_end.viewing import Broken, Viewer
from tests.redis_servers import redis_server

ROUNDS = int(os.environ.get("ROUNDS", "2"))
WORKERS = int(os.environ.get("WORKERS", "1"))
SECRET = "one-secret-for-all-gateways-and-workers"
ROUND = 4.0
"""Seconds that one round takes on a quiet machine: the runs that play by themselves last for all of them."""
START = 2.0
"""Seconds that a start takes there: where it takes longer, so do the rounds, and the runs last longer too."""

DRAIN = 2.0
VIEWERS = 200
STANDING = 10
"""So many come first of all, to a run that ends last of all: whenever a gateway is stopped there are streams to end."""


@dataclass
class Crowd:
    """The viewers, and what sent them back."""

    address: Balancer
    runs: list[int]
    viewers: list[Viewer] = field(default_factory=list)
    sent_back: Counter[str] = field(default_factory=Counter)

    def join(self, number: int) -> Viewer:
        """Of those at the same run, a third begin at the start, a third in the middle, a third close to the end."""
        standing, *playing = self.runs
        run = standing if number < STANDING or number % 19 == 0 else playing[number % len(playing)]
        seen = max((len(viewer.entries) for viewer in self.viewers if viewer.run == run), default=0)
        skip = (0, seen // 2, max(0, seen - 3))[number // 2 % 3]
        rate = 300_000.0 if number % 9 == 0 else None
        self.viewers.append(Viewer(self.address.url, run, skip=skip, rate=rate))
        return self.viewers[-1]

    async def follow(self, viewer: Viewer) -> None:
        """Come back as often as it takes, after as long as one was asked to wait, until the end was told."""
        while not viewer.of("end"):
            wait = 1.0
            try:
                connection = await viewer.connect()
                if connection.status == 503:
                    wait = float(connection.headers["retry-after"])
                    self.sent_back[json.loads(await connection.body())["code"]] += 1
                    viewer.leave()
                else:
                    assert connection.status == 200, connection.status
                    last = (await viewer.read(within=ROUNDS * (ROUND + STARTING))).events[-1]
                    if last.name == "end":
                        continue
                    assert last.name == "notice", "a stream that was not cut ended without saying why"
                    assert last.retry is not None
                    assert last.data.get("last_event_id") in (None, viewer.last_id or str(viewer.skip))
                    wait = last.retry / 1000
                    self.sent_back[last.data["code"]] += 1
            except Broken:
                self.sent_back["cut"] += 1
            except ConnectionRefusedError:
                self.sent_back["refused"] += 1
            await asyncio.sleep(wait)


async def stop(server: Server) -> None:
    """Ask a gateway that has viewers to end; it does so in time, and says that all is well."""
    await asyncio.to_thread(eventually, lambda: server.health("viewers"), lambda found: found >= STANDING)
    server.process.terminate()
    assert await asyncio.to_thread(server.process.wait, DRAIN + WAIT) == 0


@pytest.mark.wire("position-continues", "stream-same-for-all", "drain-streams", "drain-refuses", "end-complete")
def test_two_hundred_viewers_get_every_entry_once_while_one_gateway_after_another_is_replaced(host: Sandbox) -> None:
    """Every other time the new gateway is there before the old one goes; else nobody answers in between."""

    async def main(stack: ExitStack, address: Balancer) -> Crowd:
        async def start() -> Server:
            # so little memory that most of a log has to be read again for those who begin at its start
            settings = {**common, "drain_seconds": DRAIN, "memory_mib": 4, "streams_per_caller": VIEWERS, **BRISK}
            starting = gateway(host, "--workers", str(WORKERS), **settings)
            servers.append(await asyncio.to_thread(stack.enter_context, starting))
            return servers[-1]

        async def come(numbers: Sequence[int]) -> None:
            for number in numbers:
                group.create_task(crowd.follow(crowd.join(number)))
                await asyncio.sleep(ROUND / 3 / (VIEWERS / ROUNDS))

        servers: list[Server] = []
        common: dict[str, object] = {}
        if WORKERS > 1:
            common |= {"redis_url": stack.enter_context(redis_server()).url, "secret_key": SECRET}
        began = time.monotonic()
        address.send_to((await start()).url)
        lasting = ROUNDS * ROUND * min(max(1.0, (time.monotonic() - began) / START), 4.0)
        standing = host.seed(
            entries=[entry("the first to stand", tool_output=None), entry("the next", tool_output=None)]
        )
        bursts = host.create("bursts", speed=10.5 / lasting)
        long = host.create("long", speed=1.5 / lasting)
        crowd = Crowd(address, [standing, bursts, long])
        async with asyncio.timeout(ROUNDS * (ROUND + STARTING) + 60), asyncio.TaskGroup() as group:
            for this_round in range(ROUNDS):
                newcomers = [*range(STANDING if this_round == 0 else 0), *range(STANDING + this_round, VIEWERS, ROUNDS)]
                await come(newcomers[: len(newcomers) // 2 + 1])
                group.create_task(come(newcomers[len(newcomers) // 2 + 1 :]))  # some of them in the midst of it
                old = servers[-1]
                if this_round % 2:
                    address.send_to((await start()).url)
                filled = {"position": this_round + 1, "fields": {"tool_output": {"round": this_round}}}
                news = entry(f"round {this_round}", tool_output=None)
                await asyncio.to_thread(host.patch, standing, append=[news], amend=[filled])
                address.cut(every=5)
                await stop(old)
                if this_round % 2 == 0:
                    address.refuse()
                    address.send_to((await start()).url)
            await asyncio.to_thread(host.append, standing, "last", status="COMPLETE")
        for server in servers:
            said = server.log.read_text()
            assert " ERROR " not in said, said
            assert "Traceback" not in said, said
        return crowd

    async def check(crowd: Crowd) -> None:
        logs = {run: await asyncio.to_thread(host.log, run) for run in crowd.runs}
        assert [len(log) for log in logs.values()] == [2 + ROUNDS + 1, 3500, 5000]
        for viewer in crowd.viewers:
            log = logs[viewer.run]
            assert viewer.entries[viewer.skip :] == log[viewer.skip :]
            assert all(mine in ({}, its) for mine, its in zip(viewer.entries, log, strict=True))
            assert [event.number for event in viewer.of("log")] == list(range(viewer.skip + 1, len(log) + 1))
            assert [event.id for event in viewer.of("end")] == [f"{len(log)}.end"]
            assert viewer.events[-1].name == "end"
            assert not viewer.of("resync") + viewer.of("failure")
        assert len(crowd.viewers) == VIEWERS
        often = {"reconnect", "upstream_unavailable", "cut", "refused"}
        # who comes to a gateway that is about to end, comes by chance
        assert often | ({"shutting_down"} if ROUNDS > 10 else set()) <= crowd.sent_back.keys()
        assert crowd.sent_back.keys() <= {*often, "shutting_down"}
        # how many of the others a gateway reaches before its time is up depends on the machine
        assert crowd.sent_back["reconnect"] > STANDING, crowd.sent_back

    async def everything(stack: ExitStack) -> None:
        async with balancer() as address:
            await check(await main(stack, address))

    with ExitStack() as stack:
        asyncio.run(everything(stack))
