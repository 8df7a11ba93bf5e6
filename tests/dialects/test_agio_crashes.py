"""A process that dies at any moment while somebody talks to it as Agio's clients do: nothing that was said starts
twice, no run is starting or running for ever, and what is paused can be resumed.
"""

from typing import Any

import pytest

from tests.dialects.crashing import (
    FIRST,
    LAST,
    SECOND,
    Client,
    Life,
    Process,
    asked_again,
    crashes_at_any_call,
    crashes_wherever_anything_waits,
    is_known,
    works,
    works_for_ever,
)

SESSION = "talk"


async def chat(client: Client, text: str) -> Any:
    """Say something, and wait for all that comes of it."""
    body = {"agent_id": "assistant", "session_id": SESSION, "message": text, "stream": False}
    return await client.post("/api/chat", body)


async def runs(client: Client) -> list[Any]:
    """All runs, the newest first."""
    found: list[Any] = (await client.get("/api/runs"))["items"]
    return found


async def first_of(client: Client) -> str:
    """Where the run is with which it all began."""
    return f"/api/runs/{(await runs(client))[-1]['id']}"


async def follow(client: Client, run: str) -> None:
    """Until it is over."""
    connection = client.open("GET", f"{run}/events", Accept="text/event-stream")
    await connection.task
    assert connection.complete


async def first(process: Process) -> None:
    await chat(Client(process), FIRST)


async def second(process: Process) -> None:
    await chat(Client(process), SECOND)


async def nothing(process: Process) -> None:
    return None


async def goes_on_for_ever(process: Process) -> None:
    process.world.host.script = works_for_ever
    client = Client(process)
    connection = client.open("POST", "/api/chat", {"agent_id": "assistant", "session_id": SESSION, "message": FIRST})
    await connection.received(2)
    await connection.left()
    process.world.host.script = works


async def pause(process: Process) -> None:
    client = Client(process)
    await client.post(f"{await first_of(client)}/pause")


async def paused(process: Process) -> None:
    await goes_on_for_ever(process)
    await pause(process)


async def resume(process: Process) -> None:
    client = Client(process)
    run = await first_of(client)
    await client.post(f"{run}/resume", {"message": SECOND})
    await follow(client, run)


async def cancel(process: Process) -> None:
    client = Client(process)
    await client.post(f"{await first_of(client)}/cancel")


async def checkpoint_of(client: Client) -> str:
    """A place in the middle of the first run."""
    run = (await runs(client))[-1]
    return f"/api/checkpoints/{run['id']}.2"


async def go_on(process: Process, how: str, **more: Any) -> None:
    client = Client(process)
    body = {"modifications": {"modified_query": SECOND}, **more}
    gone_on = await client.post(f"{await checkpoint_of(client)}/{how}", body)
    await follow(client, f"/api/runs/{gone_on['run_id']}")


async def restore(process: Process) -> None:
    await go_on(process, "restore")


async def restore_the_same(process: Process) -> None:
    await go_on(process, "restore", create_new_run=False)


async def fork(process: Process) -> None:
    await go_on(process, "fork")


LIVES = {
    "a chat": Life(nothing, first, FIRST),
    "a second chat": Life(first, second, SECOND),
    "a pause": Life(goes_on_for_ever, pause, FIRST),
    "a resume": Life(paused, resume, SECOND),
    "a cancel": Life(goes_on_for_ever, cancel, FIRST),
    "a cancel of what is paused": Life(paused, cancel, FIRST),
    "a restore": Life(first, restore, SECOND),
    "a restore of the same run": Life(first, restore_the_same, SECOND),
    "a fork": Life(first, fork, SECOND),
}
each_life = pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)


async def all_is_well(client: Client) -> None:
    await asked_again(lambda: client.get("/api/runs"))
    await is_known(client)
    host = client.world.host
    for text in (FIRST, SECOND):
        assert sum(prompt.endswith(text) for _, prompt in host.prompts) <= 1
    for run in await runs(client):
        path = f"/api/runs/{run['id']}"
        told = await client.get(path)
        assert told["status"] == run["status"]
        at_work = any(client.world.running(turn) for turn in client.world.turns(run["session_id"]))
        assert run["status"] not in ("starting", "running") or at_work
        if run["status"] == "running":  # the host works on it for ever, so it is stopped, whatever was noted on it
            assert (await client.post(f"{path}/pause"))["status"] == "paused"
        if run["status"] in ("running", "paused"):
            await client.post(f"{path}/resume", {"message": LAST})
            await follow(client, path)
            assert (await client.get(path))["status"] == "completed"
            assert host.heard(LAST) == 1
    after = await chat(client, f"{LAST} for ever")
    assert after["status"] == "completed"
    assert host.heard(f"{LAST} for ever") == 1
    assert not {run["status"] for run in await runs(client)} & {"starting", "running", "paused"}


async def can_be_cancelled(client: Client) -> None:
    await asked_again(lambda: client.get("/api/runs"))
    run = await first_of(client)
    assert (await client.post(f"{run}/cancel"))["status"] == "cancelled"
    assert (await client.ask("POST", f"{run}/resume")).status == 409
    assert (await chat(client, LAST))["status"] == "completed"
    assert (await client.get(run))["status"] == "cancelled"


@each_life
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_crash_at_any_call_starts_no_run_twice_and_leaves_none_busy(life: Life, before: bool) -> None:
    crashes_at_any_call(life, before, all_is_well)


@each_life
def test_a_crash_wherever_anything_waits_starts_no_run_twice_and_leaves_none_busy(life: Life) -> None:
    crashes_wherever_anything_waits(life, all_is_well)


@pytest.mark.parametrize("name", ["a pause", "a cancel", "a cancel of what is paused"])
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_whatever_was_to_be_done_about_a_run_it_can_be_cancelled_for_good(name: str, before: bool) -> None:
    crashes_at_any_call(LIVES[name], before, can_be_cancelled)
