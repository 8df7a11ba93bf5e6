"""Prometheus metrics: how much happens and how long it takes, never for whom.

No label contains anything made up by a client or the host: only route templates, operation names and codes.

With several workers each writes to files, which any of them can add up. ``prometheus_client`` reads the variable that
names their directory when it is imported, so the variable must be set before this module is imported.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue, ValueClass
from starlette.responses import Response

from codegen_api.telemetry import METHODS, Exchange, Observer, logger

OTHER = "other"
"""Label for anything made up by a client."""

DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
EXAMPLE = """\
# HELP codegen_api_viewers Live logs that are open.
# TYPE codegen_api_viewers gauge
codegen_api_viewers 3.0
"""


class PrometheusObserver(Observer):
    """An observer that counts. ``directory`` is shared by all workers; None with one process.

    It has a registry of its own, apart from other users of the library in this process.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is not None and ValueClass is MutexValue:
            logger.warning("/metrics gives the numbers of single workers: prometheus_client was imported too early")
            directory = None
        registry = ProcessRegistry()
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        requests = counter(
            "codegen_api_requests",
            "Requests that were answered, streams when they ended.",
            ("route", "method", "status"),
        )
        durations = histogram(
            "codegen_api_request_duration_seconds",
            "From a request to the end of its answer.",
            ("route", "method"),
            buckets=DURATIONS,
        )
        exchanges = histogram(
            "codegen_api_upstream_request_duration_seconds",
            "Requests to the host: from asking to the answer.",
            ("operation", "outcome"),
            buckets=DURATIONS,
        )
        self._limited = counter(
            "codegen_api_upstream_rate_limited", "Requests that the host answered with 429.", ("operation",)
        )
        self._viewers = gauge("codegen_api_viewers", "Live logs that are open.")
        self._runs = gauge("codegen_api_runs_followed", "Runs that are read from the host, by each worker that does.")
        self._ages = histogram(
            "codegen_api_entry_age_seconds",
            "From when the host made a log entry to when a viewer who was waiting was given it.",
            buckets=(0.25, 0.5, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300),
        )
        self._unlogged = counter("codegen_api_log_lines_lost", "Log lines that were not written: nobody took them.")
        checks = counter("codegen_api_token_checks", "Checks of clients' credentials.", ("kind", "outcome"))
        self._left = histogram(
            "codegen_api_upstream_budget_left_ratio",
            "What a request to the host left of its limit for the credential.",
            buckets=(0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0),
        )
        self._shared = histogram(
            "codegen_api_viewers_per_read",
            "Viewers here for whom a part of a log was read from the host at once.",
            buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000),
        )
        self._endings = counter("codegen_api_streams_ended", "Streams that have ended, by how.", ("ending",))
        self._replays = histogram(
            "codegen_api_replayed_entries",
            "Entries from before a viewer came that they were given.",
            buckets=(0, 1, 5, 10, 50, 100, 500, 1000, 5000, 10000, 50000, 100000),
        )
        self._notices = counter("codegen_api_notices", "Events named notice that were sent to viewers.", ("code",))
        self._redis = gauge(
            "codegen_api_redis_processes",
            "Processes by the state in which Redis is for them; none where it is not configured.",
            ("state",),
        )
        self._lags = histogram(
            "codegen_api_relay_lag_seconds",
            "From when a process published something of a log in Redis to when another one received it.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self._takeovers = counter(
            "codegen_api_leases_taken_over", "Leases of runs taken over after their holder let them expire."
        )
        # children by their labels, cached: the library takes longer to look them up than to count
        self._requests, self._durations = cache(requests.labels), cache(durations.labels)
        self._exchanges, self._checks = cache(exchanges.labels), cache(checks.labels)
        self._exported = registry if directory is None else WorkersCollector(directory)
        self.serving(0, 0)  # a dead worker with the same pid may have left values

    def asked(self, exchange: Exchange) -> None:
        self._exchanges(exchange.operation, exchange.outcome).observe(exchange.seconds)
        if exchange.outcome == "upstream_rate_limited":
            self._limited.labels(exchange.operation).inc()

    def answered(self, route: str | None, method: str, status: int | None, seconds: float) -> None:
        route, method = route or OTHER, method if method in METHODS else OTHER
        self._requests(route, method, status or "none").inc()
        self._durations(route, method).observe(seconds)

    def serving(self, viewers: int, runs: int) -> None:
        self._viewers.set(viewers)
        self._runs.set(runs)

    def delivered(self, age: float, viewers: int = 1) -> None:
        # as `observe` once for each viewer
        self._ages._sum.inc(age * viewers)
        bucket = next(index for index, bound in enumerate(self._ages._upper_bounds) if age <= bound)
        self._ages._buckets[bucket].inc(viewers)

    def checked(self, kind: str, outcome: str) -> None:
        self._checks(kind, outcome).inc()

    def spent(self, left: float) -> None:
        self._left.observe(left)

    def read(self, viewers: int) -> None:
        self._shared.observe(viewers)

    def streamed(self, ending: str) -> None:
        self._endings.labels(ending).inc()

    def replayed(self, entries: int) -> None:
        self._replays.observe(entries)

    def noticed(self, code: str) -> None:
        self._notices.labels(code).inc()

    def connected(self, redis: bool) -> None:
        self._redis.labels("connected").set(redis)
        self._redis.labels("unavailable").set(not redis)

    def relayed(self, lag: float) -> None:
        self._lags.observe(lag)

    def taken_over(self) -> None:
        self._takeovers.inc()

    def unlogged(self) -> None:
        self._unlogged.inc()

    def render(self) -> bytes:
        """The metrics as text: with several workers their sum."""
        return generate_latest(self._exported)

    def install(self, app: FastAPI) -> None:
        @app.get(
            "/metrics",
            summary="Prometheus metrics",
            tags=["System"],
            response_class=Response,
            responses={200: {"description": "The numbers.", "content": {"text/plain": {"example": EXAMPLE}}}},
        )
        async def metrics() -> Response:
            """Counts and durations, in the text format of Prometheus. They say nothing of anybody."""
            return Response(self.render(), media_type=CONTENT_TYPE_LATEST)


class ProcessRegistry(CollectorRegistry):
    """The series of this process without the ``_created`` ones, which have no meaning in a sum."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class WorkersCollector(Collector):
    """The summed series of all workers that write to ``directory``.

    Counters of a dead worker are kept, its gauges are not.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = []
        for file in self._directory.glob("*.db"):
            kind, _, worker = file.stem.rpartition("_")
            if kind.startswith("gauge_live") and worker.isdecimal() and not _is_alive(int(worker)):
                file.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_size:  # a file just being created is empty, and cannot be parsed
                    files.append(str(file))
        summed: Iterable[Metric] = MultiProcessCollector.merge(files)
        return summed


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would terminate it
    try:
        os.kill(pid, 0)  # signal 0 only checks
    except ProcessLookupError:
        return False
    except PermissionError:  # the pid was reused by another user
        return False
    return True
