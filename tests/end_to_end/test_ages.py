"""Streams that grow old, fall silent or get stuck; and many callers at once."""

import asyncio
import time

import pytest

from tests.end_to_end import processes
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import WAIT, Sandbox, Server, entry, eventually, gateway
from tests.end_to_end.viewing import Broken, Connection, Viewer

SLACK = 10.0
"""Seconds more that a busy machine may take; by default a stream may live for ten minutes, and be stuck for thirty."""


@pytest.mark.wire("stream-age", "position-continues", "stream-heartbeat")
def test_an_old_stream_asks_its_viewer_back_and_a_silent_one_shows_that_it_lives(host: Sandbox) -> None:
    async def old(server: Server) -> None:
        viewer = Viewer(server.url, host.seed(entries=[entry("entry 1")]))
        began = time.monotonic()
        watching = asyncio.create_task(viewer.watch())
        await viewer.until("log")
        await asyncio.to_thread(host.append, viewer.run, "entry 2")
        await watching
        assert 1.7 < time.monotonic() - began < 2 + SLACK
        last = viewer.events[-1]
        assert (last.name, last.data["code"]) == ("notice", "reconnect")
        assert last.data["last_event_id"] == viewer.last_id == viewer.of("log")[-1].id
        assert last.retry is not None
        assert last.data["retry_in"] == last.retry / 1000
        await asyncio.to_thread(host.append, viewer.run, "the last", status="COMPLETE")
        await viewer.watch()
        assert viewer.entries == await asyncio.to_thread(host.log, viewer.run)
        assert len(viewer.of("end")) == 1

    async def silent(server: Server) -> None:
        viewer = Viewer(server.url, await asyncio.to_thread(host.create, "pauses", 10))
        await viewer.watch()
        quiet = [event for event in viewer.events if not event.name]
        assert len(quiet) >= 2
        assert all(event.id is event.data is event.retry is None for event in quiet)
        pauses = [after.at - before.at for before, after in zip(viewer.events, viewer.events[1:], strict=False)]
        assert max(pauses) < 1.5
        assert [event.data["run_status"] for event in viewer.of("status")][-1] == "paused"
        assert viewer.notices() == ["reconnect"]

    async def main(server: Server) -> None:
        await asyncio.gather(old(server), silent(server))

    with gateway(host, stream_max_age_seconds=2, stream_heartbeat_seconds=0.5, **BRISK) as server:
        asyncio.run(main(server))


@pytest.mark.wire("stream-stall", "stream-leaves-nothing")
def test_a_viewer_who_reads_nothing_is_cut_and_can_come_back(host: Sandbox) -> None:
    async def main(server: Server) -> None:
        run = host.seed(count=800, entry_bytes=10_000, status="COMPLETE")
        viewer = Viewer(server.url, run, receive_buffer=1024)
        other = Viewer(server.url, run)
        await viewer.connect()
        began = time.monotonic()
        gone = asyncio.to_thread(eventually, lambda: server.health("viewers"), lambda viewers: viewers == 0)
        await asyncio.gather(other.watch(), gone)
        assert 0.9 < time.monotonic() - began < 1 + SLACK
        assert viewer.connection is not None
        viewer.connection.hurry()
        with pytest.raises(Broken):
            await viewer.read()
        assert not viewer.of("end")
        viewer.receive_buffer = None
        await viewer.watch()
        log = await asyncio.to_thread(host.log, run)
        assert viewer.entries == other.entries == log
        assert len(viewer.of("end")) == 1

    with gateway(host, stream_stall_seconds=1, **BRISK) as server:
        asyncio.run(main(server))


@pytest.mark.wire("stream-stall")
def test_a_viewer_who_reads_slowly_but_steadily_is_not_taken_for_one_who_reads_nothing(host: Sandbox) -> None:
    async def main(server: Server) -> None:
        run = host.seed(entries=[entry("x" * 40_000) for _ in range(100)], status="COMPLETE")
        viewer = Viewer(server.url, run, receive_buffer=8192, rate=500_000)
        async with asyncio.timeout(WAIT):
            await viewer.watch()
        assert viewer.entries == await asyncio.to_thread(host.log, run)
        assert len(viewer.of("end")) == 1

    with gateway(host, stream_stall_seconds=1) as server:
        asyncio.run(main(server))


@pytest.mark.wire("auth-remembered", "auth-own-token")
def test_a_hundred_simultaneous_first_requests_with_one_token_cause_one_check_of_it() -> None:
    async def ask(server: Server, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        connection = await Connection.open(server.url, "/agent-runs/no-number", headers)
        try:
            await connection.head()
            assert b'"code"' in await connection.body()
            return connection.status
        finally:
            connection.close()

    async def main(host: Sandbox, server: Server) -> None:
        async with asyncio.timeout(WAIT):
            for token, status in (("sandbox-alice", 422), ("sandbox-mallory", 401)):
                await asyncio.to_thread(host.forget_requests)
                await asyncio.to_thread(host.fault, "latency", "me", seconds=0.3, times=1)
                answers = await asyncio.gather(*(ask(server, token) for _ in range(100)))
                assert set(answers) == {status}
                assert await asyncio.to_thread(host.requests, "me") == 1

    with processes.sandbox() as host, gateway(host) as server:
        asyncio.run(main(host, server))
