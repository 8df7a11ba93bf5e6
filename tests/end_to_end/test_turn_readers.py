"""Two hundred readers of a busy turn, who come when they like: to each the same events, each once, and then the end."""

import asyncio
import json
import random

import httpx
import pytest

from tests.end_to_end.processes import ALICE, Server, gateway, sandbox

READERS = 200
BURSTS = {"scenario": "bursts"}
"""350 entries at each full second, 3,500 in all, in ten seconds."""
BRISK = {
    "dialects": "native,agent_protocol",
    "upstream_requests_per_minute": 100_000,
    "streams_per_caller": 1_000,
    "follower_linger_seconds": 0.5,
}
MODES = ["updates", "messages-tuple", "custom"]

Told = list[tuple[str, str]]


async def read(client: httpx.AsyncClient, url: str, *, until: int | None = None, last: str | None = None) -> Told:
    """The events at ``url`` as (id, name), to the end, or until so many have come."""
    told: Told = []
    headers = {**ALICE, **({} if last is None else {"Last-Event-ID": last})}
    async with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        event = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("id: "):
                told.append((line.removeprefix("id: "), event))
                if until is not None and len(told) >= until:
                    return told
    return told


async def reader(client: httpx.AsyncClient, url: str, chance: random.Random) -> Told:
    """Somebody who comes at any moment; half of them lose their connection once and come back."""
    await asyncio.sleep(chance.uniform(0, 10))
    if chance.random() < 0.5:
        return await read(client, url)
    first = await read(client, url, until=chance.randint(1, 5000))
    if first[-1][1] == "end":
        return first
    return first + await read(client, url, last=first[-1][0])


@pytest.mark.parametrize("modes", [MODES, ["values", "messages-tuple"]], ids=" and ".join)
def test_each_of_two_hundred_readers_of_a_busy_turn_gets_every_event_once(modes: list[str]) -> None:
    with sandbox() as host, gateway(host, **BRISK) as server:
        asyncio.run(watch(server, modes))


async def watch(server: Server, modes: list[str]) -> None:
    body = {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": "Hurry"}]},
        "metadata": BURSTS,
        "stream_mode": modes,
    }
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False, limits=limits) as client:
        begun = await client.post("/threads/busy/runs", json=body, headers=ALICE)
        assert begun.status_code == 200, begun.text
        url = f"/threads/busy/runs/{begun.json()['run_id']}/stream"
        chance = random.Random(7)
        readers = [reader(client, url, random.Random(chance.random())) for _ in range(READERS)]
        told = await asyncio.gather(read(client, url), *readers)
        again = await read(client, url)
        state = (await client.get("/threads/busy/state", headers=ALICE)).json()
    assert again[-1][1] == "end"
    numbers = [int(name.rpartition("_")[2]) for name, _ in again]
    assert numbers == sorted(set(numbers))
    entries = {number // 16 for number in numbers}
    assert len(entries) > 3500
    assert all(one == again for one in told), [len(one) for one in told if one != again]
    assert len(json.dumps(state["values"]["messages"])) > 3500
