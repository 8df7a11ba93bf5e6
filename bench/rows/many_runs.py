"""Many runs, each with one viewer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import uvloop

from bench import peers
from bench.host import RUN
from bench.machine import Meter, p50, p99
from bench.report import Figure, Sample
from bench.viewers import Audience, Followed
from bench.work import LOAD, SHARE, Case, Row, Scale

RUNS_A_TOKEN = 24
"""With the default limit (60 requests a minute, of which logs may have 48) each is read twice a minute."""

AT_ONCE = 250
"""So many viewers come at a time: one who has to wait for the host's limit waits beside the others."""

BRISK = {
    "upstream_requests_per_minute": 1_000_000,
    "upstream_read_interval_seconds": 1.25,
    "stream_max_age_seconds": 86_400,
}


@dataclass(frozen=True)
class Growth:
    """``active`` of the runs grow by an entry each ``every`` seconds; what comes while they settle is not counted."""

    active: int
    every: float
    settling: float
    seconds: float


def _followed(scale: Scale) -> list[Case]:
    return [
        Case("gateway", partial(_runs, scale, count, -(-count // RUNS_A_TOKEN), {}, growth), count)
        for count in scale.followed
        for growth in [Growth(max(1, count // 10), 10.0, scale.settling, scale.followed_seconds)]
    ]


def _active(scale: Scale) -> list[Case]:
    return [
        Case("gateway", partial(_runs, scale, count, peers.TOKENS, BRISK, growth), count)
        for count in scale.active
        for growth in [Growth(count, 2.0, scale.active_settling, scale.active_seconds)]
    ]


def _runs(scale: Scale, count: int, tokens: int, settings: Mapping[str, object], growth: Growth) -> Sample:
    async def measure(source: Followed, meter: Meter) -> Sample:
        async with Audience(source, stamps=True) as audience:
            await audience.open(range(RUN, RUN + count), AT_ONCE)
            entries = int((growth.settling + growth.seconds) / growth.every * growth.active)
            await source.publish(entries, growth.every / growth.active, runs=growth.active)
            await audience.pause(growth.settling)
            audience.forget()
            before = await source.reads()
            meter.start()
            await audience.pause(growth.seconds)
            meter.stop()
            reads = await source.reads() - before
            sample = {"reads": reads / meter.seconds, "share": meter.cpu / meter.seconds, "load": meter.load}
            if reads:
                sample["cpu"] = meter.cpu / reads
            if late := audience.since_appeared:
                sample |= {"p50": p50(late), "p99": p99(late)}
            return sample

    with peers.live_host() as host, scale.gateway(host, **settings) as server:
        return uvloop.run(measure(Followed(server, host, tokens), Meter(server, host)))


FIGURES = (
    Figure("reads", "reads/s"),
    Figure("cpu", "CPU a read", "us", 1e6),
    Figure("p50", "entries late, p50", "ms", 1e3),
    Figure("p99", "p99", "ms", 1e3),
    SHARE,
    LOAD,
)

ROWS = (
    Row(
        "followed",
        "Followed runs, each with two reads a minute",
        FIGURES,
        _followed,
        f"The default limit of the host, {RUNS_A_TOKEN} runs to a token. A tenth of the runs get an entry each 10 s,"
        " and are read more often than the others.",
        "runs",
        rounds=1,
    ),
    Row(
        "active",
        "Active runs: an entry each 2 s, read 1.25 s after news",
        FIGURES,
        _active,
        "Without a limit of the host.",
        "runs",
        "cpu",
        rounds=2,
    ),
)
