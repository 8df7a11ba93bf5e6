"""How often the sandbox answers."""

from typing import Any

import pytest

from codegen_api.sandbox import create_sandbox

from .hosts import BOB, RUNS, Host


def statuses(host: Host, times: int, method: str, path: str, **more: Any) -> list[int]:
    return [host.ask(method, path, **more).status_code for _ in range(times)]


@pytest.mark.parametrize(
    ("method", "path", "allowed", "window"),
    [
        ("POST", RUNS, 10, 60),
        ("GET", "/v1/alpha/organizations/323/agent/run/12345/logs", 60, 60),
        ("GET", f"{RUNS}/12345", 60, 30),
        ("GET", "/v1/organizations/323/agent/runs", 60, 30),
        ("GET", "/v1/users/me", 60, 30),
        ("POST", f"{RUNS}/unban", 60, 30),
    ],
)
def test_the_table_counts_each_endpoint(method: str, path: str, allowed: int, window: int) -> None:
    host = Host({"limits": "table"})
    body: dict[str, Any] = {"json": {"prompt": "x", "agent_run_id": 12345}} if method == "POST" else {}
    assert statuses(host, allowed, method, path, **body) == [200] * allowed
    host.time.advance(window / 2)
    refused = host.ask(method, path, **body)
    assert refused.status_code == 429
    assert refused.json() == {"message": "Rate limit exceeded. Please try again later.", "status_code": 429}
    assert refused.headers["retry-after"] == str(window // 2)
    assert host.ask("GET", "/v1/organizations").status_code == 200
    host.time.advance(window / 2)
    assert statuses(host, 1, method, path, **body) == [200]


def test_another_token_has_its_own_allowance() -> None:
    host = Host({"limits": "table"})
    assert statuses(host, 11, "POST", RUNS, json={"prompt": "x"})[-1] == 429
    assert host.ask("POST", RUNS, token=BOB, json={"prompt": "x"}).status_code == 200


def test_the_window_slides_and_refusals_cost_nothing() -> None:
    host = Host({"limits": "table"})
    for _ in range(10):
        assert statuses(host, 1, "POST", RUNS, json={"prompt": "x"}) == [200]
        host.time.advance(6)
    assert statuses(host, 2, "POST", RUNS, json={"prompt": "x"}) == [200, 429]
    host.time.advance(5.5)
    assert host.ask("POST", RUNS, json={"prompt": "x"}).headers["retry-after"] == "1"
    host.time.advance(0.5)
    assert statuses(host, 2, "POST", RUNS, json={"prompt": "x"}) == [200, 429]


def test_a_shared_allowance_is_spent_by_everything() -> None:
    host = Host({"limits": "shared"})
    for _ in range(30):
        host.get("/v1/users/me")
        host.run(12345)
    refused = host.ask("GET", "/v1/organizations")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
    assert host.ask("GET", "/v1/organizations", token=BOB).status_code == 200
    host.time.advance(60)
    host.get("/v1/organizations")


def test_retry_after_can_be_withheld() -> None:
    host = Host({"limits": "shared", "retry_after": False})
    answers = [host.ask("GET", "/v1/users/me") for _ in range(61)]
    assert answers[-1].status_code == 429
    assert "retry-after" not in answers[-1].headers


def test_admin_and_unknown_tokens_and_paths_cost_nothing() -> None:
    host = Host({"limits": "shared"})
    for _ in range(61):
        host.get("/_sandbox/requests")
        assert host.ask("GET", "/v1/users/me", token="sk-nobody").status_code == 401
        assert host.ask("GET", "/v1/nowhere").status_code == 404
    host.get("/v1/users/me")


@pytest.mark.parametrize(
    "options", [{"limits": "some"}, {"speed": 0}, {"speed": float("nan")}, {"resume_lag": -1}, {"speed": float("inf")}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        create_sandbox(**options)
