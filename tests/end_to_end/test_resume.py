"""A run that goes on after its end, for viewers who were told that it was over."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.end_to_end.processes import WAIT, Sandbox, Server
from tests.end_to_end.viewing import Viewer

FIRST, BOTH = 3, 6
"""How long the log of the scenario `quick` is at its first end, and at its second."""


async def finished(host: Sandbox, server: Server) -> Viewer:
    """A viewer who has just been told the end of a quick run."""
    viewer = Viewer(server.url, await asyncio.to_thread(host.create, "quick"))
    await viewer.watch()
    assert viewer.last_id == f"{FIRST}.end"
    return viewer


async def check_goes_on(host: Sandbox, server: Server, viewer: Viewer, resume: Callable[[int], object]) -> None:
    """The viewer, somebody new and somebody with a bare number get the second half, from the next position on."""
    assert (await viewer.connect()).status == 204
    viewer.leave()
    bare = Viewer(server.url, viewer.run, last_id=str(FIRST), entries=list(viewer.entries))
    await bare.watch()
    assert [event.name for event in bare.events if event.name != "log.amended"] == ["status", "end"]

    await asyncio.to_thread(resume, viewer.run)
    new = Viewer(server.url, viewer.run)
    await asyncio.gather(viewer.watch(), new.watch(), bare.watch())
    log = await asyncio.to_thread(host.log, viewer.run)
    assert len(log) == BOTH
    for each in (viewer, new, bare):
        assert each.entries == log
        assert each.last_id == f"{BOTH}.end"
        assert each.of("end")[-1].data["ended"] is True
    assert [event.number for event in viewer.of("log")] == [1, 2, 3, 4, 5, 6]
    assert [event.number for event in bare.of("log")] == [4, 5, 6]
    assert (await viewer.connect()).status == 204
    viewer.leave()


@pytest.mark.wire("end-known", "resumed-streams-on", "resume", "position-continues", "resume-doubt")
async def test_a_run_resumed_here_streams_on_for_who_stayed_away_and_for_who_is_new(
    host: Sandbox, brisk: Server
) -> None:
    def resume(run: int) -> None:
        answer = brisk.request("POST", f"/agent-runs/{run}/resume", json={"prompt": "Go on"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == run

    await check_goes_on(host, brisk, await finished(host, brisk), resume)


@pytest.mark.wire("end-known", "end-looked-at", "resumed-streams-on")
async def test_a_run_resumed_past_this_process_streams_on_although_its_finished_log_is_held_here(
    host: Sandbox, server: Server
) -> None:
    """For five seconds an end is believed without a look at the host: who comes back within them may be told 204."""

    async def at_once() -> None:
        viewer = await finished(host, server)
        await asyncio.to_thread(host.resume, viewer.run)
        async with asyncio.timeout(WAIT):
            while (await viewer.connect()).status == 204:
                viewer.leave()
                await asyncio.sleep(0.25)
        await check(viewer, viewer.read())

    async def after_a_while() -> None:
        viewer = await finished(host, server)
        await asyncio.to_thread(host.resume, viewer.run)
        await asyncio.sleep(5.1)  # what has to be forgotten takes its time
        bare = Viewer(server.url, viewer.run, last_id=str(FIRST), entries=list(viewer.entries))
        await asyncio.gather(check(viewer, viewer.watch()), check(bare, bare.watch()))

    async def check(viewer: Viewer, reading: Awaitable[object]) -> None:
        await reading
        assert viewer.entries == await asyncio.to_thread(host.log, viewer.run)
        assert viewer.last_id == f"{BOTH}.end"

    await asyncio.gather(at_once(), after_a_while())


@pytest.mark.wire("resumed-streams-on", "cancel", "resume")
async def test_a_cancelled_run_ends_its_stream_and_goes_on_when_it_is_resumed(host: Sandbox, brisk: Server) -> None:
    run = await asyncio.to_thread(host.create, "pauses", 4)
    viewer = Viewer(brisk.url, run)
    watching = asyncio.create_task(viewer.watch())
    await viewer.until("log")
    cancelled = await asyncio.to_thread(brisk.request, "POST", f"/agent-runs/{run}/cancel")
    assert cancelled.json()["run_status"] == "cancelled"
    await watching
    assert viewer.of("end")[0].data["run_status"] == "cancelled"
    resumed = await asyncio.to_thread(brisk.request, "POST", f"/agent-runs/{run}/resume", json={"prompt": "Go on"})
    assert resumed.status_code == 200
    await viewer.watch()
    assert viewer.of("end")[-1].data["run_status"] == "completed"
    assert viewer.entries == await asyncio.to_thread(host.log, run)
