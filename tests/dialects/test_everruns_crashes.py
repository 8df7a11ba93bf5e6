"""A process that dies at any moment while somebody talks to it as Everruns' clients do: no message is sent twice, no
session is at work for ever, and events go on behind the last one that a listener has.
"""

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
    events,
    is_known,
    until,
    works,
    works_for_ever,
)
from tests.dialects.eventsource import Event


def idled(told: list[Event]) -> bool:
    return bool(told) and told[-1].type == "session.idled"


async def session_of(client: Client) -> str:
    """The one session: it is made with a key, and so found again."""
    made = await client.post("/v1/sessions", {"title": "A house"}, **{"Idempotency-Key": "the session"})
    return f"/v1/sessions/{made['id']}"


async def say(client: Client, text: str) -> None:
    """Say something, or say it again: each text has a key of its own."""
    body = {"message": {"content": [{"type": "text", "text": text}]}}
    await client.post(f"{await session_of(client)}/messages", body, **{"Idempotency-Key": text})


async def hear(client: Client, since: str | None = None) -> list[str]:
    """The ids of the events until a turn is over, but for pieces of answers, which are not listed."""
    path = f"{await session_of(client)}/sse?after_sequence=0" + ("" if since is None else f"&since_id={since}")
    connection = client.open("GET", path)
    heard = await until(connection, idled)
    await connection.left()
    return [each.last_event_id for each in heard if each.last_event_id and each.type != "output.message.delta"]


async def nothing(process: Process) -> None:
    await session_of(Client(process))


async def first(process: Process) -> None:
    client = Client(process)
    await say(client, FIRST)
    await hear(client)


async def second(process: Process) -> None:
    client = Client(process)
    await say(client, SECOND)
    listed = (await client.get(f"{await session_of(client)}/events"))["data"]
    await hear(client, next(each["id"] for each in listed if each["type"] == "session.idled"))


async def goes_on_for_ever(process: Process) -> None:
    process.world.host.script = works_for_ever
    await say(Client(process), FIRST)
    process.world.host.script = works


async def cancel(process: Process) -> None:
    client = Client(process)
    session = await session_of(client)
    await client.post(f"{session}/cancel")
    await hear(client)


LIVES = {
    "a first message": Life(nothing, first, FIRST),
    "a second message": Life(first, second, SECOND),
    "a cancel": Life(goes_on_for_ever, cancel, FIRST),
}
each_life = pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)


async def all_is_well(client: Client, life: Life) -> None:
    session = await session_of(client)
    await asked_again(lambda: client.get(session))
    await is_known(client)
    host = client.world.host
    for text in (FIRST, SECOND):
        assert host.heard(text) <= 1
    status = (await client.get(session))["status"]
    at_work = any(hosted.status == "ACTIVE" for hosted in host.runs.values())
    assert status == "active" if at_work else status in ("started", "idle")
    before = [each["id"] for each in (await client.get(f"{session}/events"))["data"]]
    await say(client, life.prompt)  # whoever got no answer says it again
    assert host.heard(life.prompt) <= 1
    if at_work:
        await client.post(f"{session}/cancel")
    await asked_again(lambda: client.get(session))
    listed = [each["id"] for each in (await client.get(f"{session}/events"))["data"]]
    assert listed[: len(before)] == before
    await say(client, LAST)
    after = await hear(client, listed[-1] if listed else None)
    assert host.heard(LAST) == 1
    assert [each["id"] for each in (await client.get(f"{session}/events"))["data"]] == listed + after
    assert (await client.get(session))["status"] == "idle"


@each_life
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_crash_at_any_call_sends_no_message_twice_and_leaves_no_session_at_work(life: Life, before: bool) -> None:
    crashes_at_any_call(life, before, lambda client: all_is_well(client, life))


@each_life
def test_a_crash_wherever_anything_waits_sends_no_message_twice_and_leaves_no_session_at_work(life: Life) -> None:
    crashes_wherever_anything_waits(life, lambda client: all_is_well(client, life))


def test_a_listener_goes_on_where_the_process_died() -> None:
    heard: list[str] = []

    async def listens(process: Process) -> None:
        client = Client(process)
        await say(client, FIRST)
        connection = client.open("GET", f"{await session_of(client)}/sse?after_sequence=0")
        heard.clear()
        try:
            await until(connection, idled)
        finally:
            heard.extend(each.last_event_id for each in events(connection) if each.last_event_id)

    async def goes_on(client: Client) -> None:
        session = await session_of(client)
        await asked_again(lambda: client.get(session))
        if client.world.host.heard(FIRST):
            path = f"{session}/sse?after_sequence=0"
            whole = client.open("GET", path)
            rest = client.open("GET", path, **({"Last-Event-ID": heard[-1]} if heard else {}))
            told = [each.last_event_id for each in await until(whole, idled)]
            expected = [id_ for id_ in told if id_]
            assert heard == expected[: len(heard)]
            if heard != expected:
                more = await until(rest, idled)
                assert [*heard, *(each.last_event_id for each in more if each.last_event_id)] == expected
            for connection in (whole, rest):
                await connection.left()

    crashes_wherever_anything_waits(Life(nothing, listens, FIRST), goes_on)
