"""A gateway that speaks Everruns, and how its clients ask it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from codegen_api.conversations import Conversations, TurnEnded
from codegen_api.identity import Caller
from codegen_api.stores import Turn
from tests.dialects.eventsource import Event, parse
from tests.dialects.site import AUTHORIZED, CALLER, Connection, Site, serving
from tests.fakehost import Hosted

NOBODY = "0190a5b0-c0de-7000-8000-00000000cafe"
"""An id that nothing has."""


@asynccontextmanager
async def speaking(host: Any = None, **more: Any) -> AsyncIterator[Site]:
    hurry = {"upstream_requests_per_minute": 1_000_000, "org_id": "9"}
    async with serving(host, **{"dialects": ("everruns",), **hurry, **more}) as site:
        site.host.latency = 0
        yield site


@dataclass(frozen=True)
class Talk:
    """A session, as either family knows it."""

    site: Site
    agent: str
    id: str
    token: str = CALLER

    @property
    def nested(self) -> str:
        return f"/v1/agents/{self.agent}/sessions/{self.id}"

    @property
    def flat(self) -> str:
        return f"/v1/sessions/session_{self.id.replace('-', '')}"

    async def say(self, text: str = "What is 2 + 2?", **more: Any) -> Any:
        """Say something; what is answered."""
        body = {"message": {"content": [{"type": "text", "text": text}]}}
        answer = await self.site.post(f"{self.flat}/messages", body, token=self.token, **more)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def answered(self, text: str = "What is 2 + 2?", reply: str = "It is 4.") -> Hosted:
        """Say something and have it answered; the run."""
        await self.say(text)
        hosted = list(self.site.host.runs.values())[-1]
        hosted.append(type="ANSWER", text=reply)
        hosted.status = "COMPLETE"
        await self.over()
        return hosted

    async def over(self) -> Turn:
        """Wait for the end of the latest turn."""
        conversations: Conversations = self.site.app.state.parts.conversations
        caller = await caller_of(self.site, self.token)
        turn = await conversations.of(caller).latest(self.id)
        assert turn is not None
        if not turn.state.active:
            return turn
        async for news in conversations.of(caller).follow(turn):
            if isinstance(news, TurnEnded):
                return news.turn
        raise AssertionError("it never ended")

    async def get(self, path: str = "", **more: Any) -> Any:
        answer = await self.site.get(f"{self.flat}{path}", token=self.token, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def get_below(self, path: str = "", **more: Any) -> Any:
        answer = await self.site.get(f"{self.nested}{path}", token=self.token, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def an_agent(site: Site, token: str = CALLER, **more: Any) -> Any:
    body = {"name": "assistant", "system_prompt": "You are concise.", **more}
    answer = await site.post("/v1/agents", body, token=token)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def a_talk(site: Site, token: str = CALLER, **more: Any) -> Talk:
    agent = await an_agent(site, token)
    answer = await site.post(f"/v1/agents/{agent['id']}/sessions", more, token=token)
    assert answer.status_code == 201, answer.text
    return Talk(site, agent["id"], answer.json()["id"], token)


@asynccontextmanager
async def talking(host: Any = None, **more: Any) -> AsyncIterator[tuple[Site, Talk]]:
    """A gateway that speaks it, and a session there."""
    async with speaking(host, **more) as site:
        yield site, await a_talk(site)


async def caller_of(site: Site, token: str = CALLER) -> Caller:
    caller: Caller = await site.app.state.parts.callers.authenticate(token)
    return caller


class Listening:
    """A client that has a stream open."""

    def __init__(self, site: Site, path: str, **headers: str) -> None:
        self.connection = Connection(site.app, path, {**AUTHORIZED, **headers})

    @property
    def events(self) -> list[Event]:
        body = self.connection.body
        return parse(body[: body.rfind(b"\n\n") + 2])

    @property
    def kinds(self) -> list[str]:
        return [event.type for event in self.events]

    async def until(self, kind: str, times: int = 1) -> list[Event]:
        """Until such an event has come so often."""
        count = 1
        while (self.connection.messages and self.kinds.count(kind) < times) or not self.connection.messages:
            count = len(self.connection.messages) + 1
            await self.connection.received(count)
        return self.events

    async def leave(self) -> None:
        await self.connection.left()
