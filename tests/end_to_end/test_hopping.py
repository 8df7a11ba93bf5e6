"""A viewer whose connection breaks all the time, in front of two gateways that know nothing of each other: one of them
reads often, the other seldom. ``ENTRIES`` (24) in the environment says how long the log gets.
"""

import asyncio
import itertools
import os
from collections.abc import Iterator

import pytest

from tests.end_to_end import processes
from tests.end_to_end.processes import WAIT, Sandbox, Server, entry
from tests.end_to_end.viewing import Viewer

ENTRIES = int(os.environ.get("ENTRIES", "24"))


@pytest.fixture(scope="module")
def seldom(host: Sandbox) -> Iterator[Server]:
    """A gateway that reads a busy run every 2.5 s."""
    with processes.gateway(host, upstream_requests_per_minute=30) as gateway:
        yield gateway


async def work(host: Sandbox, run: int) -> None:
    """Tool calls, whose output comes when four others have come; far back something changes late."""
    for number in range(2, ENTRIES + 1):
        done = [{"position": number - 5, "fields": {"tool_output": {"exit_code": 0}}}] if number > 6 else []
        order = {"append": [entry(f"entry {number}", tool_output=None)], "amend": done}
        await asyncio.to_thread(host.patch, run, **order)
        await asyncio.sleep(0.15)
    late = [{"position": 3, "fields": {"observation": "late"}}]
    rest = [
        {"position": number, "fields": {"tool_output": {"exit_code": 0}}} for number in range(ENTRIES - 4, ENTRIES + 1)
    ]
    await asyncio.to_thread(host.patch, run, amend=[*late, *rest], status="COMPLETE")


async def hop(viewer: Viewer, servers: list[Server], events: int) -> int:
    """See so many entries or changes of entries, and go to the next, until the end; how many there were."""
    for server in itertools.cycle(servers):
        viewer.url = server.url
        connection = await viewer.connect()
        seen = 0
        try:
            async for event in connection.events():
                viewer.take(event)
                assert event.name not in ("resync", "failure")
                if event.name == "end":
                    return len(viewer.of("log")) + len(viewer.of("log.amended"))
                seen += event.name in ("log", "log.amended")
                if seen == events:
                    break
        finally:
            viewer.leave()
    raise AssertionError


@pytest.mark.wire("position-continues", "position-headway", "position-ahead", "stream-same-for-all", "end-complete")
async def test_whoever_is_cut_off_all_the_time_and_meets_another_process_each_time_has_the_whole_log_in_the_end(
    host: Sandbox, brisk: Server, seldom: Server
) -> None:
    run = await asyncio.to_thread(host.seed, entries=[entry("entry 1")])
    stays = Viewer(brisk.url, run)
    hoppers = {events: Viewer(brisk.url, run) for events in (1, 2, 7)}
    async with asyncio.timeout(2 * WAIT):
        took, *_ = await asyncio.gather(
            asyncio.gather(*(hop(viewer, [brisk, seldom], events) for events, viewer in hoppers.items())),
            stays.watch(2 * WAIT),
            work(host, run),
        )
    log = await asyncio.to_thread(host.log, run)
    assert stays.entries == log
    for viewer, events in zip(hoppers.values(), took, strict=True):
        assert viewer.entries[3:] == log[3:]
        assert [event.number for event in viewer.of("log")] == list(range(1, ENTRIES + 1))
        assert events <= 2 * ENTRIES + 1
        # who comes now has what changed far back, too
        last = await Viewer(seldom.url, run).watch()
        assert last.entries == log
