"""Many viewers of one run: what each of them gets, what it costs the host, and what is left when they have gone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from tests.end_to_end import processes
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import WAIT, Sandbox, Server, entry, eventually
from tests.end_to_end.viewing import Broken, Viewer

POLL = 1.25
"""Seconds between two reads of a busy run."""


async def later(seconds: float, watch: Callable[[], Awaitable[object]]) -> None:
    await asyncio.sleep(seconds)
    await watch()


async def dropping(viewer: Viewer, every: float) -> None:
    """Leave in the middle, again and again, and come back with the last id, until the end was told."""
    async with asyncio.timeout(WAIT):
        while not viewer.of("end"):
            with suppress(TimeoutError):
                await viewer.watch(within=every)


def check_whole(viewer: Viewer, log: list[dict[str, object]]) -> None:
    assert viewer.entries == log
    (end,) = viewer.of("end")
    assert viewer.events[-1] is end
    assert end.id == f"{len(log)}.end"
    assert end.data["total_logs"] == len(log)
    assert end.data["status"] == "COMPLETE"
    assert not viewer.of("failure") + viewer.of("resync") + viewer.of("notice")


@pytest.mark.wire("stream-shared", "stream-log", "stream-amended", "stream-same-for-all", "end-complete")
def test_ten_viewers_who_join_drop_and_dawdle_all_end_with_the_same_log_at_the_price_of_one_reader() -> None:
    async def main(host: Sandbox, server: Server) -> None:
        run = host.create("default", speed=2.5)  # 5.3 s
        viewers = [Viewer(server.url, run) for _ in range(8)]
        dropper = Viewer(server.url, run)
        slow = Viewer(server.url, run, receive_buffer=1024, rate=2048)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, viewer in enumerate(viewers):
                group.create_task(later(number * 0.7, viewer.watch))
            group.create_task(later(0.3, lambda: dropping(dropper, 1.0)))
            group.create_task(later(0.2, slow.watch))
        seconds = time.monotonic() - began
        read = host.requests("logs")
        log = host.log(run)
        assert len(log) == 12
        assert log[4]["tool_output"] is not None
        for viewer in (*viewers, dropper, slow):
            check_whole(viewer, log)
        assert any(viewer.of("log.amended") for viewer in viewers)
        assert read <= seconds / POLL + 4, f"{read} reads in {seconds:.1f} s"
        assert host.requests("me") == 1
        assert host.requests("get") <= 4

    with processes.sandbox(limits="table") as host, processes.gateway(host) as server:
        asyncio.run(main(host, server))


@pytest.mark.wire("stream-same-for-all", "stream-stall")
async def test_a_viewer_who_reads_2_kib_a_second_of_a_large_busy_log_loses_nothing(
    host: Sandbox, server: Server
) -> None:
    """Once the run has ended it reads on as fast as it can, so that this comes to an end."""

    run = host.seed(entries=[entry("the first of them")])
    slow = Viewer(server.url, run, receive_buffer=1024, rate=2048)
    fast = Viewer(server.url, run)
    watching = [asyncio.create_task(viewer.watch()) for viewer in (slow, fast)]
    for number in range(8):
        texts = [f"{number}.{index}" + "." * 4096 for index in range(5)]
        news = [entry(text, tool_output=None) for text in texts]
        late = [{"position": 1 + (number - 1) * 5 + 3, "fields": {"tool_output": {"late": "x" * 512}}}]
        await asyncio.to_thread(host.patch, run, append=news, amend=late if number else [])
        await asyncio.sleep(0.35)
    await asyncio.to_thread(host.patch, run, status="COMPLETE")
    await watching[1]
    assert not slow.of("end")
    assert slow.connection is not None
    slow.connection.hurry()
    await watching[0]
    log = await asyncio.to_thread(host.log, run)
    assert len(log) == 41
    check_whole(slow, log)
    check_whole(fast, log)


async def test_an_entry_reaches_a_connected_viewer_within_one_poll(host: Sandbox, server: Server) -> None:
    run = host.seed(entries=[entry("the first of them")])
    viewer = Viewer(server.url, run)
    watching = asyncio.create_task(viewer.watch())
    await viewer.until("log")
    written = {}
    for number in range(2, 8):
        await asyncio.to_thread(host.append, run, f"entry {number}")
        written[number] = time.monotonic()
        await asyncio.sleep(0.5)
    await asyncio.to_thread(host.append, run, "last", status="COMPLETE")
    await watching
    arrived = {event.number: event.at for event in viewer.of("log")}
    # the first comes while the run was quiet, and finds the run busy from then on
    late = {number: arrived[number] - at for number, at in written.items() if number > 3}
    # they come at all times between two reads: would each wait for the read after the next, none would be in time
    assert min(late.values()) < POLL, late
    assert max(late.values()) < 2 * POLL, late
    assert viewer.entries == await asyncio.to_thread(host.log, run)


async def fifty(server: Server, runs: list[int]) -> None:
    """Fifty viewers, who all have seen something, and then leave without a word: every other with RST, not FIN."""
    viewers = [Viewer(server.url, runs[number % len(runs)]) for number in range(50)]

    async def read(viewer: Viewer) -> None:
        with suppress(Broken, OSError, ValueError):
            await viewer.watch()

    reading = [asyncio.create_task(read(viewer)) for viewer in viewers]
    for viewer in viewers:
        await viewer.until("log")
    assert await asyncio.to_thread(server.health, "viewers") == 50
    assert await asyncio.to_thread(server.health, "runs_followed") == len(runs)
    for task in reading:
        task.cancel()
    for viewer in viewers[::2]:
        assert viewer.connection is not None
        viewer.connection.reset()
    await asyncio.wait(reading)


@pytest.mark.wire("stream-leaves-nothing")
def test_viewers_who_are_killed_leave_nothing_behind() -> None:
    with processes.sandbox() as host, processes.gateway(host, **BRISK) as server:
        check_nothing_is_left(host, server)


def check_nothing_is_left(host: Sandbox, server: Server) -> None:
    runs = [host.seed(entries=[entry("the first of them")]) for _ in range(3)]

    def is_empty() -> bool:
        return server.health("viewers") == 0 and server.health("runs_followed") == 0

    asyncio.run(fifty(server, runs))  # whatever is opened once and kept is open now
    eventually(is_empty)
    before = eventually(server.files, lambda files: files < 40)
    asyncio.run(fifty(server, runs))
    eventually(is_empty)
    eventually(server.files, lambda files: files <= before)
    read = host.requests("logs")
    time.sleep(1.5)  # what is not to happen has to be waited for: it would be a dozen reads
    assert host.requests("logs") == read
    assert "ERROR" not in server.log.read_text()
