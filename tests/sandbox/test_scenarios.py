"""What runs do in time, seen through the host's own routes."""

import json
from typing import Any

import pytest

from .hosts import RUNS, Host


def kinds(entries: list[Any]) -> list[str]:
    return [entry["message_type"] for entry in entries]


def test_the_default_run_plans_works_fails_once_and_completes() -> None:
    host = Host()
    run_id = host.create(prompt="Paint the shed green")
    assert host.log(run_id) == []
    host.time.advance(12.7)
    assert host.run(run_id)["status"] == "ACTIVE"
    entries = host.log(run_id)
    assert kinds(entries) == [
        "USER_MESSAGE",
        "PLAN_EVALUATION",
        "ACTION",
        "ACTION",
        "ACTION",
        "PLAN_EVALUATION",
        "ERROR",
        "ACTION",
        "ACTION",
        "ACTION",
        "PLAN_EVALUATION",
        "FINAL_ANSWER",
    ]
    assert {type(entry.get("observation")) for entry in entries} == {dict, str, type(None)}
    host.time.advance(0.6)
    run = host.run(run_id)
    assert run["status"] == "COMPLETE"
    assert run["summary"]
    assert "Paint the shed green" in run["result"]
    assert "Paint the shed green" in entries[1]["thought"]
    (pull_request,) = run["github_pull_requests"]
    assert set(pull_request) == {"id", "title", "url", "created_at", "head_branch_name"}


def test_entries_appear_one_after_the_other() -> None:
    host = Host()
    run_id = host.create()
    seen = []
    for _ in range(14):
        host.time.advance(1.0)
        seen.append(host.page(run_id)["total_logs"])
    assert seen == [2, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 12]


def test_an_output_is_filled_in_after_later_entries_have_appeared() -> None:
    host = Host()
    run_id = host.create()
    host.time.advance(8.3)
    early = host.log(run_id)
    assert early[4]["tool_output"] is None
    assert len(early) == 8
    host.time.advance(0.2)
    late = host.log(run_id)
    assert late[4] == {**early[4], "tool_output": late[4]["tool_output"], "observation": late[4]["observation"]}
    assert late[4]["tool_output"]["exit_code"] == 1
    assert late[:4] + late[5:] == early[:4] + early[5:]


def test_what_was_read_before_does_not_change_what_is_read_now() -> None:
    watched, unwatched = Host(), Host()
    ids = [host.create() for host in (watched, unwatched)]
    for _ in range(40):
        watched.time.advance(0.5)
        watched.page(ids[0])
    unwatched.time.advance(20)
    assert watched.page(ids[0]) == unwatched.page(ids[1])


@pytest.mark.parametrize(
    ("options", "metadata"), [({"speed": 10.0}, {}), ({}, {"speed": 10}), ({"speed": 2}, {"speed": 5})]
)
def test_speed_multiplies(options: dict[str, Any], metadata: dict[str, Any]) -> None:
    host = Host(options)
    run_id = host.create(**metadata)
    host.time.advance(1.31)
    assert host.run(run_id)["status"] == "ACTIVE"
    host.time.advance(0.02)
    page = host.page(run_id)
    assert page["status"] == "COMPLETE"
    assert page["created_at"] < page["logs"][-1]["created_at"]


@pytest.mark.parametrize(
    ("scenario", "seconds", "length", "status"),
    [
        ("quick", 0.81, 3, "COMPLETE"),
        ("fails", 4.01, 5, "ERROR"),
        ("pauses", 3.01, 4, "PAUSED"),
        ("empty", 1.01, 0, "COMPLETE"),
        ("long", 1.51, 5000, "COMPLETE"),
        ("bursts", 10.51, 3500, "COMPLETE"),
        ("endless", 500.0, 501, "ACTIVE"),
        ("no such scenario", 13.21, 12, "COMPLETE"),
    ],
)
def test_each_scenario_ends_as_it_says(scenario: str, seconds: float, length: int, status: str) -> None:
    host = Host()
    run_id = host.create(scenario)
    host.time.advance(seconds - 0.02)
    assert host.run(run_id)["status"] == "ACTIVE"
    host.time.advance(0.02)
    assert host.run(run_id)["status"] == status
    entries = host.log(run_id)
    assert len(entries) == length == host.page(run_id)["total_logs"]
    assert (host.run(run_id)["result"] is not None) == (status == "COMPLETE")
    if status == "COMPLETE" and entries:
        assert kinds(entries)[0] == "USER_MESSAGE"
        assert kinds(entries)[-1] == "FINAL_ANSWER"
        assert kinds(entries).count("FINAL_ANSWER") == 1
    host.time.advance(1000)
    assert host.run(run_id)["status"] == status


def test_bursts_come_at_each_full_second() -> None:
    host = Host()
    run_id = host.create("bursts")
    lengths = []
    for _ in range(11):
        host.time.advance(1.0)
        lengths.append(host.page(run_id, limit=1)["total_logs"])
    assert lengths[:3] == [351, 701, 1051]
    assert lengths[8:] == [3151, 3500, 3500]


def test_an_endless_run_ends_when_it_is_banned() -> None:
    host = Host()
    run_id = host.create("endless")
    host.time.advance(30.5)
    assert host.ban(run_id) == {"agent_run_id": run_id, "banned": True}
    host.time.advance(30)
    page = host.page(run_id)
    assert (page["status"], page["total_logs"]) == ("CANCELLED", 31)


def test_remove_from_pr_does_what_ban_does_and_unban_only_lifts_the_flag() -> None:
    host = Host()
    run_id = host.create("endless")
    assert host.post(f"{RUNS}/remove-from-pr", {"agent_run_id": run_id})["banned"]
    assert host.run(run_id)["status"] == "CANCELLED"
    assert not host.post(f"{RUNS}/unban", {"agent_run_id": run_id})["banned"]
    assert host.run(run_id)["status"] == "CANCELLED"


@pytest.mark.parametrize(("scenario", "seconds", "status"), [("quick", 5, "COMPLETE"), ("fails", 10, "ERROR")])
@pytest.mark.parametrize("order", ["ban", "remove-from-pr"])
def test_a_ban_does_not_rewrite_a_run_that_is_over(order: str, scenario: str, seconds: float, status: str) -> None:
    host = Host()
    run_id = host.create(scenario)
    host.time.advance(seconds)
    before = host.run(run_id)
    assert before["status"] == status
    assert host.post(f"{RUNS}/{order}", {"agent_run_id": run_id}) == {"agent_run_id": run_id, "banned": True}
    assert host.run(run_id) == before
    example = host.run(12345)
    host.ban(12345)
    assert host.run(12345) == example


@pytest.mark.parametrize("scenario", ["quick", "pauses"])
def test_a_ban_stops_a_run_that_has_not_ended_or_was_resumed_just_now(scenario: str) -> None:
    host = Host()
    run_id = host.create(scenario)
    host.time.advance(5)
    host.resume(run_id)
    host.ban(run_id)
    host.time.advance(30)
    assert host.run(run_id)["status"] == "CANCELLED"
    paused = host.create("pauses")
    host.time.advance(5)
    host.ban(paused)
    assert host.run(paused)["status"] == "CANCELLED"


def test_a_banned_run_can_be_resumed() -> None:
    host = Host()
    run_id = host.create("endless")
    host.time.advance(3.5)
    host.ban(run_id)
    host.resume(run_id)
    host.time.advance(1.5)
    assert host.page(run_id)["status"] == "ACTIVE"
    assert host.page(run_id)["total_logs"] == 5
    host.time.advance(10)
    assert host.page(run_id)["total_logs"] == 15


def test_a_resumed_run_keeps_its_id_and_its_log_goes_on() -> None:
    host = Host()
    run_id = host.create("quick")
    host.time.advance(5)
    before = host.log(run_id)
    assert host.resume(run_id, "And now the door")["id"] == run_id
    after = host.log(run_id)
    assert after[: len(before)] == before
    assert kinds(after[len(before) :]) == ["USER_MESSAGE"]
    assert after[-1]["tool_input"]["message"] == "And now the door"
    host.time.advance(5)
    assert kinds(host.log(run_id)) == ["USER_MESSAGE", "ACTION", "FINAL_ANSWER"] * 2
    assert host.run(run_id)["result"] == "Done: And now the door"


@pytest.mark.parametrize(("options", "lag"), [({}, 1.0), ({"resume_lag": 3.0}, 3.0), ({"speed": 4.0}, 0.25)])
def test_a_resumed_run_reads_as_ended_for_a_moment(options: dict[str, Any], lag: float) -> None:
    host = Host(options)
    run_id = host.create("quick")
    host.time.advance(5)
    assert host.resume(run_id)["status"] == "ACTIVE"
    assert host.run(run_id)["status"] == "COMPLETE"
    host.time.advance(lag - 0.01)
    assert host.page(run_id)["status"] == "COMPLETE"
    host.time.advance(0.02)
    assert host.page(run_id)["status"] == "ACTIVE"
    assert host.run(run_id)["result"] == "Done: Say hello"


def test_without_a_lag_a_resumed_run_is_active_at_once() -> None:
    host = Host({"resume_lag": 0})
    assert host.resume(12345)["status"] == "ACTIVE"


def test_a_paused_run_waits_to_be_resumed_and_then_completes() -> None:
    host = Host()
    run_id = host.create("pauses")
    host.time.advance(10_000)
    assert host.run(run_id)["status"] == "PAUSED"
    assert host.run(run_id)["result"] is None
    host.resume(run_id, "staging")
    host.time.advance(4.1)
    run = host.run(run_id)
    assert run["status"] == "COMPLETE"
    assert "staging" in run["result"]
    assert len(host.log(run_id)) == 8


def test_the_example_run_can_be_resumed() -> None:
    host = Host()
    host.resume(12345)
    host.time.advance(20)
    assert host.run(12345)["status"] == "COMPLETE"
    assert len(host.run(12345)["github_pull_requests"]) == 2
    assert host.page(12345)["total_logs"] == 40


def test_a_run_resumed_in_the_middle_goes_on_from_there() -> None:
    host = Host()
    run_id = host.create()
    host.time.advance(5)
    host.resume(run_id, "No, blue")
    host.time.advance(30)
    entries = host.log(run_id)
    assert kinds(entries)[:6] == ["USER_MESSAGE", "PLAN_EVALUATION", "ACTION", "ACTION", "ACTION", "USER_MESSAGE"]
    assert entries[4]["tool_output"] is None
    assert len(entries) == 17


def test_an_empty_run_when_resumed_shows_only_the_message() -> None:
    host = Host()
    run_id = host.create("empty")
    host.time.advance(2)
    host.resume(run_id)
    host.time.advance(2.1)
    assert host.run(run_id)["status"] == "COMPLETE"
    assert kinds(host.log(run_id)) == ["USER_MESSAGE"]


def test_timestamps_follow_the_moments_of_appearance() -> None:
    host = Host()
    run_id = host.create("bursts")
    host.time.advance(20)
    times = [entry["created_at"] for entry in host.log(run_id)]
    assert times == sorted(times)
    assert len(set(times)) == 11


def test_a_long_prompt_is_echoed_shortened_but_logged_whole() -> None:
    host = Host()
    prompt = "word \n" * 500
    run_id = host.create("quick", prompt=prompt)
    host.time.advance(2)
    assert host.log(run_id)[0]["tool_input"]["message"] == prompt
    assert len(host.run(run_id)["result"]) < 200
    assert "\n" not in host.run(run_id)["result"]


def test_a_prompt_with_half_a_surrogate_pair_comes_back_as_its_escape() -> None:
    host = Host()
    body = b'{"prompt":"half \\ud800","metadata":{"scenario":"quick"}}'
    made = host.ask("POST", RUNS, content=body, headers={"content-type": "application/json"})
    host.time.advance(2)
    answer = host.ask("GET", f"/v1/alpha/organizations/323/agent/run/{made.json()['id']}/logs")
    assert rb'"half \ud800"' in answer.content
    assert json.loads(answer.content)["logs"][0]["tool_input"]["message"] == "half \ud800"


def test_what_a_user_writes_in_braces_is_no_gap_to_fill() -> None:
    host = Host()
    prompt = "{result} of {prompt}"
    run_id = host.create(prompt=prompt)
    host.time.advance(14)
    assert host.log(run_id)[0]["tool_input"]["message"] == prompt
    assert f"> {prompt}\n" in host.run(run_id)["result"]
    assert host.run(run_id)["github_pull_requests"][0]["title"] == f"Do what was asked: {prompt}"


def test_a_refused_name_in_the_metadata_of_a_run_made_by_hand_plays_the_default() -> None:
    host = Host()
    run_id = host.post("/_sandbox/runs", {"metadata": {"scenario": "quota"}}, token=None)["id"]
    host.resume(run_id)
    host.time.advance(20)
    assert host.run(run_id)["status"] == "COMPLETE"
    assert len(host.log(run_id)) == 12
