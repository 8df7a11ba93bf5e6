"""The hosted API's routes, over a host in memory."""

import re
from pathlib import Path
from typing import Any

import pytest

from codegen_api import errors
from codegen_api.dialects.codegen.routes import NOT_OFFERED
from codegen_api.errors import Rejected
from codegen_api.identity import Principal
from codegen_api.runs import Paging
from codegen_api.upstreams import Listing, NewRun, Organization, RunFilter
from tests.dialects.rich import RichHost
from tests.dialects.routes import EVERY
from tests.dialects.site import Site, serving
from tests.dialects.test_strangers import ISSUER, place

RUNS = "/v1/organizations/9/agent/run"
LOGS = "/v1/alpha/organizations/9/agent/run/1/logs"
USERS = "/v1/organizations/9/users"


def a_host(length: int = 0, **more: Any) -> RichHost:
    host = RichHost()
    host.add(**{"status": "ACTIVE", "result": "42", **more}).append(length)
    return host


def serving_all(host: Any = None, **more: Any) -> Any:
    return serving(a_host() if host is None else host, dialects=EVERY, **more)


# -- runs -------------------------------------------------------------------------------------------------------------


async def test_a_new_run_is_answered_200_with_the_host_s_fields_and_no_other() -> None:
    async with serving_all(RichHost()) as site:
        body = {
            "prompt": "Say hello", "metadata": {"a": [1, {"b": None}]}, "images": ["data:image/png;base64,AA=="],
            "repo_id": 7, "model": "m", "agent_type": "t", "webhooks": [],
        }  # fmt: skip
        answer = await site.post(f"{RUNS}", body)
        assert answer.status_code == 200
        assert answer.json() == {"id": 1, "status": "ACTIVE", "result": None}
        assert not {"location", "idempotent-replayed"} & set(answer.headers)
        await site.post(RUNS, {"prompt": "x"})
    images = ("data:image/png;base64,AA==",)
    assert site.host.created == [NewRun("Say hello", {"a": [1, {"b": None}]}, images, 7, "m", "t"), NewRun("x")]


async def test_a_run_is_the_host_s() -> None:
    async with serving_all() as site:
        answer = await site.get(f"{RUNS}/1")
        assert (answer.status_code, answer.json()) == (
            200,
            {"id": 1, "status": "ACTIVE", "result": "42", "summary": "whole"},
        )
        assert (await site.get(f"{RUNS}/001")).json() == answer.json()


async def test_runs_are_listed_with_the_host_s_numbers_and_filters() -> None:
    async with serving_all() as site:
        answer = await site.get(f"{RUNS}s?skip=0&limit=7&source_type=API&user_id=1001")
        page = {"total": 1, "page": 1, "size": 7, "pages": 1}
        assert answer.json() == {"items": [{"id": 1, "status": "ACTIVE", "result": "42"}], **page}
        await site.get(f"{RUNS}s")
    assert site.host.filters == [RunFilter("API", "1001"), RunFilter()]


@pytest.mark.parametrize("most", [100, 7, 5, 4, 1])
@pytest.mark.parametrize("path", [f"{RUNS}s", LOGS, f"{LOGS}?reverse=true"])
async def test_a_page_is_whole_or_an_error_that_says_how_much_can_be_had(path: str, most: int) -> None:
    host = a_host(130)
    for number in range(2, 131):
        host.add(str(number))
    host.most = most
    async with serving_all(host, upstream_requests_per_minute=1_000_000) as site:
        name, sign = ("items" if path.endswith("runs") else "logs"), "&" if "?" in path else "?"
        limit, skip, came = 100, 0, 0
        while skip < 130:
            answer = await site.get(f"{path}{sign}skip={skip}&limit={limit}")
            if answer.status_code == 502:
                assert limit == 100
                limit = int(re.findall(r"ask for a limit of (\d+) or less", answer.json()["message"])[0])
                continue
            came += len(answer.json()[name])
            skip += limit  # as clients of the host do
        assert came == 130
        assert (limit == 100) == (most >= 5)


async def test_a_run_that_is_resumed_is_named_in_the_body() -> None:
    async with serving_all(a_host(status="COMPLETE")) as site:
        body = {"agent_run_id": 1, "prompt": "Go on", "images": ["data:image/png;base64,AA=="], "model": None}
        answer = await site.post(f"{RUNS}/resume", body)
        assert (answer.status_code, answer.json()) == (200, {"id": 1, "status": "ACTIVE", "result": "42"})
    assert site.host.resumed == [("Go on", ("data:image/png;base64,AA==",))]


@pytest.mark.parametrize(
    ("path", "more", "named"),
    [
        (RUNS, {"webhooks": [{"url": "https://a.example", "secret": "s"}]}, ["webhooks"]),
        (f"{RUNS}/resume", {"agent_run_id": 1, "model": "m"}, ["model"]),
        (f"{RUNS}/resume", {"agent_run_id": 1, "webhooks": [{}], "model": "m"}, ["model", "webhooks"]),
    ],
)
async def test_what_is_not_passed_on_is_refused_by_name_and_nothing_is_done(
    path: str, more: dict[str, Any], named: list[str]
) -> None:
    async with serving_all() as site:
        answer = await site.post(path, {"prompt": "Go on", **more})
        assert (answer.status_code, answer.json()["code"]) == (422, "unsupported")
        assert [place["loc"] for place in answer.json()["detail"]] == [["body", name] for name in named]
        assert all(name in answer.json()["message"] for name in named)
        assert not {"create", "resume"} & set(site.host.calls)


@pytest.mark.parametrize(("order", "banned"), [("ban", True), ("remove-from-pr", True), ("unban", False)])
async def test_a_run_is_banned_and_its_ban_lifted(order: str, banned: bool) -> None:
    async with serving_all() as site:
        body = {"agent_run_id": 1, "before_card_order_id": "a", "after_card_order_id": None}
        answer = await site.post(f"{RUNS}/{order}", body)
        assert (answer.status_code, answer.json()) == (200, {"agent_run_id": 1, "banned": banned})
        assert (site.host.runs["1"].status == "CANCELLED") == banned
        assert site.host.calls["cancel"] == banned
        assert site.host.calls["uncancel"] == (not banned)


@pytest.mark.parametrize("order", ["ban", "remove-from-pr"])
async def test_the_host_is_told_of_a_ban_of_a_run_that_is_over_because_its_pull_request_may_not_be(order: str) -> None:
    async with serving_all(a_host(status="COMPLETE")) as site:
        answer = await site.post(f"{RUNS}/{order}", {"agent_run_id": 1})
        assert (answer.status_code, answer.json()) == (200, {"agent_run_id": 1, "banned": True})
        assert site.host.calls["cancel"] == 1


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [1, 2, 3]),
        ("?skip=1&limit=1", [2]),
        ("?skip=3", []),
        ("?reverse=true&limit=2", [3, 2]),
        ("?reverse=0", [1, 2, 3]),
    ],
)
async def test_a_log_is_read_in_pages_in_either_order(query: str, numbers: list[int]) -> None:
    async with serving_all(a_host(3)) as site:
        answer = await site.get(LOGS + query)
        body = answer.json()
    assert answer.status_code == 200
    assert [entry["n"] for entry in body["logs"]] == numbers
    assert list(body) == ["id", "status", "result", "logs", "total_logs", "page", "size", "pages"]
    assert body["total_logs"] == 3
    assert all("position" not in entry for entry in body["logs"])
    assert "link" not in answer.headers


# -- repositories, and what is not offered ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["repos", "repositories"])
async def test_repositories_are_the_host_s_also_where_its_cli_looks(path: str) -> None:
    async with serving_all() as site:
        page = await site.get(f"/v1/organizations/9/{path}?skip=1&limit=1")
        items = [{"id": 72, "unheard_of": [None]}]
        assert page.json() == {"items": items, "total": 2, "page": 1, "size": 1, "pages": 1}
        assert site.host.calls["repositories"] == 1


@pytest.mark.parametrize(("method", "path"), [each[:2] for each in NOT_OFFERED])
async def test_what_is_not_offered_is_said_by_name_to_whoever_is_let_in_and_nobody_is_asked(
    method: str, path: str
) -> None:
    async with serving_all() as site:
        target = re.sub("{[a-z_]+}", "9", path)
        stranger = await site.ask(method, target, token=None)
        assert (stranger.status_code, stranger.json()["code"]) == (401, "not_authenticated")
        answer = await site.ask(method, target)
        assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
        assert answer.json()["detail"] == answer.json()["message"]
        assert answer.json()["message"].startswith("Not offered by the gateway: ")
        assert set(site.host.calls) == {"identify"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/organizations/9/tools",
        "/v1/organizations/9/claude_code/session",
        "/v1/oauth/tokens",
        "/v1/mcp-providers/7",
        "/v1/slack-connect",
        "/v1/alpha/x",
        "/v1/beta/organizations/9/agent/run/stop",
    ],
)
async def test_what_no_document_has_is_not_found_in_the_host_s_shape(path: str) -> None:
    async with serving_all() as site:
        answer = await site.get(path)
        assert answer.status_code == answer.json()["status_code"] == 404
        assert answer.json()["detail"] == answer.json()["message"]


# -- users and organizations ------------------------------------------------------------------------------------------


async def test_users_and_organizations_are_the_host_s() -> None:
    async with serving_all() as site:
        me = await site.get("/v1/users/me")
        assert me.json() == {"id": 1, "email": "a@example.com", "unheard_of": {"deep": [1, None]}}
        organizations = await site.get("/v1/organizations?limit=7")
        assert organizations.json() == {"items": [{"id": 9}], "total": 1, "page": 1, "size": 7, "pages": 1}
        users = await site.get(f"{USERS}?skip=1&limit=1")
        bob = {"id": 2, "github_username": "bob"}
        assert users.json() == {"items": [bob], "total": 2, "page": 1, "size": 1, "pages": 1}
        assert (await site.get(f"{USERS}/2")).json() == bob
        missing = await site.get(f"{USERS}/3")
        assert (missing.status_code, missing.json()["status_code"]) == (404, 404)


async def test_the_organization_is_that_of_the_path() -> None:
    host = a_host()
    asked = []
    original = host.list_runs

    async def list_runs(credential: Any, organization: str, *more: Any) -> Any:
        asked.append(organization)
        return await original(credential, organization, *more)

    host.list_runs = list_runs  # type: ignore[assignment,method-assign]
    async with serving_all(host, org_id="5") as site:
        for path in ("323", "0323", "7"):
            await site.get(f"/v1/organizations/{path}/agent/runs", headers={"X-Organization-ID": "6"})
    assert asked == ["323", "323", "7"]


# -- users of the deployment's own ------------------------------------------------------------------------------------


async def run_lists(site: Site, token: str, query: str = "") -> Any:
    return (await site.get(f"{RUNS}s{query}", token=token)).json()


async def test_who_shares_the_account_has_a_number_and_means_their_runs_with_it(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, keys):
        ann, eve = ISSUER.token("ann"), ISSUER.token("eve")
        root = ISSUER.token("root", scope="runs:read:all runs:write")
        me = (await site.get("/v1/users/me", token=ann)).json()
        assert me["id"] == Principal(f"jwt:{ISSUER.name}", "ann").number
        assert (me["github_user_id"], me["github_username"]) == ("ann", "ann")
        assert me == (await site.get("/v1/users/me", token=ISSUER.token("ann", scope="runs:write"))).json()
        other = (await site.get("/v1/users/me", token=keys["another key"])).json()
        assert other["github_username"] == "ci"
        assert site.host.calls["identify"] == 0
        for _ in range(2):
            assert (await site.post(RUNS, {"prompt": "Say hello"}, token=root)).status_code == 200
        for query in ("", f"?user_id={me['id']}"):
            page = await run_lists(site, ann, query)
            assert [item["id"] for item in page["items"]] == [1]
            assert {name: page[name] for name in ("total", "page", "size", "pages")} == {
                "total": 1, "page": 1, "size": 100, "pages": 1,
            }  # fmt: skip
        assert (await run_lists(site, eve))["items"] == []
        assert len((await run_lists(site, root))["items"]) == 3
        number = (await site.get("/v1/users/me", token=root)).json()["id"]
        assert [item["id"] for item in (await run_lists(site, root, f"?user_id={number}"))["items"]] == [3, 2]
        first = await run_lists(site, root, f"?user_id={number}&limit=1")
        assert (first["total"], first["pages"], first["items"][0]["id"]) == (2, 2, 3)


async def test_who_shares_the_account_is_not_shown_who_else_does(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, _):
        ann = ISSUER.token("ann", scope="runs:read:all runs:write:all")
        repositories = [f"/v1/organizations/9/{path}" for path in ("repos", "repositories")]
        for path in (USERS, f"{USERS}/1", f"{USERS}/777", *repositories):
            answer = await site.get(path, token=ann)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        elsewhere = await site.get("/v1/organizations/8/users", token=ann)
        assert elsewhere.status_code == 403
        organizations = (await site.get("/v1/organizations", token=ann)).json()
        assert organizations == {"items": [{"id": 9}], "total": 1, "page": 1, "size": 100, "pages": 1}
        assert not {"users", "user", "repositories"} & set(site.host.calls)


# -- doing things once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"), [(RUNS, {"prompt": "Say hello"}), (f"{RUNS}/resume", {"agent_run_id": 1, "prompt": "Go on"})]
)
async def test_what_is_asked_for_again_with_its_key_is_done_once(path: str, body: dict[str, Any]) -> None:
    async with serving_all() as site:
        first, again = [await site.post(path, body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert first.json() == again.json()
        assert (first.status_code, again.status_code) == (200, 200)
        assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
        assert site.host.calls["create"] + site.host.calls["resume"] == 1
        other = await site.post(path, {**body, "prompt": "Something else"}, headers={"Idempotency-Key": "k"})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert other.json()["detail"][0]["msg"] == other.json()["message"]
        odd = await site.post(path, body, headers={"Idempotency-Key": "k" * 300})
        assert odd.status_code == 400


# -- requests that are wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"{RUNS}s", LOGS, USERS, "/v1/organizations", "/v1/organizations/9/repositories"])
@pytest.mark.parametrize("query", ["skip=-1", "skip=x", "limit=0", "limit=101", "limit=all"])
async def test_a_window_that_makes_no_sense_is_422(path: str, query: str) -> None:
    async with serving_all() as site:
        answer = await site.get(f"{path}?{query}")
    assert answer.status_code == 422
    (place,) = answer.json()["detail"]
    assert set(place) == {"loc", "msg", "type"}
    assert place["loc"] == ["query", query.split("=", maxsplit=1)[0]]
    assert set(site.host.calls) <= {"identify"}


@pytest.mark.parametrize("user", ["x", "1.5"])
async def test_a_user_to_filter_by_who_cannot_be_one_is_422(user: str) -> None:
    async with serving_all() as site:
        answer = await site.get(f"{RUNS}s?user_id={user}")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "user_id"])


@pytest.mark.parametrize("odd", ["x", "-1", "1.5", "9" * 30, "resume", "%20", "٣", "1%00"])
async def test_an_id_that_cannot_be_one_is_422_and_nobody_is_asked(odd: str) -> None:
    async with serving_all() as site:
        answers = [
            await site.get(f"{RUNS}/{odd}"),
            await site.get(LOGS.replace("/1/", f"/{odd}/")),
            await site.get(f"{USERS}/{odd}"),
            await site.get(f"/v1/organizations/{odd}/users"),
            await site.post(RUNS.replace("/9/", f"/{odd}/"), {"prompt": "x"}),
            *[
                await site.post(f"{RUNS}/{order}", {"agent_run_id": odd, "prompt": "x"})
                for order in ("resume", "ban", "unban", "remove-from-pr")
            ],
        ]
    for answer in answers:
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"]
    assert set(site.host.calls) <= {"identify"}


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        (RUNS, {}, "prompt"),
        (RUNS, {"prompt": None}, "prompt"),
        (RUNS, {"prompt": "secret-input", "metadata": []}, "metadata"),
        (RUNS, {"prompt": "x", "images": "secret-input"}, "images"),
        (f"{RUNS}/resume", {"prompt": "x"}, "agent_run_id"),
        (f"{RUNS}/resume", {"agent_run_id": 1}, "prompt"),
        (f"{RUNS}/ban", {}, "agent_run_id"),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused_without_being_quoted(path: str, body: Any, where: str) -> None:
    async with serving_all() as site:
        answer = await site.post(path, body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", where]
    assert "secret-" not in answer.text


@pytest.mark.parametrize("path", ["/v1/users/me", "/v1/organizations/323/agent/runs", LOGS])
@pytest.mark.parametrize(
    ("token", "sentence"), [(None, "Authentication is required"), ("sk-nobody", "Invalid or expired")]
)
async def test_nobody_is_let_in_without_a_good_token(path: str, token: str | None, sentence: str) -> None:
    host = a_host()

    async def refuse(_: str) -> None:
        raise errors.InvalidToken("Invalid or expired API token")

    host.before = refuse
    async with serving_all(host) as site:
        answer = await site.get(path, token=token)
    assert answer.status_code == 401
    assert answer.json()["detail"] == answer.json()["message"]
    assert answer.json()["detail"].startswith(sentence)
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [
        (errors.QuotaExhausted("Alloted agent runs have been reached."), 402, None),
        (errors.Forbidden("You do not have access to this organization."), 403, None),
        (errors.NotFound("Agent run not found."), 404, None),
        (errors.UpstreamRateLimited("Rate limit exceeded. Please try again later.", retry_after=3), 429, "3"),
        (errors.UpstreamTimeout(), 504, None),
    ],
)
async def test_what_the_host_says_comes_under_both_of_its_names(
    error: errors.GatewayError, status: int, wait: str | None
) -> None:
    host = a_host()

    async def fail(operation: str) -> None:
        if operation == "get":
            raise error

    host.before = fail
    async with serving_all(host) as site:
        answer = await site.get(f"{RUNS}/1", headers={"X-Request-ID": "abc"})
    assert answer.status_code == answer.json()["status_code"] == status
    assert answer.json()["detail"] == answer.json()["message"] == error.message
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "abc"
    assert answer.headers.get("retry-after") == wait


class NamedHost(RichHost):
    """The ids of its organizations are no numbers."""

    def organization_id(self, text: str) -> str:
        raise Rejected

    async def organizations(self, credential: Any, skip: int, limit: int) -> Listing[Organization]:
        return Listing((Organization("default", {"id": "default"}),), Paging(1, 1, limit, 1), at_end=True)


@pytest.mark.parametrize("path", ["/v1/organizations", RUNS.replace("/run", "/runs"), f"{RUNS}/1"])
async def test_a_host_whose_ids_are_no_numbers_is_named(path: str) -> None:
    async with serving_all(NamedHost()) as site:
        answer = await site.get(path)
    assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
    assert "ids are numbers" in answer.json()["message"]
