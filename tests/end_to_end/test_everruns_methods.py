"""Every method that the clients of ``everruns-sdk`` have: it works, or raises the error of an honest refusal."""

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from everruns_sdk import AgentClient, ContentPart, Controls, Everruns, generate_agent_id
from everruns_sdk.errors import ApiError, AuthenticationError, NotFoundError
from everruns_sdk.sse import EventStream

from tests.end_to_end.processes import Server, gateway, sandbox
from tests.end_to_end.test_everruns import SETTINGS, TOKEN, client_of, eventually, heard, ids, kinds
from tests.leaks import WATCH

HELLO = "Write a haiku about gateways"
SPOKEN = ("agents", "events", "messages", "sessions")
MANAGED = (
    "budgets",
    "capabilities",
    "connections",
    "harnesses",
    "memories",
    "models",
    "workspace_files",
    "workspaces",
)
"""Parts of the SDK that manage a server of Everruns: nothing of them is here."""

NOT_HERE: dict[str, dict[str, Any]] = {
    "agents.analyze": {},
    "agents.copy": {},
    "agents.create_version": {},
    "agents.diff_versions": {},
    "agents.export": {},
    "agents.fork_version": {},
    "agents.get_health_check": {},
    "agents.import_agent": {},
    "agents.import_example": {},
    "agents.list_health_checks": {},
    "agents.list_versions": {},
    "agents.rollback_version": {},
    "agents.set_default_version": {},
    "agents.stats": {},
    "agents.trigger_health_check": {},
    "messages.create_tool_results": {"results": [ContentPart(type="tool_result", tool_call_id="call_1", result="out")]},
    "sessions.budget_check": {},
    "sessions.budgets": {},
    "sessions.pin": {},
    "sessions.resume": {},
    "sessions.set_secrets": {},
    "sessions.unpin": {},
}
"""Methods of the parts that are spoken which do what the host has nothing for, and their arguments where made-up ones
will not do.
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with sandbox("--speed", "8") as host, gateway(host, **SETTINGS) as server:
        yield server


def methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def made_up(method: Any, **known: Any) -> dict[str, Any]:
    """Arguments for what a method wants at least, by their types; what is ``known`` by name."""
    by_type = {"float": 1.0, "dict[str, str]": {}, "dict[str, Any]": {}}
    wanted = inspect.signature(method).parameters.values()
    return {
        each.name: known.get(each.name, by_type.get(each.annotation, "output"))
        for each in wanted
        if each.default is inspect.Parameter.empty
    }


class Methods:
    """Calls methods of a client and of its parts, and notes which."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.called: set[str] = set()

    async def __call__(self, name: str, /, *positional: Any, **given: Any) -> Any:
        method = self.find(name)
        self.called.add(name)
        answer = method(*positional, **given)
        return await answer if inspect.isawaitable(answer) else answer

    def find(self, name: str) -> Any:
        found = self._client
        for part in name.split("."):
            found = getattr(found, part)
        return found

    async def refused(self, status: int, name: str, /, *positional: Any, **given: Any) -> ApiError:
        """The error that it raises."""
        with pytest.raises(ApiError) as caught:
            await self(name, *positional, **given)
        assert caught.value.status_code == status, name
        assert isinstance(caught.value, NotFoundError) == (status == 404)
        assert caught.value.message
        return caught.value


@asynccontextmanager
async def agent_client_of(site: Server) -> AsyncIterator[AgentClient]:
    WATCH.secret("a token", TOKEN)
    async with AgentClient(f"{site.url}/v1", TOKEN) as client:
        yield client


async def test_every_method_of_the_sdk_works_or_is_refused_by_a_status(site: Server) -> None:
    parts = {name for name, _ in inspect.getmembers(Everruns, lambda member: isinstance(member, property))}
    assert parts == {*SPOKEN, *MANAGED}, "the SDK has parts that nobody has looked at, or some no more"

    async with client_of(site) as client:
        call = Methods(client)
        there = {f"{part}.{name}" for part in SPOKEN for name in methods(type(getattr(client, part)))}
        agent = await agents(call)
        await sessions(call, client, agent)
        spoken = set(call.called)
        known = {"agent_id": agent, "session_id": (await client.sessions.create()).id}
        for name, given in NOT_HERE.items():
            error = await call.refused(404, name, **{**made_up(call.find(name), **known), **given})
            assert "is not offered here" in error.message
        assert not spoken & set(NOT_HERE)
        assert call.called == there, "the SDK has methods that nobody has looked at, or some no more"
        for part in MANAGED:
            for name in sorted(methods(type(getattr(client, part)))):
                await call.refused(404, f"{part}.{name}", **made_up(call.find(f"{part}.{name}")))


async def agents(call: Methods) -> str:
    made = await call("agents.create", "poet", "You are brief.", display_name="Poet", tags=["a"])
    assert (made.display_name, made.tags, made.status) == ("Poet", ["a"], "active")
    assert await call("agents.get", made.id) == made
    applied = await call("agents.apply", made.id, "poet", "You are terse.")
    assert (applied.id, applied.system_prompt) == (made.id, "You are terse.")
    other = await call("agents.apply", generate_agent_id(), "poet", "You are long.")
    # any number of agents may have the same name; whoever names one means the newest
    named = await call("agents.apply_by_name", "poet", "You rhyme.")
    assert named.id not in (made.id, other.id)
    assert [each.id for each in await call("agents.list", search="POE")] == [named.id, other.id, made.id]
    assert (await call("sessions.create", agent_name="poet")).agent_id == named.id
    for each in (other, named):
        await call("agents.delete", each.id)
    assert made.id in [each.id for each in await call("agents.list")]
    await call.refused(409, "sessions.create", agent_id=named.id)
    await call.refused(422, "agents.create", "poet", "x", initial_files=[{"path": "/a", "content": "b"}])
    return str(made.id)


async def sessions(call: Methods, client: Everruns, agent: str) -> None:
    session = await call("sessions.create", agent_id=agent, title="Haiku", tags=["b"], model_id="large")
    assert (session.title, session.tags, session.status) == ("Haiku", ["b"], "started")
    assert await call("sessions.get", session.id) == session
    assert session in await call("sessions.list", agent, search="haik")
    assert await call("events.list", session.id) == []
    assert await call("messages.list", session.id) == []

    WATCH.secret("a prompt", HELLO)
    said = await call("messages.create", session.id, HELLO, Controls(model_id="small"))
    stream = await call("events.stream", session.id, exclude=["output.message.delta", "reason.thinking.delta"])
    assert isinstance(stream, EventStream)
    events = await heard(stream, "session.idled")
    assert stream.last_event_id == events[-1].id
    assert (await call("messages.list", session.id))[0] == said
    assert (await call("sessions.export", session.id)).splitlines()[0].startswith(f'{{"id":"{said.id}"')
    listed = await call("events.list", session.id)
    assert ids(listed) == ids(events)
    middle = listed[len(listed) // 2]
    for given, expected in (
        ({"types": ["turn.started", "llm.generation"]}, ["turn.started"]),
        ({"exclude": kinds(listed[1:])}, ["input.message"]),
        ({"limit": 2}, ["turn.completed", "session.idled"]),
        ({"limit": 1, "order_desc": True}, ["session.idled"]),
        ({"since_id": middle.id}, kinds(listed[listed.index(middle) + 1 :])),
        ({"after_sequence": middle.sequence}, kinds(listed[listed.index(middle) + 1 :])),
        ({"before_sequence": middle.sequence, "limit": 1}, [listed[listed.index(middle) - 1].type]),
        ({"turn_id": listed[0].context.turn_id}, kinds(listed)),
    ):
        assert kinds(await call("events.list", session.id, **given)) == expected, given
    assert (await call.refused(400, "events.list", session.id, types=["unheard.of"])).code == "invalid_request"
    assert (await call.refused(422, "events.list", session.id, q="haiku")).code == "unsupported"

    assert await call("sessions.cancel", session.id) is None
    reasoned = client.with_reason("no longer wanted")
    await reasoned.sessions.delete(session.id)
    await call.refused(404, "sessions.delete", session.id)


async def test_every_method_of_the_agent_client_works_or_is_refused_by_a_status(site: Server) -> None:
    async with agent_client_of(site) as client:
        call = Methods(client)
        session = await call("create_session", "Haiku", idempotency_key="every-method")
        assert await call("create_session", "Haiku", idempotency_key="every-method") == session
        assert await call("get_session", session["id"]) == session
        second = await call("create_session")
        page = await call("list_sessions", limit=1)
        assert [each["id"] for each in page["data"]] == [second["id"]]
        page = await call("list_sessions", limit=1, page_token=page["next_page_token"])
        assert [each["id"] for each in page["data"]] == [session["id"]]

        WATCH.secret("a prompt", HELLO)
        said = await call("send_message", session["id"], HELLO, idempotency_key="every-message")
        assert await call("send_message", session["id"], HELLO, idempotency_key="every-message") == said
        stream = await call("stream_events", session["id"], after_sequence=0, max_retries=3)
        events = await heard(stream, "session.idled")
        listed = await call("list_events", session["id"], after_sequence=0, limit=1000)
        assert ids(listed) == [event.id for event in events if event.type != "output.message.delta"]
        resumed = await heard(await call("stream_events", session["id"], since_id=events[-3].id), "session.idled")
        assert resumed == events[-2:]
        assert HELLO in await call("run", HELLO, second["id"])

        third = (await client.create_session())["id"]
        await client.send_message(third, HELLO)
        assert (await call("cancel", third))["status"] == "cancelled"

        async def stopped() -> bool:
            return bool((await client.get_session(third))["status"] == "idle")

        await eventually(stopped)
        assert (await call("cancel", third))["status"] == "no_op"

        await call.refused(404, "card")
        await call.refused(404, "answer_questions", session["id"], {})
        await call.refused(404, "submit_tool_approvals", session["id"], {})
        # users of an application who share a token would see each other's sessions
        theirs = Methods(await call("for_end_user", "customer-42"))
        for name, given in (("list_sessions", {}), ("get_session", {"session_id": session["id"]})):
            assert (await theirs.refused(422, name, **given)).code == "unsupported"
        call.called.add("runtime_token")
        await theirs.refused(404, "runtime_token")
        await call("close")
        there = methods(AgentClient)
        assert call.called == there, "the SDK has methods that nobody has looked at, or some no more"


async def test_the_sdk_s_errors_are_those_that_it_has_for_each_status(site: Server) -> None:
    async with client_of(site, "sandbox-nobody") as nobody:
        with pytest.raises(AuthenticationError) as refused:
            await nobody.sessions.list()
        assert (refused.value.code, refused.value.status_code) == ("invalid_token", 401)
    async with client_of(site, "evr_0123456789") as foreign:
        with pytest.raises(AuthenticationError, match="Everruns"):
            await foreign.sessions.list()
