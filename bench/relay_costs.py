"""What Redis carries for an entry of 1 KiB: ``python -m bench.relay_costs`` prints a table.

Runs have a viewer at each of several gateways. Entries come one at a time, then a hundred at once. What Redis takes
anyway for runs in which nothing happens is measured before, and taken off.
"""

import argparse
import asyncio
import time
from contextlib import ExitStack
from functools import partial

import uvloop

from bench.machine import cpu_seconds
from bench.sizing import TEXT, all_have, until, watch
from bench.soak import SETTINGS
from tests.end_to_end.processes import Sandbox, Server, entry, gateway, sandbox
from tests.redis_servers import RedisServer, redis_server

NAMES = ("total_net_input_bytes", "total_net_output_bytes", "total_commands_processed", "used_memory")
RUNS, QUIET = 10, 10.0  # of which nothing happens for so many seconds
PHASES = (("an entry, one at a time", 19, 1), ("an entry, 80 at once", 1, 80), ("an entry, a hundred at once", 9, 100))


def spent(redis: RedisServer) -> list[float]:
    """The values of these names, seconds of CPU, and the time."""
    info = dict(line.split(":", 1) for line in redis.ask("INFO").decode().splitlines() if ":" in line)
    cpu = cpu_seconds(redis.process.pid) if redis.process is not None else 0.0
    return [*(float(info[name]) for name in NAMES), cpu, time.monotonic()]


async def costs(host: Sandbox, redis: RedisServer, servers: list[Server]) -> None:
    empty, have = spent(redis), 1
    runs = [host.seed(entries=[entry(TEXT)]) for _ in range(RUNS)]
    viewers = [viewer for server in servers for viewer in await watch(server, runs)]

    def row(what: str, before: list[float], by: float, quiet: list[float]) -> list[float]:
        now = spent(redis)
        gone = [a - b - each * (now[-1] - before[-1]) for a, b, each in zip(now, before, quiet, strict=True)]
        received, sent, commands, _, cpu, _ = (each / by for each in gone)
        figures = f"{received:.0f} | {sent:.0f} | {commands:.1f} | {cpu * 1e6:.0f} us | {1 / cpu:,.0f}"
        print(f"| {len(servers)} | {what} | {figures} | {(now[3] - empty[3]) / RUNS / 1024:.0f} KiB |", flush=True)
        return [each / (now[-1] - before[-1]) for each in gone]

    host.forget_requests()
    before = spent(redis)
    await asyncio.sleep(QUIET)
    what = f"a run without news, read {host.requests('logs') / RUNS / QUIET:.1f} times, in a second"
    quiet = row(what, before, RUNS * QUIET, [0.0] * len(before))
    for what, rounds, many in PHASES:
        before = spent(redis)
        for _ in range(rounds):
            for run in runs:
                await asyncio.to_thread(host.append, run, *[TEXT] * many)
            have += many
            await until(partial(all_have, viewers, have))
        row(what, before, rounds * many * RUNS, quiet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    print("| instances | | bytes in | bytes out | commands | CPU | in 1 s of CPU | memory of a run |")
    print("|---:|---|" + "---:|" * 6)
    for instances in given.instances:
        with ExitStack() as stack:
            redis, host = stack.enter_context(redis_server()), stack.enter_context(sandbox())
            settings = {**SETTINGS, "memory_mib": 128, "upstream_read_interval_seconds": 0.5, "redis_url": redis.url}
            servers = [stack.enter_context(gateway(host, **settings)) for _ in range(instances)]
            uvloop.run(costs(host, redis, servers))


if __name__ == "__main__":
    main()
