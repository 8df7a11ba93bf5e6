"""The Agent Protocol's own SDK in front of a gateway in a process of its own."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient
from langgraph_sdk.errors import APIStatusError
from langgraph_sdk.schema import StreamPart

from tests.end_to_end.processes import WAIT, Sandbox, eventually
from tests.leaks import WATCH

T = TypeVar("T")

PARTS = ("assistants", "threads", "runs", "crons", "store")
QUICK = {"scenario": "quick", "speed": 4}
"""Metadata of a run that is over after 0.2 s, with three entries."""
PAUSES = {"scenario": "pauses", "speed": 4}
"""Metadata of a run that waits for its user after 0.8 s."""
ENDLESS = {"scenario": "endless", "speed": 10}
"""Metadata of a run with ten entries a second."""

Client: TypeAlias = LangGraphClient | SyncLangGraphClient


def run(main: Coroutine[Any, Any, T], within: float = 2 * WAIT) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(within):
            return await main

    return asyncio.run(bounded())


@asynccontextmanager
async def client_of(url: str, token: str | None = "sandbox-alice", **headers: str) -> AsyncIterator[LangGraphClient]:  # noqa: S107
    """The SDK as its users have it."""
    async with get_client(url=url, api_key=token, headers=headers) as client:
        WATCH.sent(headers)
        if token is not None:
            WATCH.secret("a token", token)

        async def watched(answer: httpx.Response) -> None:
            if answer.status_code >= 400:
                WATCH.answer(answer.status_code, (await answer.aread()).decode())

        client.http.client.event_hooks["response"].append(watched)
        yield client


def says(text: str, **more: Any) -> dict[str, Any]:
    """The input of a run: what the user says."""
    WATCH.secret("a prompt", text)
    return {"messages": [{"type": "human", "content": text, **more}]}


async def stream(client: LangGraphClient, thread: str | None, text: str | None, **given: Any) -> list[StreamPart]:
    """The events of a new run, to its end."""
    if text is not None:
        given["input"] = says(text)
    return [event async for event in client.runs.stream(thread, "agent", **{"metadata": QUICK, **given})]


def texts(state: Any) -> list[tuple[str, str]]:
    """Who said what, in the values of a state."""
    return [(message["type"], message["content"]) for message in state["messages"]]


def named(events: list[StreamPart], name: str) -> list[Any]:
    """What the events of that name hold."""
    return [event.data for event in events if event.event == name]


def numbers(events: list[StreamPart]) -> list[int]:
    """The numbers in the ids of events."""
    return [int(str(event.id).rpartition("_")[2]) for event in events]


def prompts(host: Sandbox, number: int) -> list[str]:
    """What the host was told by the user in a run."""
    return [entry["tool_input"]["message"] for entry in host.log(number) if entry["message_type"] == "USER_MESSAGE"]


def hosted(host: Sandbox) -> list[dict[str, Any]]:
    """The host's runs, the newest first."""
    items: list[dict[str, Any]] = host.ask("GET", "organizations/323/agent/runs")["items"]
    return items


def run_of(host: Sandbox, text: str) -> int:
    """The host's newest run that began with these words of the user, as soon as they stand in its log."""

    def found() -> int | None:
        numbers = [each["id"] for each in hosted(host)]
        return next((number for number in numbers if (prompts(host, number) or [""])[0].endswith(text)), None)

    return eventually(found) or 0


def status_at(host: Sandbox, number: int) -> str:
    """How the host says that a run is."""
    return str(host.ask("GET", f"organizations/323/agent/run/{number}")["status"])


async def until(probe: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], within: float = WAIT) -> T:
    """What is found once it is ``wanted``."""
    async with asyncio.timeout(within):
        while not wanted(found := await probe()):  # noqa: ASYNC110 - nobody tells clients
            await asyncio.sleep(0.05)
    return found


async def grown(host: Sandbox, number: int, by: int = 5) -> None:
    """Until the agent has done some more in a run."""
    length = len(host.log(number))
    await until(lambda: asyncio.to_thread(host.log, number), lambda log: len(log) >= length + by)


class Methods:
    """Calls methods of an SDK, of its asynchronous kind or of the other, and notes which."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.called: set[str] = set()
        self.there = {
            f"{part}.{name}"
            for part in PARTS
            for name, method in inspect.getmembers(type(getattr(client, part)), callable)
            if not name.startswith("_")
        }

    async def __call__(self, name: str, /, *positional: Any, **given: Any) -> Any:
        """What the method gives, a stream as a list."""
        self.called.add(name)
        part, _, method = name.partition(".")
        function = getattr(getattr(self._client, part), method)
        if isinstance(self._client, SyncLangGraphClient):

            def ask() -> Any:
                answer = function(*positional, **given)
                return list(answer) if isinstance(answer, Iterator) else answer

            return await asyncio.to_thread(ask)
        answer = function(*positional, **given)
        if inspect.isawaitable(answer):
            answer = await answer
        return [each async for each in answer] if isinstance(answer, AsyncIterator) else answer

    async def refused(self, status: int, name: str, /, *positional: Any, **given: Any) -> APIStatusError:
        """The error that it raises."""
        with pytest.raises(APIStatusError) as caught:
            await self(name, *positional, **given)
        assert caught.value.status_code == status, name
        assert caught.value.request_id
        return caught.value
