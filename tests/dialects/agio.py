"""A gateway that speaks Agio's API, in this process, and what its clients do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.dialects.eventsource import parse
from tests.dialects.site import Site
from tests.dialects.watching import Watcher, speaking_only
from tests.fakehost import Hosted
from tests.leaks import WATCH


def speaking(host: Any = None, **more: Any) -> AbstractAsyncContextManager[Site]:
    """A gateway that speaks it, with the sandbox's agents."""
    return speaking_only("agio", host, **{"sandbox": True, **more})


@dataclass(frozen=True)
class Told:
    """An event that a client got."""

    name: str
    data: Any
    id: str


class Reading(Watcher[list[Told]]):
    """A client that reads a stream as it comes."""

    def __init__(self, site: Site, method: str, path: str, body: Any = None, **headers: str) -> None:
        WATCH.secret("a message", (body or {}).get("message", ""))
        super().__init__(site, method, path, body, Accept="text/event-stream", **headers)

    @property
    def seen(self) -> list[Told]:
        whole = self.text[: self.text.rfind("\n\n") + 2]
        return [Told(event.type, json.loads(event.data), event.last_event_id) for event in parse(whole.encode())]

    async def event(self, name: str) -> Told:
        events = await self.until(lambda events: any(event.name == name for event in events))
        return next(event for event in events if event.name == name)

    async def run_id(self) -> str:
        return str((await self.event("run_started")).data["run_id"])


@asynccontextmanager
async def chat_begun(host: Any = None, **more: Any) -> AsyncIterator[tuple[Site, Reading, str]]:
    """A gateway that speaks it, somebody who chats there, and the id of their run."""
    async with speaking(host, **more) as site:
        reading = chatting(site)
        yield site, reading, await reading.run_id()


def chatting(site: Site, message: str = "Say hello", agent_id: str = "assistant", **more: Any) -> Reading:
    return Reading(site, "POST", "/api/chat", {"agent_id": agent_id, "message": message, **more})


def following(site: Site, run_id: str, last: str | None = None) -> Reading:
    headers = {} if last is None else {"Last-Event-ID": last}
    return Reading(site, "GET", f"/api/runs/{run_id}/events", **headers)


def finish(hosted: Hosted, text: str = "Hello!") -> None:
    """The host's agent answers, and is done."""
    hosted.append(type="ANSWER", text=text)
    hosted.status = "COMPLETE"


async def said(site: Site, message: str = "Say hello", answer: str = "Hello!", **more: Any) -> Any:
    """What came of a chat whose run is over."""
    reading = chatting(site, message, **more)
    await reading.run_id()
    (hosted,) = (hosted for hosted in site.host.runs.values() if hosted.status == "ACTIVE")
    finish(hosted, answer)
    return (await reading.end())[-1].data


def latest(site: Site) -> Hosted:
    hosted: Hosted = list(site.host.runs.values())[-1]
    return hosted


def prompts(hosted: Hosted) -> list[str]:
    """What the host was told, by its own log."""
    return [entry["prompt"] for entry in hosted.entries if "prompt" in entry]


async def status_of(site: Site, run_id: str) -> str:
    return str((await site.get(f"/api/runs/{run_id}")).json()["status"])


async def eventually(look: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    while True:
        if await look() == wanted:
            return
        await asyncio.sleep(0.05)


async def control(site: Site, run_id: str, what: str, body: Any = None) -> Any:
    answer = await site.post(f"/api/runs/{run_id}/{what}", body)
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert (done["success"], done["run_id"]) == (True, run_id)
    return done


async def refused(site: Site, run_id: str, what: str) -> tuple[int, str]:
    answer = await site.post(f"/api/runs/{run_id}/{what}")
    return answer.status_code, str(answer.json()["detail"])


async def two_steps(site: Site, **more: Any) -> str:
    """A run that is over: its agent has thought, looked, and answered."""
    reading = chatting(site, "What is there?", **more)
    run_id = await reading.run_id()
    hosted = latest(site)
    hosted.append(text="I think.")
    hosted.append(type="ACTION", output="a tree")
    finish(hosted, "A tree.")
    await reading.end()
    return run_id


async def checkpoints(site: Site, run_id: str, **params: Any) -> Any:
    answer = await site.get(f"/api/checkpoints/runs/{run_id}/checkpoints", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def go_on(site: Site, checkpoint: str, how: str, body: Any = None) -> Any:
    answer = await site.post(f"/api/checkpoints/{checkpoint}/{how}", body)
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert (done["success"], done["checkpoint_id"]) == (True, checkpoint)
    return done


async def ended(site: Site, run_id: str, text: str = "Done.") -> Any:
    """What came of the run when the host's latest run is over."""
    finish(latest(site), text)
    return (await following(site, run_id).end())[-1].data
