"""A gateway that speaks OpenAI's Responses API, in this process, and what its clients make of it."""

import json
from functools import partial
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.dialects.site import Site
from tests.dialects.watching import Watcher, speaking_only
from tests.fakehost import Hosted
from tests.leaks import WATCH

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
RESPONSE = TypeAdapter(Response)

ENDS = ("response.completed", "response.failed", "response.incomplete")


def checked(event: Any) -> Any:
    """An event that is one by the SDK's own types, which are stricter than the SDK."""
    EVENT.validate_python(event)
    assert "error" not in event or event["type"] == "error", event  # SDKs raise it
    return event


def events_of(text: str) -> list[Any]:
    """The events of a stream, as far as it has come."""
    frames = [frame for frame in text.split("\n\n")[:-1] if not frame.startswith(":")]
    events = []
    for name, data in (frame.split("\n") for frame in frames):
        event = checked(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


class Seen:
    """A response as a client puts it together from events, which come once and in order."""

    def __init__(self, after: int = -1) -> None:
        self.number = after
        self.response: dict[str, Any] = {}
        self.items: dict[int, dict[str, Any]] = {}
        self.done: set[int] = set()
        self.ended = False

    def take(self, events: list[Any]) -> "Seen":
        for event in events:
            self._take(event)
        return self

    def _take(self, event: Any) -> None:
        assert not self.ended, event
        assert event["sequence_number"] > self.number, event
        self.number = event["sequence_number"]
        index = event.get("output_index")
        match event["type"].removeprefix("response."):
            case "created" | "in_progress":
                self.response = event["response"]
            case "output_item.added":
                assert index == (max(self.items) + 1 if self.items else index)
                assert index not in self.items
                self.items[index] = event["item"]
            case "output_item.done":
                assert index not in self.done
                self.done.add(index)
                self.items[index] = event["item"]
            case "completed" | "failed" | "incomplete":
                self.ended, self.response = True, event["response"]
            case _:
                assert "item_id" in event, event


speaking = partial(speaking_only, "openai")


class Streaming(Watcher[list[Any]]):
    """A client that watches a response."""

    @property
    def seen(self) -> list[Any]:
        return events_of(self.text)

    async def begun(self) -> Any:
        """The response as it begins."""
        return (await self.until(lambda events: events))[0]["response"]

    async def items(self, count: int) -> list[Any]:
        return await self.until(lambda events: sum("item.added" in event["type"] for event in events) >= count)


def said(words: str, /, **more: Any) -> dict[str, Any]:
    """The body of a request."""
    WATCH.secret("an input", words)
    return {"model": "default", "input": words, **more}


def streaming(site: Site, words: Any, /, **more: Any) -> Streaming:
    headers = more.pop("headers", {})
    body = said(words, stream=True, **more) if isinstance(words, str) else {"input": words, "stream": True, **more}
    return Streaming(site, "POST", "/v1/responses", body, **headers)


def returning(site: Site, response: str, after: int | None = None) -> Streaming:
    more = "" if after is None else f"&starting_after={after}"
    return Streaming(site, "GET", f"/v1/responses/{response}?stream=true{more}")


async def response_of(site: Site, response: str) -> Any:
    """A response as it is now."""
    answer = await site.get(f"/v1/responses/{response}")
    assert answer.status_code == 200, answer.text
    RESPONSE.validate_python(answer.json())
    return answer.json()


def latest(site: Site) -> Hosted:
    hosted: Hosted = list(site.host.runs.values())[-1]
    return hosted


def finish(hosted: Hosted, text: str = "It is done, all of it.", status: str = "COMPLETE") -> None:
    """The host's agent answers, and is done."""
    hosted.append(type="ANSWER", text=text)
    hosted.status = status


async def answered(site: Site, words: Any, answer: str = "It is done, all of it.", /, **more: Any) -> Any:
    """A response, when its run is over."""
    watching = streaming(site, words, **more)
    await watching.begun()
    finish(latest(site), answer)
    return (await watching.end())[-1]["response"]


def texts(response: Any) -> list[str]:
    """What is said in a response."""
    items = response["output"] if "output" in response else response["data"]
    return [part["text"] for item in items for part in item.get("content") or item.get("summary") or ()]


def refused(answer: Any) -> tuple[int, str, str | None]:
    """Status, code and parameter."""
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]
