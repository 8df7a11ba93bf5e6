"""The admin routes: faults that are only other answers, counts, and runs made by hand."""

import json
import time
from typing import Any

import pytest

from .hosts import BOB, Host

ME = "/v1/users/me"
LOGS = "/v1/alpha/organizations/323/agent/run/12345/logs"


@pytest.mark.parametrize(
    ("order", "status", "content_type"),
    [
        ({"kind": "429"}, 429, "application/json"),
        ({"kind": "500"}, 500, "application/json"),
        ({"kind": "503_html"}, 503, "text/html"),
        ({"kind": "html"}, 200, "text/html; charset=utf-8"),
        ({"kind": "revoked"}, 401, "application/json"),
        ({"kind": "empty"}, 200, "application/json"),
        ({"kind": "status", "status": 418, "body": {"a": [1]}}, 418, "application/json"),
        ({"kind": "status", "status": 204}, 204, "application/json"),
    ],
)
def test_a_fault_takes_the_place_of_an_answer_as_often_as_told(
    order: dict[str, Any], status: int, content_type: str
) -> None:
    host = Host()
    host.arm(**order, times=2)
    answers = [host.ask("GET", ME) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[0].headers["content-type"] == content_type
    assert answers[0].content != answers[2].content
    assert host.get("/_sandbox/faults") == {"faults": []}


@pytest.mark.parametrize(("retry_after", "sent"), [(None, None), (7, "7"), (1.5, "1.5"), ("soon", "soon")])
def test_a_429_can_say_when_to_come_back(retry_after: Any, sent: str | None) -> None:
    host = Host()
    host.arm("429", retry_after=retry_after)
    assert host.ask("GET", ME).headers.get("retry-after") == sent


def test_a_fault_strikes_only_what_it_matches() -> None:
    host = Host()
    armed = host.arm("500", match={"operation": "me", "token": "sandbox-bob"})
    assert armed["match"] == {"operation": "me", "token": "bob"}
    assert host.ask("GET", ME).status_code == 200
    assert host.ask("GET", "/v1/organizations", token=BOB).status_code == 200
    assert host.ask("GET", ME, token=BOB).status_code == 500
    assert host.get("/_sandbox/faults")["faults"][0]["struck"] == 1
    assert host.ask("DELETE", "/_sandbox/faults").json() == {"faults": []}
    assert host.ask("GET", ME, token=BOB).status_code == 200


def test_a_fault_can_last_for_some_time() -> None:
    host = Host()
    host.arm("500", for_seconds=10)
    assert host.ask("GET", ME).status_code == 500
    host.time.advance(9.9)
    assert host.ask("GET", ME).status_code == 500
    host.time.advance(0.2)
    assert host.ask("GET", ME).status_code == 200


def test_faults_are_played_in_the_order_in_which_they_were_armed() -> None:
    host = Host()
    host.arm("500", times=1)
    host.arm("429", times=1)
    host.arm("latency", times=3, seconds=0)
    assert [host.ask("GET", ME).status_code for _ in range(3)] == [500, 429, 200]
    assert host.get("/_sandbox/faults") == {"faults": []}


def test_a_cookie_is_added_to_the_real_answer() -> None:
    host = Host()
    plain = host.ask("GET", ME)
    host.arm("cookie", value="abc")
    answer = host.ask("GET", ME)
    assert answer.headers["set-cookie"] == "session=abc; Path=/"
    assert answer.content == plain.content


def test_odd_json_shows_every_oddity_at_its_place() -> None:
    host = Host()
    host.arm("odd_json")
    text = host.ask("GET", LOGS).text
    page = json.loads(text)
    assert page["status"] is None
    assert page["total_logs"] == len(page["logs"]) == 28
    assert "NaN" in text
    assert "1e400" in text
    assert "\\ud800" in text
    assert isinstance(page["logs"][4]["observation"], list)
    assert isinstance(page["logs"][5]["tool_output"], str)
    assert page["logs"][6]["id"] == "log-1"
    assert page["logs"][7]["message_type"] == "HOLOGRAM_RENDERED"
    assert page["logs"][8]["created_at"] is None
    part = json.loads(host.ask("GET", f"{LOGS}?skip=4&limit=5").text)
    assert part["logs"] == page["logs"][4:9]
    back = json.loads(host.ask("GET", f"{LOGS}?reverse=true&skip=19&limit=5").text)
    assert back["logs"] == page["logs"][4:9][::-1]


def test_odd_json_leaves_errors_and_runs_readable() -> None:
    host = Host()
    host.arm("odd_json")
    assert host.get("/v1/organizations/323/agent/run/12345")["status"] is None
    assert host.ask("GET", f"{LOGS}?limit=0").status_code == 422
    assert host.ask("GET", ME, token=None).status_code == 401


@pytest.mark.parametrize("kind", ["reset", "half_body"])
def test_in_process_a_cut_connection_is_an_exception(kind: str) -> None:
    host = Host()
    host.arm(kind, times=1)
    with pytest.raises(ConnectionResetError):
        host.ask("GET", ME)
    assert host.ask("GET", ME).status_code == 200


@pytest.mark.parametrize(
    "order",
    [
        {"kind": "plague"},
        {"kind": "500", "match": {"operation": "dance"}},
        {"kind": "500", "match": {"token": "mallory"}},
        {"kind": "500", "times": 0},
        {"kind": "429", "retry_after": "a\r\nb: c"},
        {"kind": "cookie", "value": "a;b"},
        {"kind": "status", "status": 42},
        {"kind": "500", "match": {"operation": "\ud800"}},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(order: dict[str, Any]) -> None:
    body = json.dumps(order).encode()
    answer = Host().ask("POST", "/_sandbox/faults", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_requests_are_counted_by_operation_and_user() -> None:
    host = Host()
    host.get(ME)
    host.get(ME, token=BOB)
    host.page(12345)
    host.ask("GET", LOGS, token="sk-secret")
    host.arm("429", times=1)
    host.ask("GET", LOGS)
    host.ask("GET", "/v1/nowhere")
    counts = host.get("/_sandbox/requests")
    assert (counts["total"], counts["429"], counts["with_cookie"]) == (6, 1, 0)
    assert counts["operations"] == {
        "me": {"total": 2, "429": 0},
        "logs": {"total": 3, "429": 1},
        "unknown": {"total": 1, "429": 0},
    }
    assert {"operation": "logs", "user": "alice", "total": 2, "429": 1} in counts["by_user"]
    assert {"operation": "logs", "user": None, "total": 1, "429": 0} in counts["by_user"]
    assert host.ask("DELETE", "/_sandbox/requests").json()["total"] == 0


def test_the_last_requests_are_remembered_without_their_tokens() -> None:
    host = Host()
    headers = {"x-request-id": "abc", "via": "1.1 gate", "traceparent": "00-1-2-01", "cookie": "session=secret"}
    host.ask("GET", f"{LOGS}?limit=5&token=sandbox-alice", headers=headers)
    requests = host.get("/_sandbox/requests")
    (request,) = requests["recent"]
    assert (request["method"], request["path"], request["status"]) == ("GET", LOGS, 200)
    assert (request["operation"], request["user"]) == ("logs", "alice")
    assert request["query"] == "limit=5&token=<alice>"
    assert {key: request["headers"][key] for key in ("x-request-id", "via", "traceparent")} == {
        "x-request-id": "abc",
        "via": "1.1 gate",
        "traceparent": "00-1-2-01",
    }
    assert requests["with_cookie"] == 1
    assert "sandbox-alice" not in json.dumps(requests)
    assert "secret" not in json.dumps(requests)


def test_only_the_last_hundred_requests_are_remembered() -> None:
    host = Host()
    for number in range(105):
        host.get(f"{ME}?n={number}")
    requests = host.get("/_sandbox/requests")
    assert requests["total"] == 105
    assert [each["query"] for each in requests["recent"]] == [f"n={number}" for number in range(5, 105)]


def test_a_run_can_be_made_by_hand() -> None:
    host = Host()
    entries = [
        {"message_type": "ACTION", "x_new": [1]},
        {"created_at": None, "agent_run_id": 7, "observation": "half \ud800"},
    ]
    order = {"organization_id": 402, "user": "bob", "status": "TIMEOUT", "result": "r", "entries": entries, "count": 3}
    headers = {"content-type": "application/json"}
    made = host.ask("POST", "/_sandbox/runs", token=None, content=json.dumps(order).encode(), headers=headers).json()
    assert (made["status"], made["total_logs"], made["organization_id"]) == ("TIMEOUT", 5, 402)
    path = f"/v1/alpha/organizations/402/agent/run/{made['id']}/logs"
    logs = host.get(path, token=BOB)["logs"]
    assert logs[0]["x_new"] == [1]
    assert logs[0]["agent_run_id"] == made["id"]
    assert logs[1] == entries[1]
    assert logs[4]["observation"] == "entry 5"


def test_a_run_of_a_hundred_thousand_entries_is_made_and_read_quickly() -> None:
    host = Host()
    began = time.process_time()
    order = {"status": "COMPLETE", "count": 100_000, "entry_bytes": 1000}
    run_id = host.post("/_sandbox/runs", order, token=None)["id"]
    for skip in (0, 50_000, 99_950):
        assert host.page(run_id, skip=skip)["logs"][0]["observation"] == f"entry {skip + 1}"
    page = host.ask("GET", f"/v1/alpha/organizations/323/agent/run/{run_id}/logs?skip=700")
    assert 95_000 < len(page.content) < 105_000
    assert time.process_time() - began < 5


def test_a_run_can_be_changed_by_hand() -> None:
    host = Host()
    run_id = host.post("/_sandbox/runs", {"entries": [{"thought": "one"}]}, token=None)["id"]
    path = f"/_sandbox/runs/{run_id}"

    def patch(order: dict[str, Any]) -> Any:
        answer = host.ask("PATCH", path, token=None, json=order)
        assert answer.status_code == 200, answer.text
        return answer.json()

    host.time.advance(5)
    assert patch({"append": [{"thought": "two"}, {"thought": "three"}]})["total_logs"] == 3
    log = host.log(run_id)
    assert [entry["thought"] for entry in log] == ["one", "two", "three"]
    assert log[0]["created_at"] < log[1]["created_at"]
    patch({"amend": [{"position": 2, "fields": {"tool_output": {"ok": True}}}]})
    assert host.log(run_id)[1] == {**log[1], "tool_output": {"ok": True}}
    done = patch({"status": "COMPLETE", "result": "all of it"})
    assert (done["status"], done["result"], done["total_logs"]) == ("COMPLETE", "all of it", 3)
    assert patch({"append": [{"thought": "late"}]})["status"] == "COMPLETE"
    assert patch({"status": None})["status"] is None
    assert host.run(run_id)["result"] == "all of it"
    assert patch({"entries": [{"thought": "another log"}], "status": "ACTIVE"})["total_logs"] == 1
    assert [entry["thought"] for entry in host.log(run_id)] == ["another log"]
    assert "tool_output" not in host.log(run_id)[0]
    assert host.get(path)["status"] == "ACTIVE"


def test_a_change_by_hand_ends_a_script_but_an_amendment_lets_it_go_on() -> None:
    host = Host()
    amended, changed = host.create("endless"), host.create("endless")
    host.time.advance(2.5)
    order = {"amend": [{"position": 1, "fields": {"thought": "!"}}]}
    host.ask("PATCH", f"/_sandbox/runs/{amended}", json=order)
    host.ask("PATCH", f"/_sandbox/runs/{changed}", json={"append": [{"thought": "!"}]})
    host.time.advance(10)
    assert len(host.log(amended)) == 13
    assert host.log(amended)[0]["thought"] == "!"
    assert len(host.log(changed)) == 4


def test_an_order_is_carried_out_whole_or_not_at_all() -> None:
    host = Host()
    order = {"append": [{"thought": "x"}], "amend": [{"position": 30, "fields": {}}], "status": "ERROR"}
    assert host.ask("PATCH", "/_sandbox/runs/12345", json=order).status_code == 422
    assert host.page(12345)["total_logs"] == 28
    assert host.run(12345)["status"] == "COMPLETE"
    assert host.ask("PATCH", "/_sandbox/runs/1", json={}).status_code == 404
    assert host.ask("POST", "/_sandbox/runs", json={"organization_id": 5}).status_code == 422
    assert host.ask("POST", "/_sandbox/runs", json={"user": "mallory"}).status_code == 422


def test_the_sandbox_says_what_there_is() -> None:
    about = Host({"speed": 3.0}).get("/_sandbox", token=None)
    assert about["tokens"]["sandbox-bob"] == {"id": 1002, "name": "bob", "organizations": [323, 402]}
    assert {"default", "bursts", "quota"} <= set(about["scenarios"])
    assert (about["example_run"], about["limits"], about["speed"]) == (12345, "off", 3.0)


def test_every_answer_of_the_host_has_an_id_of_its_own() -> None:
    host = Host()
    ids = {host.ask("GET", path, headers={"x-request-id": "mine"}).headers["x-request-id"] for path in (ME, "/", ME)}
    assert len(ids) == 3
    assert "mine" not in ids
