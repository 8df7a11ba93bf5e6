"""A process that dies at any moment while runs of a thread wait for each other: nothing that was said starts twice or
out of order, nothing waits for ever, and what was cancelled never begins.
"""

from typing import Any

import pytest

from tests.conversations.test_crashes import THIRD
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
)

THREAD = "/threads/talk"


def run_of(text: str) -> Any:
    return {"assistant_id": "agent", "input": {"messages": [{"type": "human", "content": text}]}}


async def runs(client: Client) -> list[Any]:
    """The runs of the thread, the newest first."""
    found: list[Any] = await client.get(f"{THREAD}/runs")
    return found


async def at_work(process: Process) -> None:
    await Client(process).post(f"{THREAD}/runs", run_of(FIRST))


async def queue(process: Process) -> None:
    """One run waits and is followed, another one waits and is cancelled."""
    client = Client(process)
    following = client.open("POST", f"{THREAD}/runs/stream", run_of(SECOND))
    await following.received(1)
    third = await client.post(f"{THREAD}/runs", run_of(THIRD))
    await client.post(f"{THREAD}/runs/{third['run_id']}/cancel")
    await following.task
    assert following.complete


LIFE = Life(at_work, queue, SECOND)


async def all_is_well(client: Client) -> None:
    await asked_again(lambda: client.ask("GET", f"{THREAD}/runs"))
    await is_known(client)
    heard = [prompt for _, prompt in client.world.host.prompts]
    assert heard in ([FIRST], [FIRST, SECOND], [FIRST, SECOND, THIRD])
    for each in await runs(client):
        assert each["status"] in ("success", "interrupted", "error")
        text = each["input"]["messages"][0]["content"]
        assert (each["status"] == "success") == (text in heard)
    joined = await client.post(f"{THREAD}/runs/wait", run_of(LAST))
    assert joined["messages"][-1]["content"].startswith("answer to")
    assert [prompt for _, prompt in client.world.host.prompts] == [*heard, LAST]


@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_crash_at_any_call_while_runs_wait_leaves_none_waiting_and_starts_none_twice(before: bool) -> None:
    crashes_at_any_call(LIFE, before, all_is_well)


def test_a_crash_wherever_anything_waits_while_runs_wait_leaves_none_waiting_and_starts_none_twice() -> None:
    crashes_wherever_anything_waits(LIFE, all_is_well)
