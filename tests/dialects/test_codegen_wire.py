"""The hosted API's shapes, as functions of values."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api import errors
from codegen_api.dialects.codegen.wire import (
    entry_json,
    log_page,
    page_of,
    render_error,
    run_fields,
    runs_page,
    user_fields,
)
from codegen_api.gateway.run_lists import FoundRuns
from codegen_api.identity import Principal
from codegen_api.runs import LogEntry, LogPage, Paging, Run, RunRef, RunStatus, to_json
from codegen_api.upstreams import Listing
from codegen_api.upstreams.codegen.answers import entry_of, run_of
from tests.dialects.test_native_errors import KINDS, TABLE

REF = RunRef("323", "41894")
NAIVE = ["2025-06-21 11:20:04.338398", "2025-06-21 11:20:04", "2024-02-29 23:59:59.1", "0001-01-01 00:00:00.000000"]
OURS = [time.replace(" ", "T") + "Z" for time in NAIVE]
NO_TIMES: list[Any] = [
    None, 7, "", "yesterday", "2025-06-21", "11:20:04", "2025-13-45 11:20:04", "2025-06-21 25:20:04", ["2025-06-21T1"],
    "2025-06-21 11:20:04 ", "٢٠٢٥-06-21T11:20:04Z",
]  # fmt: skip


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [*NAIVE, *NO_TIMES])
def test_what_the_host_writes_comes_back_as_it_was(time: Any) -> None:
    run: dict[str, Any] = {
        "id": 41894,
        "organization_id": 323,
        "created_at": time,
        "web_url": "2025-06-21T11:20:04Z",
        "github_pull_requests": [{"id": 1, "created_at": time, "title": "2025-06-21T11:20:04Z"}, None, 7],
        "metadata": {"created_at": "2025-06-21T11:20:04Z", "due_at": "2025-06-21T11:20:04Z"},
    }
    assert run_fields(run_of(run)) == run
    entry = {"agent_run_id": 41894, "created_at": time, "tool_output": {"created_at": "2025-06-21T11:20:04Z"}}
    assert entry_json(entry_of(entry, REF)) == to_json(entry)


@pytest.mark.parametrize(
    ("theirs", "shown"),
    [
        ("2025-06-21T11:20:04.338Z", "2025-06-21 11:20:04.338"),
        ("2025-06-21 13:20:04+02:00", "2025-06-21 11:20:04"),
        ("2025-06-21t11:20:04z", "2025-06-21 11:20:04"),
    ],
)
def test_a_time_in_another_form_is_the_same_moment_in_the_known_one(theirs: str, shown: str) -> None:
    run = run_of({"id": 41894, "organization_id": 323, "created_at": theirs})
    assert run_fields(run)["created_at"] == shown
    entry = entry_of({"agent_run_id": 41894, "created_at": theirs}, REF)
    assert json.loads(entry_json(entry))["created_at"] == shown


def test_a_run_without_pull_requests_is_left_alone() -> None:
    for pulls in ({}, {"github_pull_requests": None}, {"github_pull_requests": "none"}):
        fields: dict[str, Any] = {"id": 41894, "organization_id": 323, **pulls}
        assert run_fields(run_of(fields)) == fields


json_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(NAIVE)
    | st.sampled_from(OURS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["created_at", "a", '"created_at":"']), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(NAIVE), json_values, json_values)
def test_only_the_entry_s_own_time_is_written_back(time: str, before: Any, after: Any) -> None:
    """Whatever tools say of times, in the form of the host or in ours, before it or behind it."""
    entry = {"tool_input": before, "created_at": time, "tool_output": after}
    assert entry_json(entry_of(entry, REF)) == to_json(entry)


def test_an_entry_that_is_spaced_out_is_understood() -> None:
    spaced = LogEntry(b'{"created_at": "2025-06-21T11:20:04Z"}', "2025-06-21T11:20:04Z", open=False, amendable=False)
    assert entry_json(spaced) == b'{"created_at":"2025-06-21 11:20:04"}'


def test_an_entry_is_not_parsed_again_where_that_can_be_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entry_of({"created_at": NAIVE[0], "observation": f'"created_at":"{NAIVE[0]}"', "thought": NAIVE[0]}, REF)
    monkeypatch.setattr(json, "loads", None)
    assert NAIVE[0].encode() in entry_json(entry)


# -- pages ------------------------------------------------------------------------------------------------------------


def a_run(number: int = 41894) -> Run:
    return Run(
        RunRef("323", str(number)), RunStatus.RUNNING, "ACTIVE", {"id": number, "created_at": "2025-06-21T11:20:04Z"}
    )


def test_a_stretch_of_the_log_is_the_run_with_its_entries_and_numbers() -> None:
    entries = tuple(entry_of({"n": number, "created_at": NAIVE[number]}, REF) for number in range(2))
    page = LogPage(a_run(), 0, entries, at_end=True, paging=Paging(2, 1, 100, None))
    assert log_page(page) == (
        b'{"id":41894,"created_at":"2025-06-21 11:20:04","logs":[{"n":0,"created_at":"2025-06-21 11:20:04.338398"},'
        b'{"n":1,"created_at":"2025-06-21 11:20:04"}],"total_logs":2,"page":1,"size":100,"pages":null}'
    )
    empty = LogPage(a_run(), 0, (), at_end=True, paging=Paging(None, None, None, None))
    assert json.loads(log_page(empty))["logs"] == []


def test_the_host_s_own_numbers_are_kept() -> None:
    body = json.loads(page_of([1, 2], Paging(70, 9, 20, 4), 7, 20, more=True))
    assert body == {"items": [1, 2], "total": 70, "page": 9, "size": 20, "pages": 4}


@given(st.integers(0, 60), st.integers(1, 30))
def test_a_client_that_goes_through_numbers_that_were_reckoned_sees_everything_and_stops(
    count: int, limit: int
) -> None:
    runs = [a_run(number) for number in range(count)]
    for way in ("total", "pages", "short page"):
        seen: list[Any] = []
        for _ in range(count + 2):
            here = runs[len(seen) : len(seen) + limit]
            next_skip = len(seen) + len(here) if len(seen) + len(here) < count else None
            found = FoundRuns(Listing(tuple(here), Paging(None, None, limit, None), next_skip is None), next_skip, True)
            page = json.loads(runs_page(found, len(seen), limit))
            seen += page["items"]
            assert all(isinstance(page[name], int) for name in ("total", "page", "size", "pages"))
            done = {
                "total": len(seen) >= page["total"],
                "pages": page["page"] >= page["pages"],
                "short page": len(page["items"]) < page["size"],
            }
            if done[way]:
                break
        else:
            raise AssertionError("there is no end")
        assert [run["id"] for run in seen] == list(range(count))
        assert page["total"] == count


def test_a_search_that_was_given_up_does_not_send_clients_round_in_circles() -> None:
    found = FoundRuns(Listing((a_run(),), Paging(None, None, 10, None), at_end=False), 10**12 + 1000, searched=True)
    assert json.loads(runs_page(found, 30, 10))["total"] == 31


def test_who_is_no_user_of_the_host_has_what_its_clients_want() -> None:
    user = user_fields(Principal("jwt:https://issuer.example/", "ann"))
    assert isinstance(user["id"], int)
    assert (user["github_user_id"], user["github_username"]) == ("ann", "ann")
    assert user == user_fields(Principal("jwt:https://issuer.example/", "ann"))
    assert user["id"] != user_fields(Principal("key", "ann"))["id"]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("retry_after", [None, 0.2, 7])
def test_every_error_says_what_clients_look_for(kind: type[errors.GatewayError], retry_after: float | None) -> None:
    response = render_error(kind("Just so.", retry_after=retry_after))
    body = json.loads(bytes(response.body))
    assert response.status_code == body["status_code"] == TABLE[kind]
    assert response.headers["content-type"] == "application/json"
    assert set(body) == {"detail", "message", "status_code", "code", "request_id"}
    assert (body["message"], body["code"]) == ("Just so.", kind.code)
    places = [{"loc": [], "msg": "Just so.", "type": kind.code}]
    assert body["detail"] == (places if response.status_code == 422 else "Just so.")
    waits = response.status_code in (409, 429, 503)
    assert response.headers.get("retry-after") == (None if not waits else {None: "10", 0.2: "1", 7: "7"}[retry_after])
    assert ("www-authenticate" in response.headers) == (response.status_code == 401)


def test_what_was_wrong_with_a_request_is_a_list_of_places() -> None:
    places = [errors.Detail(("body", "images", 3), "Bad.", "t"), errors.Detail(("query", "skip"), "Too small.", "u")]
    body = json.loads(bytes(render_error(errors.Rejected("No.", details=places)).body))
    assert body["detail"] == [
        {"loc": ["body", "images", 3], "msg": "Bad.", "type": "t"},
        {"loc": ["query", "skip"], "msg": "Too small.", "type": "u"},
    ]
