"""Forks: what goes on from a checkpoint in a session of its own."""

from codegen_api.conversations import owner_of
from codegen_api.stores import Query
from tests.dialects.agio import (
    chatting,
    checkpoints,
    ended,
    finish,
    following,
    go_on,
    latest,
    prompts,
    said,
    speaking,
    status_of,
    two_steps,
)
from tests.dialects.sdk import caller_of


async def test_a_fork_goes_on_in_a_session_of_its_own() -> None:
    async with speaking() as site:
        old = await two_steps(site, session_id="mine", user_id="u1")
        body = {"modifications": {"system_prompt": "New prompt"}, "description": "A try"}
        done = await go_on(site, f"{old}.3", "fork", body)
        assert done["session_id"] != "mine"
        assert done["new_run_id"] == done["run_id"] != old
        (prompt,) = prompts(latest(site))
        assert "New prompt" in prompt
        assert "-> a tree" in prompt
        await ended(site, done["run_id"])
        shown = (await site.get(f"/api/runs/{done['run_id']}")).json()
        assert (shown["session_id"], shown["user_id"]) == (done["session_id"], "u1")
        first = (await checkpoints(site, done["run_id"]))["items"][0]
        assert first["description"] == "A try"
        talk = site.app.state.parts.conversations
        session = await talk.store.conversation(owner_of(await caller_of(site)), done["session_id"])
        assert session.parent == f"{old}.3"
        await said(site, "And now?", session_id=done["session_id"])
        await said(site, "And here?", session_id="mine")
        assert [prompts(hosted)[1:] for hosted in site.host.runs.values()] == [["And here?"], ["And now?"]]


async def test_a_run_that_goes_on_can_be_forked() -> None:
    async with speaking() as site:
        reading = chatting(site)
        old = await reading.run_id()
        first = latest(site)
        first.append(text="I think.")
        await reading.event("content_delta")
        done = await go_on(site, f"{old}.2", "fork")
        assert "I think." in prompts(latest(site))[0]
        await ended(site, done["run_id"], "Forked.")
        assert await status_of(site, old) == "running"
        finish(first)
        assert (await reading.end())[-1].data["response"] == "I think.\n\nHello!"


async def test_a_fork_of_a_fork_knows_what_was_said_before_both() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        first = await go_on(site, f"{old}.4", "fork", {"modifications": {"modified_query": "What else?"}})
        await ended(site, first["run_id"], "A hill.")
        second = await go_on(site, f"{first['run_id']}.2", "fork", {"modifications": {"modified_query": "Then?"}})
        (prompt,) = prompts(latest(site))
        for text in ("What is there?", "A tree.", "What else?", "A hill."):
            assert text in prompt
        assert prompt.endswith("Then?")
        await ended(site, second["run_id"])


async def test_who_has_no_such_agent_any_more_goes_on_without_its_words() -> None:
    async with speaking() as site:
        old = await two_steps(site, agent_id="customer_support")
        assert (await site.ask("DELETE", "/api/agents/customer_support")).status_code == 204
        done = await go_on(site, f"{old}.2", "fork")
        assert "friendly" not in prompts(latest(site))[0]
        await ended(site, done["run_id"])


async def test_others_cannot_go_on_from_what_is_not_theirs() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        for how in ("restore", "fork"):
            answer = await site.post(f"/api/checkpoints/{old}.2/{how}", {}, token="bob")
            assert answer.status_code == 404
        assert (await site.get(f"/api/checkpoints/{old}.2", token="bob")).status_code == 404
        assert len(site.host.runs) == 1


async def test_a_stream_can_be_had_of_what_goes_on() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        done = await go_on(site, f"{old}.0", "restore", {"modifications": {"modified_query": "New query"}})
        reading = following(site, done["run_id"])
        started = await reading.event("run_started")
        assert started.data["query"] == "New query"
        finish(latest(site))
        assert (await reading.end())[-1].data["response"] == "Hello!"


async def test_a_fork_that_cannot_be_kept_leaves_no_session_behind() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        body = {"modifications": {"modified_query": "half\0whole"}}
        answer = await site.post(f"/api/checkpoints/{old}.2/fork", body)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
        store, owner = site.app.state.parts.conversations.store, owner_of(await caller_of(site))
        assert (await store.conversations(owner, Query(10))).total == 1
        assert len(site.host.runs) == 1
