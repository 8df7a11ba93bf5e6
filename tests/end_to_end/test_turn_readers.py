"""Many readers of a busy turn, who come when they like: to each the same events, each once, and then the end.

``READERS`` (60) in the environment says how many.
"""

import asyncio
import os
import random
import re

import httpx
import pytest

from tests.end_to_end.processes import ALICE, Server, gateway, sandbox

READERS = int(os.environ.get("READERS", "60"))
BURSTS = {"scenario": "bursts"}
"""350 entries at each full second, 3,500 in all, in ten seconds."""
BRISK = {
    "dialects": "native,agent_protocol",
    "upstream_requests_per_minute": 100_000,
    "streams_per_caller": 1_000,
    "follower_linger_seconds": 0.5,
    "stream_stall_seconds": 300,  # on a busy machine it is the readers who are slow
}
BUSY = b'\nevent: error\ndata: {"error":"store_unavailable",'
"""On a machine so busy that nobody could look at the database within 30 seconds, a stream ends with this."""
ID = re.compile(rb"\nid: [0-9a-f-]+_event_([0-9]+)\n")


class Later(Exception):
    """The gateway says when to come back."""


async def read(
    client: httpx.AsyncClient, url: str, numbers: list[int], *, until: int | None = None, last: str | None = None
) -> None:
    """Add the numbers of the events at ``url``, to the end, or until there are so many."""
    pending = b""
    headers = {**ALICE, **({} if last is None else {"Last-Event-ID": last})}
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 503:  # on a machine so busy that nobody could look at the database within 30 seconds
            raise Later(response.headers["Retry-After"])
        assert response.status_code == 200, await response.aread()
        async for piece in response.aiter_raw():
            text = pending + piece
            whole, end, pending = text.rpartition(b"\n\n")
            numbers += map(int, ID.findall(whole + end))
            if until is not None and len(numbers) >= until:
                del numbers[until:]
                return
            if BUSY in whole + end:
                raise Later("1")


async def reader(client: httpx.AsyncClient, url: str, run: str, chance: random.Random) -> list[int]:
    """Somebody who comes at any moment; half of them lose their connection once and come back."""
    await asyncio.sleep(chance.uniform(0, 10))
    if chance.random() < 0.5:
        return await to_the_end(client, url, run, [])
    first = await to_the_end(client, url, run, [], until=chance.randint(1, 5000))
    return await to_the_end(client, url, run, first)


async def to_the_end(
    client: httpx.AsyncClient, url: str, run: str, seen: list[int], until: int | None = None
) -> list[int]:
    """What was seen and what comes behind it; as any client does, one who is cut or sent away comes back."""
    for _ in range(20):
        try:
            async with asyncio.timeout(200):
                last = f"{run}_event_{seen[-1]}" if seen else None
                await read(client, url, seen, until=until, last=last)
                return seen
        except httpx.TransportError:
            await asyncio.sleep(1)
        except Later as later:
            await asyncio.sleep(int(str(later)))
    raise AssertionError("this reader never gets to the end")


@pytest.mark.parametrize("modes", [["messages-tuple"]], ids=" and ".join)
def test_each_of_many_readers_of_a_busy_turn_gets_every_event_once(modes: list[str]) -> None:
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
    async with httpx.AsyncClient(base_url=server.url, timeout=300, trust_env=False, limits=limits) as client:
        begun = await client.post("/threads/busy/runs", json=body, headers=ALICE)
        assert begun.status_code == 200, begun.text
        run = begun.json()["run_id"]
        url = f"/threads/busy/runs/{run}/stream"
        chance = random.Random(7)
        readers = [reader(client, url, run, random.Random(chance.random())) for _ in range(READERS)]
        told = await asyncio.gather(to_the_end(client, url, run, []), *readers)
        again = await to_the_end(client, url, run, [])
        state = (await client.get("/threads/busy/state", headers=ALICE)).json()
        last = await client.get(url, headers={**ALICE, "Last-Event-ID": f"{run}_event_{again[-1]}"})
    assert last.text == f'event: end\ndata: {{"status":"success"}}\nid: {run}_event_{again[-1]}\n\n'
    assert again == sorted(set(again))
    assert len({number // 32 for number in again}) >= 3500
    assert all(one == again for one in told), [len(one) for one in told if one != again]
    assert len(state["values"]["messages"]) > 3500
