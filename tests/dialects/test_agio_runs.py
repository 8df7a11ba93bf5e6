"""Runs: what has come of them, and their events again."""

import gc
import weakref
from typing import Any

import pytest

from codegen_api.dialects.agio.events import RunEvent, SharedEvents, Text
from tests.dialects.agio import Reading, chat_begun, chatting, finish, following, latest, said, speaking

# -- what there is ----------------------------------------------------------------------------------------------------


async def test_runs_are_listed_newest_first_with_how_many_there_are() -> None:
    async with speaking() as site:
        ids = [(await said(site, f"Number {n}", user_id=f"u{n % 2}"))["run_id"] for n in range(5)]
        listed = (await site.get("/api/runs", params={"limit": 2, "offset": 1})).json()
        assert [item["id"] for item in listed["items"]] == ids[::-1][1:3]
        assert (listed["total"], listed["limit"], listed["offset"]) == (5, 2, 1)
        whole = (await site.get(f"/api/runs/{ids[3]}")).json()
        (mine,) = (await site.get("/api/runs", params={"limit": 1, "offset": 1})).json()["items"]
        metrics = {**whole["metrics"], "duration": None, "tool_calls_count": None}
        assert mine == {**whole, "response_content": None, "metrics": metrics}
        assert (await site.get("/api/runs", params={"limit": 0})).json()["items"] == []
        assert (await site.get("/api/runs", params={"limit": -1})).status_code == 422
        assert (await site.get("/api/runs", params={"offset": 9})).json()["total"] == 5


async def test_runs_are_found_by_what_is_asked_for() -> None:
    async with speaking() as site:
        done = await said(site, user_id="u1", session_id="s1")
        reading = chatting(site, agent_id="customer_support", session_id="s2")
        active = await reading.run_id()
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({"status": "running"}, [active]),
            ({"status": "completed"}, [done["run_id"]]),
            ({"status": "unheard of"}, []),
            ({"agent_id": "customer_support"}, [active]),
            ({"user_id": "u1"}, [done["run_id"]]),
            ({"session_id": "s1"}, [done["run_id"]]),
            ({"agent_id": "assistant", "status": "running"}, []),
        ]
        for asked, ids in cases:
            listed = (await site.get("/api/runs", params=asked)).json()
            assert ([item["id"] for item in listed["items"]], listed["total"]) == (ids, len(ids)), asked
        finish(latest(site))
        await reading.end()
        assert (await site.get("/api/runs", params={"status": "running"})).json()["total"] == 0


async def test_runs_of_others_do_not_exist() -> None:
    async with speaking() as site:
        run_id = (await said(site))["run_id"]
        assert (await site.get("/api/runs", token="bob")).json()["total"] == 0
        assert (await site.get(f"/api/runs/{run_id}", token="bob")).status_code == 404


async def test_a_run_that_goes_on_is_shown_with_what_has_come_by_now() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="First.")
        await reading.event("content_delta")
        shown = (await site.get(f"/api/runs/{run_id}")).json()
        assert (shown["status"], shown["response_content"]) == ("running", "First.")
        assert shown["metrics"]["total_steps"] == 2
        await reading.leave()


# -- events again -----------------------------------------------------------------------------------------------------


async def test_the_events_of_a_run_can_be_listed() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="I think.")
        latest(site).append(type="ACTION", output="seen")
        await reading.event("tool_call_completed")
        path = f"/api/runs/{run_id}/events"
        by_now = (await site.get(path)).json()
        assert [event["type"] for event in by_now["events"]] == [event.name for event in reading.seen]
        finish(latest(site))
        events = await reading.end()
        listed = (await site.get(path)).json()
        assert (listed["run_id"], listed["total"]) == (run_id, len(events))
        assert [(event["type"], event["data"]) for event in listed["events"]] == [
            (event.name, event.data) for event in events
        ]
        assert [event["id"] for event in listed["events"][:-1]] == [event.id for event in events[:-1]]
        part = (await site.get(path, params={"offset": 1, "limit": 2})).json()
        assert part == {**listed, "events": listed["events"][1:3], "offset": 1, "limit": 2}


@pytest.mark.wire("position-names")
@pytest.mark.parametrize("by", ["header", "last_event_id=", "last_event_id=0&lastEventId=", "lastEventID="])
async def test_a_stream_goes_on_behind_any_event(by: str) -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(type="ACTION", text="I look.", output="seen")
        latest(site).append(text="I think.")
        finish(latest(site))
        events = await reading.end()
        for index, event in enumerate(events[:-1]):
            back = (
                following(site, run_id, event.id)
                if by == "header"
                else Reading(site, "GET", f"/api/runs/{run_id}/events?{by}{event.id}")
            )
            told = await back.end()
            assert [(e.name, e.data) for e in told] == [(e.name, e.data) for e in events[index + 1 :]]


@pytest.mark.parametrize("last", ["x", "1.5", "-3", "500", "25-3-"])
async def test_a_position_that_a_run_has_not_is_refused(last: str) -> None:
    async with speaking() as site:
        run_id = (await said(site))["run_id"]
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
        answer = await site.get(f"/api/runs/{run_id}/events", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_last_event_id")
        reading = chatting(site)
        active = await reading.run_id()
        answer = await site.get(f"/api/runs/{active}/events", headers=headers)
        assert answer.status_code == 400
        await reading.leave()


async def test_a_stream_that_has_had_its_time_is_cut_and_goes_on_elsewhere() -> None:
    async with chat_begun(stream_max_age_seconds=0.5) as (site, reading, run_id):
        latest(site).append(text="First.")
        delta = await reading.event("content_delta")
        await reading.connection.task
        assert not reading.connection.complete
        assert reading.connection.transport.aborted
        assert reading.text.endswith(": unfinished, go on behind the last id\n\n")
        finish(latest(site), "Second.")
        events = await following(site, run_id, delta.id).end()
        assert [event.name for event in events] == ["content_delta", "run_completed"]


async def test_what_an_agent_says_is_held_once_however_many_read_it_and_not_when_nobody_does() -> None:
    words = "Behind the house there is a garden."

    def held() -> int:
        gc.collect()
        return sum(isinstance(each, Text) and each.text == words for each in gc.get_objects())

    async with speaking() as site:
        readings = [chatting(site)]
        run_id = await readings[0].run_id()
        latest(site).append(text=words)
        readings += [following(site, run_id) for _ in range(4)]
        for each in readings:
            await each.event("content_delta")
        assert held() == 1
        finish(latest(site), "Done.")
        ends = [(await each.end())[-1] for each in readings]
        assert {end.data["response"] for end in ends} == {f"{words}\n\nDone."}
        assert held() == 0


def test_the_end_of_a_run_is_made_once_for_all_who_hold_it_and_anew_when_there_is_more_to_tell() -> None:
    shared = SharedEvents()

    def end(key: str) -> RunEvent:
        return shared.end(key, lambda: RunEvent("run_completed", {"response": key}))

    first = end("one")
    assert end("one") is first
    assert end("one").frame is first.frame
    assert end("two").data == {"response": "two"}
    there = weakref.ref(first)
    del first
    gc.collect()
    assert there() is None
