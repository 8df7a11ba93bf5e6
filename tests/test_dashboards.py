"""The dashboard and the alerts ask for what ``/metrics`` gives, by names and labels that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from codegen_api.telemetry import ENDINGS, Exchange
from codegen_api.telemetry.metrics import PrometheusObserver

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = DEPLOY / "grafana/dashboard.json"
ALERTS = DEPLOY / "prometheus/alerts.yaml"

SELECTOR = re.compile(r"\b(codegen_api_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')
GROUPS = re.compile(r"\bby \(([^)]*)\)")


def told() -> PrometheusObserver:
    """An observer that was told something of each kind, so that each series is there with its labels."""
    metrics = PrometheusObserver()
    metrics.asked(Exchange("digest", "read_log", "upstream_rate_limited", 0.1))
    metrics.asked(Exchange("digest", "read_log", "upstream_error", 0.1))
    metrics.answered("/agent-runs/{id}", "GET", 500, 0.1)
    metrics.serving(1, 1)
    metrics.delivered(0.1)
    metrics.checked("token", "auth_unavailable")
    metrics.spent(0.04)
    metrics.read(3)
    for ending in ENDINGS:
        metrics.streamed(ending)
    metrics.replayed(10)
    metrics.noticed("rate_limited")
    metrics.connected(redis=False)
    metrics.relayed(0.01)
    metrics.taken_over()
    metrics.unlogged()
    return metrics


def series() -> dict[str, list[dict[str, str]]]:
    """The labels of each sample by its name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(told().render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def faults(expression: str) -> list[str]:
    """What a query asks for that there is not."""
    there = series()
    found = []
    selectors = SELECTOR.findall(expression)
    if not selectors:
        return [f"no series in {expression!r}"]
    names: set[str] = set()
    for name, matchers in selectors:
        if name not in there:
            found.append(f"no series {name}")
            continue
        names |= set(there[name][0])
        rest = MATCHER.sub("", matchers).strip(" ,")
        if rest:
            found.append(f"not understood: {rest!r}")
        for label, how, value in MATCHER.findall(matchers):
            values = [labels.get(label) for labels in there[name]]
            if None in values:
                found.append(f"no label {label} of {name}")
            elif how == "=" and value not in values:
                found.append(f"{name} never has {label}={value}")
            elif how == "=~" and not any(re.fullmatch(value, each or "") for each in values):
                found.append(f"{name} never has {label} like {value}")
    for group in GROUPS.findall(expression):
        found += [f"no label {each}" for each in re.split(r", *", group) if each and each not in names]
    if expression.count("(") != expression.count(")"):
        found.append("its brackets are not in pairs")
    if "histogram_quantile" in expression and "le" not in "".join(GROUPS.findall(expression)):
        found.append("a quantile needs le")
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_there_is_and_says_what_it_means(rule: dict[str, Any]) -> None:
    assert faults(rule["expr"]) == []
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.search(r"[<>]=? [0-9.]+$", rule["expr"])  # or it would fire for as long as there is anything


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_asks_for_what_there_is(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert faults(target["expr"]) == []
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b", target["expr"])


def test_every_series_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name, _ in SELECTOR.findall(target["expr"])}
    families = [family.name for family in text_string_to_metric_families(told().render().decode())]
    assert [family for family in families if not any(name.startswith(family) for name in shown)] == []


def test_panels_have_places_and_numbers_of_their_own() -> None:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in everything]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({rule["alert"] for rule in rules()}) == len(rules())


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(rate(codegen_api_nothing_total[5m])) > 1", "no series codegen_api_nothing_total"),
        ('codegen_api_requests_total{state="x"}', "no label state of codegen_api_requests_total"),
        ('codegen_api_redis_processes{state="lost"}', "codegen_api_redis_processes never has state=lost"),
        ('codegen_api_streams_ended_total{ending=~"torn|ripped"}', "never has ending like"),
        ("sum by (route) (codegen_api_viewers)", "no label route"),
        ("histogram_quantile(0.5, sum (rate(codegen_api_relay_lag_seconds_bucket[5m])))", "a quantile needs le"),
        ("sum(codegen_api_viewers", "its brackets are not in pairs"),
        ("1 > 0", "no series in"),
    ],
)
def test_a_query_for_what_there_is_not_is_found(expression: str, fault: str) -> None:
    assert any(fault in each for each in faults(expression)), faults(expression)


PROMTOOL = shutil.which("promtool")
if PROMTOOL is not None:  # none of the tests above needs it
    CHECK = [PROMTOOL, "check", "rules", str(ALERTS)]

    def test_prometheus_itself_takes_the_rules() -> None:
        subprocess.run(CHECK, check=True, capture_output=True, timeout=60)
