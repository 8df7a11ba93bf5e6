"""What a viewer, a followed run and a delivered entry cost a gateway: the figures by which machines are chosen.

``python -m bench.sizing`` starts the sandbox, without limits, and a gateway in front of it, each in a process of its
own, watches over real sockets, and prints a table.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.machine import cpu_seconds, memory
from tests.end_to_end.processes import Sandbox, Server, entry, eventually, gateway, sandbox

TEXT = "x" * 700
"""With it the event of an entry has about 1 KiB."""
PATIENCE = 600.0


class Viewer(asyncio.Protocol):
    """Counts the entries that arrive, and keeps nothing else."""

    def __init__(self, run: int) -> None:
        self.entries = 0
        self._run = run
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        path = f"/agent-runs/{self._run}/logs/stream"
        self._transport.write(
            f"GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer sandbox-alice\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        text = self._rest + data
        self.entries += text.count(b"event: log\n")
        self._rest = text[-10:]  # shorter than what is counted, which may be cut in two

    def leave(self) -> None:
        self._transport.abort()


async def until(probe: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, probe, bool, PATIENCE)


def all_have(viewers: Sequence[Viewer], entries: int) -> bool:
    return all(viewer.entries == entries for viewer in viewers)


async def watch(server: Server, runs: Sequence[int], already: int = 0) -> list[Viewer]:
    """A viewer for each of these, who has the first entry."""
    address = urlsplit(server.url)
    viewers = []
    for run in runs:
        make = partial(Viewer, run)
        loop = asyncio.get_running_loop()
        _, viewer = await loop.create_connection(make, address.hostname or "", address.port or 0)
        viewers.append(viewer)
    await until(partial(all_have, viewers, 1))
    await until(lambda: server.health("viewers") == already + len(runs))
    return viewers


async def share_of_a_core(server: Server, seconds: float) -> float:
    """The CPU seconds that the gateway takes in a second, over so many."""
    began, used = time.monotonic(), cpu_seconds(server.pid)
    await asyncio.sleep(seconds)
    return (cpu_seconds(server.pid) - used) / (time.monotonic() - began)


async def one_run(host: Sandbox, server: Server, count: int, seconds: float) -> list[tuple[str, str]]:
    """Many viewers of one run: first nothing happens there, then ten entries a second come."""
    run = host.seed(entries=[entry(TEXT)])
    viewers = await watch(server, [run])
    before, used = memory(server.pid, "VmRSS"), cpu_seconds(server.pid)
    viewers += await watch(server, [run] * count, already=1)
    opened = cpu_seconds(server.pid) - used
    taken = memory(server.pid, "VmRSS") - before
    quiet = await share_of_a_core(server, seconds)
    used, news = cpu_seconds(server.pid), int(seconds)
    for number in range(news):
        await asyncio.to_thread(host.append, run, f"{number} {TEXT}")
        await until(partial(all_have, viewers, 2 + number))
    delivering = cpu_seconds(server.pid) - used
    used = cpu_seconds(server.pid)
    await asyncio.to_thread(host.append, run, *[f"{number} {TEXT}" for number in range(100)])
    await until(partial(all_have, viewers, 1 + news + 100))
    batch = cpu_seconds(server.pid) - used
    for viewer in viewers:
        viewer.leave()
    await until(lambda: server.health("viewers") == 0)
    return [
        ("memory of an idle viewer", f"{taken / count / 1024:.1f} KiB"),
        ("CPU: opening a live log", f"{opened / count * 1000:.2f} ms"),
        ("CPU: an idle viewer, in a second", f"{quiet / count * 1e6:.0f} us"),
        ("CPU: an entry to a viewer, one at a time", f"{delivering / count / news * 1e6:.0f} us"),
        ("CPU: an entry to a viewer, a hundred at once", f"{batch / count / 100 * 1e6:.1f} us"),
    ]


async def many_runs(host: Sandbox, server: Server, count: int, seconds: float) -> list[tuple[str, str]]:
    """One viewer each of many runs in which nothing happens."""
    runs = [host.seed(entries=[entry(TEXT)]) for _ in range(count)]
    before = memory(server.pid, "VmRSS")
    viewers = await watch(server, runs)
    taken = memory(server.pid, "VmRSS") - before
    host.forget_requests()
    share = await share_of_a_core(server, seconds)
    reads = host.requests("logs")
    for viewer in viewers:
        viewer.leave()
    return [
        ("memory of a followed run, its one viewer included", f"{taken / count / 1024:.0f} KiB"),
        ("CPU: a read of the host, its share of the viewer included", f"{share * seconds / reads * 1000:.2f} ms"),
        ("reads of a run in a minute", f"{reads / count / seconds * 60:.1f}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--viewers", type=int, default=1000, help="of one run")
    parser.add_argument("--runs", type=int, default=400, help="with one viewer each")
    parser.add_argument("--seconds", type=float, default=30, help="how long each state is watched")
    given = parser.parse_args()
    lifted = {"streams_per_caller": 100_000, "streams_per_process": 100_000}
    rows = []
    # a run with news is read each 0.125 s; of many runs each as often as it is due
    for measured, count, budget in ((one_run, given.viewers, 600), (many_runs, given.runs, 1_000_000)):
        settings = {"log_level": "WARNING", "upstream_requests_per_minute": budget, **lifted}
        with sandbox() as host, gateway(host, **settings) as server:
            rows += uvloop.run(measured(host, server, count, given.seconds))
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
