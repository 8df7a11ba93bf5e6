"""Traces: what a collector is sent, what the host is told, and what neither ever is. Over real processes."""

import json
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.commands import completed
from tests.end_to_end import processes
from tests.end_to_end.collector import Collector, attributes, collector
from tests.end_to_end.conftest import BRISK
from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, eventually

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = {
    **ALICE,
    "traceparent": f"00-{TRACE}-{SPAN}-01",
    "tracestate": "vendor=1",
    "baggage": "plan=gold;kind=a%20b, user=x",
    "X-Request-ID": "asked-once",
}
CLIENT, SERVER, INTERNAL = 3, 2, 1
"""Kinds of spans."""


@contextmanager
def traced(
    host: Sandbox, monkeypatch: pytest.MonkeyPatch, *, variables: dict[str, str] | None = None, **settings: object
) -> Iterator[tuple[Server, Collector]]:
    """A gateway, and a collector to which it sends spans."""
    with collector() as found:
        named = {"OTEL_EXPORTER_OTLP_ENDPOINT": found.url, "OTEL_BSP_SCHEDULE_DELAY": "50", **(variables or {})}
        for name, value in named.items():
            monkeypatch.setenv(name, value)
        with processes.gateway(host, **BRISK, **settings) as server:
            yield server, found


def calls(host: Sandbox) -> list[dict[str, str]]:
    """The headers of the last requests that the host has seen, which of them there are."""
    return [request["headers"] for request in host.admin("GET", "requests")["recent"]]


def hexed(value: bytes) -> str:
    return value.hex()


@pytest.mark.wire("trace-travels")
def test_one_trace_leads_from_the_client_s_request_to_the_call_to_the_host(
    host: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = host.seed(entries=[processes.entry("A step that nobody else may see.")])
    with traced(host, monkeypatch, variables={"OTEL_SERVICE_NAME": "front"}) as (server, found):
        assert server.get(f"/agent-runs/{run}", TRACED).status_code == 200
        (request,) = found.named("GET /agent-runs/{id}")
        (call,) = found.named("get_run")
        asked = [each for each in calls(host) if each.get("x-request-id") == "asked-once"]
        assert found.services() == {"front"}
    assert (hexed(request.trace_id), hexed(request.parent_span_id), request.kind) == (TRACE, SPAN, SERVER)
    assert request.trace_state == "vendor=1"
    assert attributes(request) == {
        "http.request.method": "GET",
        "http.route": "/agent-runs/{id}",
        "http.response.status_code": 200,
        "codegen_api.request_id": "asked-once",
    }
    assert (hexed(call.trace_id), call.parent_span_id, call.kind) == (TRACE, request.span_id, CLIENT)
    assert attributes(call) == {"codegen_api.operation": "get_run", "codegen_api.outcome": "ok"}
    assert f"00-{TRACE}-{hexed(call.span_id)}-01" in [each["traceparent"] for each in asked]
    assert {(each["tracestate"], each["baggage"]) for each in asked} == {("vendor=1", TRACED["baggage"])}
    assert {each["traceparent"].split("-")[1] for each in asked} == {TRACE}  # whose token it is, too


def test_a_viewer_s_stream_is_linked_to_the_reads_of_the_log_that_fed_it(
    host: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = host.seed(entries=[processes.entry("The first of several steps.")], status="ACTIVE")
    with traced(host, monkeypatch) as (server, found):
        with server.client.stream("GET", f"{server.url}/agent-runs/{run}/logs/stream", headers=TRACED) as answer:
            lines = answer.iter_lines()
            next(text for text in lines if text.startswith("event: log"))
            host.append(run, "The second of several steps.")
            next(text for text in lines if text.startswith("event: log"))
            host.patch(run, status="COMPLETE")
            next(text for text in lines if text.startswith("event: end"))
        (stream,) = found.named("GET /agent-runs/{id}/logs/stream")
        reads = {(span.trace_id, span.span_id) for span in found.named("read_log", number=3)}
    assert hexed(stream.trace_id) == TRACE
    assert attributes(stream)["codegen_api.stream.ending"] == "end"
    assert attributes(stream)["codegen_api.stream.entries"] == 2
    linked = [(link.trace_id, link.span_id) for link in stream.links]
    assert 2 <= len(set(linked)) == len(linked) <= 128  # as many as the SDK keeps
    assert set(linked) <= reads
    assert TRACE not in {hexed(trace_id) for trace_id, _ in reads}  # they are for all viewers


def test_a_turn_of_a_conversation_is_a_span_in_the_trace_of_the_request_that_began_it(
    swift: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": "Boil one egg for the tracing test"}]},
        "metadata": {"scenario": "quick"},
    }
    with traced(swift, monkeypatch, dialects="native,agent_protocol") as (server, found):
        thread = server.request("POST", "/threads", json={}).json()["thread_id"]
        assert server.request("POST", f"/threads/{thread}/runs/wait", json=body, headers=TRACED).status_code == 200
        (turn,) = found.named("turn")
        (request,) = found.named("POST /threads/{thread_id}/runs/wait")
        (order,) = found.named("create_run")
        failing = {**body, "metadata": {"scenario": "quota"}}
        assert server.request("POST", "/runs/wait", json=failing).status_code == 402
        (failed,) = [span for span in found.named("turn", number=2) if span.span_id != turn.span_id]
    assert (hexed(turn.trace_id), turn.parent_span_id, turn.kind) == (TRACE, request.span_id, INTERNAL)
    assert attributes(turn)["codegen_api.turn.state"] == "completed"
    assert attributes(turn)["codegen_api.turn.entries"] > 1  # type: ignore[operator]
    assert turn.start_time_unix_nano < order.end_time_unix_nano < turn.end_time_unix_nano
    assert attributes(failed)["error.type"] == "failed"


def test_nothing_that_is_exported_says_what_anybody_wrote_or_who_they_are(
    host: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, text, key = "Keep this prompt to yourself", "What an agent thought in secret", "k" * 40
    with traced(host, monkeypatch, dialects="native,agent_protocol", secret_key=key) as (server, found):
        run = host.seed(entries=[processes.entry(text)], status="COMPLETE", result=f"{text}, as a result")
        ticket = server.request("POST", f"/agent-runs/{run}/logs/stream-ticket").json()["url"]
        assert text in server.client.get(server.url + ticket).text
        assert server.request("POST", "/agent-runs", json={"prompt": prompt}).status_code == 201
        server.get(f"/agent-runs/{run}?hunter2=a-query&access_token=sk-hunter2")
        server.get("/hunter2-as-a-path", {"Authorization": "Bearer sk-hunter2", "Cookie": "hunter2"})
        messages = {"messages": [{"role": "user", "content": prompt}]}
        server.request("POST", "/runs/wait", json={"assistant_id": "agent", "input": messages})
        found.named("POST /runs/wait")
        found.named("GET", number=2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
        everything = b"\n".join(found.bodies)
    secrets = [prompt, text, key, "hunter2", "sandbox-alice", "a-query", ticket.partition("=")[2], "gold"]
    assert [secret for secret in secrets if secret.encode() in everything] == []
    assert b"codegen-gateway" in everything  # it is what was looked through


def test_what_is_not_sampled_is_not_sent_and_says_so_to_the_host(
    host: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced(host, monkeypatch, variables={"OTEL_TRACES_SAMPLER": "always_off"}) as (server, found):
        assert server.get("/users/me", {**TRACED, "X-Request-ID": "unsampled"}).status_code == 200
        asked, *_ = [each for each in calls(host) if each.get("x-request-id") == "unsampled"]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
        assert found.bodies == []
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", asked["traceparent"])


@pytest.mark.parametrize("variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_what_is_switched_off_passes_the_client_s_headers_on_as_they_are(
    host: Sandbox, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = "-".join(variables)
    with traced(host, monkeypatch, variables=variables) as (server, found):
        assert server.get("/users/me", {**TRACED, "X-Request-ID": request_id}).status_code == 200
        asked, *_ = [each for each in calls(host) if each.get("x-request-id") == request_id]
        assert found.bodies == []
    assert {name: asked[name] for name in ("traceparent", "tracestate", "baggage")} == {
        name: TRACED[name] for name in ("traceparent", "tracestate", "baggage")
    }


def test_the_last_spans_are_sent_at_the_end(host: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(host, monkeypatch, variables={"OTEL_BSP_SCHEDULE_DELAY": "3600000"}) as (server, found):
        server.get("/users/me")
        assert found.bodies == []
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
        assert {"GET /users/me", "identify"} <= {span.name for span in found.spans()}


def test_a_collector_that_hangs_delays_nobody_and_is_told_once(host: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it is let in, and never answered
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{url}/?key=hunter2")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
        with processes.gateway(host, drain_seconds=0.1) as server:
            server.get("/users/me")
            eventually(lambda: "spans are lost" in server.log.read_text())
            began = time.monotonic()
            for _ in range(100):
                assert server.get("/livez", {}).status_code == 200
            assert time.monotonic() - began < WAIT / 3  # and not a second for each
            server.get("/users/me")
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(WAIT) == 0
            assert time.monotonic() - began < 15
            log = server.log.read_text()
    assert log.count("spans are lost, their collector does not take them: ") == 1
    assert "hunter2" not in log


def test_a_collector_that_is_back_is_told_too(host: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as found:
        found.status = 400
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{found.url}/v1/traces")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with processes.gateway(host) as server:
            for _ in range(3):
                server.get("/users/me")
            eventually(lambda: "spans are lost" in server.log.read_text())
            found.status = 200
            server.get("/users/me")
            eventually(lambda: "the collector takes spans again" in server.log.read_text())
            assert server.log.read_text().count("spans are lost") == 1


PROGRAM = """
import sys, json
if {blocked}:
    sys.modules["opentelemetry.sdk"] = sys.modules["opentelemetry.sdk.resources"] = None
from codegen_api import create_app
create_app()
print(json.dumps([name for name, module in sys.modules.items() if module is not None]))
"""


def imported(*, blocked: bool = False, **variables: str) -> tuple[set[str], str]:
    """The modules that a process has when it has built the application, and what it logged."""
    done = completed(
        [sys.executable, "-c", PROGRAM.format(blocked=blocked)],
        env={**processes.environment(), **variables},
        timeout=WAIT,
        check=True,
    )
    return set(json.loads(done.stdout)), done.stderr


def test_nothing_of_it_is_imported_unless_it_is_switched_on() -> None:
    modules, _ = imported(OTEL_SERVICE_NAME="front")
    assert {"codegen_api.telemetry.tracing", "opentelemetry.sdk", "opentelemetry.exporter"} & modules == set()
    modules, _ = imported(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert {"codegen_api.telemetry.tracing", "opentelemetry.sdk"} <= modules


def test_where_the_extra_is_missing_the_log_says_so_and_all_else_works() -> None:
    modules, log = imported(blocked=True, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert "codegen_api.telemetry.tracing" not in modules
    assert "pip install 'codegen-gateway[otel]'" in log


@pytest.mark.parametrize("workers", [1, 2])
def test_every_line_of_a_log_in_json_is_json(host: Sandbox, workers: int) -> None:
    with processes.gateway(host, workers=workers, log_format="json", drain_seconds=0.1) as server:
        server.get("/users/me", {**ALICE, "X-Request-ID": "in-json"})
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    asked = next(line for line in lines if line.get("request_id") == "in-json" and "route" in line)
    assert (asked["route"], asked["status"], asked["level"]) == ("/users/me", 200, "info")
    assert asked["principal"]
    assert any(line.get("logger") == "uvicorn.error" for line in lines)
