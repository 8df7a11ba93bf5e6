"""The numbers of the gateway in the form of Prometheus: how much happens and how long it takes, never for whom.

No label holds anything that a client or the host made up: they are templates of routes, names of operations, codes.

With several workers each writes into files that all can read, and any of them gives the sum. ``prometheus_client`` does
that when it finds a directory named in the environment at the moment it is imported, so whoever has workers imports
this module after having named one.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue, ValueClass
from starlette.responses import Response

from codegen_api.telemetry import Exchange, logger

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER = "other"
"""The label of whatever a client made up."""

AGES = (0.25, 0.5, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300)
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
EXAMPLE = """\
# HELP codegen_api_viewers Live logs that are open.
# TYPE codegen_api_viewers gauge
codegen_api_viewers 3.0
"""


class PrometheusObserver:
    """An observer that counts. ``directory`` is where all workers write, None where there is one process.

    What it counts is its own, whatever else in this process counts with the same library.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is not None and ValueClass is MutexValue:
            logger.warning("/metrics gives the numbers of single workers: prometheus_client was imported too early")
            directory = None
        registry = CollectorRegistry()
        self._requests = Counter(
            "codegen_api_requests",
            "Requests that were answered, streams when they ended.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._durations = Histogram(
            "codegen_api_request_duration_seconds",
            "From a request to the end of its answer.",
            ("route", "method"),
            registry=registry,
            buckets=DURATIONS,
        )
        self._upstream = Histogram(
            "codegen_api_upstream_request_duration_seconds",
            "Requests to the host: from asking to the answer.",
            ("operation", "outcome"),
            registry=registry,
            buckets=DURATIONS,
        )
        self._limited = Counter(
            "codegen_api_upstream_rate_limited",
            "Requests that the host answered with 429.",
            ("operation",),
            registry=registry,
        )
        self._viewers = Gauge(
            "codegen_api_viewers", "Live logs that are open.", registry=registry, multiprocess_mode="livesum"
        )
        self._runs = Gauge(
            "codegen_api_runs_followed",
            "Runs that are read from the host, by each worker that does.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._ages = Histogram(
            "codegen_api_entry_age_seconds",
            "From when the host made a log entry to when a viewer who was waiting was given it.",
            registry=registry,
            buckets=AGES,
        )
        self._unlogged = Counter(
            "codegen_api_log_lines_lost", "Log lines that were not written: nobody took them.", registry=registry
        )
        self._shown = CollectorRegistry()
        self._shown.register(Own(registry) if directory is None else Sum(directory))
        self.serving(0, 0)  # a worker before us may have had our number

    def asking(self, credential: str, operation: str) -> None:
        pass

    def asked(self, exchange: Exchange) -> None:
        self._upstream.labels(exchange.operation, exchange.outcome).observe(exchange.seconds)
        if exchange.outcome == "upstream_rate_limited":
            self._limited.labels(exchange.operation).inc()

    def answered(self, route: str | None, method: str, status: int | None, seconds: float) -> None:
        route, method = route or OTHER, method if method in METHODS else OTHER
        self._requests.labels(route, method, status or "none").inc()
        self._durations.labels(route, method).observe(seconds)

    def serving(self, viewers: int, runs: int) -> None:
        self._viewers.set(viewers)
        self._runs.set(runs)

    def delivered(self, age: float) -> None:
        self._ages.observe(age)

    def unlogged(self) -> None:
        self._unlogged.inc()

    def render(self) -> bytes:
        """Everything as text: with several workers the sum over all of them."""
        return generate_latest(self._shown)

    def install(self, app: FastAPI) -> None:
        """Serve it."""

        @app.get(
            "/metrics",
            summary="How much happens",
            tags=["System"],
            response_class=Response,
            responses={200: {"description": "The numbers.", "content": {"text/plain": {"example": EXAMPLE}}}},
        )
        async def metrics() -> Response:
            """Counts and durations, in the text format of Prometheus. They say nothing of anybody."""
            return Response(self.render(), media_type=CONTENT_TYPE_LATEST)


class Own(Collector):
    """The series of this process, without those that say when each began: a sum has no such thing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Sum(Collector):
    """The series of all workers that write into ``directory``, added up.

    What a worker counted stays when it dies; what it was doing does not.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = []
        for file in self._directory.glob("*.db"):
            kind, _, worker = file.stem.rpartition("_")
            if kind.startswith("gauge_live") and worker.isdecimal() and not _lives(int(worker)):
                file.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_size:  # a file that a worker is just making is empty, and would not be understood
                    files.append(str(file))
        summed: Iterable[Metric] = MultiProcessCollector.merge(files)
        return summed


def _lives(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # to ask would be to end it
    try:
        os.kill(pid, 0)  # this ends nobody: it only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # the number is somebody else's by now
        return False
    return True
