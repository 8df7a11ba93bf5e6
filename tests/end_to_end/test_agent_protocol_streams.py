"""The streams of runs through everything that connections go through: to each reader every event once, in order."""

import asyncio
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.schema import StreamPart

from codegen_api.dialects.agent_protocol.rendering import LAYOUT, STRIDE
from tests.end_to_end.balancing import balancer
from tests.end_to_end.conftest import TALKING
from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, gateway
from tests.end_to_end.relay import relay
from tests.end_to_end.sdk import (
    ENDLESS,
    Methods,
    client_of,
    grown,
    named,
    numbers,
    run,
    run_of,
    says,
    stream,
    texts,
    until,
)
from tests.leaks import WATCH

MODES = ["values", "updates", "messages", "messages-tuple", "custom", "tasks", "checkpoints", "debug"]
BUSY = {"speed": 3}
"""Metadata of a run that calls tools for four seconds; one of them answers late."""

Told = list[tuple[str, str | None]]


def told(events: list[StreamPart]) -> Told:
    """The names and ids of events; but for states, which have another id while an answer is missing in them, and for
    what was told again.
    """
    whole = (event for event in events if event.event != "values")
    return [(event.event, event.id) for event in whole if repeats(str(event.id)) < 0]


def repeats(id: str) -> int:  # noqa: A002 - as everywhere
    """How many entries were told again before this event, where it stands."""
    return LAYOUT.slot(*divmod(int(id.rpartition("_")[2]), STRIDE)).number


async def check_whole(client: LangGraphClient, thread: str, events: list[StreamPart]) -> None:
    """What a reader got is what whoever comes later gets at once."""
    assert numbers(events) == sorted(set(numbers(events))), "an event is repeated or out of order"
    again = await Methods(client)("runs.join_stream", thread, events[0].data["run_id"])
    assert told(events) == told(again)
    assert events[-1].event == "end"
    assert named(events, "values")[-1] == named(again, "values")[-1]
    assert all(one != other for one, other in pairwise(named(again, "values"))), "a state without news"


async def test_a_reader_who_is_cut_off_again_and_again_gets_every_event_once(talking: Server) -> None:
    """Wherever the cut is: before the first event, within one, between two."""

    chance = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", "7"))
    with relay(talking.url) as between:
        async with client_of(talking.url) as direct, client_of(between.url) as client:
            thread = (await direct.threads.create())["thread_id"]
            between.lengths = [3000, 1, *(chance.randint(800, 9000) for _ in range(3))]
            events = await stream(client, thread, "Mend the roof", metadata=BUSY, stream_mode=MODES)
            await check_whole(direct, thread, events)
            assert between.cuts == 5
            place = f"/threads/{thread}/runs/{events[0].data['run_id']}/stream"
            back = [last for path, last in between.asked if path == place]
            assert len(back) >= 5
            assert set(back) <= {event.id for event in events}


@pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID", "ignore:Request failed, attempting")
async def test_who_waits_and_is_cut_off_gets_the_outcome_all_the_same(talking: Server) -> None:
    with relay(talking.url) as between:
        async with client_of(between.url) as client:
            thread = (await client.threads.create())["thread_id"]
            between.lengths = [700]
            given: dict[str, Any] = {"input": says("Bake a cake"), "metadata": {"scenario": "quick", "speed": 0.5}}
            outcome = await client.runs.wait(thread, "agent", **given)
            assert texts(outcome)[-1] == ("ai", "Done: Bake a cake")
            assert between.cuts == 1
            assert len(await client.runs.list(thread)) == 1
            assert between.asked[0][0].endswith("/join")


# -- positions --------------------------------------------------------------------------------------------------------


async def ids(server: Server, path: str, last: str | None) -> list[str]:
    """The ids of the events that a plain client gets with this Last-Event-ID, to the end."""
    headers = {**ALICE, **({} if last is None else {"Last-Event-ID": last})}
    async with httpx.AsyncClient(base_url=server.url, timeout=WAIT, trust_env=False) as client:
        answer = await client.get(f"{path}/stream", headers=headers)
        WATCH.answer(answer.status_code, answer.text)
        assert answer.status_code == 200
        assert answer.text.endswith("\n\n")
        return [line.removeprefix("id: ") for line in answer.text.split("\n") if line.startswith("id: ")]


def nowhere(run_id: str) -> list[str | None]:
    """Positions that are none: whoever sends them has seen nothing."""
    words = [None, "", "-1", "0", "1", "junk", f"{run_id}", f"{run_id}_event_0", f"{run_id}_event_-1"]
    return [*words, f"{run_id}_event_{10**17}", f"{run_id}_event_{10**30}", f"{'0' * 8}{run_id[8:]}_event_50"]


async def test_every_position_is_understood_while_a_run_goes_on_and_when_it_is_over(
    host: Sandbox, talking: Server
) -> None:
    async with client_of(talking.url) as client:
        thread = (await client.threads.create())["thread_id"]
        made = await client.runs.create(
            thread, "agent", input=says("Walk the dog"), metadata=ENDLESS, stream_mode=["updates", "values"]
        )
        run_id = made["run_id"]
        path = f"/threads/{thread}/runs/{run_id}"
        await grown(host, run_of(host, "Walk the dog"))
        async with (
            httpx.AsyncClient(base_url=talking.url, timeout=WAIT, trust_env=False) as plain,
            plain.stream("GET", f"{path}/stream", headers=ALICE) as answer,
        ):
            lines = (line async for line in answer.aiter_lines() if line.startswith("id: "))
            seen = [(await anext(lines)).removeprefix("id: ") for _ in range(8)]
        ahead = f"{run_id}_event_{int(seen[-1].rpartition('_')[2]) + 10_000 * STRIDE}"
        wanted = [*nowhere(run_id), ahead]
        reading = [asyncio.ensure_future(ids(talking, path, last)) for last in [*wanted, *seen]]
        await grown(host, run_of(host, "Walk the dog"))
        await client.runs.cancel(thread, run_id, wait=True)
        whole = await ids(talking, path, None)
        assert whole[:8] == seen
        for last, live in zip(wanted, reading, strict=False):
            assert await live == whole, f"live, behind {last}"
            assert await ids(talking, path, last) == whole, f"over, behind {last}"
        for number, (last, live) in enumerate(zip(seen, reading[len(wanted) :], strict=True), 1):
            assert await live == whole[number:], f"live, behind {last}"
            assert await ids(talking, path, last) == whole[number:], f"over, behind {last}"
        assert await ids(talking, path, whole[-1]) == whole[-1:], "who asks for the end again is told of it"
        by_id = talking.request("POST", f"/runs/{run_id}/stream").text
        assert [line.removeprefix("id: ") for line in by_id.split("\n") if line.startswith("id: ")] == whole


# -- gateways that come and go ----------------------------------------------------------------------------------------


def test_a_run_that_was_over_before_a_restart_is_told_again_whole(host: Sandbox, tmp_path: Path) -> None:
    async def before(server: Server) -> tuple[str, list[StreamPart]]:
        async with client_of(server.url) as client:
            thread = (await client.threads.create())["thread_id"]
            return thread, await stream(client, thread, "Sweep the yard", stream_mode=MODES)

    async def after(server: Server, thread: str, events: list[StreamPart]) -> None:
        async with client_of(server.url) as client:
            run_id = events[0].data["run_id"]
            for last in (None, "-1", f"{run_id}_event_0"):
                given: dict[str, Any] = {} if last is None else {"last_event_id": last}
                assert await Methods(client)("runs.join_stream", thread, run_id, **given) == events
            middle = events[len(events) // 2]
            rest = await Methods(client)("runs.join_stream", thread, run_id, last_event_id=middle.id)
            assert rest == events[len(events) // 2 + 1 :]
            assert (await client.runs.get(thread, run_id))["status"] == "success"
            assert (await client.threads.get_state(thread))["values"] == named(events, "values")[-1]
            events = await stream(client, thread, "And the stairs")
            assert texts(named(events, "values")[-1])[0] == ("human", "Sweep the yard")

    with gateway(host, **TALKING, data_dir=str(tmp_path)) as server:
        thread, events = run(before(server))
    with gateway(host, **TALKING, data_dir=str(tmp_path)) as server:
        run(after(server, thread, events))


def test_behind_a_prefix_and_sent_away_every_second_a_reader_comes_back_to_the_right_place(host: Sandbox) -> None:
    async def main(server: Server) -> None:
        with relay(server.url) as between:
            async with client_of(f"{between.url}/gw") as client:
                thread = (await client.threads.create())["thread_id"]
                events = await stream(client, thread, "Dig the garden", metadata=BUSY, stream_mode=MODES)
                run_id = events[0].data["run_id"]
                place = f"/gw/threads/{thread}/runs/{run_id}"
                back = [path for path, _ in between.asked]
                assert back.count(f"{place}/stream") >= 2
                assert set(back) <= {f"{place}/stream", place}
            async with client_of(f"{server.url}/gw") as client:
                await check_whole(client, thread, events)
                answer = await client.http.client.get(f"/threads/{thread}/runs/{run_id}/stream")
                assert answer.headers["location"] == f"/threads/{thread}/runs/{run_id}/stream"
                assert answer.headers["content-location"] == f"/threads/{thread}/runs/{run_id}"

    with gateway(host, **TALKING, root_path="/gw", stream_max_age_seconds=1) as server:
        run(main(server))


def test_readers_of_a_gateway_that_is_stopped_go_on_at_the_one_that_takes_its_place(
    host: Sandbox, tmp_path: Path
) -> None:
    """Both have the same database and, for clients, the same address. For a moment nobody answers there."""
    settings = {**TALKING, "data_dir": str(tmp_path), "drain_seconds": 1}

    async def main(old: Server, new: Server) -> None:
        async with balancer() as address, client_of(new.url) as direct:
            address.send_to(old.url)
            async with client_of(address.url) as client:
                thread = (await client.threads.create())["thread_id"]
                given = {"metadata": BUSY, "stream_mode": MODES, "on_disconnect": "cancel"}
                reading = asyncio.ensure_future(stream(client, thread, "Clear the attic", **given))
                (made,) = await until(lambda: direct.runs.list(thread), bool)
                joining = asyncio.ensure_future(Methods(client)("runs.join_stream", thread, made["run_id"]))
                await grown(host, run_of(host, "Clear the attic"), by=2)
                address.refuse()
                old.process.terminate()
                await asyncio.to_thread(old.process.wait, WAIT)
                address.send_to(new.url)
                events = await reading
                assert told(await joining) == told(events)
                assert (await direct.runs.get(thread, made["run_id"]))["status"] == "success"
                await check_whole(direct, thread, events)
        assert "Traceback" not in old.log.read_text()

    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        starting = [threads.submit(stack.enter_context, gateway(host, **settings)) for _ in range(2)]
        run(main(*(each.result() for each in starting)))
