"""A process that dies at any moment while a page talks to it: the page sends its message again, and nothing that was
said starts twice.
"""

from typing import Any

import pytest

from tests.dialects.ai_sdk import CHAT, sent, shown, user_message
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


async def say(client: Client, text: str, number: str, **more: Any) -> Any:
    """Send a message and watch what comes of it; None where it is refused."""
    connection = client.open("POST", "/ui/chat", sent(user_message(text, number), **more))
    await connection.task
    return shown(connection.body.decode()) if connection.status == 200 else None


async def first(process: Process) -> None:
    await say(Client(process), FIRST, "m1")


async def second(process: Process) -> None:
    await say(Client(process), SECOND, "m2")


async def edited(process: Process) -> None:
    await say(Client(process), SECOND, "m1")


async def nothing(process: Process) -> None:
    return None


LIVES = {
    "a message": (Life(nothing, first, FIRST), FIRST, "m1"),
    "a second message": (Life(first, second, SECOND), SECOND, "m2"),
    "an edited message": (Life(first, edited, SECOND), SECOND, "m1"),
}
each_life = pytest.mark.parametrize(("life", "text", "number"), LIVES.values(), ids=LIVES)


def said_again(text: str, number: str) -> Any:
    async def check(client: Client) -> None:
        await asked_again(lambda: client.get(f"/ui/chat/{CHAT}"))
        await is_known(client)
        again = await say(client, text, number)
        assert again is not None
        if again.status == "error":  # the host has not heard it, and the page is told so
            assert client.world.host.heard(text) == 0
            assert (await say(client, text, number, trigger="regenerate-message")).status == "ready"
        assert client.world.host.heard(text) == 1, "it was heard twice, or not at all"
        after = await say(client, LAST, "m3")
        assert after.status == "ready"
        messages = (await client.get(f"/ui/chat/{CHAT}"))["messages"]
        assert [message["id"] for message in messages if message["role"] == "user"][-2:] == [number, "m3"]
        assert messages[-1]["metadata"]["codegen_api"]["status"] == "completed"

    return check


@each_life
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_crash_at_any_call_starts_no_run_twice(life: Life, text: str, number: str, before: bool) -> None:
    crashes_at_any_call(life, before, said_again(text, number))


@each_life
def test_a_crash_wherever_anything_waits_starts_no_run_twice(life: Life, text: str, number: str) -> None:
    crashes_wherever_anything_waits(life, said_again(text, number))
