"""Whoever follows a run by MCP, from whenever on and however often, has the same at the end."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from codegen_api.positions import AMENDABLE
from tests.dialects.mcp import McpClient
from tests.dialects.site import serving
from tests.fakehost import FakeHost
from tests.virtual import run

MOVES = st.lists(
    st.tuples(st.sampled_from(["append", "act", "amend", "long"]), st.integers(1, 30), st.integers(0, 20)), max_size=12
)
FOLLOWERS = st.lists(
    st.tuples(st.integers(0, 60), st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(0, 20)),
    min_size=1,
    max_size=4,
)


async def works(host: FakeHost, moves: list[tuple[str, int, int]]) -> None:
    agent = host.runs["1"]
    for move, number, pause in moves:
        match move:
            case "append":
                agent.append(number)
            case "long":
                agent.append(3, text="x" * 300 * number)
            case "act":
                agent.act()
            case "amend":
                # what is far from the end is compared for those only who have stayed
                near = enumerate(agent.entries[-AMENDABLE + 5 :], max(1, len(agent.entries) - AMENDABLE + 6))
                calls = [at for at, entry in near if entry["type"] == "ACTION"]
                if calls:
                    agent.amend(calls[number % len(calls)], output=f"output {number}")
        await asyncio.sleep(pause)
    agent.status = "COMPLETE"


async def followed(client: McpClient, joins: int, waits: list[int], pause: int) -> dict[int, Any]:
    """What a client has in the end that comes at some time, waits as long as it likes, and rests between."""
    await asyncio.sleep(joins)
    has: dict[int, Any] = {}
    after: Any = 0
    for number in range(500):
        said = await client.told("follow_run", run_id="1", after=after, wait_seconds=waits[number % len(waits)])
        for entry in said["entries"]:
            at = entry["position"]
            assert at <= len(has) + 1, "an entry was left out"
            assert at > len(has) or "tool" in entry, "an entry came again that cannot change"
            has[at] = entry
        is_complete = said["ended"] and not said["entries"]
        if is_complete and said["length"] == len(has):
            return has
        after = said["next_after"]
        await asyncio.sleep(pause)
    raise AssertionError("there was no end")


@given(moves=MOVES, followers=FOLLOWERS)
def test_whoever_follows_from_whenever_on_has_the_same_at_the_end(moves: Any, followers: Any) -> None:
    async def main() -> None:
        host = FakeHost()
        host.add()
        async with serving(host, dialects=("mcp",), org_id="9", upstream_requests_per_minute=600) as site:
            client = McpClient(site)
            working = asyncio.ensure_future(works(host, moves))
            found = await asyncio.gather(*(followed(client, *each) for each in followers))
            await working
            written = [(at, entry.get("output")) for at, entry in enumerate(host.runs["1"].entries, 1)]
            for has in found:
                assert [(at, entry.get("output")) for at, entry in sorted(has.items())] == written

    run(main(), at_most=100_000)
