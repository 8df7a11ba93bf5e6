"""What is said of Everruns, in the OpenAPI document and in docs/clients.md."""

import re

from codegen_api.dialects.everruns import message_routes
from codegen_api.dialects.everruns.families import FLAT, NESTED
from codegen_api.dialects.everruns.rendering import FLAT_KINDS, NESTED_KINDS
from codegen_api.dialects.everruns.schemas import SIZES
from codegen_api.stores import TurnState
from tests.dialects.documented import assert_described, chapter, documented, routes_in, undescribed
from tests.dialects.eventsource import parse

CLIENTS = chapter("Everruns")


def told_of(title: str) -> str:
    """What the list of what to know says under a title."""
    return CLIENTS.split(f"\n- **{title}**")[1].split("\n- **")[0].split("\n\n")[0]


def test_every_route_is_in_the_table_and_no_other() -> None:
    assert sorted(routes_in(CLIENTS)) == sorted(f"{method} {path}" for method, path, _ in documented("everruns"))


def test_every_route_is_described_with_its_errors() -> None:
    found = documented("everruns")
    assert_described(
        found,
        prefix="everruns_",
        security={"HTTPBearer", "Authorization"},
        shape="EverrunsProblem",
        media_type="application/problem+json",
    )
    assert undescribed(found) == []


def test_the_examples_of_streams_tell_each_generation_of_a_turn_in_its_own_words() -> None:
    told = FLAT_KINDS - {"tool.started", "tool.completed", "turn.failed", "turn.cancelled"}
    for method, path, operation in documented("everruns"):
        content = operation["responses"].get("200", {}).get("content", {}).get("text/event-stream")
        if content is not None:
            kinds = {event.type for event in parse(content["example"].encode())}
            below = {"message.user", "message.assistant"}
            assert kinds == {"connected"} | (below if path.startswith("/v1/agents/") else told), (method, path)


def test_what_a_key_does_once_says_so() -> None:
    for method, path, operation in documented("everruns"):
        replayed = operation["responses"].get("201", {}).get("headers", {})
        assert ("Idempotent-Replayed" in replayed) == (method == "POST" and path.endswith(("sessions", "messages")))


def test_the_words_of_both_generations_are_told() -> None:
    rows = [line for line in CLIENTS.split("\n| | below agents |")[1].split("\n\n")[0].splitlines() if "`" in line]
    for column, family in ((2, NESTED), (3, FLAT)):
        cells = [row.split("|")[column] for row in rows]
        states = (None, TurnState.RUNNING, TurnState.COMPLETED)
        assert re.findall("`([a-z]+)`", cells[1]) == [family.statuses[state] for state in states]
        assert f"`{family.statuses[TurnState.FAILED]}`" in cells[2]
        assert cells[3].strip() == f"`{family.agent_role}`"


def test_the_sizes_told_are_those_that_are_kept() -> None:
    units = {"KiB": 1024, "MiB": 1024 * 1024}
    told = {int(number) * units[unit] for number, unit in re.findall(r"(\d+) ([KM]iB)", told_of("Sizes"))}
    assert told == set(SIZES.values())


def test_the_numbers_told_are_those_of_the_code() -> None:
    assert f"at most {message_routes.MOST_EVENTS:,} events" in told_of("Events")


def test_the_events_told_are_those_that_come() -> None:
    flat, _, below = told_of("Events").split(" A list leaves out")[0].partition("Below agents")
    assert set(re.findall("`([a-z.]+[.][a-z]+)`", flat)) == FLAT_KINDS
    assert set(re.findall("`(message[.][a-z_]+)`", below)) == set(NESTED_KINDS.values())
