"""Agents, and runs by their id alone: the paths of the published Agent Protocol that LangGraph's server has not."""

from typing import Any

from codegen_api.dialects.agent_protocol.assistants import BUILT_IN
from tests.dialects.sdk import client_of, speaking
from tests.dialects.site import Site

SAID: dict[str, Any] = {"messages": [{"role": "user", "content": "Count the boats"}]}


def finish(site: Site) -> None:
    for made in site.host.runs.values():
        made.append(type="ANSWER", text="Twelve")
        made.status = "COMPLETE"


async def test_an_agent_is_an_assistant_under_another_name() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.assistants.create("agent", assistant_id="poet", name="Poet", metadata={"team": 7})
        (found,) = (await site.post("/agents/search", {"name": "POE", "metadata": {"team": 7}})).json()
        assert found == {
            "agent_id": "poet",
            "name": "Poet",
            "description": "",
            "metadata": {"team": 7},
            "capabilities": {"ap.io.messages": True},
        }
        assert (await site.get("/agents/poet")).json() == found
        both = await site.post("/agents/search", {"limit": 1})
        assert [each["agent_id"] for each in both.json()] == [BUILT_IN.id]
        assert (both.headers["X-Pagination-Total"], both.headers["X-Pagination-Next"]) == ("2", "1")
        schemas = (await site.get("/agents/poet/schemas")).json()
        theirs = await client.assistants.get_schemas("poet")
        assert schemas == {"agent_id": "poet", **{name: theirs[name] for name in theirs if name != "graph_id"}}
        for path in ("/agents/nowhere", "/agents/nowhere/schemas"):
            answer = await site.get(path)
            assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_a_run_is_read_followed_awaited_and_forgotten_without_its_thread() -> None:
    async with speaking() as site:
        made = (await site.post("/threads/t/runs", {"agent_id": "agent", **SAID})).json()
        assert (made["agent_id"], made["assistant_id"]) == (BUILT_IN.id, BUILT_IN.id)
        assert made["kwargs"] == {name: made[name] for name in ("input", "config", "context")}
        by_id, in_thread = f"/runs/{made['run_id']}", f"/threads/t/runs/{made['run_id']}"
        assert (await site.ask("DELETE", by_id)).status_code == 409
        finish(site)
        waited = await site.get(f"{by_id}/wait")
        assert waited.json()["messages"][0]["content"] == "Count the boats"
        assert waited.json() == (await site.get(f"{in_thread}/join")).json()
        assert (await site.get(by_id)).json() == (await site.get(in_thread)).json()
        followed = await site.get(f"{by_id}/stream?stream_mode=updates")
        assert followed.text == (await site.get(f"{in_thread}/stream?stream_mode=updates")).text
        assert "event: end" in followed.text
        assert (await site.post(f"{by_id}/cancel")).json()["status"] == "success"
        assert (await site.post(f"{by_id}/cancel?action=rollback")).status_code == 422
        assert (await site.ask("DELETE", by_id)).status_code == 204
        assert (await site.get(in_thread)).status_code == 404


async def test_runs_are_found_among_the_callers_own() -> None:
    async with speaking() as site:
        first = (await site.post("/threads/one/runs", SAID)).json()["run_id"]
        second = (await site.post("/threads/two/runs", SAID)).json()["run_id"]
        await site.post("/threads/two/runs", SAID, token="bob")

        async def found(**asked: Any) -> list[str]:
            answer = await site.post("/runs/search", asked)
            return [each["run_id"] for each in answer.json()]

        assert await found() == [second, first]
        assert await found(limit=1, offset=1) == [first]
        assert await found(thread_id="two") == [second]
        assert await found(status="success") == []
        assert set(await found(status="running")) | set(await found(status="pending")) == {first, second}
        assert await found(status="timeout") == []
        odd = await site.post("/runs/search", {"status": "foo"})
        assert (odd.status_code, odd.json()["details"][0]["loc"]) == (422, ["body", "status"])
        assert (await site.post("/runs/search", {"thread_id": "elsewhere"})).status_code == 404
        for name, value in (("metadata", {"a": 1}), ("agent_id", "agent")):
            refused = await site.post("/runs/search", {name: value})
            assert (refused.status_code, refused.json()["code"]) == (422, "unsupported")
            assert f"`{name}`" in refused.json()["message"]


async def test_what_is_said_twice_in_different_words_is_refused() -> None:
    async with speaking() as site:
        for body in ({**SAID, "input": SAID}, {**SAID, "agent_id": "agent", "assistant_id": "poet"}):
            assert (await site.post("/threads/t/runs", body)).status_code == 422
        assert site.host.runs == {}


async def test_a_thread_is_not_followed_by_channels() -> None:
    async with speaking() as site:
        answer = await site.post("/threads/t/stream", {"channels": ["messages"]})
        assert (answer.status_code, answer.json()["error"]) == (501, "not_implemented")
