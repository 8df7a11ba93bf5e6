"""Assistants, as the SDK and a plain client see them."""

import asyncio
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError, NotFoundError, PermissionDeniedError, UnprocessableEntityError

from codegen_api.dialects.agent_protocol.assistants import BUILT_IN, find_assistant
from codegen_api.stores import Agent
from tests.dialects.sdk import caller_of, client_of, speaking

AGENT = "fe096781-5601-53d2-b2f6-0d3403f7e9ca"


async def test_an_assistant_is_created_read_changed_and_deleted() -> None:
    async with speaking() as site, client_of(site) as client:
        made = await client.assistants.create(
            "writer",
            config={"configurable": {"model": "fast"}, "tags": ["x"]},
            context={"system_prompt": "Answer in rhymes."},
            metadata={"team": {"id": 7}},
            name="Poet",
            description="Rhymes",
        )
        assert made["graph_id"] == "writer"
        assert made["config"] == {"configurable": {"model": "fast"}, "tags": ["x"]}
        assert made["context"] == {"system_prompt": "Answer in rhymes."}
        assert (made["name"], made["description"], made["version"]) == ("Poet", "Rhymes", 1)
        assert made["created_at"].endswith("Z")
        assert await client.assistants.get(made["assistant_id"]) == made
        changed = await client.assistants.update(made["assistant_id"], metadata={"b": 1}, name="Bard")
        assert changed["metadata"] == {"team": {"id": 7}, "b": 1}
        assert (changed["name"], changed["description"], changed["version"]) == ("Bard", "Rhymes", 2)
        assert changed["context"] == made["context"]
        assert changed["updated_at"] > made["updated_at"]
        await client.assistants.delete(made["assistant_id"])
        with pytest.raises(NotFoundError, match=r"Assistant '.*' not found"):
            await client.assistants.get(made["assistant_id"])


async def test_what_the_host_is_told_comes_from_the_context_or_else_the_configuration() -> None:
    async with speaking() as site, client_of(site) as client:
        configured = {"configurable": {"system_prompt": "From the config.", "model": "slow"}}
        made = await client.assistants.create("agent", config=configured, context={"system_prompt": "First."})
        talk = site.app.state.parts.conversations.of(await caller_of(site))
        agent = await find_assistant(talk, made["assistant_id"])
        assert (agent.system_prompt, agent.model) == ("First.", "slow")
        await client.assistants.update(made["assistant_id"], context={})
        agent = await find_assistant(talk, made["assistant_id"])
        assert (agent.system_prompt, agent.model) == ("From the config.", "slow")
        await client.assistants.update(made["assistant_id"], name="Other")
        assert (await find_assistant(talk, made["assistant_id"])).system_prompt == "From the config."
        with pytest.raises(UnprocessableEntityError) as refused:
            await client.assistants.update(made["assistant_id"], config={"configurable": {"model": {"id": 1}}})
        body: Any = refused.value.body
        assert body["details"][0]["loc"] == ["body", "config", "configurable", "model"]


async def test_one_is_there_for_everybody_and_stays_as_it_is() -> None:
    async with speaking() as site:
        for user in ("alice", "bob"):
            async with client_of(site, user) as client:
                (only,) = await client.assistants.search()
                assert only["assistant_id"] == AGENT == BUILT_IN.id
                assert await client.assistants.get(AGENT) == await client.assistants.get("agent") == only
                assert only["metadata"] == {"created_by": "system"}
                for name in (AGENT, "agent"):
                    with pytest.raises(PermissionDeniedError):
                        await client.assistants.update(name, name="Mine")
                    with pytest.raises(PermissionDeniedError):
                        await client.assistants.delete(name)
                    with pytest.raises(ConflictError):
                        await client.assistants.create("agent", assistant_id=name)
                assert await client.assistants.create("agent", assistant_id=AGENT, if_exists="do_nothing") == only


async def test_an_id_that_is_taken_is_refused_or_answered_with_what_is_there() -> None:
    async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
        made = await client.assistants.create("agent", assistant_id="mine", name="First")
        with pytest.raises(ConflictError):
            await client.assistants.create("agent", assistant_id="mine")
        with pytest.raises(ConflictError):
            await client.assistants.create("agent", assistant_id="mine", if_exists="raise")
        again = await client.assistants.create("agent", assistant_id="mine", name="No", if_exists="do_nothing")
        assert again == made
        assert (await other.assistants.create("agent", assistant_id="mine", name="Other"))["name"] == "Other"


async def test_of_many_who_ask_for_the_same_one_at_once_all_get_it() -> None:
    async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
        given: dict[str, Any] = {"graph_id": "agent", "config": {"configurable": {"model": "fast"}}, "context": {}}
        asked = {"if_exists": "do_nothing", "name": "First"}
        made = await asyncio.gather(*(client.assistants.create(**given, **asked) for _ in range(30)))
        assert {each["assistant_id"] for each in made} == {made[0]["assistant_id"]}
        assert await client.assistants.count() == 2  # with the one that is built in
        own = made[0]["assistant_id"]
        others: list[dict[str, Any]] = [
            {"config": {}},
            {"graph_id": "writer"},
            {"context": {"system_prompt": "Rhyme."}},
        ]
        for more in others:
            another = await client.assistants.create(**{**given, **more}, if_exists="do_nothing")
            assert another["assistant_id"] != own
        assert (await other.assistants.create(**given, if_exists="do_nothing"))["name"] == "Untitled"
        assert await other.assistants.count() == 2


async def test_one_that_was_changed_or_made_otherwise_is_known_by_how_it_is_configured_now() -> None:
    async with speaking() as site, client_of(site) as client:

        async def wanted(graph: str) -> str:
            return (await client.assistants.create(graph, if_exists="do_nothing"))["assistant_id"]

        plain = await client.assistants.create("writer")
        assert await wanted("writer") == plain["assistant_id"]
        first = await wanted("math")
        await client.assistants.update(first, graph_id="chess")
        second = await wanted("math")
        assert second not in (first, plain["assistant_id"])
        assert (await wanted("math"), await wanted("chess")) == (second, first)
        await client.assistants.delete(second)
        assert (await client.assistants.get(await wanted("math")))["graph_id"] == "math"


async def test_an_assistant_that_is_deleted_leaves_its_threads_and_their_runs() -> None:
    async with speaking() as site, client_of(site) as client:
        made = await client.assistants.create("agent", assistant_id="mine")
        said: dict[str, Any] = {"messages": [{"role": "user", "content": "Go on"}]}
        started = await client.runs.create("t", made["assistant_id"], input=said)
        await client.assistants.delete("mine")
        kept = await client.runs.get("t", started["run_id"])
        assert (kept["assistant_id"], kept["status"]) == ("mine", "running")


async def fill(client: Any) -> None:
    for name, graph in (("Ada", "math"), ("Bea", "agent"), ("Cai", "math")):
        await client.assistants.create(graph, assistant_id=name.lower(), name=name, metadata={"graph": graph})


SEARCHES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [AGENT, "cai", "bea", "ada"]),
    ({"sort_by": "name", "sort_order": "asc"}, [AGENT, "ada", "bea", "cai"]),
    ({"sort_by": "created_at", "sort_order": "asc"}, [AGENT, "ada", "bea", "cai"]),
    ({"sort_by": "assistant_id"}, [AGENT, "cai", "bea", "ada"]),
    ({"graph_id": "math"}, ["cai", "ada"]),
    ({"graph_id": "agent"}, [AGENT, "bea"]),
    ({"metadata": {"graph": "math"}}, ["cai", "ada"]),
    ({"metadata": {"created_by": "system"}}, [AGENT]),
    ({"metadata": {"created_by": True}}, []),
    ({"name": "A"}, [AGENT, "cai", "bea", "ada"]),
    ({"name": "BE"}, ["bea"]),
    ({"limit": 1}, [AGENT]),
    ({"limit": 2}, [AGENT, "cai"]),
    ({"limit": 2, "offset": 1}, ["cai", "bea"]),
    ({"limit": 2, "offset": 3}, ["ada"]),
    ({"offset": 4}, []),
]


async def test_a_search_finds_what_has_all_that_is_asked_for() -> None:
    async with speaking() as site, client_of(site) as client:
        await fill(client)
        for asked, found in SEARCHES:
            assert [each["assistant_id"] for each in await client.assistants.search(**asked)] == found, asked
            of_all = {name: value for name, value in asked.items() if name in ("metadata", "graph_id", "name")}
            if not {"limit", "offset"} & asked.keys():
                assert await client.assistants.count(**of_all) == len(found), asked


async def test_a_search_says_where_it_goes_on() -> None:
    async with speaking() as site, client_of(site) as client:
        await fill(client)
        first = await client.assistants.search(limit=3, response_format="object")
        assert (len(first["assistants"]), first["next"]) == (3, "3")
        rest = await client.assistants.search(limit=3, offset=int(first["next"]), response_format="object")
        assert (len(rest["assistants"]), rest["next"]) == (1, None)
        listed = (await site.get("/assistants?limit=2")).json()
        assert (listed["total"], [each["name"] for each in listed["assistants"]]) == (4, ["agent", "Cai"])
        some = await client.assistants.search(select=["name", "version"])
        assert some[0] == {"name": "agent", "version": 1}
        refused = await site.post("/assistants/search", {"sort_by": "graph_id"})
        assert (refused.status_code, refused.json()["code"]) == (422, "unsupported")


async def test_of_versions_there_is_the_latest() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.assistants.create("agent", assistant_id="a")
        latest = await client.assistants.update("a", name="Second")
        assert await client.assistants.get_versions("a") == [latest]
        assert await client.assistants.get_versions("a", offset=1) == []
        assert await client.assistants.set_latest("a", 2) == latest
        for version in (1, 3):
            with pytest.raises(NotFoundError, match="only the latest"):
                await client.assistants.set_latest("a", version)


async def test_an_assistant_says_what_is_inside() -> None:
    async with speaking() as site, client_of(site) as client:
        schemas = await client.assistants.get_schemas("agent")
        assert schemas["graph_id"] == "agent"
        assert set(schemas["input_schema"]["properties"]) == {"messages"}
        assert set(schemas["context_schema"]["properties"]) == {"system_prompt", "model"}
        graph = await client.assistants.get_graph("agent", xray=2)
        assert [node["id"] for node in graph["nodes"]] == ["__start__", "agent", "__end__"]
        assert await client.assistants.get_subgraphs("agent", recurse=True) == {}
        assert await client.assistants.get_subgraphs("agent", namespace="tools") == {}


async def test_the_threads_of_an_assistant_are_deleted_with_it_if_that_is_asked_for() -> None:
    async with speaking() as site, client_of(site) as client:
        for name in ("a", "b"):
            await client.assistants.create("agent", assistant_id=name)
            await client.threads.create(thread_id=f"of-{name}", metadata={"assistant_id": name})
        await client.assistants.delete("a", delete_threads=True)
        await client.assistants.delete("b")
        assert [thread["thread_id"] for thread in await client.threads.search()] == ["of-b"]


async def test_an_agent_that_was_made_elsewhere_is_an_assistant_and_keeps_what_is_its_own() -> None:
    async with speaking() as site, client_of(site) as client:
        talk = site.app.state.parts.conversations.of(await caller_of(site))
        agent = Agent("x", "Elsewhere", 1.0, 1.0, system_prompt="Be brief.", configuration={"own": 1})
        assert await talk.add_agent(agent)
        assert (await client.assistants.get("x"))["graph_id"] == "agent"
        await client.assistants.update("x", name="Here")
        kept = await find_assistant(talk, "x")
        assert (kept.name, kept.system_prompt, kept.configuration) == ("Here", "Be brief.", {"own": 1})
        archived = Agent("y", "Gone", 1.0, 1.0, archived=True)
        assert await talk.add_agent(archived)
        with pytest.raises(NotFoundError):
            await client.assistants.get("y")
        assert "y" not in [each["assistant_id"] for each in await client.assistants.search()]
