"""The host's shapes: paths, members, pages, times, and its three kinds of error."""

import re

import pytest

from .hosts import ALICE, BOB, RUNS, Host, Time

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")


def test_a_token_belongs_to_a_user() -> None:
    host = Host()
    assert host.get("/v1/users/me")["github_username"] == "alice"
    bob = host.get("/v1/users/me", token=BOB)
    assert bob["github_username"] == "bob"
    assert isinstance(bob["id"], int)
    assert isinstance(bob["github_user_id"], str)


def test_users_share_one_organization_and_have_one_each() -> None:
    host = Host()
    page = host.get("/v1/organizations")
    assert [each["id"] for each in page["items"]] == [323, 401]
    assert {key: page[key] for key in ("total", "page", "size", "pages")} == {
        "total": 2,
        "page": 1,
        "size": 100,
        "pages": 1,
    }
    assert [each["id"] for each in host.get("/v1/organizations", token=BOB)["items"]] == [323, 402]
    assert [each["id"] for each in host.get("/v1/organizations?skip=1&limit=1")["items"]] == [401]


def test_the_users_of_an_organization_can_be_listed_and_looked_up() -> None:
    host = Host()
    users = host.get("/v1/organizations/323/users")
    assert [each["github_username"] for each in users["items"]] == ["alice", "bob"]
    alone = host.get("/v1/organizations/401/users")["items"]
    assert host.get(f"/v1/organizations/401/users/{alone[0]['id']}") == alone[0]
    missing = host.ask("GET", f"/v1/organizations/401/users/{users['items'][1]['id']}")
    assert missing.status_code == 404
    assert missing.json() == {"message": "User not found.", "status_code": 404}


def test_the_repositories_of_an_organization_are_listed_and_look_made_up() -> None:
    host = Host()
    page = host.get("/v1/organizations/323/repos?skip=1&limit=1")
    assert (page["total"], page["page"], page["size"], page["pages"]) == (2, 2, 1, 2)
    (repository,) = page["items"]
    assert (repository["full_name"], repository["organization_id"]) == ("sandbox/example-api", 323)
    assert repository["github_id"] == str(repository["id"])
    assert host.get("/v1/organizations/402/repos", token=BOB)["items"] == []
    assert host.ask("GET", "/v1/organizations/402/repos").status_code == 403
    assert host.ask("GET", "/v1/organizations/323/repositories").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer sk-nobody"}, {"authorization": "sandbox-alice"}, {"authorization": "Basic x"}],
)
def test_no_valid_token_is_answered_401_without_a_challenge(headers: dict[str, str]) -> None:
    answer = Host().ask("GET", "/v1/users/me", token=None, headers=headers)
    assert answer.status_code == 401
    assert answer.content == b'{"detail":"Invalid or expired API token"}'
    assert "www-authenticate" not in answer.headers


def test_the_token_is_looked_at_before_the_body() -> None:
    assert Host().ask("POST", RUNS, token=None, content=b"{not json").status_code == 401


@pytest.mark.parametrize("organization", [402, 9999, 10**30])
def test_an_organization_the_user_is_not_in_is_answered_403(organization: int) -> None:
    answer = Host().ask("GET", f"/v1/organizations/{organization}/agent/runs")
    assert answer.status_code == 403
    assert answer.json() == {"message": "You do not have access to this organization.", "status_code": 403}


@pytest.mark.parametrize("run_id", [1, 10**30, -5])
def test_an_unknown_run_is_answered_404(run_id: int) -> None:
    host = Host()
    for answer in (
        host.ask("GET", f"{RUNS}/{run_id}"),
        host.ask("GET", f"/v1/alpha/organizations/323/agent/run/{run_id}/logs"),
        host.ask("POST", f"{RUNS}/resume", json={"agent_run_id": run_id, "prompt": "x"}),
        host.ask("POST", f"{RUNS}/ban", json={"agent_run_id": run_id}),
    ):
        assert answer.status_code == 404
        assert answer.json() == {"message": "Agent run not found.", "status_code": 404}


def test_a_run_of_another_organization_is_answered_404() -> None:
    assert Host().ask("GET", "/v1/organizations/401/agent/run/12345").status_code == 404


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/organizations/323/agent/run/12345/logs", "/docs", "/openapi.json"])
def test_an_unknown_route_is_answered_as_fastapi_does(path: str) -> None:
    answer = Host().ask("GET", path, token=None)
    assert answer.status_code == 404
    assert answer.json() == {"detail": "Not Found"}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "skip=-1", "limit=ten", "reverse=perhaps"])
def test_a_page_out_of_bounds_is_answered_422_with_its_input(query: str) -> None:
    answer = Host().ask("GET", f"/v1/alpha/organizations/323/agent/run/12345/logs?{query}")
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == ["query", query.partition("=")[0]]
    assert detail["input"] == query.partition("=")[2]


def test_an_invalid_source_type_is_answered_422() -> None:
    assert Host().ask("GET", "/v1/organizations/323/agent/runs?source_type=PIGEON").status_code == 422


def test_what_the_host_does_not_know_is_ignored() -> None:
    host = Host()
    host.post(f"{RUNS}?offset=3", {"prompt": "hi", "colour": "blue"})
    assert host.page(12345, page=3, size=5)["size"] == 100


def test_a_created_run_looks_like_the_hosts() -> None:
    host = Host()
    run = host.post(RUNS, {"prompt": "hi", "metadata": {"a": [1, None]}, "images": ["data:image/png;base64,AA=="]})
    assert list(run) == [
        "id",
        "organization_id",
        "status",
        "created_at",
        "web_url",
        "result",
        "summary",
        "source_type",
        "github_pull_requests",
        "metadata",
    ]
    assert TIME.fullmatch(run["created_at"])
    assert run["web_url"] == f"https://codegen.com/agent/trace/{run['id']}"
    assert (run["status"], run["result"], run["source_type"]) == ("ACTIVE", None, "API")
    assert run["github_pull_requests"] == []
    assert run["metadata"] == {"a": [1, None]}
    assert host.post(RUNS, {"prompt": "hi"})["metadata"] is None


def test_ids_grow_within_a_sandbox_and_from_one_to_the_next() -> None:
    host = Host()
    first, second = host.create(), host.create()
    later = Host(time=Time(passed=60))
    assert 12345 < first < second < later.create()


@pytest.mark.parametrize(
    ("scenario", "status"), [("quota", 402), ("no_repos", 404)], ids=["out of runs", "without repositories"]
)
def test_creation_can_be_refused(scenario: str, status: int) -> None:
    host = Host()
    answer = host.ask("POST", RUNS, json={"prompt": "x", "metadata": {"scenario": scenario}})
    assert answer.status_code == answer.json()["status_code"] == status
    assert host.get("/v1/organizations/323/agent/runs")["total"] == 1


def test_the_example_run_is_there_and_long_finished() -> None:
    host = Host()
    run = host.run(12345)
    assert run["status"] == "COMPLETE"
    assert run["result"]
    assert run["summary"]
    assert run["github_pull_requests"][0]["id"] == 218
    page = host.page(12345)
    assert page["total_logs"] == len(page["logs"]) == 28
    assert page["created_at"] < page["logs"][0]["created_at"] < page["logs"][-1]["created_at"] < "2027-01-15 07"
    assert page["logs"][-1]["message_type"] == "FINAL_ANSWER"
    assert page["logs"][-1]["observation"] == page["result"]


def test_a_log_page_lacks_what_the_hosts_lacks() -> None:
    page = Host().page(12345, limit=10, skip=20)
    assert list(page) == [
        "id",
        "organization_id",
        "status",
        "created_at",
        "web_url",
        "result",
        "metadata",
        "logs",
        "total_logs",
        "page",
        "size",
        "pages",
    ]
    assert (page["page"], page["size"], page["pages"], len(page["logs"])) == (3, 10, 3, 8)


def test_a_log_begins_with_the_users_message_which_names_a_tool() -> None:
    first = Host().page(12345, limit=1)["logs"][0]
    assert set(first) == {"agent_run_id", "created_at", "tool_name", "message_type", "tool_input", "tool_output"}
    assert (first["tool_name"], first["message_type"]) == ("user_input", "USER_MESSAGE")
    assert isinstance(first["tool_input"], dict)
    assert isinstance(first["tool_output"], dict)
    assert TIME.fullmatch(first["created_at"])


def test_a_log_read_backwards_counts_from_the_end() -> None:
    host = Host()
    forwards = host.log(12345)
    assert host.page(12345, reverse=True)["logs"] == forwards[::-1]
    assert host.page(12345, reverse="true", skip=3, limit=2)["logs"] == forwards[::-1][3:5]
    assert host.page(12345, reverse=True, skip=28)["logs"] == []


@pytest.mark.parametrize("skip", [28, 1000, 10**30])
def test_a_page_beyond_the_log_is_empty(skip: int) -> None:
    page = Host().page(12345, skip=skip)
    assert page["logs"] == []
    assert page["total_logs"] == 28


def test_runs_are_listed_newest_first_in_pages() -> None:
    host = Host()
    ids = [host.create("quick") for _ in range(4)]
    every = host.get("/v1/organizations/323/agent/runs")
    assert [run["id"] for run in every["items"]] == [*reversed(ids), 12345]
    page = host.get("/v1/organizations/323/agent/runs?skip=2&limit=2")
    assert [run["id"] for run in page["items"]] == [ids[1], ids[0]]
    assert (page["total"], page["page"], page["size"], page["pages"]) == (5, 2, 2, 3)
    assert host.get("/v1/organizations/323/agent/runs?skip=9")["items"] == []


def test_runs_are_listed_by_user_and_source() -> None:
    host = Host()
    bobs = host.post(RUNS, {"prompt": "mine"}, token=BOB)["id"]
    me = host.get("/v1/users/me", token=BOB)["id"]
    mine = host.get(f"/v1/organizations/323/agent/runs?user_id={me}&source_type=API")
    assert [run["id"] for run in mine["items"]] == [bobs]
    assert host.get("/v1/organizations/323/agent/runs?source_type=SLACK")["total"] == 0
    assert host.get("/v1/organizations/401/agent/runs") == {
        "items": [],
        "total": 0,
        "page": 1,
        "size": 100,
        "pages": 0,
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"half \\ud800 pair","metadata":{"k":"\\udc00","n":123456789012345678901234567890}}',
        b'{"prompt":"","metadata":{"scenario":["quick"],"speed":"fast"}}',
        b'{"prompt":"x","metadata":{"scenario":null,"speed":1e308}}',
        b'{"prompt":"x","metadata":{"speed":-1}}',
        b'{"prompt":"x","metadata":{"speed":true}}',
        b'{"prompt":"x","metadata":{"speed":' + b"9" * 400 + b"}}",
        b'{"prompt":"x","metadata":' + b'{"a":' * 99 + b"1" + b"}" * 100,
    ],
)
def test_odd_but_sound_bodies_make_a_run(body: bytes) -> None:
    host = Host()
    made = host.ask("POST", RUNS, content=body, headers={"content-type": "application/json"})
    assert made.status_code == 200, made.text
    host.time.advance(60)
    assert host.page(made.json()["id"])["status"] == "COMPLETE"
    assert len(host.get("/v1/organizations/323/agent/runs")["items"]) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"x","metadata":{"n":NaN}}',
        b'{"prompt":"x","metadata":{"n":[1e400]}}',
        b'{"prompt":["\\ud800", NaN, "the word NaN"]}',
        b'{"prompt":"x","repo_id":1e400}',
        b'{"prompt":"x","metadata":' + b'{"a":' * 150 + b"1" + b"}" * 151,
        b'{"prompt":"x","metadata":' + b'{"a":' * 930 + b"1" + b"}" * 931,
        b'{"prompt":' + b"[" * 930 + b"]" * 931,
        b'{"prompt":"x","agent_type":"robot"}',
        b'{"prompt":"x","metadata":[]}',
        b'{"prompt"',
        b"\xff\xfe",
        b"[]",
        b"",
        b"9" * 5000,
        b"[" * 100_000,
    ],
    ids=range(15),
)
def test_unsound_bodies_are_refused_and_never_a_server_error(body: bytes) -> None:
    answer = Host().ask("POST", RUNS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["detail"]


def test_a_path_with_an_odd_id_is_refused() -> None:
    host = Host()
    for odd in ("resume", "1.5", "%ED%A0%80", "9" * 5000):
        assert host.ask("GET", f"{RUNS}/{odd}").status_code == 422


def test_alice_cannot_see_a_run_of_bobs_organization() -> None:
    host = Host()
    run_id = host.post("/v1/organizations/402/agent/run", {"prompt": "x"}, token=BOB)["id"]
    assert host.ask("GET", f"/v1/organizations/402/agent/run/{run_id}", token=ALICE).status_code == 403
    assert host.ask("GET", f"/v1/organizations/323/agent/run/{run_id}", token=ALICE).status_code == 404
