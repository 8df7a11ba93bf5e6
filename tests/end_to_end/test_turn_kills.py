"""A gateway that is killed (SIGKILL) while turns begin, and started again with the same database: no turn starts twice,
none is lost that the host has heard of, and none is under way for ever.

``ROUNDS`` (3) in the environment says how often: ``ROUNDS=100 pytest tests/end_to_end/test_turn_kills.py``. ``SEED``
repeats the moments of a run that failed.
"""

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, eventually, gateway, kill, sandbox
from tests.end_to_end.relay import Relay, relay
from tests.end_to_end.sdk import QUICK, prompts, run, says

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SEED = int(os.environ.get("SEED", time.time_ns() % 10**6))
BEFORE, DURING = ROUNDS * 4 // 10, ROUNDS * 7 // 10
"""In the first rounds the gateway is killed at any moment, also before the host was asked: such turns are given up
after a minute, which passes meanwhile. Then it is killed when the host has begun all of them and the gateway does not
know, and in the last rounds about when it gets to know.
"""
SETTLED = 75.0
"""Seconds within which it is known of each turn what became of it: a minute, and a bit."""
LATE = 1.0
"""Seconds by which the host's word comes late that it has begun something."""

SETTINGS: dict[str, str | float] = {
    "dialects": "native,agent_protocol",
    "upstream_requests_per_minute": 100_000,
    "follower_linger_seconds": 0.3,
}


@dataclass
class Ask:
    """What a client asks for: a run in a thread that has had one, or in a new one. ``run``: the id it was told."""

    thread: str
    text: str
    path: str
    run: str | None = None

    @classmethod
    def of(cls, round_: int, number: int) -> "Ask":
        kind, path = ("new", "old")[number % 2], ("runs", "runs/stream", "runs/wait")[(round_ + number) % 3]
        return cls(f"{kind}-{round_}-{number}", f"Carry stone {number} of load {round_}", path)

    async def ask(self, client: httpx.AsyncClient, text: str | None = None) -> Any:
        """The answer, or its head where it lasts."""
        body = {"assistant_id": "agent", "input": says(text or self.text), "metadata": QUICK}
        async with client.stream("POST", f"/threads/{self.thread}/{self.path}", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            self.run = answer.headers["content-location"].rpartition("/")[2]
            return await answer.aread()


def new_client(server: Server) -> httpx.AsyncClient:
    """A client that asks for so many things at a time."""
    limits = httpx.Limits(max_connections=20)
    return httpx.AsyncClient(base_url=server.url, headers=ALICE, timeout=2 * WAIT, trust_env=False, limits=limits)


async def one_round(
    host: Sandbox, between: Relay, server: Server, number: int, asks: list[Ask], chance: random.Random
) -> None:
    """Clients ask, each at a moment of their own, and then there is no gateway any more."""
    asked = told(host)
    between.late = LATE if number < DURING and (number >= BEFORE or chance.random() < 0.5) else 0

    async def later(ask: Ask) -> None:
        await asyncio.sleep(chance.uniform(0, 0.1))
        with suppress(httpx.TransportError):
            await ask.ask(client)

    async with new_client(server) as client:
        asking = [asyncio.ensure_future(later(ask)) for ask in asks]
        if number >= BEFORE:
            await asyncio.to_thread(eventually, lambda: told(host), lambda count: count == asked + len(asks))
        await asyncio.sleep(chance.uniform(0, 0.3))
        kill(server.pid)
        await asyncio.gather(*asking)
    between.late = 0


def told(host: Sandbox) -> int:
    """How often the host was asked to begin something."""
    return host.requests("create") + host.requests("resume")


async def look(client: httpx.AsyncClient, ask: Ask) -> list[Any]:
    """The runs of a thread, the newest first."""
    answer = await client.get(f"/threads/{ask.thread}/runs")
    if answer.status_code == 404:
        return []
    assert answer.status_code == 200, answer.text
    runs: list[Any] = answer.json()
    return runs


async def settled(client: httpx.AsyncClient, ask: Ask, since: float) -> list[Any]:
    """The same, when none of them is under way any more."""
    while True:
        runs = await look(client, ask)
        if not any(each["status"] in ("pending", "running") for each in runs):
            return runs
        assert time.monotonic() < since + SETTLED, f"{ask} is under way for ever"
        await asyncio.sleep(1)


def test_no_turn_starts_twice_and_none_is_under_way_for_ever_however_often_the_gateway_is_killed(
    tmp_path: Path,
) -> None:
    print(f"SEED={SEED}")
    chance = random.Random(SEED)
    rounds = [[Ask.of(number, each) for each in range(6)] for number in range(ROUNDS)]
    asks = [ask for each in rounds for ask in each]
    killed: list[float] = []

    async def begin(server: Server) -> None:
        async with new_client(server) as client:
            await asyncio.gather(*(ask.ask(client, "Begin") for ask in asks if ask.thread.startswith("old")))
            for ask in asks:
                ask.run = None

    async def glance(server: Server) -> None:
        """Whoever looks right after the start must do no harm."""
        async with new_client(server) as client:
            await asyncio.gather(*(look(client, ask) for ask in rounds[len(killed) - 1]))

    async def check(server: Server, host: Sandbox) -> None:
        async with new_client(server) as client:
            found = await asyncio.gather(*(settled(client, ask, killed[-1]) for ask in asks))
            heard = Counter(everything(host))
            for ask, runs in zip(asks, found, strict=True):
                assert heard[ask.text] <= 1, f"{ask} has started twice"
                mine = [each for each in runs if texts_of(each) == [ask.text]]
                assert len(mine) <= 1
                if heard[ask.text]:
                    assert [each["status"] for each in mine] == ["success"], f"the host has begun {ask}"
                else:
                    assert {each["status"] for each in mine} <= {"error"}, f"the host knows nothing of {ask}"
                    assert ask.run is None, f"{ask} was answered, and never begun"
                assert ask.run is None or ask.run == mine[0]["run_id"]
            assert sum(heard[ask.text] for ask in asks) >= len(asks) // 2, "the gateway was killed too early"
            await asyncio.gather(*(ask.ask(client, f"And now rest from {ask.text}") for ask in asks))
            after = await asyncio.gather(*(settled(client, ask, time.monotonic()) for ask in asks))
            assert {runs[0]["status"] for runs in after} == {"success"}

    with sandbox() as host, relay(host.url) as between:
        settings = {**SETTINGS, "base_url": between.url, "data_dir": str(tmp_path)}
        for number, round_ in enumerate(rounds):
            with gateway(host, **settings) as server:
                run(glance(server) if killed else begin(server))
                run(one_round(host, between, server, number, round_, chance))
                killed.append(time.monotonic())
        with gateway(host, **settings) as server:
            run(check(server, host), within=SETTLED + 2 * WAIT)
            assert " ERROR " not in server.log.read_text()


def everything(host: Sandbox) -> list[str]:
    """All that the host was ever told by the user."""
    numbers: list[int] = []
    while True:
        page = host.ask("GET", f"organizations/323/agent/runs?skip={len(numbers)}")["items"]
        numbers += [each["id"] for each in page]
        if len(page) < 100:
            return [prompt for number in numbers for prompt in prompts(host, number)]


def texts_of(told: Any) -> list[str]:
    """What the user said to begin a run."""
    return [message["content"] for message in told["input"]["messages"]]
