"""Signals: what viewers are told when the process is asked to stop, and how soon it is gone."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import httpx
import pytest

from codegen_api.program.serve import START_SECONDS
from tests.end_to_end import processes
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import WAIT, Sandbox, Server, descendants, entry, eventually, gateway, plain_uvicorn
from tests.end_to_end.viewing import Broken, Viewer

DRAIN = 3.0
VIEWERS = 8
SLACK = 10.0
"""Seconds more that a busy machine may take when a score of processes stop together; Ctrl-C that does not shorten the
drain takes twenty.
"""


@dataclass(frozen=True)
class Way:
    """How a gateway is started, which signal it gets, and how long its streams may then last."""

    start: Callable[[Sandbox], AbstractContextManager[Server]]
    number: signal.Signals = signal.SIGTERM
    drain: float = DRAIN


WAYS = {
    "run_server": Way(lambda host: gateway(host, drain_seconds=DRAIN)),
    "run_server, four workers": Way(lambda host: gateway(host, "--workers", "4", drain_seconds=DRAIN)),
    "uvicorn": Way(lambda host: plain_uvicorn(host, "--factory", drain_seconds=DRAIN)),
    "uvicorn, four workers": Way(lambda host: plain_uvicorn(host, "--factory", "--workers", "4", drain_seconds=DRAIN)),
    "uvicorn without --factory": Way(lambda host: plain_uvicorn(host, drain_seconds=DRAIN)),
    "Ctrl-C": Way(gateway, signal.SIGINT, 2.0),
    "Ctrl-C, four workers": Way(lambda host: gateway(host, "--workers", "4"), signal.SIGINT, 2.0),
}


@dataclass
class Report:
    """What was seen of a process from the signal to its end."""

    viewers: list[Viewer]
    asked: float
    exited: float = 0.0
    status: int | None = None
    cut: int = 0
    ready: list[int] = field(default_factory=list)
    refused: tuple[int, str] | None = None
    returned: Viewer | None = None
    log: str = ""


async def stop(host: Sandbox, server: Server, run: int, large: int, number: signal.Signals) -> Report:
    """Eight viewers, and one who never reads; then the process is asked to stop."""
    viewers = [Viewer(server.url, run) for _ in range(VIEWERS)]
    stuck = Viewer(server.url, large, receive_buffer=1024)
    watching = [asyncio.create_task(viewer.watch(WAIT)) for viewer in viewers]
    await stuck.connect()
    for viewer in viewers:
        await viewer.until("log", 3)
    everybody = [server.pid, *descendants(server.pid)]
    report = Report(viewers, time.monotonic())
    for pid in everybody if number == signal.SIGINT else [server.pid]:  # a terminal sends SIGINT to all of them
        os.kill(pid, number)
    async with asyncio.timeout(WAIT):
        while server.process.poll() is None:
            try:
                report.ready.append((await asyncio.to_thread(server.get, "/readyz", {})).status_code)
                if report.ready[-1] == 503 and report.returned is None:  # again, when a worker has gone meanwhile
                    new = await asyncio.to_thread(server.get, f"/agent-runs/{run}/logs/stream")
                    report.refused = (new.status_code, new.json()["code"])
                    report.returned = await Viewer(server.url, run, last_id="1").watch()
            except (httpx.TransportError, OSError, Broken):
                pass  # the last of it is gone, or about to go
            await asyncio.sleep(0.05)
    report.exited, report.status = time.monotonic() - report.asked, server.process.returncode
    results = await asyncio.gather(*watching, return_exceptions=True)
    report.cut = sum(isinstance(result, Broken | OSError) for result in results)
    left = [pid for pid in everybody if processes.running(pid)]
    await asyncio.to_thread(
        eventually, lambda: [pid for pid in left if processes.running(pid)], lambda pids: not pids, 1
    )
    report.log = server.log.read_text()
    stuck.leave()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Broken | OSError):
            raise result
    return report


@pytest.fixture(scope="module")
def large(host: Sandbox) -> int:
    """A run whose log is larger than what a connection's buffers take."""
    return host.seed(count=800, entry_bytes=10_000)


@pytest.fixture(scope="module")
def reports(host: Sandbox, large: int) -> dict[str, Report | BaseException]:
    """All the ways at the same time, because most of it is waiting."""

    async def main(servers: list[Server]) -> list[Report | BaseException]:
        run = host.seed(entries=[entry(f"entry {number}") for number in range(1, 4)])
        stopping = [
            stop(host, server, run, large, way.number) for server, way in zip(servers, WAYS.values(), strict=True)
        ]
        return await asyncio.gather(*stopping, return_exceptions=True)

    with ThreadPoolExecutor(len(WAYS)) as pool, ExitStack() as stack:
        starting = [way.start(host) for way in WAYS.values()]
        servers = list(pool.map(stack.enter_context, starting))
        return dict(zip(WAYS, asyncio.run(main(servers)), strict=True))


@pytest.mark.wire("drain-streams", "drain-refuses", "readiness", "trouble-on-reconnect", "trouble-on-connect")
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_ends_every_stream_with_the_id_to_come_back_with(
    reports: dict[str, Report | BaseException], way: str
) -> None:
    report, drain = reports[way], WAYS[way].drain
    if isinstance(report, BaseException):
        raise report
    assert report.cut == 0, f"{report.cut} viewers were cut without a word"
    for viewer in report.viewers:
        last = viewer.events[-1]
        assert (last.name, last.data["code"], last.data["last_event_id"]) == ("notice", "reconnect", viewer.last_id)
        assert last.data["retry_in"] > 0
        assert last.retry is not None
        assert last.at - report.asked < drain + SLACK / 2
        assert [event.number for event in viewer.of("log")] == [1, 2, 3]
    # uvicorn's parent of workers may just be asking one how it is that has gone meanwhile: it waits for the answer
    asking = START_SECONDS if way == "Ctrl-C, four workers" else 0
    assert report.exited < drain + SLACK + asking, f"it took {report.exited:.1f} s"
    # uvicorn by itself dies of the signal that it was asked to stop with
    assert report.status == 0 or way.startswith("uvicorn")
    assert 503 in report.ready
    assert report.ready[-1] == 503
    assert report.refused == (503, "shutting_down")
    assert report.returned is not None
    assert [(event.name, event.data["code"]) for event in report.returned.events] == [
        ("notice", "upstream_unavailable")
    ]
    assert "Traceback" not in report.log, report.log
    if "four" not in way:
        told = sorted(viewer.events[-1].at - report.asked for viewer in report.viewers)
        assert told[-1] - told[0] > drain / 2, f"all at once: {told}"


@pytest.mark.wire("drain-streams")
def test_a_viewer_who_takes_what_it_gets_within_the_drain_is_told_too(host: Sandbox, large: int) -> None:
    """Slow enough that the connection's buffers are full when the signal comes, fast enough to be served."""

    async def main(server: Server) -> None:
        slow = Viewer(server.url, large, receive_buffer=200_000, rate=50_000)
        watching = asyncio.create_task(slow.watch())
        await slow.until("log", 3)
        server.process.terminate()
        assert slow.connection is not None
        await asyncio.sleep(0.3)
        slow.connection.hurry()
        await watching
        assert slow.events[-1].data["code"] == "reconnect"
        assert slow.events[-1].data["last_event_id"] == slow.last_id
        await asyncio.to_thread(server.process.wait, WAIT)

    with gateway(host, drain_seconds=DRAIN) as server:
        asyncio.run(main(server))


@pytest.mark.wire("position-continues", "drain-streams")
async def test_after_a_restart_a_viewer_goes_on_and_loses_nothing(host: Sandbox) -> None:
    run = host.seed(entries=[entry(f"entry {number}") for number in range(1, 4)])
    viewer = Viewer("", run)
    for before in (0, 4):
        with gateway(host, drain_seconds=0.3, **BRISK) as server:
            viewer.url = server.url
            watching = asyncio.create_task(viewer.watch())
            await viewer.until("log", before + 3)
            await asyncio.to_thread(host.append, run, f"entry {before + 4}, which this gateway tells")
            await viewer.until("log", before + 4)
            server.process.terminate()
            await asyncio.to_thread(host.append, run, *(f"entry {before + number}" for number in (5, 6, 7)))
            await watching
            assert viewer.events[-1].data["last_event_id"] == viewer.last_id
            assert not viewer.of("end")
    with gateway(host, **BRISK) as server:
        viewer.url = server.url
        watching = asyncio.create_task(viewer.watch())
        await viewer.until("log", 11)
        await asyncio.to_thread(host.append, run, "the last", status="COMPLETE")
        await watching
    assert viewer.entries == await asyncio.to_thread(host.log, run)
    assert len(viewer.entries) == 12
    assert len(viewer.of("end")) == 1


@pytest.mark.parametrize("start", [gateway, plain_uvicorn])
def test_a_request_that_waits_for_a_hanging_host_is_answered_and_holds_nobody(
    host: Sandbox, start: Callable[..., AbstractContextManager[Server]]
) -> None:
    with start(host, drain_seconds=1) as server, ThreadPoolExecutor() as threads:
        assert server.get("/users/me").status_code == 200
        host.fault("hang", "get", for_seconds=30)
        paths = ("/agent-runs/12345", "/agent-runs/12345/logs/stream")
        waiting = [threads.submit(server.get, path) for path in paths]
        eventually(lambda: host.requests("get") >= 1)
        asked = time.monotonic()
        server.process.send_signal(signal.SIGINT)  # with SIGTERM they would have ten seconds
        server.process.wait(WAIT)
        assert time.monotonic() - asked < 1 + SLACK  # the host would have been given thirty
        for answer in (each.result() for each in waiting):
            assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
        assert "Traceback" not in server.log.read_text()
    host.heal()
