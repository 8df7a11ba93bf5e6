"""Idempotency-Key between processes: however often it is asked, and whatever breaks, the sandbox has one run more."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, eventually, gateway, kill
from tests.end_to_end.relay import relay

PATIENCE = {"upstream_read_timeout_seconds": 1}
"""A gateway that waits a second for the host."""


def body(name: str) -> dict[str, object]:
    return {"prompt": "Say it once only", "metadata": {"scenario": "quick", "name": name}}


def create(server: Server, name: str) -> httpx.Response:
    return server.request(
        "POST", "/agent-runs", json=body(name), headers={**ALICE, "Idempotency-Key": f"key of {name}"}
    )


def started(host: Sandbox, name: str) -> list[int]:
    """The runs that were started under this name, of the last hundred."""
    listed = host.client.get(f"{host.url}/v1/organizations/323/agent/runs", headers=ALICE).json()["items"]
    return [run["id"] for run in listed if (run["metadata"] or {}).get("name") == name]


def insist(server: Server, name: str) -> httpx.Response:
    """Ask again for as long as the gateway says that this may help."""
    deadline = time.monotonic() + 5 * WAIT
    while True:
        answer = create(server, name)
        if answer.status_code not in (409, 502, 504):
            return answer
        assert time.monotonic() < deadline, answer.text
        time.sleep(min(0.5, float(answer.headers.get("Retry-After", "0.2"))))


@pytest.mark.wire("idempotency-under-way", "idempotency-replayed")
def test_two_hundred_creates_at_once_make_one_run(host: Sandbox, server: Server) -> None:
    name = str(uuid4())
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: create(server, name), range(200)))
    seen = Counter((answer.status_code, answer.headers.get("Idempotent-Replayed")) for answer in answers)
    assert seen[201, None] == 1
    assert set(seen) <= {(201, None), (201, "true"), (409, None)}
    (run,) = started(host, name)
    assert {answer.json()["id"] for answer in answers if answer.status_code == 201} == {run}
    last = create(server, name)
    assert (last.status_code, last.json()["id"], last.headers["Location"]) == (201, run, f"/agent-runs/{run}")


@pytest.mark.wire("idempotency-unknown", "writes-once")
def test_a_host_that_answers_too_late_has_started_one_run(host: Sandbox) -> None:
    name = str(uuid4())
    with relay(host.url) as way, gateway(host, base_url=way.url, **PATIENCE) as server:
        server.get("/users/me")
        way.late = 4
        assert create(server, name).status_code == 504
        way.late = 0
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: insist(server, name), range(200)))
        assert {answer.status_code for answer in answers} == {201}
        (run,) = started(host, name)
        assert {answer.json()["id"] for answer in answers} == {run}


@pytest.mark.wire("idempotency-under-way")
def test_a_client_that_gave_up_gets_the_run_that_it_started(host: Sandbox, server: Server) -> None:
    name = str(uuid4())
    host.fault("latency", "create", seconds=4, times=1)
    with httpx.Client(trust_env=False, timeout=0.5) as hasty, pytest.raises(httpx.ReadTimeout):
        hasty.post(f"{server.url}/agent-runs", json=body(name), headers={**ALICE, "Idempotency-Key": f"key of {name}"})
    assert create(server, name).status_code == 409
    answer = insist(server, name)
    assert (answer.status_code, answer.headers["Idempotent-Replayed"]) == (201, "true")
    assert started(host, name) == [answer.json()["id"]]
    host.heal()


@pytest.mark.wire("idempotency-unknown", "writes-once")
@pytest.mark.parametrize("fault", ["500", "503_html", "html", "reset", "half_body"])
def test_whatever_breaks_in_the_middle_there_is_one_run_in_the_end(host: Sandbox, server: Server, fault: str) -> None:
    name = str(uuid4())
    host.fault(fault, "create", times=1)
    assert create(server, name).status_code == 502
    answer = insist(server, name)
    assert answer.status_code == 201, answer.text
    assert started(host, name) == [answer.json()["id"]]
    assert create(server, name).json() == answer.json()
    host.heal()


@pytest.mark.wire("idempotency-unknown")
def test_a_resume_that_broke_off_is_found_in_the_log(host: Sandbox) -> None:
    run = host.seed(status="COMPLETE")
    asked = {"json": {"prompt": "Go on, but only once"}, "headers": {**ALICE, "Idempotency-Key": "a resume"}}
    with relay(host.url) as way, gateway(host, base_url=way.url, **PATIENCE) as server:
        server.get(f"/agent-runs/{run}")
        way.late = 4
        assert server.request("POST", f"/agent-runs/{run}/resume", **asked).status_code == 504
        way.late = 0
        answer = server.request("POST", f"/agent-runs/{run}/resume", **asked)
        assert answer.status_code == 200, answer.text
        log = server.get(f"/agent-runs/{run}/logs").json()["logs"]
        assert [entry["message_type"] for entry in log].count("USER_MESSAGE") == 1


@pytest.mark.wire("writes-once")
def test_a_resume_of_which_only_half_an_answer_came_is_done(host: Sandbox, server: Server) -> None:
    run = host.seed(status="COMPLETE")
    host.fault("half_body", "resume", times=1)
    answer = server.request("POST", f"/agent-runs/{run}/resume", json={"prompt": "Go on"}, headers=ALICE)
    assert answer.status_code == 200, answer.text
    log = server.get(f"/agent-runs/{run}/logs").json()["logs"]
    assert [entry["message_type"] for entry in log].count("USER_MESSAGE") == 1
    host.heal()


@pytest.mark.wire("idempotency-reach")
def test_the_repeat_of_a_create_may_reach_another_process(host: Sandbox, server: Server) -> None:
    name = str(uuid4())
    first = create(server, name)
    with gateway(host) as another:
        again = create(another, name)
        assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
        assert again.headers["Idempotent-Replayed"] == "true"
    assert started(host, name) == [first.json()["id"]]


@pytest.mark.wire("idempotency-reach")
def test_a_create_that_was_under_way_when_its_process_was_killed_is_not_done_again(host: Sandbox) -> None:
    name = str(uuid4())
    with relay(host.url) as way, gateway(host, base_url=way.url) as killed, ThreadPoolExecutor(1) as asking:
        killed.get("/users/me")
        assert create(killed, str(uuid4())).status_code == 201
        way.late = 10
        asked = asking.submit(create, killed, name)
        eventually(lambda: started(host, name))
        kill(killed.pid)
        with pytest.raises(httpx.TransportError):
            asked.result()
    with gateway(host) as another:
        again = create(another, name)
        assert (again.status_code, again.headers.get("Idempotent-Replayed")) == (201, "true")
    assert started(host, name) == [again.json()["id"]]
