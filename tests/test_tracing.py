"""Spans as the SDK makes them of what the gateway says, and what of the standard variables is understood."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from codegen_api.build_parts import traces_wanted
from codegen_api.settings.environment import SettingsError
from codegen_api.telemetry import (
    Trace,
    begin_call,
    calling,
    detached_trace,
    end_call,
    record_turn,
    trace,
    tracing_headers,
)
from codegen_api.telemetry.tracing import OpenTelemetry
from tests.dialects.rich import RichHost
from tests.dialects.site import Connection, Site, serving
from tests.end_to_end.collector import Collector, attributes, collector
from tests.end_to_end.test_traces import SPAN, TRACE, TRACED


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "front", "OTEL_TRACES_SAMPLER": "always_on"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "None", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
    ],
)
def test_the_standard_variables_switch_it_on_and_off(environment: dict[str, str], wanted: bool) -> None:
    assert traces_wanted(environment) is wanted


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "hunter2"}, "OTEL_TRACES_EXPORTER: there is no exporter for this"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}, "OTEL_EXPORTER_OTLP_PROTOCOL: there is no exporter"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: there is no exp"),
        (
            {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": "hunter2"},
            r"the exporter otlp_proto_http cannot be made \(RuntimeError\)",
        ),
    ],
)
async def test_a_variable_that_cannot_be_used_is_named_at_the_start(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named) as refused:
        async with serving(RichHost()):
            pass
    assert "hunter2" not in str(refused.value)


@asynccontextmanager
async def traced(monkeypatch: pytest.MonkeyPatch, **settings: object) -> AsyncIterator[tuple[Site, Collector]]:
    """A gateway whose spans are there as soon as it has ended."""
    with collector() as found:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        async with serving(RichHost(), **settings) as site:
            yield site, found


async def test_spans_say_what_kind_of_thing_happened_and_how_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(monkeypatch) as (site, found):
        site.host.add("1").append(2)
        viewer = Connection(site.app, "/agent-runs/1/logs/stream", TRACED | {"Authorization": "Bearer alice"})
        await viewer.received(3)
        viewer.leave()
        await viewer.task
        await site.get("/agent-runs/404", headers={"traceparent": "no trace", "tracestate": "a=b"})
        await site.ask("BREW", "/hunter2")
    (stream,) = found.named("GET /agent-runs/{id}/logs/stream")
    assert (stream.trace_id.hex(), stream.parent_span_id.hex()) == (TRACE, SPAN)
    assert attributes(stream)["codegen_api.stream.ending"] == "client_left"
    reads = found.named("read_log")
    assert {link.span_id for link in stream.links} <= {read.span_id for read in reads}
    assert stream.links
    assert not any(read.parent_span_id for read in reads)
    (missing,) = found.named("GET /agent-runs/{id}")
    assert missing.trace_id.hex() != TRACE
    assert (missing.trace_state, missing.parent_span_id) == ("", b"")
    (brewed,) = found.named("HTTP")
    assert attributes(brewed)["http.request.method"] == "_OTHER"
    assert all(b"hunter2" not in body for body in found.bodies)
    assert found.services() == {"codegen-gateway"}


async def test_an_error_is_named_by_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        tracer = OpenTelemetry({})
        token = trace.set(Trace("abc", (("baggage", "a=b"),), tracer=tracer, span=tracer.request("GET", {})))
        begun = begin_call("get_run")
        call = calling.get()
        assert call is not None
        assert tracing_headers() == [("X-Request-ID", "abc"), *call.headers(), ("baggage", "a=b")]
        end_call(begun, "get_run", "upstream_error")
        begun = begin_call("list_runs")
        end_call(begun, "list_runs", "cancelled")
        origin = tracer.request("POST", {})
        record_turn(time.time() - 5, "failed", 0, origin, failed=True)
        assert detached_trace("follower").tracer is tracer
        trace.reset(token)
        await tracer.aclose()
        (failed,) = found.named("get_run")
        (cancelled,) = found.named("list_runs")
        (turn,) = found.named("turn")
    assert (attributes(failed)["error.type"], failed.status.code) == ("upstream_error", 2)
    assert ("error.type" in attributes(cancelled), cancelled.status.code) == (False, 0)
    assert turn.trace_id.hex() == origin.trace_id
    assert len(turn.links) == 1  # the request that saw the end
    assert turn.end_time_unix_nano - turn.start_time_unix_nano >= 5_000_000_000


async def test_without_a_request_there_are_no_spans_and_no_headers() -> None:
    assert tracing_headers() == []
    begun = begin_call("get_run")
    assert begun is None
    end_call(begun, "get_run", "ok")
    record_turn(0, "completed", 1, None, failed=False)
    assert detached_trace("follower").request_id.startswith("follower-")
    await asyncio.sleep(0)
