"""Agents of the Everruns API, credentials, and the shape of errors."""

from dataclasses import replace
from typing import Any

import pytest

from codegen_api import errors
from codegen_api.conversations.caller_store import CallerStore
from codegen_api.dialects.everruns.schemas import SIZES
from codegen_api.dialects.everruns.wire import render_error
from codegen_api.stores import Agent
from tests.dialects.everruns import NOBODY, a_talk, an_agent, caller_of, speaking
from tests.dialects.site import run
from tests.fakehost import caller
from tests.stores.model import ModelStore


async def test_an_agent_is_created_read_changed_archived_and_taken_back() -> None:
    async with speaking() as site:
        made = await an_agent(site, name="Python Example Agent", description="An example", tags=["a", "b"])
        assert made["id"].startswith("agent_")
        assert (made["name"], made["description"], made["tags"]) == (
            "Python Example Agent",
            "An example",
            ["a", "b"],
        )
        assert (made["system_prompt"], made["status"]) == ("You are concise.", "active")
        assert made["created_at"] == made["updated_at"]
        assert not {"default_model_id", "display_name", "archived_at"} & set(made)
        path = f"/v1/agents/{made['id']}"
        assert (await site.get(path)).json() == made
        hexadecimal = made["id"].removeprefix("agent_")
        parts = [hexadecimal[:8], hexadecimal[8:12], hexadecimal[12:16], hexadecimal[16:20], hexadecimal[20:]]
        for form in (hexadecimal, hexadecimal.upper(), "-".join(parts)):
            assert (await site.get(f"/v1/agents/{form}")).json() == made
        body = {"description": "Better", "default_model_id": "large", "display_name": "Py", "name": None}
        changed = (await site.ask("PATCH", path, json=body)).json()
        assert changed["description"] == "Better"
        assert changed["default_model_id"] == "large"
        assert changed["display_name"] == "Py"
        assert changed["name"] == "Python Example Agent"
        assert (await site.ask("PATCH", path, json={})).json()["display_name"] == "Py"
        gone = await site.ask("DELETE", path)
        assert (gone.status_code, gone.content) == (204, b"")
        assert (await site.get("/v1/agents")).json()["data"] == []
        archived = (await site.get(path)).json()
        assert archived["status"] == "archived"
        assert archived["archived_at"] == archived["updated_at"]
        assert (await site.ask("DELETE", path)).status_code == 404
        assert (await site.ask("PATCH", path, json={"status": "active"})).json()["status"] == "active"
        assert (await site.get("/v1/agents")).json()["total"] == 1


async def test_an_agent_says_where_it_is_and_how_many_sessions_there_are_with_it() -> None:
    async with speaking() as site:
        idle, busy = [await an_agent(site, name=name) for name in ("idle", "busy")]
        for url in ("self_url", "view_url", "ui_link"):
            assert idle[url] == f"http://localhost/v1/agents/{idle['id']}"
        for path in ("/v1/sessions", f"/v1/agents/{busy['id']}/sessions"):
            assert (await site.post(path, {"agent_id": busy["id"]})).status_code == 201
        assert (await site.post("/v1/sessions", {})).status_code == 201
        listed = (await site.get("/v1/agents")).json()["data"]
        assert [(each["name"], each["session_count"], each["app_count"]) for each in listed] == [
            ("busy", 2, 0),
            ("idle", 0, 0),
        ]
        path = f"/v1/agents/{busy['id']}"
        assert (await site.get(path)).json()["session_count"] == 2
        assert (await site.ask("PATCH", path, json={})).json()["session_count"] == 2


@pytest.mark.parametrize(
    ("headers", "home"), [({"Host": "a.example:81"}, "http://a.example:81/at"), ({}, "http://localhost/at")]
)
async def test_a_url_begins_with_the_address_that_was_asked(headers: Any, home: str) -> None:
    async with speaking(root_path="/at") as site:
        answer = await site.post("/v1/sessions", {}, headers=headers)
        assert answer.json()["self_url"] == f"{home}/v1/sessions/{answer.json()['id']}"


async def test_archived_agents_are_listed_for_who_asks_for_them() -> None:
    async with speaking() as site:
        gone, there = [await an_agent(site, name=name) for name in ("gone", "there")]
        await site.ask("DELETE", f"/v1/agents/{gone['id']}")
        for query, names in (("", ["there"]), ("?include_archived=true", ["there", "gone"])):
            listed = (await site.get(f"/v1/agents{query}")).json()
            assert ([each["name"] for each in listed["data"]], listed["total"]) == (names, len(names))
        assert there["status"] == "active"


async def test_an_agent_is_found_and_put_by_its_id_or_its_name() -> None:
    async with speaking() as site:
        body = {"name": "support", "system_prompt": "Help."}
        id = "agent_" + "0b" * 16  # noqa: A001
        for status, prompt in ((201, "Help."), (200, "Help more.")):
            put = await site.ask("PUT", f"/v1/agents/{id}", json={**body, "system_prompt": prompt})
            assert (put.status_code, put.json()["id"], put.json()["system_prompt"]) == (status, id, prompt)
        by_name = await site.ask("PUT", "/v1/agents/support", json={**body, "system_prompt": "Help on."})
        assert (by_name.status_code, by_name.json()["id"]) == (200, id)
        assert (await site.get("/v1/agents/support")).json() == by_name.json()
        new = await site.ask("PUT", "/v1/agents/sales", json={"name": "sales", "system_prompt": "Sell."})
        assert (new.status_code, new.json()["name"]) == (201, "sales")
        assert (await site.get("/v1/agents/supp")).status_code == 404
        assert (await site.get("/v1/agents/support", token="bob")).status_code == 404
        theirs = await site.ask("PUT", f"/v1/agents/{id}", json=body, token="bob")
        assert (theirs.status_code, theirs.json()["session_count"]) == (201, 0)
        assert (await site.get(f"/v1/agents/{id}")).json()["system_prompt"] == "Help on."


async def test_agents_are_listed_for_both_generations_of_clients_newest_first() -> None:
    async with speaking() as site:
        made = [await an_agent(site, name=f"Agent {n}") for n in range(5)]
        listed = (await site.get("/v1/agents")).json()
        assert listed["data"] == listed["items"] == made[::-1]
        assert (listed["total"], listed["offset"], listed["limit"]) == (5, 0, 100)
        some = (await site.get("/v1/agents?offset=1&limit=2")).json()
        assert some["data"] == made[::-1][1:3]
        assert some["total"] == 5
        assert (await site.get("/v1/agents?search=GENT%203")).json()["data"] == [made[3]]
        assert (await site.get("/v1/agents?limit=101")).status_code == 422
        assert (await site.get("/v1/agents", token="bob")).json()["data"] == []


async def test_with_the_id_of_one_that_there_is_an_agent_is_changed() -> None:
    async with speaking() as site:
        wanted = "agent_" + "0a" * 16
        first = await site.post("/v1/agents", {"id": wanted, "name": "a", "system_prompt": "b", "display_name": "A"})
        assert (first.status_code, first.json()["id"]) == (201, wanted)
        await site.ask("DELETE", f"/v1/agents/{wanted}")
        again = await site.post("/v1/agents", {"id": wanted, "name": "c", "system_prompt": "d"})
        assert again.status_code == 200
        assert (again.json()["name"], again.json()["status"]) == ("c", "active")
        assert again.json()["created_at"] == first.json()["created_at"]
        assert (await site.post("/v1/agents", {"id": "x", "name": "c", "system_prompt": "d"})).status_code == 404
        theirs = await site.post("/v1/agents", {"id": wanted, "name": "e", "system_prompt": "f"}, token="bob")
        assert (theirs.status_code, theirs.json()["name"]) == (201, "e")
        assert (await site.get(f"/v1/agents/{wanted}")).json()["name"] == "c"


async def test_agents_of_other_dialects_can_be_read_and_are_not_listed() -> None:
    async with speaking() as site:
        conversations = site.app.state.parts.conversations.of(await caller_of(site))
        await conversations.add_agent(Agent(NOBODY, "theirs", 1.0, 1.0))
        assert (await site.get("/v1/agents")).json()["data"] == []
        found = (await site.get(f"/v1/agents/{NOBODY}")).json()
        assert (found["name"], found["system_prompt"]) == ("theirs", "")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x"}, 422),
        ({"system_prompt": "x"}, 422),
        ({"name": "", "system_prompt": "x"}, 422),
        ({"name": "x", "system_prompt": "x", "tags": "x"}, 422),
        ({"name": "x\0", "system_prompt": "x"}, 422),
        ({"name": "x" * (SIZES["name"] + 1), "system_prompt": "x"}, 400),
        ({"name": "ß" * (SIZES["name"] // 2 + 1), "system_prompt": "x"}, 400),
        ({"name": "x", "system_prompt": "x" * (SIZES["system_prompt"] + 1)}, 400),
        ({"name": "x", "system_prompt": "x", "description": "x" * (SIZES["description"] + 1)}, 400),
        ({"name": "x", "system_prompt": "x", "tags": ["x" * SIZES["tags"]]}, 400),
        ({"name": "x", "system_prompt": "x", "tools": [{"name": "t"}]}, 422),
        ({"name": "x", "system_prompt": "x", "capabilities": [{"ref": "c"}]}, 422),
        ({"name": "x", "system_prompt": "x", "initial_files": [{"path": "/a"}]}, 422),
        ({"name": "x", "system_prompt": "x", "mcpServers": {"a": {}}}, 422),
        ({"name": "x", "system_prompt": "x", "network_access": {"allowed": ["a.example"]}}, 422),
        ({"name": "x", "system_prompt": "x", "max_iterations": 3}, 422),
    ],
)
async def test_what_cannot_be_kept_or_done_is_refused(body: Any, status: int) -> None:
    async with speaking() as site:
        answer = await site.post("/v1/agents", body)
        assert answer.status_code == status, answer.text
        made = await an_agent(site)
        if {"name", "system_prompt"} <= set(body):
            assert (await site.ask("PATCH", f"/v1/agents/{made['id']}", json=body)).status_code == status
        assert (await site.get("/v1/agents")).json()["data"] == [made]


async def test_empty_lists_and_unknown_fields_are_nothing_to_refuse() -> None:
    async with speaking() as site:
        more: dict[str, Any] = {
            "tools": [],
            "capabilities": [],
            "initial_files": [],
            "max_iterations": None,
            "harness_name": "generic",
            "parallel_tool_calls": False,
            "surprise": 1,
        }
        assert (await an_agent(site, **more))["capabilities"] == []


@pytest.mark.parametrize("id", [NOBODY, "agent_x", "x", "..%2f", "agent_" + "0" * 32])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_agent_that_is_not_there_is_404(id: str, method: str) -> None:  # noqa: A002
    async with speaking() as site:
        answer = await site.ask(method, f"/v1/agents/{id}", json={} if method == "PATCH" else None)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_who_changes_what_others_change_all_the_time_is_told_so() -> None:
    class Contested(ModelStore):
        async def change_agent(self, *_: Any) -> None:
            pass

    own = CallerStore(caller(), "ann", Contested())
    await own.add_agent(Agent("x", "x", 1.0, 1.0))
    with pytest.raises(errors.Conflict):
        await own.change_agent("x", lambda then: replace(then, name="y"))
    assert await own.change_agent("y", lambda then: then) is None


# -- credentials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["Bearer alice", "alice", "ApiKey alice", "bearer  alice ", "apikey alice"])
def test_credentials_come_with_a_scheme_or_without(given: str) -> None:
    async def main() -> None:
        async with speaking() as site:
            made = await an_agent(site)
            answer = await site.get("/v1/agents", token=None, headers={"Authorization": given})
            assert answer.json()["data"] == [made]

    run(main())


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("Bearer nobody", "invalid_token"),
        ("nobody", "invalid_token"),
        ("Basic alice", "invalid_token"),
        ("Bearer", "not_authenticated"),
        ("Bearer al ice", "invalid_token"),
        ("evr_pat_0123456789", "invalid_token"),
        ("Bearer evr_ak_0123456789", "invalid_token"),
    ],
)
def test_credentials_that_are_none_are_401_also_where_there_is_a_demo_user(given: str, code: str) -> None:
    async def main() -> None:
        async with speaking(demo_token="alice") as site:
            answer = await site.get("/v1/agents", token=None, headers={"Authorization": given})
            assert (answer.status_code, answer.json()["code"]) == (401, code)
            assert answer.headers["www-authenticate"].startswith("Bearer")

    run(main())


async def test_a_key_for_everruns_is_shown_to_no_host() -> None:
    async with speaking() as site:
        answer = await site.get("/v1/agents", token=None, headers={"Authorization": "evr_pat_0123456789"})
        assert answer.status_code == 401
        assert site.host.calls["identify"] == 0


async def test_who_calls_for_one_of_several_users_of_theirs_is_refused() -> None:
    """Applications keep their users apart with this header, who would see each other's sessions if it meant nothing."""

    async with speaking() as site:
        for method, path in (("GET", "/v1/sessions"), ("POST", "/v1/sessions"), ("GET", "/v1/agents")):
            answer = await site.ask(method, path, headers={"End-User": "customer-42"}, json={})
            assert (answer.status_code, answer.json()["code"]) == (422, "unsupported")
            assert "End-User" in answer.json()["error"]["message"]


async def test_who_shows_nothing_is_the_demo_user_or_nobody() -> None:
    async with speaking(demo_token="alice") as site:
        made = await an_agent(site)
        assert (await site.get("/v1/agents", token=None)).json()["data"] == [made]
    async with speaking() as site:
        assert (await site.get("/v1/agents", token=None)).status_code == 401


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_can_be_read_by_both_generations_of_clients() -> None:
    async with speaking() as site:
        for path in ("/v1/agents/x", "/v1/agents/a/b/c", "/v1/sessions/x", "/v1/agents", "/v1/sessions"):
            answer = await site.ask("PUT" if path.count("/") == 2 else "GET", path)
            body = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert body["status"] == body["status_code"] == answer.status_code in (404, 405)
            assert body["type"] == "about:blank"
            assert body["title"] in ("Not Found", "Method Not Allowed")
            assert body["error"] == {"code": body["code"], "message": body["detail"]}
            assert body["request_id"] == answer.headers["x-request-id"]
        answer = await site.post("/v1/agents", {})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
        assert [item["loc"] for item in answer.json()["details"]] == [["body", "name"], ["body", "system_prompt"]]


def test_an_error_says_when_to_come_back() -> None:
    answer = render_error(errors.ConversationBusy())
    assert answer.status_code == 409
    assert b'"retry_after_seconds":10' in bytes(answer.body)
    assert answer.headers["retry-after"] == "10"


def test_every_error_has_a_status_and_a_shape() -> None:
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, errors.GatewayError):
            answer = render_error(kind())
            assert 400 <= answer.status_code < 600
            assert answer.media_type == "application/problem+json"


async def test_the_documents_of_this_api_lead_to_ours() -> None:
    async with speaking() as site:
        for path in ("/swagger-ui", "/swagger-ui/"):
            answer = await site.get(path, token=None)
            assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
    async with speaking(root_path="/gateway") as site:
        assert (await site.get("/swagger-ui/", token=None)).headers["location"] == "/gateway/docs"


async def test_pages_of_other_origins_may_send_what_these_clients_send() -> None:
    origin = "https://app.example"
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-org-id, content-type",
    }
    async with speaking(cors_origins=origin) as site:
        assert (await site.ask("OPTIONS", "/v1/agents", token=None, headers=asked)).status_code == 200


async def test_a_session_belongs_to_the_organization_that_is_named() -> None:
    async with speaking(org_id=None) as site:
        for headers, shown in (
            ({"X-Org-Id": "9"}, "9"),
            ({"X-Organization-ID": "9"}, "9"),
            ({"X-Org-Id": f"org_{'9':0>32}"}, "9"),
            ({}, "9"),
        ):
            answer = await site.post("/v1/sessions", {}, headers=headers)
            assert answer.json()["organization_id"] == f"org_{shown:0>32}", answer.text
        refused = await site.post("/v1/sessions", {}, headers={"X-Org-Id": "org_0190a5b0c0de70008000000000cafe00"})
        assert refused.status_code == 422


async def test_nothing_of_the_host_is_asked_for_an_agent() -> None:
    async with speaking() as site:
        await a_talk(site)
        assert set(site.host.calls) == {"identify"}
