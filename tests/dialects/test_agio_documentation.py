"""What is said of Agio, in the OpenAPI document and in docs/clients.md."""

import re

from codegen_api.dialects.agio import agents, responses
from codegen_api.dialects.agio.executions import SEARCHED, AgioStatus
from tests.dialects.documented import assert_described, chapter, documented, routes_in, undescribed
from tests.dialects.eventsource import parse

CLIENTS = chapter("Agio")
PUBLIC = ("/api/health",)
STATUSES = set(AgioStatus)


def test_every_route_is_in_the_table_and_no_other() -> None:
    assert sorted(routes_in(CLIENTS)) == sorted(f"{method} {path}" for method, path, _ in documented("agio"))


def test_every_route_is_described_with_its_errors() -> None:
    found = documented("agio")
    assert_described(found, prefix="agio_", security={"HTTPBearer"}, shape="AgioError", public=PUBLIC)
    assert undescribed(found) == []


def test_each_route_says_which_of_its_own_errors_it_can_meet() -> None:
    asked = {f"{method} {path}": set(operation["responses"]) for method, path, operation in documented("agio")}
    begins = {"chat", "resume", "restore", "fork"}
    stops = {"pause", "cancel"}
    for route, statuses in asked.items():
        assert ("402" in statuses) == (route.rpartition("/")[2] in begins), route
        assert ("501" in statuses) == (route.rpartition("/")[2] in stops), route


def test_the_examples_of_streams_tell_a_run_to_its_end() -> None:
    asked = {path: operation for _, path, operation in documented("agio")}
    for path in ("/api/chat", "/api/runs/{run_id}/events"):
        example = asked[path]["responses"]["200"]["content"]["text/event-stream"]["example"]
        assert [event.type for event in parse(example.encode())] == [
            "run_started", "content_delta", "tool_call_started", "tool_call_completed", "run_completed",
        ]  # fmt: skip


def test_statuses_events_and_numbers_told_are_those_of_the_code() -> None:
    said = CLIENTS.split("- **Runs.**")[1].split("\n- **")[0]
    assert set(re.findall("`([a-z]+)`", said.split("; `paused` is also")[0])) == STATUSES
    assert f"newest {SEARCHED:,}" in " ".join(said.split())
    streams = CLIENTS.split("- **Streams.**")[1].split("\n- **")[0]
    for event in re.findall("`(.+?)`", responses.EVENTS + responses.ENDS):
        assert f"`{event}`" in streams
    for agent in agents.SANDBOX:
        assert f"`{agent.id}`" in CLIENTS
