"""The hosted API at its own paths: the gateway in front of a host, and the host itself, as its clients see them."""

import json
from collections.abc import Iterator
from typing import Any

import codegen_api_client
import httpx
import pytest

from tests.end_to_end.processes import ALICE, BOB, Sandbox, Server, entry, gateway, sandbox
from tests.leaks import WATCH

ORGANIZATION = "/v1/organizations/323"
RUNS = f"{ORGANIZATION}/agent/run"
NESTED = {"created_at": "2025-06-21T11:20:04Z", "text": 'ümläut \u2028 "created_at":"2025-06-21T11:20:04Z"'}


@pytest.fixture(scope="module")
def alone() -> Iterator[Sandbox]:
    """A host where nothing moves but by these tests."""
    with sandbox() as host:
        yield host


@pytest.fixture(scope="module")
def instead(alone: Sandbox) -> Iterator[Server]:
    """A gateway in its place."""
    with gateway(alone, dialects="codegen") as server:
        yield server


@pytest.fixture(params=["the host", "the gateway"])
def url(request: pytest.FixtureRequest, alone: Sandbox, instead: Server) -> str:
    return {"the host": alone.url, "the gateway": instead.url}[request.param]


def test_the_official_generated_client_works(url: str) -> None:
    bearer = "Bearer sandbox-alice"
    configuration = codegen_api_client.Configuration(host=url, access_token="sandbox-alice")
    with codegen_api_client.ApiClient(configuration) as client:
        agents = codegen_api_client.AgentsApi(client)
        body = codegen_api_client.CreateAgentRunInput(prompt="What is 2+2?")
        made = agents.create_agent_run_v1_organizations_org_id_agent_run_post(323, body, authorization=bearer)
        assert made.status == "ACTIVE"
        seen = agents.get_agent_run_v1_organizations_org_id_agent_run_agent_run_id_get(
            agent_run_id=made.id, org_id=323, authorization=bearer
        )
        assert (seen.id, seen.organization_id, seen.web_url) == (made.id, 323, made.web_url)
        assert seen.created_at == made.created_at
        organizations = codegen_api_client.OrganizationsApi(client)
        page = organizations.get_organizations_v1_organizations_get(authorization=bearer)
        assert [each.id for each in page.items] == [323, 401]
        users = codegen_api_client.UsersApi(client)
        members = users.get_users_v1_organizations_org_id_users_get("323", authorization=bearer)
        assert [each.github_username for each in members.items] == ["alice", "bob"]
        alone = users.get_user_v1_organizations_org_id_users_user_id_get(
            org_id="323", user_id=str(members.items[1].id), authorization=bearer
        )
        assert alone == members.items[1]
        with pytest.raises(codegen_api_client.exceptions.UnauthorizedException, match="Invalid or expired"):
            organizations.get_organizations_v1_organizations_get(authorization="Bearer sk-nobody")
        with pytest.raises(codegen_api_client.exceptions.ForbiddenException, match="do not have access"):
            users.get_users_v1_organizations_org_id_users_get("402", authorization=bearer)
        with pytest.raises(codegen_api_client.exceptions.NotFoundException, match="Agent run not found"):
            agents.get_agent_run_v1_organizations_org_id_agent_run_agent_run_id_get(
                agent_run_id=7, org_id=323, authorization=bearer
            )
        # The client leaves its pool of connections open to the garbage collector.
        client.rest_client.pool_manager.clear()


def both(
    alone: Sandbox, instead: Server, method: str, path: str, body: object = None, headers: dict[str, str] = ALICE
) -> tuple[httpx.Response, httpx.Response]:
    """What the host says, and what the gateway does."""
    WATCH.sent(headers, body)
    theirs = alone.client.request(method, alone.url + path, json=body, headers=headers)
    return theirs, instead.request(method, path, json=body, headers=headers)


def assert_same(theirs: httpx.Response, ours: httpx.Response) -> None:
    expected = theirs.content.replace("\u2028".encode(), rb"\u2028")  # the gateway writes line ends so
    assert (ours.status_code, ours.content) == (theirs.status_code, expected)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.fixture(scope="module")
def seeded(alone: Sandbox) -> int:
    """A run with everything in it that a run can have."""
    pull = {"id": 7, "created_at": "2025-06-21 11:20:04.338398", "title": "Mend", "url": None, "head_branch_name": "x"}
    texts = [entry("Mend the gate.", tool_output=NESTED, observation={"deep": [NESTED, None, 1.5, True]})]
    return alone.seed(
        status="COMPLETE",
        result="**It** is mended.\n\nüöä \U0001f600",
        summary="It is mended.",
        github_pull_requests=[pull],
        metadata={"source": "api", "due_at": "2025-06-21T11:20:04Z", "list": [1, 2.5, None, {"a": {}}]},
        entries=[*texts, {"message_type": "PR_CREATION_FAILED", "unheard_of": [NESTED], "observation": "no\nway"}],
        count=130,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/me",
        "/v1/organizations",
        "/v1/organizations?skip=1&limit=1",
        f"{ORGANIZATION}/users",
        f"{ORGANIZATION}/users?skip=5",
        f"{ORGANIZATION}/users/1002",
        f"{ORGANIZATION}/repos",
        f"{ORGANIZATION}/repos?skip=1&limit=1",
        "/v1/organizations/401/repos",
        f"{RUNS}/12345",
        f"{RUNS}/{{seeded}}",
        f"{RUNS}s",
        f"{RUNS}s?skip=1&limit=1&source_type=API&user_id=1001",
        f"{RUNS}s?source_type=SLACK",
        "/v1/organizations/401/agent/runs",
        f"/v1/alpha{RUNS[3:]}/12345/logs",
        f"/v1/alpha{RUNS[3:]}/{{seeded}}/logs",
        f"/v1/alpha{RUNS[3:]}/{{seeded}}/logs?skip=100&limit=7",
        f"/v1/alpha{RUNS[3:]}/{{seeded}}/logs?skip=130&reverse=true",
        f"/v1/alpha{RUNS[3:]}/{{seeded}}/logs?skip=1000",
    ],
)
@pytest.mark.parametrize("user", [ALICE, BOB], ids=["alice", "bob"])
def test_what_is_read_is_the_same_to_the_byte(
    alone: Sandbox, instead: Server, seeded: int, path: str, user: dict[str, str]
) -> None:
    theirs, ours = both(alone, instead, "GET", path.format(seeded=seeded), headers=user)
    if theirs.status_code == 200:
        assert_same(theirs, ours)
    else:  # bob is not in alice's organization
        assert (ours.status_code, ours.json()["message"]) == (theirs.status_code, theirs.json()["message"])


def test_what_is_done_is_answered_the_same_to_the_byte(alone: Sandbox, instead: Server) -> None:
    metadata = {"scenario": "endless", "at": NESTED}
    body = {"prompt": "Sweep the yard", "metadata": metadata, "images": ["data:image/gif;base64,QUJD"]}
    made = instead.request("POST", RUNS, json=body)
    run = made.json()["id"]
    assert_same(alone.client.get(f"{alone.url}{RUNS}/{run}", headers=ALICE), made)
    for order in ("ban", "unban", "remove-from-pr", "ban"):
        ours = instead.request("POST", f"{RUNS}/{order}", json={"agent_run_id": run})
        assert_same(alone.client.post(f"{alone.url}{RUNS}/{order}", json={"agent_run_id": run}, headers=ALICE), ours)
    stopped = alone.seed(status="COMPLETE", result="Swept.")
    again = {"agent_run_id": stopped, "prompt": "Sweep it again"}
    ours = instead.request("POST", f"{RUNS}/resume", json=again)
    assert_same(alone.client.post(f"{alone.url}{RUNS}/resume", json=again, headers=ALICE), ours)
    assert [each["message_type"] for each in alone.log(stopped)][:2] == ["USER_MESSAGE"] * 2


def without_input(detail: Any) -> Any:
    """A host's 422 without what quotes the request."""
    kept = ("loc", "msg", "type")
    return [{key: place[key] for key in kept} for place in detail] if isinstance(detail, list) else detail


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{RUNS}/7", None),
        ("GET", f"/v1/alpha{RUNS[3:]}/7/logs", None),
        ("GET", f"{ORGANIZATION}/users/7", None),
        ("GET", "/v1/organizations/402/repos", None),
        ("GET", "/v1/organizations/402/agent/runs", None),
        ("POST", "/v1/organizations/402/agent/run", {"prompt": "Sweep the yard"}),
        ("POST", RUNS, {"prompt": "Sweep the yard", "metadata": {"scenario": "quota"}}),
        ("POST", RUNS, {"prompt": "Sweep the yard", "metadata": {"scenario": "no_repos"}}),
        ("POST", f"{RUNS}/resume", {"agent_run_id": 7, "prompt": "Sweep the yard"}),
        ("POST", f"{RUNS}/ban", {"agent_run_id": 7}),
        ("POST", RUNS, {}),
        ("POST", RUNS, {"prompt": "Sweep the yard", "agent_type": "robot"}),
        ("POST", RUNS, {"prompt": ["Sweep the yard"], "images": 7}),
        ("POST", f"{RUNS}/resume", {"prompt": "Sweep the yard"}),
        ("GET", f"{RUNS}/resume", None),
        ("GET", f"{RUNS}s?limit=0&skip=-1", None),
        ("GET", f"{RUNS}s?source_type=PIGEON", None),
        ("GET", f"{RUNS}s?user_id=me", None),
        ("GET", "/v1/organizations/acme/users", None),
    ],
)
def test_what_the_host_refuses_is_refused_with_its_own_words(
    alone: Sandbox, instead: Server, method: str, path: str, body: object
) -> None:
    theirs, ours = both(alone, instead, method, path, body)
    assert ours.status_code == theirs.status_code >= 400
    said = {
        **theirs.json(),
        **({"detail": without_input(theirs.json()["detail"])} if "detail" in theirs.json() else {}),
    }
    assert {key: ours.json()[key] for key in said} == said
    assert ours.json()["code"]
    assert "Sweep" not in ours.text


def test_a_token_that_is_not_good_is_refused_with_its_own_words(alone: Sandbox, instead: Server) -> None:
    for headers in ({"Authorization": "Bearer sandbox-mallory"}, {}):
        theirs, ours = both(alone, instead, "GET", "/v1/users/me", headers=headers)
        assert ours.status_code == theirs.status_code == 401
        assert (ours.json()["detail"] == theirs.json()["detail"]) == bool(headers)
        assert ours.headers["www-authenticate"].startswith("Bearer")


def test_the_sandbox_turns_every_dialect_on_unless_told_otherwise() -> None:
    for settings, status in (({}, 200), ({"dialects": "native"}, 404)):
        with gateway(None, "--sandbox", **settings) as server:
            assert server.get("/v1/users/me").status_code == status
            assert json.loads(server.get("/users/me").content)["github_username"] == "alice"
