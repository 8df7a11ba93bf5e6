"""A gateway that speaks the AI SDK's stream, in this process, and what its client makes of it."""

import json
from functools import partial
from typing import Any

import httpx

from tests.dialects.site import Site
from tests.dialects.watching import Watcher, speaking_only
from tests.fakehost import Hosted
from tests.leaks import WATCH

CHAT = "Zk3vQ8pLw2sXy7Rb"
FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "start": ({"messageId"}, {"messageMetadata"}),
    "text-start": ({"id"}, {"providerMetadata"}),
    "text-delta": ({"id", "delta"}, set()),
    "text-end": ({"id"}, set()),
    "reasoning-start": ({"id"}, {"providerMetadata"}),
    "reasoning-delta": ({"id", "delta"}, set()),
    "reasoning-end": ({"id"}, set()),
    "tool-input-available": ({"toolCallId", "toolName", "input", "providerExecuted", "dynamic"}, set()),
    "tool-output-available": ({"toolCallId", "output", "providerExecuted", "dynamic"}, set()),
    "tool-output-error": ({"toolCallId", "errorText", "providerExecuted", "dynamic"}, set()),
    "message-metadata": ({"messageMetadata"}, set()),
    "finish": ({"finishReason"}, set()),
    "abort": (set(), {"reason"}),
    "error": ({"errorText"}, set()),
}
"""Chunks that versions 5, 6 and 7 know: the fields that one needs, and those that it may have."""

FREE = ("input", "output", "data", "messageMetadata", "providerMetadata")
"""Fields that may hold anything; null in another one ends the stream."""


def checked(chunk: Any) -> Any:
    """A chunk that every version of the client takes."""
    kind = chunk["type"]
    needed, allowed = ({"id", "data"}, set[str]()) if kind.startswith("data-codegen-") else FIELDS[kind]
    assert needed <= chunk.keys() - {"type"} <= needed | allowed, chunk
    for name, value in chunk.items():
        assert name in FREE or isinstance(value, bool if name in ("providerExecuted", "dynamic") else str), chunk
    assert all(chunk.get(name, True) is True for name in ("providerExecuted", "dynamic"))
    return chunk


class Shown:
    """A message as the client puts it together, and how that ended: ``ready`` or ``error``; None while it goes on."""

    def __init__(self) -> None:
        self.id = ""
        self.metadata: dict[str, Any] = {}
        self.parts: list[dict[str, Any]] = []
        self.status: str | None = None
        self.error: str | None = None
        self._open: dict[str, dict[str, Any]] = {}

    def take(self, chunk: Any) -> None:
        match checked(chunk)["type"]:
            case "start":
                self.id = chunk["messageId"]
                self._about(chunk["messageMetadata"])
            case "message-metadata":
                self._about(chunk["messageMetadata"])
            case "text-start" | "reasoning-start" as kind:
                part = {"type": kind.removesuffix("-start"), "text": "", "state": "streaming"}
                self._open[chunk["id"]] = {**part, "providerMetadata": chunk["providerMetadata"]}
                self.parts.append(self._open[chunk["id"]])
            case "text-delta" | "reasoning-delta":
                self._open[chunk["id"]]["text"] += chunk["delta"]
            case "text-end" | "reasoning-end":
                self._open.pop(chunk["id"])["state"] = "done"
            case "tool-input-available" | "tool-output-available" | "tool-output-error" as kind:
                self._tool(chunk, kind.removeprefix("tool-"))
            case "finish" | "abort":
                self.status = "ready"
            case "error":
                self.status, self.error = "error", chunk["errorText"]
            case _:
                known = [part for part in self.parts if (part["type"], part.get("id")) == (chunk["type"], chunk["id"])]
                if known:
                    known[0]["data"] = chunk["data"]
                else:
                    self.parts.append(dict(chunk))

    def _tool(self, chunk: Any, state: str) -> None:
        fields = {name: value for name, value in chunk.items() if name not in ("type", "dynamic")}
        known = [part for part in self.parts if part.get("toolCallId") == chunk["toolCallId"]]
        if known:
            known[0].update(fields, state=state)
        else:
            assert state == "input-available", chunk
            self.parts.append({"type": "dynamic-tool", **fields, "state": state})

    def _about(self, metadata: Any) -> None:
        for name, about in metadata.items():
            self.metadata.setdefault(name, {}).update(about)

    @property
    def unfolded(self) -> list[dict[str, Any]]:
        """Its parts, with those of older entries in their place, and what has changed put right."""
        parts = [each for part in self.parts for each in _unfolded(part)]
        for changed in [part["data"] for part in parts if part["type"] == "data-codegen-changed"]:
            is_whole = any("toolCallId" in part for part in changed["parts"])  # a tool's part is put right by itself
            places = [
                place
                for place, part in enumerate(parts)
                if entry_of(part) == changed["entry"] and (is_whole or "toolCallId" not in part)
            ]
            first, behind = (places[0], places[-1] + 1) if places else (len(parts), len(parts))
            parts[first:behind] = changed["parts"]
        return [part for part in parts if part["type"] != "data-codegen-changed"]


def _unfolded(part: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = part["data"]["parts"] if part["type"] == "data-codegen-earlier" else [part]
    return found


def entry_of(part: Any) -> int | None:
    """The number of the entry that a part shows."""
    if "toolCallId" in part:
        return int(part["toolCallId"].rpartition("_")[2])
    if part["type"] == "data-codegen-entry":
        return int(part["id"].rpartition("-")[2])
    entry: int | None = part.get("providerMetadata", {}).get("codegen_api", {}).get("entry")
    return entry


def chunks_of(text: str) -> list[Any]:
    """The chunks of a stream, as far as it has come."""
    lines = [frame.removeprefix("data: ") for frame in text.split("\n\n")[:-1] if not frame.startswith(":")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def shown(text: str) -> Shown:
    message = Shown()
    for chunk in chunks_of(text):
        message.take(chunk)
    return message


class Watching(Watcher[Shown]):
    """A page that watches a chat."""

    @property
    def seen(self) -> Shown:
        return shown(self.text)

    async def begun(self) -> Shown:
        return await self.until(lambda message: message.id)

    async def parts(self, count: int) -> Shown:
        return await self.until(lambda message: len(message.parts) >= count)

    async def end(self) -> Shown:
        message = await super().end()
        assert self.text.endswith("data: [DONE]\n\n"), self.text
        return message


speaking = partial(speaking_only, "ai_sdk")


def user_message(text: str, id: str = "m1", *parts: Any) -> dict[str, Any]:  # noqa: A002
    WATCH.secret("a message", text)
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}, *parts]}


def sent(*messages: Any, **more: Any) -> dict[str, Any]:
    """The body of what the client sends."""
    return {"id": CHAT, "messages": list(messages), "trigger": "submit-message", **more}


def sending(site: Site, *messages: Any, **more: Any) -> Watching:
    return Watching(site, "POST", "/ui/chat", sent(*messages, **more))


def resuming(site: Site, chat: str = CHAT, **headers: str) -> Watching:
    return Watching(site, "GET", f"/ui/chat/{chat}/stream", **headers)


async def history(site: Site, chat: str = CHAT) -> list[Any]:
    answer = await site.get(f"/ui/chat/{chat}")
    assert answer.status_code == 200, answer.text
    messages: list[Any] = answer.json()["messages"]
    return messages


def latest(site: Site) -> Hosted:
    hosted: Hosted = list(site.host.runs.values())[-1]
    return hosted


def finish(hosted: Hosted, text: str = "It is done, all of it.", status: str = "COMPLETE") -> None:
    """The host's agent answers, and is done."""
    hosted.append(type="ANSWER", text=text)
    hosted.status = status


async def answered(site: Site, *messages: Any, text: str = "It is done, all of it.", **more: Any) -> Shown:
    """What came of a message, when its run is over."""
    watching = sending(site, *messages, **more)
    await watching.begun()
    finish(latest(site), text)
    return await watching.end()


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and sentence."""
    assert answer.headers["Content-Type"].startswith("text/plain")
    return answer.status_code, answer.headers["X-Error-Code"], answer.text
