"""What it would cost to have each viewer of a run poll the host, beside what the gateway asks for all of them.

``python -m bench.pollers`` plays a run of five minutes in virtual time, once for each number of viewers and each
interval, and prints a table. The host allows 60 requests in any 60 seconds, all operations together, and answers 429 to
what goes beyond (which it does not count). All viewers bring the same token.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import UpstreamRateLimited
from codegen_api.following import Ended, Position, Update
from codegen_api.gateway import Gateway
from codegen_api.sandbox.limits import SHARED, Limits
from tests.fakehost import FakeHost, Hosted, caller
from tests.virtual import run

VIEWERS = (1, 10, 100, 500)
INTERVALS = (1.0, 2.0, 5.0)
"""Seconds between two requests of one poller."""

SECONDS = 300.0
"""How long the run lasts."""

NEWS_EVERY = 3.0
"""Seconds between two entries of its log."""

PAGE = 100


@dataclass
class Bill:
    """What was asked of the host while the run lasted, and how much of it the host refused."""

    asked: int = 0
    refused: int = 0

    def __str__(self) -> str:
        a_minute = f"{self.asked * 60 / SECONDS:,.0f}"
        return f"{a_minute} ({self.refused / self.asked:.1%} refused)" if self.refused else a_minute


def new_gateway(host: FakeHost) -> Gateway:
    """A gateway as it comes: every setting has its default."""
    return Gateway(host, MemoryBroker(), max_streams_each=1_000_000)


def main() -> None:
    intervals = " | ".join(f"polling each {interval:.0f} s" for interval in INTERVALS)
    print(f"Requests a minute, where the host allows {SHARED.answers}:\n")
    print(f"| viewers | {intervals} | the gateway |")
    print("|---:|" + "---:|" * (len(INTERVALS) + 1))
    for viewers in VIEWERS:
        bills = [_play(partial(_poll, viewers=viewers, interval=interval)) for interval in INTERVALS]
        bills.append(_play(partial(_follow, viewers=viewers)))
        print(f"| {viewers} | {' | '.join(map(str, bills))} |", flush=True)


def _play(watch: Callable[[FakeHost], Coroutine[None, None, None]]) -> Bill:
    """What it costs when somebody watches the run."""

    async def play() -> Bill:
        host, bill = FakeHost(), Bill()
        host.before = _meter(bill)
        async with asyncio.TaskGroup() as group:
            group.create_task(_work(host.add()))
            group.create_task(watch(host))
        return bill

    return run(play())


def _meter(bill: Bill) -> Callable[[str], Coroutine[None, None, None]]:
    loop = asyncio.get_running_loop()
    limits = Limits("shared", loop.time)

    async def meter(operation: str) -> None:
        wait = limits.take("everybody", operation)
        if loop.time() < SECONDS:
            bill.asked += 1
            bill.refused += wait is not None
        if wait is not None:
            raise UpstreamRateLimited(retry_after=wait)

    return meter


async def _work(hosted: Hosted) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < SECONDS:
        hosted.append(text="something was done")
        await asyncio.sleep(NEWS_EVERY)
    hosted.status = "COMPLETE"


async def _poll(host: FakeHost, viewers: int, interval: float) -> None:
    """Each viewer asks for what it has not seen, again and again, whatever the others do."""
    chance = random.Random(viewers)  # noqa: S311 - spreads the viewers, guards nothing

    async def poll(start: float) -> None:
        loop = asyncio.get_running_loop()
        position, turn = 0, 0
        while (due := start + turn * interval) < SECONDS:
            await asyncio.sleep(due - loop.time())
            turn += 1
            try:
                page = await host.read_log(caller().credential, host.runs["1"].ref, position, PAGE)
            except UpstreamRateLimited:
                continue
            position = page.last

    async with asyncio.TaskGroup() as group:
        for _ in range(viewers):
            group.create_task(poll(chance.uniform(0, interval)))


async def _follow(host: FakeHost, viewers: int) -> None:
    """The same viewers, each with a stream of the gateway, from the start to the end."""
    gateway = new_gateway(host)
    await gateway.accounts.identify(caller().credential)

    async def follow() -> None:
        stream = await gateway.follow(caller(), "9", "1", Position(0))
        if stream is None:
            raise RuntimeError("there is no stream")
        last: Update | None = None
        async with aclosing(stream):
            async for update in stream:
                last = update
        if not isinstance(last, Ended) or last.length != len(host.runs["1"].entries):
            raise RuntimeError(f"a viewer was left with {last}")

    async with asyncio.TaskGroup() as group:
        for _ in range(viewers):
            group.create_task(follow())
    await gateway.aclose()


if __name__ == "__main__":
    main()
