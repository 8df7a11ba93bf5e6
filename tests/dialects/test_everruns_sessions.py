"""Sessions of the Everruns API and what is said in them, for both generations of clients."""

import asyncio
import json
from typing import Any

import pytest

from codegen_api import errors
from codegen_api.stores import Conversation
from tests.dialects.everruns import NOBODY, Listening, Talk, a_talk, an_agent, caller_of, speaking, talking
from tests.dialects.site import Site
from tests.fakehost import FakeHost


def roles(messages: Any) -> list[str]:
    return [message["role"] for message in messages]


# -- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_session_is_the_same_below_its_agent_and_beside_it_in_other_words() -> None:
    async with speaking() as site:
        talk = await a_talk(site, title="A question", tags=["t"])
        below, flat = await talk.get_below(), await talk.get()
        assert below == {
            "id": talk.id,
            "agent_id": talk.agent,
            "title": "A question",
            "tags": ["t"],
            "status": "pending",
            "created_at": below["created_at"],
            "updated_at": below["created_at"],
        }
        assert flat["id"] == f"session_{talk.id.replace('-', '')}"
        assert flat["agent_id"] == talk.agent
        assert flat["status"] == "started"
        assert flat["organization_id"] == f"org_{'9':0>32}"
        assert flat["harness_id"] == (await site.get(f"/v1/agents/{talk.agent}")).json()["harness_id"]
        principals = {
            (await site.post("/v1/sessions", {}, token=who)).json()["owner_principal_id"] for who in ("alice", "bob")
        }
        assert flat["owner_principal_id"] in principals
        assert len(principals) == 2
        assert flat["workspace_id"] == f"wsp_{talk.id.replace('-', '')}"
        assert flat["self_url"] == flat["view_url"] == flat["ui_link"] == f"http://localhost{talk.flat}"
        own = {"organization_id", "owner_principal_id", "workspace_id", "harness_id", "capabilities", "features"}
        assert set(flat) - set(below) == {*own, "self_url", "view_url", "ui_link"}
        hyphenated = talk.agent.removeprefix("agent_")
        other = f"/v1/agents/{hyphenated}/sessions/session_{talk.id.replace('-', '')}"
        assert (await site.get(other)).json() == {**below, "agent_id": hyphenated}


async def test_a_session_needs_no_agent_and_finds_one_by_name() -> None:
    async with speaking() as site:
        alone = (await site.post("/v1/sessions", {})).json()
        assert "agent_id" not in alone
        await an_agent(site, name="helper-2")
        named = await an_agent(site, name="helper")
        session = (await site.post("/v1/sessions", {"agent_name": "helper", "model_id": "large"})).json()
        assert (session["agent_id"], session["model_id"]) == (named["id"], "large")
        assert (await site.post("/v1/sessions", {"agent_name": "help"})).status_code == 404
        assert (await site.post("/v1/sessions", {"agent_id": NOBODY})).status_code == 404
        listed = (await site.get("/v1/sessions")).json()
        assert listed["data"] == listed["items"] == [session, alone]
        assert (listed["total"], listed["offset"], listed["limit"]) == (2, 0, 100)
        assert (await site.get(f"/v1/sessions?agent_id={named['id']}")).json()["data"] == [session]
        assert (await site.get("/v1/sessions?limit=1&offset=1")).json()["data"] == [alone]


async def test_an_agent_is_found_by_its_name_among_many_in_whose_names_that_is_a_part() -> None:
    async with speaking() as site:
        named = await an_agent(site, name="a")
        for number in range(101):
            await an_agent(site, name=f"agent-{number}")
        session = (await site.post("/v1/sessions", {"agent_name": "a"})).json()
        assert session["agent_id"] == named["id"]
        assert (await site.post("/v1/sessions", {"agent_name": "agent"})).status_code == 404


async def test_sessions_are_paged_with_tokens_as_well() -> None:
    async with speaking() as site:
        ids = [(await site.post("/v1/sessions", {})).json()["id"] for _ in range(5)]
        seen, path = [], "/v1/sessions?limit=2"
        while True:
            page = (await site.get(path)).json()
            seen += [each["id"] for each in page["data"]]
            if "next_page_token" not in page:
                break
            path = f"/v1/sessions?limit=2&page_token={page['next_page_token']}"
        assert seen == ids[::-1]
        assert (await site.get("/v1/sessions?page_token=5")).json()["data"] == []
        assert (await site.get("/v1/sessions?page_token=x")).status_code == 422


async def test_with_an_archived_agent_sessions_go_on_and_none_begins() -> None:
    async with talking() as (site, talk):
        await site.ask("DELETE", f"/v1/agents/{talk.agent}")
        assert (await site.post(f"/v1/agents/{talk.agent}/sessions", {})).status_code == 409
        assert (await site.post("/v1/sessions", {"agent_id": talk.agent})).status_code == 409
        await talk.answered()
        assert roles((await talk.get("/messages"))["data"]) == ["user", "agent"]


async def test_a_session_is_changed_listed_and_deleted() -> None:
    async with speaking() as site:
        talk = await a_talk(site, title="Old", tags=["a"])
        for path in (talk.flat, talk.nested):
            changed = await site.ask("PATCH", path, json={"title": f"New {path[:12]}"})
            assert changed.json()["title"] == f"New {path[:12]}"
            assert changed.json()["tags"] == ["a"]
        assert (await site.ask("PATCH", talk.flat, json={"tags": ["b"]})).json()["tags"] == ["b"]
        assert (await site.ask("PATCH", talk.flat, json={"title": "x" * 3000})).status_code == 400
        below = (await site.get(f"/v1/agents/{talk.agent}/sessions")).json()
        assert below["data"] == below["items"] == [await talk.get_below()]
        assert below["total"] == 1
        assert (await site.get("/v1/sessions?search=NEW")).json()["total"] == 1
        assert (await site.get("/v1/sessions?search=old")).json()["total"] == 0
        gone = await site.ask("DELETE", talk.nested)
        assert (gone.status_code, gone.content) == (204, b"")
        for path in (talk.flat, talk.nested):
            assert (await site.ask("DELETE", path)).status_code == 404
            assert (await site.get(path)).status_code == 404
            assert (await site.get(f"{path}/messages")).status_code == 404
            assert (await site.get(f"{path}/sse")).status_code == 404


async def test_below_another_agent_a_session_is_not_there() -> None:
    async with talking() as (site, talk):
        other = await an_agent(site)
        for agent in (other["id"], NOBODY, "x"):
            for method, path in (
                ("GET", ""),
                ("DELETE", ""),
                ("GET", "/messages"),
                ("GET", "/events"),
                ("GET", "/events/list"),
                ("GET", "/sse"),
                ("POST", "/cancel"),
            ):
                answer = await site.ask(method, f"/v1/agents/{agent}/sessions/{talk.id}{path}")
                assert answer.status_code == 404, (method, path)
        assert (await site.get(f"/v1/agents/{NOBODY}/sessions")).status_code == 404
        assert (await site.post(f"/v1/agents/{NOBODY}/sessions", {})).status_code == 404


async def test_conversations_of_other_dialects_can_be_read_and_are_not_listed() -> None:
    async with speaking() as site:
        conversations = site.app.state.parts.conversations.of(await caller_of(site))
        await conversations.add_conversation(Conversation(NOBODY, 1.0, 1.0))
        assert (await site.get("/v1/sessions")).json()["data"] == []
        found = (await site.get(f"/v1/sessions/{NOBODY}")).json()
        assert (found["status"], found["organization_id"]) == ("started", f"org_{'0' * 32}")


# -- messages and status ----------------------------------------------------------------------------------------------


async def test_running_is_seen_before_the_message_is_answered_and_pending_when_the_answer_can_be_read() -> None:
    async with talking() as (site, talk):
        seen: list[tuple[Any, Any]] = []

        async def look(operation: str) -> None:
            if operation == "create":
                site.host.before = lambda _: asyncio.sleep(0)
                below = asyncio.ensure_future(talk.get_below())
                flat = asyncio.ensure_future(talk.get())
                await asyncio.sleep(0.05)
                seen.append((await below, await flat))

        site.host.before = look
        said = await talk.say()
        assert said["role"] == "user"
        ((below, flat),) = seen
        assert (below["status"], flat["status"]) == ("running", "active")
        assert (await talk.get_below())["status"] == "running"
        hosted = site.host.runs["1"]
        hosted.complete(type="ANSWER", text="It is 4.")
        statuses: list[str] = []
        while not statuses or statuses[-1] == "running":
            statuses.append((await talk.get_below())["status"])
            messages = (await talk.get_below("/messages"))["items"]
            assert statuses[-1] == "running" or messages[-1]["content"][0]["text"] == "It is 4."
            await asyncio.sleep(0.01)
        assert statuses[-1] == "pending"
        assert (await talk.get())["status"] == "idle"


async def test_messages_are_listed_for_both_generations_of_clients() -> None:
    async with talking() as (site, talk):
        said = await talk.say("Hello")
        hosted = site.host.runs["1"]
        hosted.append(text="Let me look.")
        hosted.append(type="ACTION", tool="ls", input={"path": "."}, output={"files": 2})
        hosted.complete(type="ANSWER", text="Two files.")
        await talk.over()
        flat, below = await talk.get("/messages"), await talk.get_below("/messages")
        for listed in (flat, below):
            assert listed["data"] == listed["items"]
            assert listed["total"] == 5
        assert roles(flat["data"]) == ["user", "agent", "agent", "tool_result", "agent"]
        assert roles(below["data"]) == ["user", "assistant", "assistant", "tool_result", "assistant"]
        assert flat["data"][0] == said
        assert [each["content"] for each in flat["data"]] == [each["content"] for each in below["data"]]
        (call,) = flat["data"][2]["content"]
        (result,) = flat["data"][3]["content"]
        assert result == {"type": "tool_result", "tool_call_id": call["id"], "result": {"files": 2}}
        assert below["data"][0]["id"].replace("-", "") == said["id"].removeprefix("message_")
        exported = await site.get(f"{talk.flat}/export")
        assert exported.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in exported.text.splitlines()] == flat["data"]


async def test_an_open_call_of_a_running_turn_is_listed_without_a_result() -> None:
    async with talking() as (site, talk):
        await talk.say()
        hosted = site.host.runs["1"]
        position = hosted.act()
        assert roles((await talk.get("/messages"))["data"]) == ["user", "agent"]
        hosted.amend(position, output="done")
        hosted.status = "COMPLETE"
        await talk.over()
        (_, _, result) = (await talk.get("/messages"))["data"]
        assert (result["role"], result["content"][0]["result"]) == ("tool_result", "done")


async def test_a_second_message_goes_on_with_the_same_run_and_the_agent_is_told_once_who_it_is() -> None:
    async with talking() as (site, talk):
        await talk.answered("One", "1")
        await talk.answered("Two", "2")
        assert list(site.host.runs) == ["1"]
        prompts = [entry["prompt"] for entry in site.host.runs["1"].entries if "prompt" in entry]
        assert "You are concise." in prompts[0]
        assert prompts[0].endswith("One")
        assert prompts[1] == "Two"
        texts = [part["text"] for each in (await talk.get("/messages"))["data"] for part in each["content"]]
        assert texts == ["One", "1", "Two", "2"]


async def test_a_session_s_own_prompt_and_model_go_to_the_host() -> None:
    host = Remembering()
    async with speaking(host) as site:
        agent = await an_agent(site, default_model_id="small")
        for body, controls, model in (
            ({}, None, "small"),
            ({"model_id": "large"}, None, "large"),
            ({"model_id": "large"}, {"model_id": "huge"}, "huge"),
        ):
            given = {"agent_id": agent["id"], "system_prompt": "And kind.", **body}
            session = (await site.post("/v1/sessions", given)).json()
            message = {"message": {"content": [{"type": "text", "text": "Hi"}]}, "controls": controls}
            answer = await site.post(f"/v1/sessions/{session['id']}/messages", message)
            assert answer.json().get("controls") == controls
            assert host.new[-1].model == model
            assert "You are concise.\n\nAnd kind." in host.new[-1].prompt
        bad = {"message": {"content": [{"type": "text", "text": "Hi"}]}, "controls": {"model_id": 1}}
        assert (await site.post(f"/v1/sessions/{session['id']}/messages", bad)).status_code == 422


async def test_an_image_goes_to_the_host_and_comes_back_as_it_was_sent() -> None:
    host = Remembering()
    async with talking(host) as (site, talk):
        part = {"type": "image", "base64": "QUJD", "media_type": "image/gif"}
        body = {"message": {"role": "user", "content": [part]}, "metadata": {"a": [1]}, "tags": ["x"]}
        said = await site.post(f"{talk.nested}/messages", body)
        assert said.status_code == 201
        assert said.json()["content"] == [part]
        assert said.json()["metadata"] == {"a": [1]}
        assert "tags" not in said.json()
        assert host.new[0].images == ("data:image/gif;base64,QUJD",)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": {}},
        {"message": {"content": []}},
        {"message": {"content": [{"type": "text", "text": " "}]}},
        {"message": {"content": [{"type": "tool_result", "tool_call_id": "c", "result": 1}]}},
        {"message": {"content": [{"type": "text", "text": "\0"}]}},
        {"message": {"content": [{"type": "text", "text": "Hi"}]}, "metadata": {"a": "\0"}},
    ],
)
async def test_a_message_that_says_nothing_is_refused_and_nothing_begins(body: Any) -> None:
    async with talking() as (site, talk):
        for path in (talk.flat, talk.nested):
            assert (await site.post(f"{path}/messages", body)).status_code == 422
        assert site.host.runs == {}
        assert (await talk.get())["status"] == "started"


async def test_a_message_while_the_agent_is_at_work_is_409() -> None:
    async with talking() as (site, talk):
        await talk.say()
        body = {"message": {"content": [{"type": "text", "text": "And?"}]}}
        answer = await site.post(f"{talk.flat}/messages", body)
        assert (answer.status_code, answer.json()["code"]) == (409, "conversation_busy")
        assert "retry-after" in answer.headers
        waiting = await site.post(f"{talk.flat}/messages?wait=true", body)
        assert (waiting.status_code, waiting.json()["code"]) == (422, "unsupported")


async def test_a_message_that_the_host_refuses_leaves_the_session_as_it_was() -> None:
    async with talking() as (site, talk):

        async def refuse(operation: str) -> None:
            if operation == "create":
                raise errors.QuotaExhausted

        site.host.before = refuse
        body = {"message": {"content": [{"type": "text", "text": "Hi"}]}}
        answer = await site.post(f"{talk.flat}/messages", body)
        assert (answer.status_code, answer.json()["code"]) == (402, "quota_exhausted")
        assert (await talk.get())["status"] == "idle"
        assert (await talk.get_below())["status"] == "pending"
        assert (await talk.get("/messages"))["data"] == []
        assert (await talk.get("/events"))["data"] == []
        site.host.before = lambda _: asyncio.sleep(0)
        await talk.answered("Again", "Yes")
        assert len((await talk.get("/messages"))["data"]) == 2


async def test_a_turn_that_fails_is_told_as_failed_to_those_who_know_the_word() -> None:
    async with talking() as (site, talk):
        await talk.say()
        site.host.runs["1"].status = "ERROR"
        await talk.over()
        below, flat = await talk.get_below(), await talk.get()
        assert (below["status"], flat["status"]) == ("failed", "idle")
        assert below["finished_at"] >= below["started_at"]
        assert "finished_at" not in flat
        *_, failed, _ = (await talk.get("/events"))["data"]
        assert (failed["type"], failed["data"]["error"]) == ("turn.failed", "The run ended as ERROR.")
        await talk.say("Again")
        assert (await talk.get_below())["status"] == "running"


async def test_polling_a_session_costs_the_host_nothing_extra() -> None:
    async with talking(upstream_requests_per_minute=60) as (site, talk):
        await talk.say()
        for _ in range(40):
            assert (await talk.get())["status"] == "active"
        assert sum(site.host.calls.values()) < 10


# -- repeats ----------------------------------------------------------------------------------------------------------


async def test_what_is_asked_for_again_with_a_key_is_done_once() -> None:
    async with speaking() as site:
        agent = await an_agent(site)
        again = {"headers": {"Idempotency-Key": "k-1"}}
        for path, body in (
            ("/v1/sessions", {"agent_id": agent["id"], "title": "T"}),
            (f"/v1/agents/{agent['id']}/sessions", {"title": "T"}),
        ):
            first = await site.post(path, body, **again)
            second = await site.post(path, body, **again)
            assert (first.status_code, second.status_code) == (201, 201)
            assert first.json()["id"] == second.json()["id"]
            assert second.headers["idempotent-replayed"] == "true"
        assert (await site.get("/v1/sessions")).json()["total"] == 1
        assert (await site.post("/v1/sessions", {}, **again)).status_code == 422
        theirs = await site.post("/v1/sessions", {}, token="bob", **again)
        assert theirs.status_code == 201
        assert theirs.json()["id"] != first.json()["id"]
        talk = Talk(site, agent["id"], first.json()["id"])
        said = await talk.say("Hi", **again)
        hosted = site.host.runs["1"]
        assert await talk.say("Hi", **again) == said
        hosted.status = "COMPLETE"
        await talk.over()
        assert await talk.say("Hi", **again) == said
        other = {"message": {"content": [{"type": "text", "text": "Ho"}]}}
        reused = await site.post(f"{talk.flat}/messages", other, **again)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
        bad = await site.post(f"{talk.flat}/messages", other, headers={"Idempotency-Key": "x" * 256})
        assert (bad.status_code, bad.json()["code"]) == (400, "invalid_idempotency_key")
        assert site.host.calls["create"] == 1
        assert site.host.calls["resume"] == 0


async def test_a_key_under_which_the_host_refused_is_free_again() -> None:
    async with talking() as (site, talk):

        async def refuse(operation: str) -> None:
            if operation == "create":
                raise errors.QuotaExhausted

        site.host.before = refuse
        body = {"message": {"content": [{"type": "text", "text": "Hi"}]}}
        key = {"Idempotency-Key": "k"}
        assert (await site.post(f"{talk.flat}/messages", body, headers=key)).status_code == 402
        site.host.before = lambda _: asyncio.sleep(0)
        assert (await site.post(f"{talk.flat}/messages", body, headers=key)).status_code == 201
        assert len((await talk.get("/messages"))["data"]) == 1


# -- cancel -----------------------------------------------------------------------------------------------------------


async def test_a_turn_is_cancelled_once() -> None:
    async with speaking() as site:
        for where in ("flat", "nested"):
            talk = await a_talk(site)
            path = f"{getattr(talk, where)}/cancel"
            assert (await site.post(path, {})).json()["status"] == "no_op"
            await talk.say()
            answer = await site.post(path)
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
            await talk.over()
            assert (await talk.get())["status"] == "idle"
            assert (await talk.get_below())["status"] == "pending"
            kinds = [event["type"] for event in (await talk.get("/events"))["data"]]
            assert kinds[-2:] == ["turn.cancelled", "session.idled"]
            assert (await site.post(path)).json()["status"] == "no_op"


async def test_where_the_host_cannot_stop_a_run_nothing_is_cancelled_and_sessions_can_still_be_deleted() -> None:
    async with talking(Unstoppable()) as (site, talk):
        await talk.say()
        answer = await site.post(f"{talk.flat}/cancel")
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "unsupported")
        assert (await site.ask("DELETE", talk.flat)).status_code == 204


@pytest.mark.parametrize("family", ["flat", "nested"])
async def test_a_session_whose_run_the_host_has_forgotten_is_free_again_when_it_is_stopped(family: str) -> None:
    async with speaking() as site:
        deleted, talk = await a_talk(site), await a_talk(site)
        await deleted.say()
        await talk.say()
        site.host.runs.clear()
        path = getattr(talk, family)
        assert (await site.get(path)).json()["status"] in ("active", "running")
        assert (await site.post(f"{path}/cancel")).json()["status"] == "no_op"
        assert ((await talk.get())["status"], (await talk.get_below())["status"]) == ("idle", "failed")
        assert roles((await talk.get("/messages"))["data"]) == ["user"]
        events = (await talk.get("/events"))["data"]
        assert [event["type"] for event in events][-2:] == ["turn.failed", "session.idled"]
        assert events[-2]["data"]["error_code"] == "outcome_unknown"
        await talk.answered("Once more")
        assert roles((await talk.get("/messages"))["data"]) == ["user", "user", "agent"]
        assert (await site.ask("DELETE", getattr(deleted, family))).status_code == 204


async def test_who_deletes_a_session_stops_what_is_under_way() -> None:
    async with talking() as (site, talk):
        await talk.say()
        assert (await site.ask("DELETE", talk.nested)).status_code == 204
        assert site.host.runs["1"].status == "CANCELLED"


# -- lists of events --------------------------------------------------------------------------------------------------


async def two_turns(site: Site) -> Talk:
    talk = await a_talk(site)
    await talk.answered("One", "1")
    await talk.answered("Two", "2")
    return talk


def numbers(events: Any) -> list[int]:
    return [event["sequence"] for event in events]


async def test_events_are_listed_and_chosen() -> None:
    async with speaking() as site:
        talk = await two_turns(site)
        every = (await talk.get("/events"))["data"]
        kinds = [event["type"] for event in every]
        assert (
            kinds
            == [
                "input.message",
                "session.activated",
                "turn.started",
                "output.message.started",
                "output.message.completed",
                "turn.completed",
                "session.idled",
            ]
            * 2
        )
        assert numbers(every) == sorted(set(numbers(every)))
        third, fifth = every[2], every[4]
        for query, expected in (
            (f"since_id={third['id']}", every[3:]),
            (f"after_sequence={third['sequence']}", every[3:]),
            ("after_sequence=0", every),
            (f"before_sequence={fifth['sequence']}", every[:4]),
            ("limit=3", every[-3:]),
            (f"limit=2&before_sequence={fifth['sequence']}", every[2:4]),
            (f"limit=2&after_sequence={third['sequence']}", every[3:5]),
            (f"limit=9&since_id={third['id']}", every[3:12]),
            ("limit=1000", every),
            ("order_desc=true&limit=2", every[:-3:-1]),
            ("types=turn.started&types=turn.completed", [every[2], every[5], every[9], every[12]]),
            ("types=turn.started&exclude=turn.started", []),
            ("exclude=input.message&limit=6", every[-6:]),
            (f"turn_id={every[8]['context']['turn_id']}", every[7:]),
            ("since_id=event_0123456789abcdef0123456789abcdef", every),
            ("since_id=unheard-of", every),
            (f"since_id={every[-1]['id']}", []),
            (f"after_sequence={every[-1]['sequence']}", []),
            # of a turn that is not there: who has it has lost their place
            (f"since_id=event_0000000900000000{third['id'][-16:]}", every),
            (f"since_id=event_0000000900000000{third['id'][-16:]}&limit=3", every[:3]),
            # types that are told elsewhere
            ("types=llm.generation&types=turn.started", [every[2], every[9]]),
            ("exclude=reason.thinking.delta&exclude=output.message.delta", every),
        ):
            listed = await talk.get(f"/events?{query}")
            assert listed["data"] == listed["items"] == expected, query
            assert listed["total"] == len(expected)
        deltas = (await talk.get("/events?types=output.message.delta"))["data"]
        assert [event["data"]["delta"] for event in deltas] == ["1", "2"]
        for query in ("q=x", "tool_name=ls", "around=1", "from_ts=2026-01-01"):
            assert (await site.get(f"{talk.flat}/events?{query}")).status_code == 422
        for query in ("limit=0", "limit=1001", "after_sequence=-1", "turn_id=x"):
            assert (await site.get(f"{talk.flat}/events?{query}")).status_code in (404, 422)


async def test_events_below_an_agent_are_listed_in_the_older_words() -> None:
    async with speaking() as site:
        talk = await two_turns(site)
        listed = await talk.get_below("/events")
        assert listed == await talk.get_below("/events/list")
        kinds = [event["event_type"] for event in listed["data"]]
        assert kinds == ["message.user", "message.assistant"] * 2
        assert listed["data"] == listed["items"]
        messages = (await talk.get_below("/messages"))["data"]
        assert [event["data"]["message_id"] for event in listed["data"]] == [each["id"] for each in messages]
        assert numbers(listed["data"]) == numbers(messages)
        for query, expected in (
            (f"since_id={listed['data'][1]['id']}", listed["data"][2:]),
            ("types=message.user", listed["data"][::2]),
            ("types=message.user&types=message.tool_call&exclude=message.assistant", listed["data"][::2]),
            ("exclude=message.user", listed["data"][1::2]),
            ("types=message.assistant&limit=1", listed["data"][-1:]),
        ):
            for path in ("/events", "/events/list"):
                assert (await talk.get_below(f"{path}?{query}"))["data"] == expected, query


@pytest.mark.parametrize("parameter", ["types", "exclude"])
async def test_a_type_of_event_that_there_is_not_is_refused_instead_of_waited_for(parameter: str) -> None:
    async with talking() as (site, talk):
        asked = {
            "flat": ("message.user", "unheard.of", "Turn.Started"),
            "nested": ("input.message", "turn.started", "unheard.of"),
        }
        for family, kinds in asked.items():
            for kind in kinds:
                for path in ("/events", "/sse"):
                    answer = await site.get(f"{getattr(talk, family)}{path}?{parameter}={kind}")
                    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
                    assert parameter in answer.json()["detail"]
                    (detail,) = answer.json()["details"]
                    assert detail["loc"] == ["query", parameter]


async def test_nobody_is_asked_for_what_a_client_has() -> None:
    async with speaking() as site:
        talk = await two_turns(site)
        (last,) = (await talk.get("/events?limit=1"))["data"]
        await asyncio.sleep(0)
        before = dict(site.host.calls)
        for _ in range(20):
            assert (await talk.get(f"/events?since_id={last['id']}"))["data"] == []
        assert dict(site.host.calls) == before


class Remembering(FakeHost):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[Any] = []

    async def create_run(self, credential: Any, organization: str, new: Any) -> Any:
        self.new.append(new)
        return await super().create_run(credential, organization, new)


class Unstoppable(FakeHost):
    """A host that cannot stop a run."""

    cancel_run = None  # type: ignore[assignment]


# -- streams over HTTP ------------------------------------------------------------------------------------------------


async def test_events_come_live_for_who_accepts_a_stream_and_as_a_list_for_others() -> None:
    async with speaking() as site:
        talk = await two_turns(site)
        for path, kinds in (
            (f"{talk.nested}/events", ["message.user", "message.assistant"] * 2),
            (f"{talk.nested}/sse", ["message.user", "message.assistant"] * 2),
            (f"{talk.flat}/events", None),
            (f"{talk.flat}/sse", None),
        ):
            listening = Listening(site, path, Accept="text/html, text/event-stream;q=0.9")
            await listening.until("session.idled" if kinds is None else "message.assistant", 1 if kinds is None else 2)
            head = listening.connection
            assert head.status == 200
            assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert head.headers["cache-control"] == "no-cache, no-transform"
            assert "content-length" not in head.headers
            assert head.body.startswith(b'retry: 1000\nevent: connected\ndata: {"status":"connected"}\n\n')
            assert kinds is None or listening.kinds[1:] == kinds
            assert not head.complete
            await listening.leave()
        assert (await site.get(f"{talk.nested}/events", headers={"Accept": "*/*"})).json()["total"] == 4


@pytest.mark.wire("position-names")
async def test_a_browser_that_comes_back_says_in_the_header_what_it_has() -> None:
    async with speaking() as site:
        talk = await two_turns(site)
        every = (await talk.get("/events"))["data"]
        path = f"{talk.flat}/sse?since_id={every[1]['id']}&types=turn.started&types=session.idled"
        first = Listening(site, path)
        await first.until("session.idled", 2)
        expected = [every[2]["id"], every[6]["id"], every[9]["id"], every[13]["id"]]
        assert [event.last_event_id for event in first.events[1:]] == expected
        again = Listening(site, path, **{"Last-Event-ID": expected[1]})
        await again.until("session.idled")
        assert [event.last_event_id for event in again.events[1:]] == expected[2:]
        for name in ("lastEventId", "last_event_id", "lastEventID"):  # where a library cannot send the header
            library = Listening(site, f"{path}&{name}={expected[1]}")
            await library.until("session.idled")
            assert [event.last_event_id for event in library.events[1:]] == expected[2:]
            await library.leave()
        everything = Listening(site, f"{talk.flat}/sse?after_sequence=0")
        await everything.until("session.idled", 2)
        assert everything.kinds.count("turn.started") == 2
        below = Listening(
            site,
            f"{talk.nested}/events",
            **{"Accept": "text/event-stream", "Last-Event-ID": str(every[4]["sequence"])},
        )
        await below.until("message.assistant")
        assert below.kinds == ["connected", "message.user", "message.assistant"]
        for listening in (first, again, everything, below):
            await listening.leave()


async def test_a_listener_is_told_of_turns_as_they_come() -> None:
    async with talking() as (site, talk):
        listening = Listening(site, f"{talk.flat}/sse")
        await listening.until("connected")
        for index in (1, 2):
            await talk.answered(f"Message {index}", f"Answer {index}")
            await listening.until("session.idled", index)
        texts = [
            part["text"]
            for event in listening.events
            if event.type in ("input.message", "output.message.completed")
            for part in json.loads(event.data)["data"]["message"]["content"]
        ]
        assert texts == ["Message 1", "Answer 1", "Message 2", "Answer 2"]
        await site.ask("DELETE", talk.flat)
        await listening.connection.task
        assert listening.events[-1].type == "disconnecting"
        assert json.loads(listening.events[-1].data)["reason"] == "session_deleted"
        assert listening.connection.complete
