"""The numbers: what is counted, by what, and what never is."""

import asyncio
import inspect
import multiprocessing
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.parser import text_string_to_metric_families

from codegen_api import errors
from codegen_api.brokers import Batch
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.following import Position
from codegen_api.gateway import Gateway
from codegen_api.runs import LogEntry
from codegen_api.telemetry import METHODS, Exchange, Observer, Observers
from codegen_api.telemetry.metrics import PrometheusObserver, WorkersCollector
from tests import virtual
from tests.dialects.rich import RichHost
from tests.dialects.site import Connection, Site, gateway_app, run, serving
from tests.fakehost import FakeHost, caller

SERIES = {
    "codegen_api_requests": {"route", "method", "status"},
    "codegen_api_request_duration_seconds": {"route", "method"},
    "codegen_api_upstream_request_duration_seconds": {"operation", "outcome"},
    "codegen_api_upstream_rate_limited": {"operation"},
    "codegen_api_viewers": set(),
    "codegen_api_runs_followed": set(),
    "codegen_api_log_lines_lost": set(),
    "codegen_api_entry_age_seconds": set(),
    "codegen_api_token_checks": {"kind", "outcome"},
    "codegen_api_upstream_budget_left_ratio": set(),
    "codegen_api_viewers_per_read": set(),
    "codegen_api_streams_ended": {"ending"},
    "codegen_api_replayed_entries": set(),
    "codegen_api_notices": {"code"},
    "codegen_api_redis_processes": {"state"},
    "codegen_api_relay_lag_seconds": set(),
    "codegen_api_leases_taken_over": set(),
}


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name.removeprefix("codegen_api_"), sample.labels, sample.value


def value(text: str, wanted: str, **labels: str) -> float:
    """The one sample of this name with these labels; 0 where there is none."""
    found = [number for name, has, number in samples(text) if name == wanted and has == labels]
    assert len(found) <= 1
    return found[0] if found else 0


def exchange(operation: str, outcome: str, seconds: float = 0.1) -> Exchange:
    return Exchange("digest-of-a-token", operation, outcome, seconds)


# -- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.wire("metrics")
def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = PrometheusObserver()
    for status in (200, 200, 404, None):
        metrics.answered("/agent-runs/{id}", "GET", status, 0.3)
    text = metrics.render().decode()
    labels = {"route": "/agent-runs/{id}", "method": "GET"}
    counted = [value(text, "requests_total", **labels, status=status) for status in ("200", "404", "none")]
    assert counted == [2, 1, 1]
    assert value(text, "request_duration_seconds_count", **labels) == 4
    assert value(text, "request_duration_seconds_sum", **labels) == pytest.approx(1.2)


@pytest.mark.wire("metrics")
def test_calls_to_the_host_are_counted_by_operation_and_outcome_and_its_refusals_once_more() -> None:
    metrics = PrometheusObserver()
    for outcome in ("ok", "upstream_rate_limited", "upstream_rate_limited", "cancelled"):
        metrics.asking("digest-of-a-token", "read_log")
        metrics.asked(exchange("read_log", outcome, 2))
    metrics.asked(exchange("get_run", "ok"))
    text = metrics.render().decode()
    name = "upstream_request_duration_seconds"
    assert value(text, f"{name}_count", operation="read_log", outcome="ok") == 1
    assert value(text, f"{name}_count", operation="read_log", outcome="upstream_rate_limited") == 2
    assert value(text, f"{name}_sum", operation="read_log", outcome="upstream_rate_limited") == 4
    assert value(text, f"{name}_count", operation="get_run", outcome="ok") == 1
    assert value(text, "upstream_rate_limited_total", operation="read_log") == 2
    assert value(text, "upstream_rate_limited_total", operation="get_run") == 0


@pytest.mark.wire("metrics-tell-nothing")
def test_what_a_client_makes_up_is_one_label() -> None:
    metrics = PrometheusObserver()
    for index in range(100):
        metrics.answered(None, f"SPY{index}", 404, 0)
    assert value(metrics.render().decode(), "requests_total", route="other", method="other", status="404") == 100


def test_the_counts_of_two_applications_are_their_own() -> None:
    one, other = PrometheusObserver(), PrometheusObserver()
    one.serving(3, 2)
    one.delivered(1.0)
    assert [value(each.render().decode(), "viewers") for each in (one, other)] == [3, 0]
    assert [value(each.render().decode(), "entry_age_seconds_count") for each in (one, other)] == [1, 0]


def methods() -> dict[str, inspect.Signature]:
    """Everything of which an observer is told, with what it is told."""
    found = inspect.getmembers(Observer, inspect.isfunction)
    return {name: inspect.signature(each) for name, each in found if not name.startswith("_")}


@pytest.mark.parametrize("name", methods())
def test_an_observer_may_take_no_notice(name: str) -> None:
    arguments = tuple(object() for _ in list(methods()[name].parameters)[1:])
    assert getattr(Observer(), name)(*arguments) is None


@pytest.mark.parametrize("name", ["asking", "asked"])
def test_several_observers_of_an_upstream_are_all_told(name: str) -> None:
    told: list[tuple[str, Any]] = []

    class Witness(Observer):
        def __getattribute__(self, called: str) -> Any:
            return lambda *what: told.append((called, what))

    arguments = tuple(object() for _ in list(methods()[name].parameters)[1:])
    getattr(Observers(Witness(), Witness()), name)(*arguments)
    assert told == [(name, arguments)] * 2


def test_whoever_reads_for_many_has_redis_or_takes_over_says_so() -> None:
    metrics = PrometheusObserver()
    assert "codegen_api_redis_processes{" not in metrics.render().decode()  # it may not be configured
    for state in (True, False, True):
        metrics.connected(state)
    metrics.relayed(0.02)
    metrics.taken_over()
    text = metrics.render().decode()
    assert value(text, "redis_processes", state="connected") == 1
    assert value(text, "redis_processes", state="unavailable") == 0
    assert value(text, "relay_lag_seconds_sum") == pytest.approx(0.02)
    assert value(text, "leases_taken_over_total") == 1


def key(name: str) -> str:
    return mmap_key(f"codegen_api_{name}", f"codegen_api_{name}", [], [], "Help.")


@pytest.mark.wire("metrics")
def test_what_a_dead_worker_counted_stays_and_what_it_was_doing_does_not(tmp_path: Path) -> None:
    gone = multiprocessing.get_context("spawn").Process()
    gone.start()
    gone.join(60)
    assert gone.pid is not None
    for pid in (gone.pid, os.getpid()):
        for kind, name, number in (("counter", "requests_total", 5), ("gauge_livesum", "viewers", 2)):
            file = MmapedDict(str(tmp_path / f"{kind}_{pid}.db"))
            file.write_value(key(name), number, 0)
            file.close()
    (tmp_path / "counter_1.db").touch()  # somebody is just making it
    registry = CollectorRegistry()
    registry.register(WorkersCollector(tmp_path))
    text = generate_latest(registry).decode()
    assert value(text, "requests_total") == 10
    assert value(text, "viewers") == 2
    assert not (tmp_path / f"gauge_livesum_{gone.pid}.db").exists()


# -- how old entries are ----------------------------------------------------------------------------------------------


class Ages(Observer):
    def __init__(self) -> None:
        self.heard: list[float] = []

    def delivered(self, age: float, viewers: int = 1) -> None:
        self.heard += [age] * viewers


def stamped(seconds: float) -> str:
    return (datetime(2026, 11, 20, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def ages_of(live: list[Any], history: Any = None, host_ahead: float = 0.0) -> list[float]:
    """The ages told to an observer of a viewer who sees ``live`` appended; an entry is its ``created_at``, or says
    ``now``."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        epoch = datetime(2026, 11, 20, tzinfo=UTC).timestamp()
        host, ages = FakeHost(), Ages()
        hosted = host.add()
        hosted.append(2, created_at=history or stamped(-500))
        gateway = Gateway(host, MemoryBroker(), observer=ages, clock=lambda: epoch + loop.time() - began)
        stream = await gateway.follow(caller(), "9", "1", Position(0))
        assert stream is not None
        seen = 0
        async for update in stream:
            if isinstance(update, Batch):
                seen += len(update.entries)
                if not live:
                    break
                created = live.pop(0)
                hosted.append(created_at=stamped(loop.time() - began + host_ahead) if created == "now" else created)
        assert seen
        await stream.aclose()
        await gateway.aclose()
        return ages.heard

    return virtual.run(main())


@pytest.mark.wire("metrics")
def test_the_age_of_an_entry_is_how_long_ago_the_host_made_it() -> None:
    heard = ages_of(["now", "now"])
    assert len(heard) == 2  # and nothing for the two that were there before
    assert all(0.05 < age < 11 for age in heard), heard


def test_what_was_there_before_the_viewer_is_not_late() -> None:
    assert ages_of([stamped(-1)]) == []


def test_an_entry_from_the_future_has_no_age() -> None:
    assert ages_of(["now"], host_ahead=3600) == [0]


@pytest.mark.parametrize("nonsense", [None, "", "soon", "2026-11-20T12:00:00", "0-000001", "9999-99-99T99:99:99Z"])
def test_an_entry_of_no_known_time_is_left_out(nonsense: str | None) -> None:
    assert ages_of([nonsense]) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T00:00:10.25Z", 10.25),
        ("1970-01-01T00:00:10.123456789Z", 10.123456),
        ("1970-01-01T02:00:00+01:00", 3600),
        ("0001-01-01T00:00:00+23:59", -62135683140),
        ("1970-01-01T00:00:10", None),
        ("x" * 10_000, None),
        (None, None),
    ],
)
def test_when_an_entry_was_made_is_understood_or_unknown(text: str | None, seconds: float | None) -> None:
    created = LogEntry(b"{}", text, open=False, amendable=False).created
    assert created == (None if seconds is None else pytest.approx(seconds))


# -- over HTTP --------------------------------------------------------------------------------------------------------


async def scraped(site: Site) -> str:
    answer = await site.get("/metrics", token=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "x-request-id" in answer.headers
    return answer.text


@pytest.mark.wire("metrics", "answer-json", "auth-bearer")
async def test_the_series_are_those_of_the_documents() -> None:
    async with serving(RichHost()) as site:
        text = await scraped(site)
    found = {family.name for family in text_string_to_metric_families(text)}
    assert found == set(SERIES)
    operating = (Path(__file__).parents[1] / "docs/operating.md").read_text()
    listed = re.findall(r"^\| `(codegen_api_\w+)` \| \w+ \| ([^|]*)\|", operating, re.MULTILINE)
    assert {name.removesuffix("_total"): set(re.findall(r"\w+", labels)) for name, labels in listed} == SERIES


@pytest.mark.wire("metrics", "error-unknown-route")
async def test_where_it_is_switched_off_there_is_no_such_route() -> None:
    async with serving(RichHost(), metrics=False) as site:
        for method in ("GET", "POST"):
            answer = await site.ask(method, "/metrics")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "/metrics" not in site.app.openapi()["paths"]
        assert (await site.get("/users/me")).status_code == 200


@pytest.mark.wire("metrics")
async def test_requests_of_every_kind_are_counted_under_their_template() -> None:
    async with serving(RichHost()) as site:
        site.host.add("7", status="COMPLETE").append(1)
        site.host.before = _refused_by_list
        for method, path in [
            ("GET", "/agent-runs/7"),
            ("GET", "/agent-runs/8"),
            ("DELETE", "/agent-runs/7"),
            ("GET", "/agent-runs/7/logs/stream"),
            ("GET", "/agent-runs"),
            ("GET", "/secret-of-somebody"),
            ("BREW", "/health"),
        ]:
            await site.ask(method, path)
        await site.ask("GET", "/users/me?access_token=sk-1")
        text = await scraped(site)
    counted = {
        (has["method"], has["route"], has["status"]): number
        for name, has, number in samples(text)
        if name == "requests_total"
    }
    assert counted == {
        ("GET", "/agent-runs/{id}", "200"): 1,
        ("GET", "/agent-runs/{id}", "404"): 1,
        ("DELETE", "/agent-runs/{id}", "405"): 1,
        ("GET", "/agent-runs/{id}/logs/stream", "200"): 1,
        ("GET", "/agent-runs", "429"): 1,
        ("GET", "other", "404"): 1,
        ("other", "/health", "405"): 1,
        ("GET", "other", "400"): 1,
    }
    assert value(text, "upstream_rate_limited_total", operation="list_runs") == 1
    assert value(text, "upstream_request_duration_seconds_count", operation="identify", outcome="ok") == 1


async def _refused_by_list(operation: str) -> None:
    if operation == "list":
        raise errors.UpstreamRateLimited(retry_after=1)


@pytest.mark.wire("metrics")
async def test_viewers_and_the_runs_they_watch_are_counted_while_they_are_there() -> None:
    async with serving(RichHost()) as site:
        for name in ("1", "2"):
            site.host.add(name).append(1)
        paths = ["/agent-runs/1/logs/stream", "/agent-runs/1/logs/stream", "/agent-runs/2/logs/stream"]
        viewers = [Connection(site.app, path) for path in paths]
        for viewer in viewers:
            await viewer.received(2)
        text = await scraped(site)
        assert (value(text, "viewers"), value(text, "runs_followed")) == (3, 2)
        for viewer in viewers:
            viewer.leave()
            await viewer.task
        assert value(await scraped(site), "viewers") == 0
        await site.app.state.parts.gateway._hub.aclose()  # or after CODEGEN_FOLLOWER_LINGER_SECONDS
        text = await scraped(site)
        assert value(text, "runs_followed") == 0
        stream = {"route": "/agent-runs/{id}/logs/stream", "method": "GET", "status": "200"}
        assert value(text, "requests_total", **stream) == 3


@pytest.mark.wire("metrics-tell-nothing")
def test_nothing_there_says_anything_of_anybody() -> None:
    token, run_id, organization, user = "sk-AliceSecretToken", "770077", "880088", "990099"
    secrets = {token, token.upper(), run_id, organization, user, "31337", "Mallory"}

    class Digests(Observer):
        def asking(self, credential: str, operation: str) -> None:
            secrets.add(credential)

    async def main() -> str:
        async with serving(RichHost(), org_id=organization) as site:
            site.host.observer = Observers(site.host.observer, Digests())
            site.host.tokens = {token: user}
            site.host.add(run_id, status="COMPLETE").append(3, text="Say 31337")
            headers = {"X-Request-ID": "req-31337", "Authorization": f"Bearer {token}"}
            for path in ("", "/logs", "/logs/stream", "/resume", "/cancel", "/nothing", "%2f..%2f"):
                for method in ("GET", "POST", "BREW", token):
                    order = {"prompt": "Say 31337"}
                    await site.ask(method, f"/agent-runs/{run_id}{path}", headers=headers, json=order)
            for path in (
                "/users/me",
                "/organizations",
                "/Mallory-was-here",  # a token does not belong there, and a path is logged
                "/docs/assets/Mallory-was-here",
                f"/agent-runs?user_id={user}",
            ):
                await site.get(path, headers=headers)
            await site.get("/users/me", headers={"Authorization": "Bearer sk-Mallory"})
            return await scraped(site)

    text = run(main())
    assert len(secrets) == 9  # the digests of both tokens are among them
    values = re.sub(r"(\.\d{2})\d+", r"\1", text)  # the many digits of a duration may hold any number
    assert [secret for secret in secrets if secret in values] == []
    routes = {"other", "/docs/assets/{name}", *gateway_app().openapi()["paths"]}
    labels = [has for _, has, _ in samples(text)]
    assert len(labels) > 50
    for has in labels:
        assert set(has) - {"le"} in list(SERIES.values())
        assert has.get("route", "other") in routes
        assert has.get("method", "other") in METHODS | {"other"}
        assert re.fullmatch("[0-9]{3}|none", has.get("status", "none"))
        assert re.fullmatch("[a-z_]+", has.get("operation", "x") + has.get("outcome", "x"))


@pytest.mark.wire("metrics")
async def test_what_becomes_of_streams_is_counted_and_what_their_viewers_were_told() -> None:
    async with serving(RichHost(), follower_linger_seconds=0.01) as site:
        site.host.add("1", status="COMPLETE").append(3)
        site.host.add("2").append(2)
        assert (await site.get("/agent-runs/1/logs/stream")).status_code == 200
        for number, path in enumerate(["/agent-runs/2/logs/stream", "/agent-runs/2/logs/stream?last_event_id=1"], 2):
            viewer = Connection(site.app, path)
            while value(await scraped(site), "replayed_entries_count") < number:  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0)  # or the viewer would never have its turn: nothing that is asked here waits
            viewer.leave()
            await viewer.task
        await site.get("/users/me", token="x" * 40_000)
        text = await scraped(site)
    assert value(text, "streams_ended_total", ending="end") == 1
    assert value(text, "streams_ended_total", ending="client_left") == 2
    assert value(text, "replayed_entries_count") == 3
    assert value(text, "replayed_entries_sum") == 3 + 2 + 1
    assert value(text, "viewers_per_read_sum") >= value(text, "viewers_per_read_count") >= 2
    assert value(text, "token_checks_total", kind="token", outcome="ok") >= 3
    assert value(text, "token_checks_total", kind="token", outcome="token_too_long") == 1
    assert value(text, "upstream_budget_left_ratio_count") > 0
    assert value(text, "upstream_budget_left_ratio_bucket", le="0.5") == 0


@pytest.mark.wire("metrics")
async def test_a_viewer_who_is_told_to_come_back_is_counted_with_what_they_were_told() -> None:
    async with serving(RichHost(), stream_max_age_seconds=0.05) as site:
        site.host.add("1").append(1)
        assert "event: notice" in (await site.get("/agent-runs/1/logs/stream")).text
        text = await scraped(site)
    assert value(text, "streams_ended_total", ending="reconnect") == 1
    assert value(text, "notices_total", code="reconnect") == 1


@pytest.mark.wire("metrics")
async def test_a_host_without_a_limit_has_no_budget_that_could_be_spent() -> None:
    host = RichHost()
    host.requests_per_minute = None
    async with serving(host) as site:
        await site.get("/users/me")
        assert value(await scraped(site), "upstream_budget_left_ratio_count") == 0
