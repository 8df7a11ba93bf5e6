"""The shipped ``nginx.conf`` in front of two real gateways; only addresses and directories are replaced, and a time
where a test says so.
"""

import asyncio
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import randrange

import httpx
import pytest

from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import (
    ROOT,
    WAIT,
    Sandbox,
    Server,
    entry,
    eventually,
    gateway,
    held_port,
    program,
    silent,
)
from tests.end_to_end.viewing import Broken, Viewer
from tests.leaks import WATCH

CONFIGURATION = (ROOT / "deploy/nginx.conf").read_text()
SCALING = (ROOT / "docs/scaling.md").read_text()
KEY = "one key of many characters for both gateways"
SETTINGS = {**BRISK, "secret_key": KEY, "trusted_proxies": "127.0.0.1", "drain_seconds": 3}


def command(directory: str, port: int, gateways: Sequence[Server], changes: Mapping[str, str]) -> list[str]:
    """What starts nginx with the shipped configuration and these changes, each of which is to something that is there.

    The changed configuration is put into ``directory``.
    """
    listed = re.findall(r"server (\S+:8000) ", CONFIGURATION)
    assert len(listed) == len(gateways) == 2
    there = {address: each.url.removeprefix("http://") for address, each in zip(listed, gateways, strict=True)}
    text = CONFIGURATION
    moved = {"listen 8080": f"listen 127.0.0.1:{port}", "/tmp/": f"{directory}/"}  # noqa: S108
    for old, new in {**there, **moved, **changes}.items():
        assert old in text, old
        text = text.replace(old, new)
    configuration = Path(directory) / "nginx.conf"
    configuration.write_text(text)
    # as root it would make its workers those of a user who may not enter the directory
    options = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    return [program("nginx"), "-p", directory, "-c", str(configuration), "-g", options]


@contextmanager
def nginx(gateways: Sequence[Server], changes: Mapping[str, str] | None = None) -> Iterator[Server]:
    """nginx, serving."""
    with (
        tempfile.TemporaryDirectory() as directory,
        held_port() as port,
        silent(command(directory, port, gateways, changes or {}), port) as server,
    ):
        yield server


@contextmanager
def two_gateways(host: Sandbox, **settings: object) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(gateway(host, **{**SETTINGS, **settings})) for _ in range(2)]


@pytest.fixture(scope="module")
def gateways(host: Sandbox) -> Iterator[list[Server]]:
    with two_gateways(host, stream_heartbeat_seconds=0.3) as started:
        yield started


@pytest.fixture(scope="module")
def front(gateways: list[Server]) -> Iterator[Server]:
    with nginx(gateways) as server:
        yield server


def viewers(server: Server) -> int:
    return int(server.health("viewers"))


async def watching(server: Server, run: int) -> tuple[Viewer, asyncio.Task[Viewer]]:
    viewer = Viewer(server.url, run)
    connection = await viewer.connect(**{"Accept-Encoding": "gzip"})  # as browsers do
    assert connection.status == 200, connection.status
    assert "content-encoding" not in connection.headers
    return viewer, asyncio.create_task(viewer.read())


async def test_an_entry_comes_through_nginx_within_a_second_of_being_written(host: Sandbox, front: Server) -> None:
    run = host.seed(entries=[entry("the first that goes through nginx")])
    viewer, reading = await watching(front, run)
    assert viewer.connection is not None
    assert "x-accel-buffering" not in viewer.connection.headers  # nginx has understood it
    await viewer.until("log")
    loop = asyncio.get_running_loop()
    for number in range(2, 7):
        written = loop.time()
        await asyncio.to_thread(host.append, run, f"entry {number}")
        arrived = (await viewer.until("log", number)).at
        assert arrived - written < 1, number
    await asyncio.to_thread(host.patch, run, status="COMPLETE")
    await reading
    assert viewer.of("end")


async def test_a_viewer_who_reads_nothing_is_cut_by_the_gateway_because_nginx_keeps_nothing_for_it(
    host: Sandbox,
) -> None:
    # more than the kernel may keep on the way, which is some ten megabytes
    run = host.seed(entries=[entry("x" * 30_000) for _ in range(1000)])
    with two_gateways(host, stream_stall_seconds=2) as started, nginx(started) as front:
        stuck = Viewer(front.url, run, receive_buffer=4096)
        await stuck.connect()
        await asyncio.to_thread(eventually, lambda: sum(map(viewers, started)), lambda it: it == 1)
        await asyncio.to_thread(eventually, lambda: sum(map(viewers, started)), lambda it: it == 0)
        with pytest.raises(Broken):
            await stuck.read()
        assert len(stuck.entries) < 1000


@pytest.mark.parametrize(("heartbeat", "cut"), [(0.3, False), (30, True)], ids=["heartbeats", "none in time"])
async def test_a_silent_stream_lasts_because_heartbeats_come_within_the_read_timeout(
    host: Sandbox, heartbeat: float, cut: bool
) -> None:
    """With the timeout of the file divided by sixty."""
    run = host.seed(entries=[entry("the only one that goes through nginx")])
    with (
        two_gateways(host, stream_heartbeat_seconds=heartbeat) as started,
        nginx(started, {"proxy_read_timeout 60s": "proxy_read_timeout 1s"}) as front,
    ):
        viewer, reading = await watching(front, run)
        await viewer.until("log")
        done, _ = await asyncio.wait([reading], timeout=4)
        assert bool(done) is cut
        if cut:
            assert isinstance(reading.exception(), Broken)
            return
        await asyncio.to_thread(host.append, run, "the last", status="COMPLETE")
        await reading
        assert [each.data["position"] for each in viewer.of("log")] == [1, 2]


async def test_viewers_of_a_gateway_that_drains_go_on_at_the_other_and_miss_nothing(host: Sandbox) -> None:
    run = host.seed(entries=[entry("the first that goes through nginx")])
    refused: Counter[int] = Counter()

    async def follow(viewer: Viewer) -> Viewer:
        while not viewer.of("end"):
            connection = await viewer.connect()
            if connection.status != 200:
                refused[connection.status] += 1
                viewer.leave()
                await asyncio.sleep(0.1)
                continue
            last = (await viewer.read()).events[-1]
            assert last.name == "end" or last.data["code"] in ("reconnect", "upstream_unavailable")
        return viewer

    with two_gateways(host) as started, nginx(started) as front:
        crowd = [Viewer(front.url, run) for _ in range(20)]
        async with asyncio.timeout(2 * WAIT), asyncio.TaskGroup() as group:
            for viewer in crowd:
                group.create_task(follow(viewer))
            await asyncio.to_thread(eventually, lambda: [viewers(each) for each in started], lambda it: min(it) >= 5)
            going, staying = started
            going.process.terminate()
            for number in range(2, 12):
                await asyncio.to_thread(host.append, run, f"entry {number}")
                newcomer = Viewer(front.url, run)  # while one drains
                crowd.append(newcomer)
                group.create_task(follow(newcomer))
                await asyncio.gather(*(viewer.until("log", number) for viewer in crowd))
            assert await asyncio.to_thread(going.process.wait, WAIT) == 0
            crowd.append(Viewer(front.url, run))
            group.create_task(follow(crowd[-1]))
            await asyncio.to_thread(eventually, lambda: viewers(staying), lambda it: it == len(crowd))
            await asyncio.to_thread(host.append, run, "the last", status="COMPLETE")
        log = await asyncio.to_thread(host.log, run)
        assert len(log) == 12
        assert all(viewer.entries == log for viewer in crowd)
        assert sum("reconnect" in viewer.notices() for viewer in crowd) >= 5
        assert refused == {}  # nginx has asked the other one itself


async def test_who_comes_back_while_a_gateway_drains_is_at_the_other_one_at_the_second_try(host: Sandbox) -> None:
    run = host.seed(entries=[entry("the first that goes through nginx")])
    with two_gateways(host, drain_seconds=30) as started, nginx(started) as front:
        watched = [await watching(front, run) for _ in range(8)]
        await asyncio.gather(*(viewer.until("log") for viewer, _ in watched))
        going, staying = started
        at_the_other = viewers(staying)
        going.process.terminate()
        (sent_away,), _ = await asyncio.wait([each for _, each in watched], return_when=asyncio.FIRST_COMPLETED)
        viewer = sent_away.result()
        assert viewer.notices() == ["reconnect"]
        for _ in range(2):
            await viewer.connect()
            again = asyncio.create_task(viewer.read())
            if not (await asyncio.wait([again], timeout=1))[0]:
                break
        assert viewers(staying) == at_the_other + 1
        assert going.process.poll() is None  # it still drains
        await asyncio.to_thread(host.patch, run, status="COMPLETE")
        await asyncio.gather(again, *(each for _, each in watched))
        assert len(viewer.of("end")) == 1


def test_what_is_too_large_is_refused_by_the_gateway_and_what_is_not_arrives(front: Server) -> None:
    picture = "data:image/png;base64," + "A" * (20 << 20)
    started = front.request("POST", "/agent-runs", json={"prompt": "Describe it", "images": [picture]})
    assert started.status_code == 201, started.text
    refused = front.request("POST", "/agent-runs", json={"prompt": "Describe it", "images": [picture, "A" * (6 << 20)]})
    assert refused.status_code == 413, refused.text
    assert refused.json()["request_id"] == refused.headers["x-request-id"]


def test_a_token_as_long_as_the_gateway_takes_passes(front: Server) -> None:
    answer = front.get("/users/me", {"Authorization": f"Bearer {'x' * 32_000}"})
    assert answer.json()["code"] == "invalid_token"


@pytest.mark.parametrize("trusted", [True, False], ids=["nginx is trusted", "nginx is not trusted"])
def test_the_gateway_counts_bad_tokens_by_the_address_that_nginx_saw(host: Sandbox, trusted: bool) -> None:
    """One that a client makes up counts for nothing."""
    with (
        two_gateways(host, upstream_requests_per_minute=60, trusted_proxies="127.0.0.1" if trusted else "") as started,
        nginx([started[0], started[0]]) as front,  # each gateway counts for itself
    ):

        def code(token: str, address: str) -> str:
            headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": f"192.0.2.{randrange(256)}"}
            WATCH.sent(headers)
            with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=WAIT) as client:
                said: str = client.get(f"{front.url}/users/me", headers=headers).json()["code"]
            return said

        codes = [code(f"stranger-{number}-of-nginx", "127.0.0.2") for number in range(1, 16)]
        assert set(codes) == {"invalid_token", "rate_limited"}
        assert codes[-1] == "rate_limited"
        elsewhere = {code(f"newcomer-{number}-of-nginx", "127.0.0.3") for number in range(1, 6)}
        assert ("rate_limited" in elsewhere) is not trusted


async def test_a_ticket_is_good_at_both_gateways_and_no_line_of_nginx_holds_one(host: Sandbox) -> None:
    run = host.seed(entries=[entry("the first that goes through nginx")])
    with two_gateways(host) as started, nginx(started) as front:
        answer = await asyncio.to_thread(front.request, "POST", f"/agent-runs/{run}/logs/stream-ticket")
        assert answer.status_code == 201, answer.text
        path = answer.json()["url"]

        async def watch(client: httpx.AsyncClient) -> None:
            async with client.stream("GET", front.url + path) as response:
                assert response.status_code == 200
                async for _ in response.aiter_bytes():
                    pass

        async with httpx.AsyncClient(trust_env=False, timeout=WAIT) as client:
            streams = [asyncio.create_task(watch(client)) for _ in range(6)]
            await asyncio.to_thread(eventually, lambda: [viewers(each) for each in started], lambda it: it == [3, 3])
            started[0].process.kill()  # for other routes nginx would log that as an error, with the whole request
            await asyncio.to_thread(eventually, lambda: sum(each.done() for each in streams), lambda it: it == 3)
            await asyncio.to_thread(host.patch, run, status="COMPLETE")
            ended = await asyncio.gather(*streams, return_exceptions=True)
        assert Counter(type(each) for each in ended) == {httpx.RemoteProtocolError: 3, type(None): 3}
        said = front.log.read_text()
        assert said.count(f'"GET /agent-runs/{run}/logs/stream HTTP/1.1" 200') == 6
        assert "ticket=" not in said
        assert path.partition("ticket=")[2][:20] not in said


def test_metrics_are_kept_from_those_outside(front: Server, gateways: list[Server]) -> None:
    assert front.get("/metrics").status_code == 404
    assert gateways[0].get("/metrics").status_code == 200


async def test_the_lines_for_sharding_bring_all_viewers_of_a_run_to_one_gateway(host: Sandbox) -> None:
    mapping, hashing = re.findall(r"```nginx\n(.*?)```", SCALING, re.DOTALL)[:2]
    runs = [host.seed(entries=[entry("the first that goes through nginx")]) for _ in range(12)]
    with (
        two_gateways(host, follower_linger_seconds=60) as started,
        nginx(
            started,
            {
                "zone gateway 128k;": f"zone gateway 128k;\n{hashing}",
                "    upstream gateway {": f"{mapping}\n    upstream gateway {{",
            },
        ) as front,
    ):
        watched = [await watching(front, run) for run in runs * 4]
        for viewer, _ in watched:
            await viewer.until("log")
        before = [each.health("runs_followed") for each in started]
        assert sum(before) == len(runs)
        assert min(before) > 0
        assert sum(viewers(each) for each in started) == len(watched)
        started[0].process.kill()
        again = [await watching(front, run) for run in runs]
        for viewer, _ in again:
            await viewer.until("log")
        assert started[1].health("runs_followed") == len(runs)
        for run in runs:
            await asyncio.to_thread(host.patch, run, status="COMPLETE")
        ended = await asyncio.wait_for(
            asyncio.gather(*(each for _, each in watched + again), return_exceptions=True), WAIT
        )
        assert {type(each) for each in ended} == {Viewer, Broken}
