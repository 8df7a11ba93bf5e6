"""The SDK of Everruns in front of a gateway that serves. The documented example is in ``tests/test_documents.py``."""

import asyncio
import signal
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from everruns_sdk import AgentClient, Event, Everruns
from everruns_sdk.errors import ApiError, AuthenticationError, NotFoundError
from everruns_sdk.sse import EventStream, StreamOptions

from tests.end_to_end.processes import WAIT, Sandbox, Server, gateway, held_port, kill
from tests.leaks import WATCH

TOKEN = "sandbox-alice"
SETTINGS: dict[str, str | float] = {
    "dialects": "native,everruns",
    "upstream_requests_per_minute": 100_000,
    "follower_linger_seconds": 0.3,
    "demo_token": TOKEN,
}


@pytest.fixture(scope="module")
def site(swift: Sandbox) -> Iterator[Server]:
    with gateway(swift, **SETTINGS) as server:
        yield server


@asynccontextmanager
async def client_of(site: Server, token: str = TOKEN) -> AsyncIterator[Everruns]:
    WATCH.secret("a token", token)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        async with Everruns(api_key=token, base_url=site.url) as client:
            yield client


async def heard(stream: EventStream, until: str, into: list[Event] | None = None) -> list[Event]:
    """What comes of a stream until an event of this type, which is its end."""
    events = [] if into is None else into
    iterator = stream.__aiter__()
    try:
        async with asyncio.timeout(2 * WAIT):
            async for event in iterator:
                events.append(event)
                if event.type == until:
                    break
    finally:
        stream.stop()
        await iterator.aclose()
        await stream.aclose()
    return events


async def eventually(probe: Callable[[], Awaitable[bool]]) -> None:
    """Until it is so."""
    async with asyncio.timeout(2 * WAIT):
        while not await probe():  # noqa: ASYNC110 - what it waits for is elsewhere
            await asyncio.sleep(0.05)


async def hears(events: list[Event], kind: str) -> None:
    """Until an event of this type has come."""

    async def come() -> bool:
        return kind in kinds(events)

    await eventually(come)


def kinds(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


@pytest.mark.filterwarnings("ignore:.*aclose.*:pytest.PytestUnraisableExceptionWarning")
async def test_the_sdk_speaks_to_agents_and_sessions(site: Server) -> None:
    async with client_of(site) as client, client_of(site, "sandbox-bob") as other:
        agent = await client.agents.create("assistant", "You are concise.", description="One", tags=["a"])
        assert (await client.agents.get(agent.id)) == agent
        applied = await client.agents.apply(agent.id, "helper", "You are kind.")
        assert (applied.id, applied.name, applied.status) == (agent.id, "helper", "active")
        assert agent.id in [each.id for each in await client.agents.list(search="help")]
        session = await client.sessions.create(agent_name="helper", title="A question")
        assert (session.agent_id, session.status) == (agent.id, "started")
        assert [each.id for each in await client.sessions.list(agent_id=agent.id)] == [session.id]

        said = await client.messages.create(session.id, "Hello")
        assert (said.role, said.content[0].text) == ("user", "Hello")
        assert (await client.sessions.get(session.id)).status == "active"
        with pytest.raises(ApiError) as busy:
            await client.messages.create(session.id, "Are you there?")
        assert (busy.value.status_code, busy.value.code) == (409, "conversation_busy")
        events = await heard(client.events.stream(session.id), "session.idled")
        assert kinds(events)[:3] == ["input.message", "session.activated", "turn.started"]
        assert kinds(events)[-2:] == ["turn.completed", "session.idled"]
        assert {"tool.started", "tool.completed", "output.message.completed"} <= set(kinds(events))
        assert (await client.sessions.get(session.id)).status == "idle"
        listed = await client.events.list(session.id)
        assert ids(listed) == [event.id for event in events if event.type != "output.message.delta"]
        assert await client.events.list(session.id, since_id=listed[-3].id) == listed[-2:]
        calls = [call for event in events for call in event.tool_calls() if event.type != "tool.started"]
        assert "ripgrep_search" in {call.name for call in calls}
        messages = await client.messages.list(session.id)
        assert messages[0] == said
        assert {each.role for each in messages} == {"user", "agent", "tool_result"}
        assert len((await client.sessions.export(session.id)).splitlines()) == len(messages)

        for stranger in (other.sessions.get(session.id), other.agents.get(agent.id)):
            with pytest.raises(NotFoundError, match=r"not_found: .* not found"):
                await stranger
        await client.sessions.delete(session.id)
        await client.agents.delete(agent.id)
        with pytest.raises(NotFoundError):
            await client.sessions.get(session.id)
        assert agent.id not in [each.id for each in await client.agents.list()]
        assert (await client.agents.get(agent.id)).status == "archived"
    async with client_of(site, "sandbox-nobody") as nobody:
        with pytest.raises(AuthenticationError, match="invalid_token"):
            await nobody.agents.list()


async def test_the_sdk_s_quick_start_misses_nothing_however_late_it_listens(site: Server) -> None:
    async with client_of(site) as client:
        session = await client.sessions.create()

        async def over() -> bool:
            return (await client.sessions.get(session.id)).status == "idle"

        for text in ("Hello", "And now?"):
            await client.messages.create(session.id, text)
            await eventually(over)
            events = await heard(client.events.stream(session.id), "turn.completed")
            assert events[0].data["message"]["content"][0]["text"] == text
            assert kinds(events).count("turn.started") == 1


async def test_the_sdk_stops_what_the_agent_does(site: Server) -> None:
    async with client_of(site) as client:
        session = await client.sessions.create()
        await client.sessions.cancel(session.id)
        await client.messages.create(session.id, "Hello")
        stream = client.events.stream(session.id)
        events: list[Event] = []

        async def stop() -> None:
            await hears(events, "output.message.completed")
            await client.sessions.cancel(session.id)

        stopping = asyncio.ensure_future(stop())
        await heard(stream, "session.idled", events)
        await stopping
        assert kinds(events)[-2:] == ["turn.cancelled", "session.idled"]
        assert (await client.sessions.get(session.id)).status == "idle"


async def test_the_agent_client_asks_and_gets_an_answer(site: Server) -> None:
    async with AgentClient(f"{site.url}/v1", TOKEN) as client:
        assert "Hello there" in await client.run("Hello there")
        session = await client.create_session("Twice", idempotency_key="k-1")
        assert (await client.create_session("Twice", idempotency_key="k-1"))["id"] == session["id"]
        first = await client.run("Who are you?", session["id"])
        second = await client.run("And I?", session["id"])
        assert "Who are you?" in first
        assert "And I?" in second
        listed = (await client.list_sessions(limit=10))["data"]
        assert session["id"] in [each["id"] for each in listed]
        events = await client.list_events(session["id"], after_sequence=0, limit=3)
        assert kinds(events) == ["input.message", "session.activated", "turn.started"]


async def test_an_idle_listener_that_comes_back_again_and_again_loses_and_doubles_nothing(
    site: Server, swift: Sandbox
) -> None:
    """The SDK reconnects when it has heard no event for 45 seconds, because comments are none; here sooner."""

    async with client_of(site) as client:
        session = await client.sessions.create()
        await client.messages.create(session.id, "One")
        first = await heard(client.events.stream(session.id), "session.idled")
        stream = EventStream(client, session.id, StreamOptions(since_id=first[-1].id, idle_timeout=0.4))
        reconnects = 0
        connect = stream._connect

        def counted() -> Any:
            nonlocal reconnects
            reconnects += 1
            return connect()

        stream._connect = counted
        await asyncio.sleep(1)
        asked = swift.admin("GET", "requests")["total"]

        async def talk() -> None:
            await asyncio.sleep(5)
            assert reconnects >= 3
            assert swift.admin("GET", "requests")["total"] - asked <= 1  # whose the token is, once a minute
            await client.messages.create(session.id, "Two")

        talking = asyncio.ensure_future(talk())
        second = await heard(stream, "session.idled")
        await talking
        every = await client.events.list(session.id, types=sorted({*kinds(first), *kinds(second)}))
        assert ids(first) + ids(second) == ids(every)


def test_streams_that_are_cycled_all_the_time_lose_and_double_nothing(swift: Sandbox) -> None:
    async def main(site: Server) -> None:
        async with client_of(site) as client:
            session = await client.sessions.create()
            await client.messages.create(session.id, "One")
            stream = EventStream(client, session.id, StreamOptions(max_retries=1))
            events = await heard(stream, "session.idled")
            every = await client.events.list(session.id, types=sorted(set(kinds(events))))
            assert ids(events) == ids(every)
            assert stream.retry_count == 0

    with gateway(swift, **SETTINGS, stream_max_age_seconds=0.5) as site:
        asyncio.run(main(site))


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_listener_outlives_the_gateway(how: str, swift: Sandbox, tmp_path: Any) -> None:
    """One that is killed, or stopped in good order, in the middle of a turn; the next one has the same database."""

    async def main(port: int, gateways: ExitStack) -> None:
        settings = {**SETTINGS, "data_dir": str(tmp_path), "drain_seconds": 2}

        async def start() -> Server:
            return await asyncio.to_thread(gateways.enter_context, gateway(swift, "--port", str(port), **settings))

        events: list[Event] = []
        first = await start()
        async with client_of(first) as client:
            session = await client.sessions.create()
            await client.messages.create(session.id, "One")
            listening = asyncio.ensure_future(heard(client.events.stream(session.id), "session.idled", events))
            await hears(events, "tool.completed")
            if how == "killed":
                kill(first.pid)
            else:
                first.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(first.process.wait, WAIT)
            before = len(events)
            await start()
            await listening
            assert len(events) > before > 3
            every = await client.events.list(session.id, types=sorted(set(kinds(events))))
            assert ids(events) == ids(every)
            assert (await client.sessions.get(session.id)).status == "idle"

    with held_port() as port, ExitStack() as gateways:
        asyncio.run(main(port, gateways))
