"""The numbers of real processes: whichever worker is asked, it gives the sum over all."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import WAIT, Sandbox, Server, eventually, gateway, plain_uvicorn
from tests.end_to_end.viewing import Viewer
from tests.test_metrics import value

pytestmark = pytest.mark.wire("metrics")

Start = Callable[[Sandbox], AbstractContextManager[Server]]

SEVERAL: dict[str, Start] = {
    "front door": lambda host: gateway(host, "--workers", "3", **BRISK),
    "plain uvicorn": lambda host: plain_uvicorn(host, "--workers", "3", **BRISK),
}
ALL: dict[str, Start] = {"one": lambda host: gateway(host, **BRISK), **SEVERAL}

ME = {"route": "/users/me", "method": "GET", "status": "200"}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes started here make their temporary files."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.fixture(params=SEVERAL)
def start(request: pytest.FixtureRequest) -> Start:
    return SEVERAL[request.param]


def numbers(server: Server, name: str, **labels: str) -> list[float]:
    """What a number of scrapes give, each over a connection of its own, so that several workers answer."""
    texts = [server.get("/metrics", headers={}).text for _ in range(12)]
    return [value(text, name, **labels) for text in texts]


def all_are(server: Server, wanted: float, name: str, **labels: str) -> None:
    eventually(lambda: set(numbers(server, name, **labels)), lambda found: found == {wanted})


def shares(temporary: Path) -> list[Path]:
    return list(temporary.glob("codegen-api-*"))


def workers_that_counted(temporary: Path) -> int:
    return len([file for file in temporary.glob("codegen-api-*/counter_*.db") if b"/users/me" in file.read_bytes()])


@pytest.mark.parametrize("kind", ALL)
def test_every_scrape_gives_the_sum_over_all_workers(kind: str, host: Sandbox, temporary: Path) -> None:
    with ALL[kind](host) as server:
        asked = 0
        while asked < 20 or (kind != "one" and workers_that_counted(temporary) < 2):
            assert server.get("/users/me").status_code == 200
            asked += 1
            assert asked < 500, "one worker answers everything"
        all_are(server, asked, "requests_total", **ME)
        assert len(shares(temporary)) == (0 if kind == "one" else 1)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(WAIT)
        assert shares(temporary) == []


@asynccontextmanager
async def streams(server: Server, run: int, count: int) -> AsyncIterator[list[Viewer]]:
    """So many viewers with an open stream each; whoever is still there leaves at the end."""
    viewers = [Viewer(server.url, run) for _ in range(count)]
    try:
        for viewer in viewers:
            assert (await viewer.connect()).status == 200
        yield viewers
    finally:
        for viewer in viewers:
            viewer.leave()


@pytest.mark.parametrize("kind", ALL)
def test_viewers_and_readers_are_those_of_all_workers(kind: str, host: Sandbox, temporary: Path) -> None:
    run = host.seed(count=3, status="ACTIVE")

    async def main(server: Server) -> None:
        async with streams(server, run, 9) as viewers:
            await asyncio.to_thread(all_are, server, 9, "viewers")
            (readers,) = set(await asyncio.to_thread(numbers, server, "runs_followed"))
            assert 1 <= readers <= (1 if kind == "one" else 3)
            for viewer in viewers[:4]:
                viewer.leave()
            await asyncio.to_thread(all_are, server, 5, "viewers")
        for name in ("viewers", "runs_followed"):
            await asyncio.to_thread(all_are, server, 0, name)

    with ALL[kind](host) as server:
        asyncio.run(main(server))


def viewers_by_worker(temporary: Path) -> dict[int, float]:
    """Which worker has how many, by the files they write."""
    return {
        int(file.stem.rpartition("_")[2]): number
        for file in temporary.glob("codegen-api-*/gauge_*.db")
        if file.stat().st_size
        for key, number, *_ in MmapedDict.read_all_values_from_file(str(file))
        if "codegen_api_viewers" in key
    }


def test_a_worker_that_is_killed_leaves_its_counts_and_takes_its_viewers(
    start: Start, host: Sandbox, temporary: Path
) -> None:
    run = host.seed(count=3, status="ACTIVE")

    async def main(server: Server) -> None:
        await asyncio.to_thread(eventually, lambda: len(viewers_by_worker(temporary)), lambda now: now == 3)
        for _ in range(20):
            await asyncio.to_thread(server.get, "/users/me")
        async with streams(server, run, 9):
            await asyncio.to_thread(all_are, server, 9, "viewers")
            before = viewers_by_worker(temporary)
            victim, taken = max(before.items(), key=lambda each: each[1])
            assert taken
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(all_are, server, 9 - taken, "viewers")
            await asyncio.to_thread(all_are, server, 20, "requests_total", **ME)  # whoever answered them
            left = set(before) - {victim}
            await asyncio.to_thread(
                eventually, lambda: set(viewers_by_worker(temporary)), lambda now: len(now) == 3 and left < now
            )
        await asyncio.to_thread(all_are, server, 0, "viewers")

    with start(host) as server:
        asyncio.run(main(server))
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(WAIT)
    assert shares(temporary) == []


def test_entries_are_as_old_as_the_viewer_finds_them(host: Sandbox, brisk: Server) -> None:
    def counted() -> tuple[float, float]:
        text = brisk.get("/metrics", headers={}).text
        return value(text, "entry_age_seconds_count"), value(text, "entry_age_seconds_sum")

    async def main() -> tuple[float, float]:
        run = host.seed(count=3, status="ACTIVE")
        before = await asyncio.to_thread(counted)
        viewer = Viewer(brisk.url, run)
        watching = asyncio.create_task(viewer.watch())
        await viewer.until("log", 3)
        for number in range(3):
            await asyncio.to_thread(host.append, run, f"entry {number}")
            await viewer.until("log", 4 + number)
        await asyncio.to_thread(host.patch, run, status="COMPLETE")
        await watching
        after = await asyncio.to_thread(counted)
        return after[0] - before[0], after[1] - before[1]

    count, total = asyncio.run(main())
    assert count == 3
    assert 0 <= total < 3 * WAIT
