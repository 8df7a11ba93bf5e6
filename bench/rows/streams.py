"""Many viewers of one run."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvloop

from bench import peers
from bench.host import RUN
from bench.machine import Meter, Server, p50, p99
from bench.report import Figure, Sample
from bench.viewers import Audience, Channels, Followed, Source
from bench.work import CPU_EACH, LOAD, SHARE, Case, Row, Scale

EVERY = 1 / 20
"""Seconds between two entries of a live log."""

UNLIMITED = {"upstream_requests_per_minute": 60_000, "stream_max_age_seconds": 86_400}
"""The host's limit is not what is measured: a run with news is read each 100 ms."""

Measure = Callable[[Source, Meter], Awaitable[Sample]]


@contextmanager
def _source(scale: Scale, who: str, *arguments: str) -> Iterator[tuple[Source, Meter]]:
    if who == "gateway":
        with peers.live_host(*arguments) as host, scale.gateway(host, **UNLIMITED) as server:
            yield Followed(server, host), Meter(server, host)
        return
    with peers.nchan() if who == "nchan" else peers.python_peer("queues", Server(9, 0)) as server:
        yield Channels(server), Meter(server)


def _cases(scale: Scale, measure: Callable[[int], Measure], count: int) -> list[Case]:
    """The same for all that can do it, with so many viewers."""

    def run(who: str) -> Sample:
        async def running(source: Source, meter: Meter) -> Sample:
            return await measure(count)(source, meter)

        with _source(scale, who) as (source, meter):
            return uvloop.run(running(source, meter))

    sources = {
        "gateway": None,
        "nchan": peers.missing_nchan(),
        "sse-starlette + queues": peers.missing_queues(),
    }
    return [Case(who, partial(run, who), count, missing) for who, missing in sources.items()]


def _viewers(scale: Scale) -> list[Case]:
    def live(count: int) -> Measure:
        async def measure(source: Source, meter: Meter) -> Sample:
            entries = int(scale.seconds / EVERY)
            async with Audience(source, stamps=True) as audience:
                await audience.open([RUN] * count)
                await audience.warm()
                meter.start()
                await source.publish(entries, EVERY)
                await audience.until(lambda: audience.delivered >= entries * count)
                meter.stop()
                late = audience.since_read
                return {"p50": p50(late), "p99": p99(late), "cpu": meter.cpu / audience.delivered, "load": meter.load}

        return measure

    return [case for count in scale.viewers for case in _cases(scale, live, count)]


def _bursts(scale: Scale) -> list[Case]:
    viewers, entries = scale.burst

    def burst(count: int) -> Measure:
        async def measure(source: Source, meter: Meter) -> Sample:
            async with Audience(source, stamps=False) as audience:
                await audience.open([RUN] * count)
                await audience.warm()
                meter.start()
                await source.publish(entries, 0)
                await audience.until(lambda: audience.delivered >= entries * count)
                meter.stop()
                return {
                    "rate": audience.delivered / meter.seconds,
                    "cpu": meter.cpu / audience.delivered,
                    "load": meter.load,
                }

        return measure

    return _cases(scale, burst, viewers)


def _idles(scale: Scale) -> list[Case]:
    viewers, seconds = scale.idle

    def idle(count: int) -> Measure:
        async def measure(source: Source, meter: Meter) -> Sample:
            first = count // 10
            others = count - first
            async with Audience(source, stamps=False) as audience:
                await audience.open([RUN] * first)  # what the first ones need is not what each one needs
                before = source.server.memory()
                meter.start()
                await audience.open([RUN] * others)
                meter.stop()
                opened = meter.cpu / others
                meter.start()
                await audience.pause(seconds)
                meter.stop()
                memory = source.server.memory() - before
                return {"memory": memory / others, "share": meter.cpu / meter.seconds, "cpu": opened}

        return measure

    return _cases(scale, idle, viewers)


def _backlogs(scale: Scale) -> list[Case]:
    count, stuck = scale.backlog_viewers, scale.stuck

    def backlog(length: int, stuck: int = 0) -> Sample:
        async def measure(source: Source, meter: Meter) -> Sample:
            async with Audience(source, stamps=False) as audience:
                before = source.server.memory()
                meter.start()
                await audience.stick(stuck)
                await audience.open([RUN] * count)
                await audience.until(lambda: audience.delivered >= count * length)
                meter.stop()
                return {
                    "rate": audience.delivered / meter.seconds,
                    "cpu": meter.cpu / audience.delivered,
                    "memory": source.server.peak() - before,
                    "load": meter.load,
                }

        with _source(scale, "gateway", "--backlog", str(length), "--size", "1024") as (source, meter):
            return uvloop.run(measure(source, meter))

    longest = max(scale.backlogs)
    return [
        *(Case("gateway", partial(backlog, length), length) for length in scale.backlogs),
        Case(f"gateway, and {stuck} who never read", partial(backlog, longest, stuck), longest),
    ]


ROWS = (
    Row(
        "viewers",
        "Viewers of one run, 20 entries/s",
        (Figure("p50", "page to socket, p50", "ms", 1e3), Figure("p99", "p99", "ms", 1e3), CPU_EACH, LOAD),
        _viewers,
        "From when the host gave the page with the entry (for the others: from its POST) to the viewer.",
        "viewers",
        "cpu",
    ),
    Row(
        "burst",
        "200 entries at once",
        (Figure("rate", "deliveries/s"), CPU_EACH, LOAD),
        _bursts,
        "From when the first one appears to the last delivery.",
        "viewers",
    ),
    Row(
        "idle",
        "Idle viewers",
        (Figure("memory", "memory each", "KiB", 1 / 1024), SHARE, Figure("cpu", "CPU to open one", "ms", 1e3)),
        _idles,
        "With a heartbeat each 15 s.",
        "viewers",
        rounds=2,
    ),
    Row(
        "backlog",
        "50 viewers who open a long log",
        (Figure("rate", "deliveries/s"), CPU_EACH, Figure("memory", "memory at the peak", "MiB", 2**-20), LOAD),
        _backlogs,
        "Entries of 1 KiB; `CODEGEN_MEMORY_MIB` has its default.",
        "entries",
        "cpu",
        rounds=2,
    ),
)
