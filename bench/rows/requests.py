"""Requests that are answered at once; the start before the first of them; and turns."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from time import perf_counter

import uvloop

from bench import peers, traffic, turns
from bench.machine import Meter, Server, p50, p99
from bench.report import Figure, Sample
from bench.work import CPU_EACH, LOAD, Case, Row, Scale

RATE = 200.0


def _gets(scale: Scale) -> list[Case]:
    return [
        Case(peer.name, partial(_closed, scale, peer, 1_000_000), missing=peer.missing)
        for peer in peers.request_peers(scale.gateway, scale.litellm)
    ]


def _coalesced(scale: Scale) -> list[Case]:
    return [Case(peer.name, partial(_closed, scale, peer, 1)) for peer in peers.request_peers(scale.gateway)[:2]]


def _closed(scale: Scale, peer: peers.Peer, runs: int) -> Sample:
    with peers.static_host() as host, peer.start(host) as server:
        meter, make = Meter(server, host), traffic.gets(server.port, peer.path, runs=runs)
        took = uvloop.run(
            traffic.closed_loop(
                server.port, make, meter, connections=scale.connections, warm=scale.warm, seconds=scale.seconds
            )
        )
    return {"rate": len(took) / meter.seconds, "cpu": meter.cpu / len(took), "load": meter.load}


def _added(scale: Scale) -> list[Case]:
    return [
        Case(peer.name, partial(_paced, scale, peer), missing=peer.missing)
        for peer in peers.request_peers(scale.gateway)
        if peer.name != "FastAPI + httpx"  # which cannot do so many
    ]


def _paced(scale: Scale, peer: peers.Peer) -> Sample:
    """What it adds to the time that the host itself takes, which is measured just before."""
    with peers.static_host() as host, peer.start(host) as server:
        meter = Meter(server, host)
        direct, through = (
            uvloop.run(
                traffic.paced(
                    port,
                    traffic.gets(port, path),
                    meter,
                    rate=RATE,
                    connections=scale.connections,
                    warm=scale.warm,
                    seconds=seconds,
                )
            )
            for port, path, seconds in (
                (host.port, "/v1/organizations/1/agent/run/", scale.seconds / 2),
                (server.port, peer.path, scale.seconds),
            )
        )
    return {
        "p50": p50(through) - p50(direct),
        "p99": p99(through) - p99(direct),
        "host": p50(direct),
        "load": meter.load,
    }


def _starts(scale: Scale) -> list[Case]:
    nowhere = Server(9, 0)
    return [
        Case("gateway, native alone", partial(_start, partial(scale.gateway, nowhere))),
        Case("gateway, all dialects", partial(_start, partial(scale.gateway, nowhere, dialects=peers.DIALECTS))),
        Case("bare FastAPI", partial(_start, partial(peers.python_peer, "nothing", nowhere))),
    ]


def _start(start: Callable[[], AbstractContextManager[Server]]) -> Sample:
    began = perf_counter()
    with start() as server:
        return {"seconds": perf_counter() - began, "cpu": server.cpu(), "memory": server.memory()}


def _turns(scale: Scale) -> list[Case]:
    return [Case("gateway", partial(_play, scale))]


def _play(scale: Scale) -> Sample:
    limits = {"upstream_requests_per_minute": 60_000}
    with peers.live_host() as host, scale.gateway(host, dialects="agent_protocol", **limits) as server:
        meter = Meter(server, host)
        played = uvloop.run(turns.play(server, meter, at_once=scale.turns, batches=scale.batches))
    return {
        "rate": len(played) / meter.seconds,
        "cpu": meter.cpu / len(played),
        "first": p50([first for first, _ in played]),
        "last": p50([last for _, last in played]),
        "load": meter.load,
    }


PER_SECOND = Figure("rate", "requests/s")
SECOND_PERCENTILES = (Figure("p50", "p50", "ms", 1e3), Figure("p99", "p99", "ms", 1e3))

ROWS = (
    Row("gets", "GET of many different runs, 32 connections", (PER_SECOND, CPU_EACH, LOAD), _gets),
    Row("coalesced", "GET of one run, 32 connections", (PER_SECOND, CPU_EACH, LOAD), _coalesced),
    Row(
        "added",
        f"At {RATE:.0f} requests/s: what is added to the host's own time",
        (*SECOND_PERCENTILES, Figure("host", "the host's own, p50", "ms", 1e3), LOAD),
        _added,
    ),
    Row(
        "start",
        "From process start to the first 200",
        (Figure("seconds", "time", "s"), Figure("cpu", "CPU", "s"), Figure("memory", "memory", "MiB", 2**-20)),
        _starts,
    ),
    Row(
        "turns",
        "50 turns at once through the Agent Protocol, SQLite",
        (
            Figure("rate", "turns/s"),
            Figure("cpu", "CPU each", "ms", 1e3),
            Figure("first", "first event after", "ms", 1e3),
            Figure("last", "last event after", "ms", 1e3),
            LOAD,
        ),
        _turns,
        "The host answers at once: three entries, and the run is complete.",
    ),
)
