"""Traces by OpenTelemetry: spans of requests, of requests to the host, and of turns, sent by a thread of its own.

It is an extra, imported only where the standard ``OTEL_*`` variables switch it on; nothing else configures it. Spans
say which kind of work was done and how it ended, never what users wrote or who they are. A slow collector delays
nobody: spans that do not fit into the queue are dropped.
"""

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, entry_points, version

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Span as AnySpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from codegen_api.telemetry import METHODS, Span, logger

FLUSH_SECONDS = 3.0
"""Seconds that the end of the process waits for a slow collector."""

LONGEST_CAUSE = 300
"""Maximum characters of the logged reason why spans are lost."""

EXPORTERS = "opentelemetry_traces_exporter"
"""The group of entry points by which exporters are found."""
PROTOCOLS = {"": "otlp_proto_http", "http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

_W3C = TraceContextTextMapPropagator()


class OpenTelemetrySpan:
    """A span of the SDK. After its end only its ids are kept."""

    def __init__(self, span: AnySpan) -> None:
        self.span = span
        self._linked: object = None

    @property
    def trace_id(self) -> str:
        return f"{self.span.get_span_context().trace_id:032x}"

    def headers(self) -> tuple[tuple[str, str], ...]:
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(self.span, Context()))
        return tuple(carrier.items())

    def link(self, other: Span) -> None:
        if isinstance(other, OpenTelemetrySpan) and other is not self._linked:
            self._linked = other
            self.span.add_link(other.span.get_span_context())  # the SDK keeps the last 128

    def end(self, attributes: Mapping[str, str | int], *, name: str | None = None, error: str | None = None) -> None:
        self.span.set_attributes(attributes)
        if name is not None:
            self.span.update_name(name)
        if error is not None:
            self.span.set_attribute("error.type", error)
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()
        self.span = NonRecordingSpan(self.span.get_span_context())


class OpenTelemetry:
    """A ``Tracer`` configured by ``environment``, which must be that of the process, as the SDK reads it, too.

    Raises:
        ValueError: a variable cannot be used.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        names = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
        for name in filter(None, map(str.strip, names.split(","))):
            exporter = ReportingExporter(_exporter(name, environment))
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("codegen_api", _version())

    def request(self, method: str, headers: Mapping[str, str]) -> Span:
        attributes = {"http.request.method": method if method in METHODS else "_OTHER"}
        span = self._tracer.start_span(method, _W3C.extract(headers, Context()), SpanKind.SERVER, attributes)
        return OpenTelemetrySpan(span)

    def call(self, operation: str, parent: Span | None) -> Span:
        attributes = {"codegen_api.operation": operation}
        return OpenTelemetrySpan(self._tracer.start_span(operation, _in(parent), SpanKind.CLIENT, attributes))

    def turn(self, began: float, parent: Span | None) -> Span:
        return OpenTelemetrySpan(
            self._tracer.start_span("turn", _in(parent), SpanKind.INTERNAL, start_time=int(began * 1e9))
        )

    async def aclose(self) -> None:
        """Send the last spans, for ``FLUSH_SECONDS`` at most."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        # not in the loop's executor: Python would wait for its threads at exit
        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()
        except TimeoutError:
            logger.warning("the last spans are lost: the collector did not take them within %g s", FLUSH_SECONDS)


class ReportingExporter(SpanExporter):
    """Wraps an exporter, and logs once when it begins to fail, and once when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False
        self._complaints = _Complaints()
        logging.getLogger("opentelemetry").addHandler(self._complaints)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            logger.warning("spans are lost, their collector does not take them: %s", self._complaints.last)
        elif self._failing and not failing:
            logger.info("the collector takes spans again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        logging.getLogger("opentelemetry").removeHandler(self._complaints)


class _Complaints(logging.Handler):
    """Remembers the last warning of the SDK. Exceptions in it are shown by type: their texts may quote a header."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = "it does not say why"

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args if isinstance(record.args, tuple) else ()
        text = str(record.msg)
        with suppress(TypeError):  # a type's name where the text expects a number
            text %= tuple(type(each).__qualname__ if isinstance(each, BaseException) else each for each in args)
        self.last = " ".join(text.split())[:LONGEST_CAUSE]


def _resource() -> Resource:
    """This service as the variables describe it, with its name and version where they do not."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "codegen-gateway"}))
    known = SERVICE_VERSION in resource.attributes
    return resource if known else resource.merge(Resource({SERVICE_VERSION: _version()}))


def _exporter(name: str, environment: Mapping[str, str]) -> SpanExporter:
    variable, wanted = "OTEL_TRACES_EXPORTER", name
    if name == "otlp":
        of_traces = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
        variable = of_traces if environment.get(of_traces, "").strip() else "OTEL_EXPORTER_OTLP_PROTOCOL"
        wanted = PROTOCOLS.get(environment.get(variable, "").strip().lower(), "")
    found = next(iter(entry_points(group=EXPORTERS, name=wanted)), None)
    if found is None:
        known = ", ".join(sorted(entry_points(group=EXPORTERS).names))
        raise ValueError(f"{variable}: there is no exporter for this; there are {known}")
    try:
        exporter: SpanExporter = found.load()()
    except Exception as error:  # plug-in boundary: it may raise anything for the variables that it reads
        # not its text, which may quote a header
        raise ValueError(f"{variable}: the exporter {wanted} cannot be made ({type(error).__qualname__})") from error
    return exporter


def _in(parent: Span | None) -> Context:
    """A context with this parent only, and without a span that an application may have made current."""
    return set_span_in_context(parent.span, Context()) if isinstance(parent, OpenTelemetrySpan) else Context()


def _version() -> str:
    try:
        return version("codegen-gateway")
    except PackageNotFoundError:
        return "0"
