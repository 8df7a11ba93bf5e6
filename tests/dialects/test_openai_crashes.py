"""A process that dies at any moment while a client waits for a response: the client sends its request again, as SDKs do
by themselves, and nothing that was said starts twice.
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
)
from tests.dialects.openai import events_of

BY_KEY, BY_COUNT = ("a key", "a count")


async def say(client: Client, text: str, headers: dict[str, str], **more: Any) -> Any:
    """The response to what is said, when it is over; None where it is refused."""
    connection = client.open("POST", "/v1/responses", {"input": text, "stream": True, **more}, **headers)
    await connection.task
    return events_of(connection.body.decode())[-1]["response"] if connection.status == 200 else None


def sent(how: str, number: int, repeat: int) -> dict[str, str]:
    """The headers of a request that was sent before so many times."""
    return {"Idempotency-Key": f"k-{number}"} if how == BY_KEY else {"x-stainless-retry-count": str(repeat)}


class Story:
    """A client that says something first, or as a follow-up."""

    def __init__(self, how: str, *, follows: bool) -> None:
        self.how = how
        self.follows = follows
        self.text = SECOND if follows else FIRST

    async def before(self, process: Process) -> None:
        if self.follows:
            await say(Client(process), FIRST, sent(BY_KEY, 1, 0))

    async def speak(self, process: Process) -> None:
        await self.say(Client(process), 0)

    async def say(self, client: Client, repeat: int) -> Any:
        more = {}
        if self.follows:
            first = await say(client, FIRST, sent(BY_KEY, 1, 1))
            more = {"previous_response_id": first["id"]}
        return await say(client, self.text, sent(self.how, 2, repeat), **more)

    async def check(self, client: Client) -> None:
        again = await self.say(client, 1)
        await is_known(client)
        assert again is not None
        if again["status"] == "failed":  # the host has not heard it, and the client is told so
            assert client.world.host.heard(self.text) == 0
            again = await self.say(client, 0) if self.how == BY_COUNT else await say(client, self.text, {})
        assert client.world.host.heard(self.text) == 1, "it was heard twice, or not at all"
        assert again["status"] == "completed"
        after = await say(client, LAST, {}, previous_response_id=again["id"])
        assert (after["status"], after["conversation"]) == ("completed", again["conversation"])
        await asked_again(lambda: client.get(f"/v1/responses/{after['id']}"))


STORIES = [Story(how, follows=follows) for how in (BY_KEY, BY_COUNT) for follows in (False, True)]
each_story = pytest.mark.parametrize(
    "story", STORIES, ids=[f"{story.how}{' behind another' if story.follows else ''}" for story in STORIES]
)


@each_story
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_crash_at_any_call_starts_no_run_twice(story: Story, before: bool) -> None:
    crashes_at_any_call(Life(story.before, story.speak, story.text), before, story.check)


@each_story
def test_a_crash_wherever_anything_waits_starts_no_run_twice(story: Story) -> None:
    crashes_wherever_anything_waits(Life(story.before, story.speak, story.text), story.check)
