"""The SDK of the Agent Protocol, in front of a gateway in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from langgraph_sdk.client import LangGraphClient

from codegen_api.conversations import Ask, Conversations, TurnEnded, new_id
from codegen_api.identity import Caller
from codegen_api.stores import Turn
from tests.dialects.site import CALLER, Site
from tests.dialects.watching import speaking_only
from tests.fakehost import FakeHost
from tests.leaks import WATCH


@asynccontextmanager
async def client_of(site: Site, token: str | None = CALLER, **headers: str) -> AsyncIterator[Any]:
    """The SDK as ``get_client(url=..., api_key=token)`` gives it, but for its types: they say less than its servers do,
    and of some things what is not so.
    """
    given = {**headers, **({} if token is None else {"x-api-key": token})}
    if token is not None:
        WATCH.secret("a token", token)

    async def watched(answer: httpx.Response) -> None:
        await answer.aread()
        WATCH.answer(answer.status_code, answer.text)

    transport = httpx.ASGITransport(site.app)
    hooks: dict[str, list[Any]] = {"response": [watched]}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=given, event_hooks=hooks, timeout=30
    ) as http:
        yield LangGraphClient(http)


@asynccontextmanager
async def speaking(host: Any = None, **more: Any) -> AsyncIterator[Site]:
    """A gateway that speaks the Agent Protocol, with a database of its own."""
    async with speaking_only("agent_protocol", host or FakeHost(), **more) as site:
        site.host.latency = 0
        yield site


async def caller_of(site: Site, token: str = CALLER) -> Caller:
    caller: Caller = await site.app.state.parts.callers.authenticate(token)
    return caller


async def over(site: Site, turn: Turn, token: str = CALLER) -> Turn:
    """The turn, when it has ended."""
    async for news in site.app.state.parts.conversations.of(await caller_of(site, token)).follow(turn):
        if isinstance(news, TurnEnded):
            return news.turn
    raise AssertionError("it never ended")


async def say(site: Site, thread: str, text: str, token: str = CALLER, **more: Any) -> Turn:
    """A turn in a thread."""
    conversations: Conversations = site.app.state.parts.conversations
    message: dict[str, Any] = {"id": new_id(), "content": [{"type": "text", "text": text}]}
    return await conversations.of(await caller_of(site, token)).begin(None, thread, Ask((message,), text, **more))
