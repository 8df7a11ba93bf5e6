"""Threads, as the SDK and a plain client see them."""

import asyncio
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError, InternalServerError, NotFoundError, UnprocessableEntityError

from codegen_api.dialects.agent_protocol.assistants import BUILT_IN
from codegen_api.dialects.agent_protocol.threads import with_assistant
from codegen_api.errors import Conflict
from codegen_api.stores import TurnState
from tests.dialects.sdk import caller_of, client_of, over, say, speaking
from tests.dialects.site import Site


async def test_a_thread_is_created_read_changed_and_deleted() -> None:
    async with speaking() as site, client_of(site) as client:
        made = await client.threads.create(metadata={"a": 1}, graph_id="agent")
        assert made["metadata"] == {"a": 1, "graph_id": "agent"}
        assert (made["status"], made["values"], made["interrupts"]) == ("idle", None, {})
        assert made["created_at"] == made["updated_at"]
        assert made["created_at"].endswith("Z")
        assert await client.threads.get(made["thread_id"]) == made
        changed = await client.threads.update(made["thread_id"], metadata={"b": {"c": 2}})
        assert changed["metadata"] == {"a": 1, "graph_id": "agent", "b": {"c": 2}}
        nothing: Any = await client.threads.update(made["thread_id"], metadata={"a": 3}, return_minimal=True)
        assert nothing is None
        assert (await client.threads.get(made["thread_id"]))["metadata"]["a"] == 3
        await client.threads.delete(made["thread_id"])
        with pytest.raises(NotFoundError, match=r"Thread '.*' not found"):
            await client.threads.get(made["thread_id"])
        with pytest.raises(NotFoundError):
            await client.threads.delete(made["thread_id"])


@pytest.mark.parametrize("id", ["example-thread-123", "Straße Nr. 5?#&%25", "ß" * 255, "a|b.c:d"])
async def test_an_id_may_be_any_text(id: str) -> None:  # noqa: A002
    async with speaking() as site, client_of(site) as client:
        assert (await client.threads.create(thread_id=id))["thread_id"] == id
        assert (await client.threads.get(id))["thread_id"] == id


async def test_an_id_that_nobody_could_ask_for_is_refused() -> None:
    async with speaking() as site, client_of(site) as client:
        for id in ("", "a/b", "x" * 256, "\U0001f600" * 200, "a\0b"):  # noqa: A001
            answer = await site.post("/threads", {"thread_id": id})
            assert answer.status_code == 422, id
        assert await client.threads.count() == 0


async def test_an_id_that_is_taken_is_refused_or_answered_with_what_is_there() -> None:
    async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
        made = await client.threads.create(thread_id="t", metadata={"whose": "alice"})
        for if_exists in (None, "raise"):
            with pytest.raises(ConflictError):
                await client.threads.create(thread_id="t", if_exists=if_exists)
        assert await client.threads.create(thread_id="t", metadata={"n": 1}, if_exists="do_nothing") == made
        theirs = await other.threads.create(thread_id="t", metadata={"whose": "bob"})
        assert theirs["metadata"] == {"whose": "bob"}
        await other.threads.delete("t")
        assert await client.threads.get("t") == made


# -- searching --------------------------------------------------------------------------------------------------------


SEARCHES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["c", "b", "a"]),
    ({"sort_order": "asc"}, ["a", "b", "c"]),
    ({"sort_by": "thread_id", "sort_order": "asc"}, ["a", "b", "c"]),
    ({"sort_by": "updated_at"}, ["a", "c", "b"]),
    ({"sort_by": "state_updated_at"}, ["a", "c", "b"]),
    ({"metadata": {"graph_id": "agent"}}, ["c", "a"]),
    ({"metadata": {"user": {"id": 7}}}, ["a"]),
    ({"metadata": {"user": {"id": "7"}}}, []),
    ({"ids": ["a", "b", "z"]}, ["b", "a"]),
    ({"status": "idle"}, ["c", "b", "a"]),
    ({"status": "busy"}, []),
    ({"limit": 2}, ["c", "b"]),
    ({"limit": 2, "offset": 2}, ["a"]),
]


async def test_a_search_finds_what_has_all_that_is_asked_for() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.threads.create(thread_id="a", metadata={"graph_id": "agent", "user": {"id": 7}})
        await client.threads.create(thread_id="b", metadata={"graph_id": "other"})
        await client.threads.create(thread_id="c", metadata={"graph_id": "agent"})
        await client.threads.update("a", metadata={})
        for asked, found in SEARCHES:
            assert [thread["thread_id"] for thread in await client.threads.search(**asked)] == found, asked
        assert await client.threads.count(metadata={"graph_id": "agent"}) == 2
        assert await client.threads.count(status="error") == 0
        assert await client.threads.search(select=["thread_id"], limit=1) == [{"thread_id": "c"}]
        answer = await site.post("/threads/search", {"limit": 2})
        assert (answer.headers["x-pagination-next"], answer.headers["x-pagination-total"]) == ("2", "3")
        answer = await site.post("/threads/search", {"limit": 2, "offset": 2})
        assert "x-pagination-next" not in answer.headers
        assert (await site.post("/threads/search", {"ids": []})).json() == []


STATES = {
    TurnState.RUNNING: "busy",
    TurnState.COMPLETED: "idle",
    TurnState.CANCELLED: "idle",
    TurnState.WAITING: "interrupted",
    TurnState.FAILED: "error",
    TurnState.UNKNOWN: "error",
}
HOSTS = {
    TurnState.RUNNING: "ACTIVE",
    TurnState.COMPLETED: "COMPLETE",
    TurnState.CANCELLED: "CANCELLED",
    TurnState.WAITING: "PAUSED",
    TurnState.FAILED: "ERROR",
}


async def test_a_thread_is_what_its_latest_turn_is() -> None:
    async with speaking() as site, client_of(site) as client:
        for state, told in HOSTS.items():
            await client.threads.create(thread_id=state)
            turn = await say(site, state, f"Hello there {state}")
            assert turn.run is not None
            hosted = site.host.runs[turn.run.id]
            hosted.append(type="ANSWER", text=f"Good day {state}")
            hosted.status = told
            if state is not TurnState.RUNNING:
                await over(site, turn)
        for state in HOSTS:
            thread = await client.threads.get(state)
            assert thread["status"] == STATES[state], state
            texts = [message["content"] for message in thread["values"]["messages"]]
            assert texts == [f"Hello there {state}", f"Good day {state}"]
            assert bool(thread["interrupts"]) == (state == TurnState.WAITING)
            assert state in [each["thread_id"] for each in await client.threads.search(status=STATES[state])]


async def test_a_list_of_threads_waits_for_no_host_and_is_right_the_next_time() -> None:
    async with speaking() as site, client_of(site) as client:
        for number in range(3):
            await client.threads.create(thread_id=f"{number}")
            turn = await say(site, f"{number}", f"Question number {number}")
            assert turn.run is not None
            site.host.runs[turn.run.id].append(type="ANSWER", text="Because of the weather.")
            site.host.runs[turn.run.id].status = "COMPLETE"
        answering = asyncio.Event()
        site.host.before = lambda _: answering.wait()
        first = await client.threads.search()
        assert [thread["status"] for thread in first] == ["busy"] * 3
        assert [thread["values"]["messages"][0]["content"] for thread in first] == [
            f"Question number {number}" for number in (2, 1, 0)
        ]
        answering.set()
        async with asyncio.timeout(10):
            while await client.threads.count(status="idle") < 3:  # noqa: ASYNC110 - nobody tells clients
                await asyncio.sleep(0.05)


async def test_in_a_list_there_is_what_the_user_said_first_and_last() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.threads.create(thread_id="t")
        for text in ("Say one", "Say two", "Say three"):
            turn = await say(site, "t", text)
            assert turn.run is not None
            site.host.runs[turn.run.id].append(type="ANSWER", text="So be it then")
            site.host.runs[turn.run.id].status = "COMPLETE"
            await over(site, turn)
        (thread,) = await client.threads.search()
        assert [message["content"] for message in thread["values"]["messages"]] == ["Say one", "Say three"]
        assert {message["type"] for message in thread["values"]["messages"]} == {"human"}


# -- what runs need ---------------------------------------------------------------------------------------------------


async def test_a_thread_remembers_its_assistant_and_what_was_said_first() -> None:
    async with speaking() as site, client_of(site) as client:
        mine = site.app.state.parts.conversations.of(await caller_of(site))
        await client.threads.create(thread_id="t", metadata={"team": "a"})
        await client.runs.create("t", "agent", input={"messages": "  " + "long " * 50}, multitask_strategy="reject")
        (found,) = await client.threads.search(metadata={"assistant_id": BUILT_IN.id, "graph_id": "agent", "team": "a"})
        assert found["metadata"]["thread_name"] == ("long " * 20)[:100]
        talk = await mine.talk("t")
        assert talk is not None
        assert talk.conversation.title == found["metadata"]["thread_name"]
        assert with_assistant(talk, BUILT_IN, [{"content": [{"type": "text", "text": "Another"}]}]) is talk


async def test_changes_at_the_same_time_are_all_kept() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.threads.create(thread_id="t")
        names = [f"n{number}" for number in range(5)]
        await asyncio.gather(*(client.threads.update("t", metadata={name: 1}) for name in names))
        assert (await client.threads.get("t"))["metadata"] == dict.fromkeys(names, 1)


async def test_a_change_that_never_comes_through_is_told_as_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking() as site, client_of(site) as client:
        await client.threads.create(thread_id="t")

        async def never(*_: Any) -> None:
            return None

        monkeypatch.setattr(site.app.state.parts.conversations.store, "change_conversation", never)
        answer = await site.ask("PATCH", "/threads/t", json={"metadata": {"a": 1}})
        assert (answer.status_code, answer.json()["code"]) == (409, Conflict.code)


# -- deleting ---------------------------------------------------------------------------------------------------------


async def busy(site: Site, client: Any, thread: str) -> Any:
    await client.threads.create(thread_id=thread)
    turn = await say(site, thread, "Count to a million")
    assert turn.run is not None
    return site.host.runs[turn.run.id]


async def test_what_is_under_way_is_stopped_when_its_thread_is_deleted() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client, "t")
        await client.threads.delete("t")
        assert hosted.status == "CANCELLED"
        with pytest.raises(NotFoundError):
            await client.threads.get("t")


async def test_several_threads_are_deleted_at_once() -> None:
    async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
        for name in ("a", "b", "c"):
            await client.threads.create(thread_id=name)
        await other.threads.create(thread_id="theirs")
        assert await client.threads.prune(["a", "b", "b", "theirs", "none"]) == {"pruned_count": 2}
        assert await client.threads.count() == 1
        assert await other.threads.count() == 1
        with pytest.raises(UnprocessableEntityError):
            await client.threads.prune(["c"], strategy="keep_latest")


# -- what is not offered ----------------------------------------------------------------------------------------------


async def test_what_cannot_be_done_is_refused_by_name() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.threads.create(thread_id="t")
        with pytest.raises(UnprocessableEntityError, match="ttl"):
            await client.threads.create(ttl=5)
        with pytest.raises(UnprocessableEntityError, match="supersteps"):
            await client.threads.create(supersteps=[{"updates": []}])
        with pytest.raises(UnprocessableEntityError, match="ttl"):
            await client.threads.update("t", metadata={}, ttl=5)
        with pytest.raises(UnprocessableEntityError, match="values"):
            await client.threads.search(values={"a": 1})
        with pytest.raises(UnprocessableEntityError, match="values"):
            await client.threads.count(values={"a": 1})
        with pytest.raises(UnprocessableEntityError, match="extract"):
            await client.threads.search(extract={"a": "values.b"})
        with pytest.raises(UnprocessableEntityError, match="status"):
            await client.threads.search(sort_by="status")
        for asked in (
            client.threads.copy("t"),
            client.threads.update_state("t", {"messages": []}),
            client.crons.create_for_thread("t", "agent", schedule="* * * * *"),
            client.crons.create("agent", schedule="* * * * *"),
            client.crons.search(),
            client.crons.count(),
            client.crons.update("c", schedule="* * * * *"),
            client.crons.delete("c"),
        ):
            with pytest.raises(InternalServerError) as refused:
                await asked
            assert refused.value.status_code == 501
            assert refused.value.code == "unsupported"
        for method, path in (
            ("PATCH", "/threads/t/state"),
            ("GET", "/threads/t/stream"),
            ("POST", "/threads/t/commands"),
            ("POST", "/threads/not-there-yet/commands"),
            ("POST", "/threads/t/stream/events"),
        ):
            answer = await site.ask(method, path)
            assert (answer.status_code, answer.json()["code"]) == (501, "unsupported"), path
        for asked in (client.threads.copy("x"), client.threads.update_state("x", {})):
            with pytest.raises(NotFoundError):
                await asked
        for method, path in (("PATCH", "/threads/x/state"), ("GET", "/threads/x/stream")):
            assert (await site.ask(method, path)).status_code == 404


async def test_what_means_nothing_here_is_ignored() -> None:
    async with speaking() as site, client_of(site) as client:
        made = await site.post("/threads", {"thread_id": "t", "ttl": None, "supersteps": [], "anything": 1})
        assert made.status_code == 200
        assert (await client.threads.get("t", include=["ttl"]))["thread_id"] == "t"
        assert (await site.post("/threads")).status_code == 200
        assert len((await site.post("/threads/search")).json()) == 2


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ({"order_by": "created_at ASC"}, ["a", "b", "c"]),
        ({"order_by": "created_at DESC"}, ["c", "b", "a"]),
        ({"order_by": "thread_id asc"}, ["a", "b", "c"]),
        ({"order_by": "updated_at"}, ["c", "b", "a"]),
        ({"order_by": "created_at  ASC", "limit": 1, "offset": 1}, ["b"]),
        ({"order_by": "created_at ASC", "sort_by": "created_at", "sort_order": "desc"}, ["c", "b", "a"]),
    ],
)
async def test_a_search_is_in_the_order_that_another_server_calls_order_by(
    asked: dict[str, Any], ids: list[str]
) -> None:
    async with speaking() as site, client_of(site) as client:
        for id in "abc":  # noqa: A001
            await client.threads.create(thread_id=id)
        found = (await site.post("/threads/search", asked)).json()
        assert [each["thread_id"] for each in found] == ids


@pytest.mark.parametrize("order", ["status ASC", "created_at sideways", "created_at; drop", "1", ""])
async def test_an_order_that_is_none_is_refused_by_name(order: str) -> None:
    async with speaking() as site:
        answer = await site.post("/threads/search", {"order_by": order})
        assert answer.status_code == 422
        assert answer.json()["details"][0]["loc"] == ["body", "order_by"]


async def test_one_state_is_found_before_another_of_a_later_turn() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.threads.create(thread_id="t")
        for text in ("first", "second"):
            turn = await say(site, "t", text)
            assert turn.run is not None
            hosted = site.host.runs[turn.run.id]
            hosted.append(type="ANSWER", text=f"the {text} answer")
            hosted.status = "COMPLETE"
            await over(site, turn)
        newest, *_, oldest = await client.threads.get_history("t")
        assert newest["metadata"]["run_id"] != oldest["metadata"]["run_id"]
        found = await client.threads.get_history("t", before=newest["checkpoint"], checkpoint=oldest["checkpoint"])
        assert found == [oldest]
        for before, at in ((oldest, newest), (oldest, oldest), (newest, newest)):
            assert await client.threads.get_history("t", before=before["checkpoint"], checkpoint=at["checkpoint"]) == []
