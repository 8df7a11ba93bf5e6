"""Many viewers of one run, some of whom never read: what they cost the gateway, and each other.

``python -m bench.viewers`` starts a stand-in for the host, a gateway and viewers, each in a process of its own and over
real sockets; once without the stuck viewers, once with them. It prints a table.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.readers import Outcome, Plan, view
from codegen_api.runs import ENTRY_OVERHEAD
from tests.end_to_end import processes

MIB = 1024 * 1024


@dataclass(frozen=True)
class Result:
    """What one round cost. Memory is in bytes, time in seconds."""

    plan: Plan
    outcome: Outcome
    idle: int
    peak: int
    cpu: float
    requests: dict[str, int]
    slowest_health: float


def main(argv: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(argv)
    results = []
    for stuck in (0, given.stuck):
        print(f"{given.viewers - given.stuck} readers, {stuck} stuck ...", file=sys.stderr, flush=True)
        results.append(_round(given, stuck))
    _report(given, *results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--viewers", type=int, default=1000, help="how many there are, the stuck ones included")
    parser.add_argument("--stuck", type=int, default=100, help="how many of them never read")
    parser.add_argument("--entries", type=int, default=5_000, help="how long the log is when they come")
    parser.add_argument("--size", type=int, default=1024, help="bytes of an entry at the host")
    parser.add_argument("--live", type=int, default=100, help="entries that come afterwards, ten a second")
    parser.add_argument("--checked", type=int, default=20, help="how many readers parse and check everything")
    parser.add_argument("--tokens", type=int, default=10, help="how many different tokens they bring")
    parser.add_argument("--memory-mib", type=int, default=128, help="CODEGEN_MEMORY_MIB")
    parser.add_argument("--no-totals", action="store_true", help="the host does not say how long a log is")
    return parser


def _round(given: argparse.Namespace, stuck: int) -> Result:
    spawn = multiprocessing.get_context("spawn")
    with (
        _host(given.entries, given.size, totals=not given.no_totals) as url,
        processes.gateway(
            None,
            base_url=url,
            org_id=1,
            memory_mib=given.memory_mib,
            # the host's budget is lifted, so the run is read each 1.25 ms after news; and no stream ends by its age
            upstream_requests_per_minute=60_000,
            stream_max_age_seconds=86_400,
            streams_per_caller=given.viewers,
            log_level="WARNING",
        ) as gateway,
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
        httpx.Client(timeout=60, trust_env=False) as client,
    ):
        readers = given.viewers - given.stuck
        plan = Plan(
            gateway=gateway.url,
            host=url,
            readers=readers,
            stuck=stuck,
            checked=min(given.checked, readers),
            tokens=given.tokens,
            entries=given.entries,
            size=given.size,
            live=given.live,
        )
        client.get(f"{gateway.url}/health")
        idle, cpu = memory(gateway.pid, "VmRSS"), _cpu(gateway.pid)
        future = pool.submit(view, plan)
        slowest_health = _slowest_health(client, gateway.url, future)
        return Result(
            plan=plan,
            outcome=future.result(),
            idle=idle,
            peak=memory(gateway.pid, "VmHWM"),
            cpu=_cpu(gateway.pid) - cpu,
            requests=client.get(f"{url}/bench/requests").json(),
            slowest_health=slowest_health,
        )


@contextmanager
def _host(entries: int, size: int, *, totals: bool) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.host", "--entries", str(entries), "--size", str(size)]
    with subprocess.Popen(
        command if totals else [*command, "--no-totals"],
        stdout=subprocess.PIPE,
        bufsize=0,
        cwd=processes.ROOT,
        env=processes.environment(),
    ) as process:
        try:
            yield processes.line(process).strip()
        finally:
            process.kill()


def _slowest_health(client: httpx.Client, url: str, future: "Future[Outcome]") -> float:
    """The slowest answer to a bystander until everybody is done."""
    slowest = 0.0
    while not future.done():
        asked = time.monotonic()
        client.get(f"{url}/health")
        slowest = max(slowest, time.monotonic() - asked)
        time.sleep(0.2)
    return slowest


def memory(pid: int, name: str) -> int:
    """``VmRSS``, what it takes now, or ``VmHWM``, the most that it ever took."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _report(given: argparse.Namespace, *results: Result) -> None:
    rows: list[tuple[str, list[str]]] = [
        ("readers + stuck", [f"{result.plan.readers} + {result.plan.stuck}" for result in results]),
        ("entries", [f"{given.entries:,} of {given.size:,} bytes" for _ in results]),
        ("seconds of a reader: median", [f"{statistics.median(result.outcome.needed):.1f}" for result in results]),
        ("p99", [f"{p99(result.outcome.needed):.1f}" for result in results]),
        ("max", [f"{max(result.outcome.needed):.1f}" for result in results]),
        ("entries delivered a second", [f"{_rate(result):,.0f}" for result in results]),
        ("MiB delivered a second", [f"{_throughput(result):,.0f}" for result in results]),
        ("requests to the host", [_counted(result.requests) for result in results]),
        ("live entry, host to viewer: median", [_ms(result, statistics.median) for result in results]),
        ("p99 ", [_ms(result, p99) for result in results]),
        ("slowest answer of /health", [f"{result.slowest_health * 1000:.0f} ms" for result in results]),
        ("CPU seconds of the gateway", [f"{result.cpu:.0f}" for result in results]),
        ("CPU seconds of the viewers", [f"{result.outcome.cpu:.0f}" for result in results]),
        ("memory of the gateway: idle", [f"{result.idle / MIB:.0f} MiB" for result in results]),
        ("peak", [f"{result.peak / MIB:.0f} MiB" for result in results]),
        (f"the log, {given.memory_mib} MiB at most", [f"{_log_bytes(given) / MIB:.0f} MiB" for _ in results]),
        ("peak - idle - log, per viewer", [f"{_per_viewer(given, result) / 1024:.0f} KiB" for result in results]),
        ("last stuck viewer cut after", [_seconds(result.outcome.cut) for result in results]),
    ]
    print("| |" + " |" * len(results))
    print("|---|" + "---|" * len(results))
    for name, values in rows:
        print(f"| {name.strip()} | {' | '.join(values)} |")
    without, with_stuck = (statistics.median(result.outcome.needed) for result in results)
    print(f"\nWith the stuck viewers the median reader needed {with_stuck / without:.2f} times as long as without.")


def _log_bytes(given: argparse.Namespace) -> int:
    """What the gateway may hold of the log."""
    return min(int(given.memory_mib) * MIB, int(given.entries) * (int(given.size) + ENTRY_OVERHEAD))


def _per_viewer(given: argparse.Namespace, result: Result) -> float:
    return (result.peak - result.idle - _log_bytes(given)) / (result.plan.readers + result.plan.stuck)


def _rate(result: Result) -> float:
    return result.plan.readers * result.plan.entries / result.outcome.together


def _throughput(result: Result) -> float:
    return result.outcome.received_bytes / MIB / result.outcome.together


def _counted(requests: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(requests.items()))


def _ms(result: Result, summary: Callable[[list[float]], float]) -> str:
    return f"{summary(result.outcome.latencies) * 1000:.0f} ms" if result.outcome.latencies else "-"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


if __name__ == "__main__":
    main()
