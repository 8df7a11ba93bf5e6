"""Agents: which there are, for whom, and what becomes of them."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from codegen_api import errors
from codegen_api.dialects.agio.wire import render_error
from codegen_api.http.web import MethodNotAllowed
from tests.dialects.agio import finish, latest, prompts, said, speaking
from tests.dialects.site import Site

FIELDS = {"id", "name", "description", "model", "tools", "enabled", "tags", "system_prompt", "created_at"}


async def names(site: Site, **asked: Any) -> list[str]:
    listed = (await site.get("/api/agents", params=asked)).json()
    return [item["id"] for item in listed["items"]]


async def test_in_the_sandbox_the_documented_agents_are_there() -> None:
    async with speaking() as site:
        listed = (await site.get("/api/agents", params={"limit": 20, "offset": 0})).json()
        assert (listed["total"], listed["limit"], listed["offset"]) == (2, 20, 0)
        assert [item["id"] for item in listed["items"]] == ["assistant", "customer_support"]
        for item in listed["items"]:
            assert set(item) == FIELDS
            assert (item["id"], item["model"], item["enabled"]) == (item["name"], "default", True)
            assert (await site.get(f"/api/agents/{item['id']}")).json() == item
        assert await names(site, tag="production") == ["customer_support"]
        assert (await site.get("/api/agents", params={"tag": "unheard of"})).json()["total"] == 0


async def test_elsewhere_there_are_those_that_somebody_has_made() -> None:
    async with speaking(sandbox=False) as site:
        assert await names(site) == []
        answer = await site.post("/api/chat", {"agent_id": "assistant", "message": "Hello!"})
        assert answer.status_code == 404
        assert (await site.post("/api/agents", {"name": "assistant"})).status_code == 201
        assert (await said(site))["response"] == "Hello!"


async def test_an_agent_is_made_read_changed_and_deleted() -> None:
    async with speaking() as site:
        order = {"name": "reviewer", "model": "m1", "tools": ["grep"], "system_prompt": "Review.", "tags": ["a"]}
        answer = await site.post("/api/agents", order)
        assert answer.status_code == 201
        made = answer.json()
        assert made == {
            **order,
            "id": "reviewer",
            "description": None,
            "enabled": True,
            "created_at": made["created_at"],
        }
        assert (await site.get("/api/agents/reviewer")).json() == made
        assert await names(site) == ["assistant", "customer_support", "reviewer"]
        assert await names(site, tag="a") == ["reviewer"]
        changed = (await site.ask("PUT", "/api/agents/reviewer", json={"description": "d", "tags": []})).json()
        assert changed == {**made, "description": "d", "tags": []}
        changed = (await site.ask("PUT", "/api/agents/reviewer", json={"model": "default", "name": "r"})).json()
        assert (changed["id"], changed["name"], changed["model"]) == ("reviewer", "r", "default")
        gone = await site.ask("DELETE", "/api/agents/reviewer")
        assert (gone.status_code, gone.content) == (204, b"")
        for method in ("GET", "PUT", "DELETE"):
            answer = await site.ask(method, "/api/agents/reviewer", json={} if method == "PUT" else None)
            assert (answer.status_code, answer.json()["detail"]) == (404, "Agent 'reviewer' not found")


async def test_what_an_agent_is_told_and_with_which_model() -> None:
    async with speaking() as site:
        await site.post("/api/agents", {"name": "poet", "model": "m1", "system_prompt": "Answer in rhymes."})
        await said(site, agent_id="poet")
        assert "Answer in rhymes." in prompts(latest(site))[0]
        assert site.host.created[-1].model == "m1"
        await site.ask("PUT", "/api/agents/poet", json={"system_prompt": None, "model": "default"})
        await said(site, agent_id="poet")
        assert prompts(latest(site)) == ["Say hello"]
        assert site.host.created[-1].model is None


async def test_an_agent_that_is_disabled_does_not_talk() -> None:
    async with speaking() as site:
        await site.ask("PUT", "/api/agents/assistant", json={"enabled": False})
        answer = await site.post("/api/chat", {"agent_id": "assistant", "message": "Hello!"})
        assert (answer.status_code, answer.json()["detail"]) == (409, "Agent 'assistant' is disabled.")
        await site.ask("PUT", "/api/agents/assistant", json={"enabled": True})
        await said(site)


async def test_what_is_built_in_can_be_changed_and_deleted_by_each_for_themselves() -> None:
    async with speaking() as site:
        changed = (await site.ask("PUT", "/api/agents/assistant", json={"system_prompt": "Be brief."})).json()
        assert changed["system_prompt"] == "Be brief."
        assert changed["created_at"] is not None
        assert await names(site) == ["customer_support", "assistant"]
        for name in ("assistant", "customer_support"):
            assert (await site.ask("DELETE", f"/api/agents/{name}")).status_code == 204
            assert (await site.ask("DELETE", f"/api/agents/{name}")).status_code == 404
        assert await names(site) == []
        assert (await site.get("/api/agents", token="bob")).json()["total"] == 2
        assert (await site.get("/api/agents/assistant", token="bob")).json()["system_prompt"] is None
        assert (await site.post("/api/agents", {"name": "assistant"})).status_code == 201
        assert await names(site) == ["assistant"]
        assert (await site.post("/api/agents", {"name": "assistant"})).status_code == 409


@pytest.mark.parametrize("name", ["assistant", "mine"])
async def test_an_id_that_is_taken_is_refused_also_to_those_who_come_at_once(name: str) -> None:
    async with speaking() as site:
        answers = await asyncio.gather(*(site.post("/api/agents", {"name": name}) for _ in range(5)))
        made = [answer.status_code for answer in answers]
        assert sorted(made) == ([409] * 5 if name == "assistant" else [201, 409, 409, 409, 409])


async def test_changes_that_come_at_once_are_all_made() -> None:
    async with speaking() as site:
        orders = [{"tags": ["a"]}, {"description": "d"}, {"system_prompt": "s"}, {"tools": ["t"]}]
        await asyncio.gather(*(site.ask("PUT", "/api/agents/assistant", json=order) for order in orders))
        shown = (await site.get("/api/agents/assistant")).json()
        assert [shown[name] for name in ("tags", "description", "system_prompt", "tools")] == [
            ["a"],
            "d",
            "s",
            ["t"],
        ]


@pytest.mark.parametrize(
    "order",
    [{}, {"name": ""}, {"name": "x" * 151}, {"name": "a\0b"}, {"name": "x", "tags": [""]}, {"name": "x", "tags": "a"}],
)
async def test_an_agent_that_cannot_be_kept_is_refused(order: Any) -> None:
    async with speaking() as site:
        answer = await site.post("/api/agents", order)
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "validation_error"
        assert len(await names(site)) == 2


@pytest.mark.parametrize("name", ["a/b", ".", ".."])
async def test_a_name_that_cannot_stand_in_a_path_is_no_id(name: str) -> None:
    async with speaking() as site:
        made = (await site.post("/api/agents", {"name": name})).json()
        assert made["name"] == name
        assert made["id"] != name
        assert (await site.get(f"/api/agents/{made['id']}")).json() == made


@pytest.mark.parametrize("name", ["Straße Nr. 5?#&%25", "ß" * 150, "a|b.c:d"])
async def test_an_id_may_be_any_other_text(name: str) -> None:
    async with speaking() as site:
        made = (await site.post("/api/agents", {"name": name})).json()
        assert made["id"] == name
        assert (await site.get(f"/api/agents/{quote(name, safe='')}")).json() == made


async def test_lists_are_cut_as_is_asked_for() -> None:
    async with speaking() as site:
        for number in range(3):
            await site.post("/api/agents", {"name": f"mine-{number}"})
        everybody = ["assistant", "customer_support", "mine-0", "mine-1", "mine-2"]
        for offset in range(7):
            for limit in range(7):
                listed = (await site.get("/api/agents", params={"limit": limit, "offset": offset})).json()
                assert [item["id"] for item in listed["items"]] == everybody[offset : offset + limit]
                assert listed["total"] == 5
        for asked in ({"limit": -1}, {"offset": -1}, {"limit": "x"}, {"limit": 1001}):
            assert (await site.get("/api/agents", params=asked)).status_code == 422


# -- health and errors ------------------------------------------------------------------------------------------------


async def test_health_has_three_keys_and_asks_nobody() -> None:
    async with speaking(version="1.2.3") as site:
        answer = await site.get("/api/health", token=None)
        assert (answer.status_code, set(answer.json())) == (200, {"status", "version", "timestamp"})
        assert (answer.json()["status"], answer.json()["version"]) == ("healthy", "1.2.3")
        assert not site.host.calls


async def test_who_shows_nothing_is_let_in_only_where_the_deployment_says_so() -> None:
    async with speaking() as site:
        answer = await site.get("/api/agents", token=None)
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    async with speaking(demo_token="alice") as site:
        assert (await site.get("/api/agents", token=None)).status_code == 200
        assert (await site.get("/api/agents", token="nobody")).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api"), ("GET", "/api/nothing"), ("POST", "/api/agents/x/y"), ("GET", "/api/checkpoints/runs/x")],
)
async def test_a_path_that_is_not_there_is_told_in_the_same_shape(method: str, path: str) -> None:
    async with speaking() as site:
        answer = await site.ask(method, path)
        assert answer.status_code == 404
        assert set(answer.json()) == {"detail", "error", "code", "status_code", "request_id"}


async def test_a_request_of_the_wrong_shape_is_told_as_clients_of_fastapi_know_it() -> None:
    async with speaking() as site:
        answer = await site.post("/api/chat", {"agent_id": 5})
        body = answer.json()
        assert [item["loc"] for item in body["detail"]] == [["body", "agent_id"], ["body", "message"]]
        assert all(set(item) == {"type", "loc", "msg"} for item in body["detail"])
        assert (body["code"], body["status_code"]) == ("validation_error", 422)
        assert isinstance(body["error"], str)


def test_errors_say_what_else_there_is_to_say() -> None:
    choices = errors.OrganizationRequired(details=[{"id": 9}])
    assert b'"details":[{"id":9}]' in bytes(render_error(choices).body)
    later = render_error(errors.RateLimited(retry_after=3.2))
    assert (later.status_code, later.headers["retry-after"]) == (429, "4")
    assert b'"retry_after":4' in bytes(later.body)
    assert render_error(MethodNotAllowed()).status_code == 405
    assert render_error(errors.GatewayError()).status_code == 500


async def test_a_run_of_an_agent_that_is_gone_stays() -> None:
    async with speaking() as site:
        await site.post("/api/agents", {"name": "mine"})
        done = await said(site, agent_id="mine")
        await site.ask("DELETE", "/api/agents/mine")
        shown = (await site.get(f"/api/runs/{done['run_id']}")).json()
        assert (shown["agent_id"], shown["response_content"]) == ("mine", "Hello!")
        finish(latest(site))
