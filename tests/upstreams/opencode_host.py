"""An opencode server in memory, as far as recorded answers of the real one say how it behaves."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

PLACE = "/home/agent/project"
PREFIX = "session.next."

Answer = Callable[[httpx.Request], httpx.Response | None]


class OpencodeHost:
    """``transport`` leads to it. ``fault`` may answer in its place, ``meanwhile`` is called before each answer."""

    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.active: set[str] = set()
        self.waiting: dict[str, list[dict[str, Any]]] = {"permission": [], "question": []}
        self.asked: list[httpx.Request] = []
        self.fault: Answer = lambda _: None
        self.meanwhile: Callable[[str], None] = lambda _: None
        self._seq: dict[str, int] = {}
        self.transport = httpx.MockTransport(self._answer)

    # -- what happens at it -----------------------------------------------------------------------------------------

    def session(self, id_: str = "ses_one", **more: Any) -> str:
        if id_ not in self.sessions:
            now = int(time.time() * 1000) + len(self.sessions)
            times = {"created": now, "updated": now}
            self.sessions[id_] = {
                "id": id_,
                "title": "New session",
                "cost": 0,
                "time": times,
                "directory": PLACE,
            } | more
            self.logs[id_], self._seq[id_] = [], 0
        return id_

    def add(self, id_: str, *events: tuple[str, Mapping[str, Any]]) -> None:
        for kind, data in events:
            self._seq[id_] += 1
            durable = {"aggregateID": id_, "seq": self._seq[id_], "version": 1}
            told = {"timestamp": int(time.time() * 1000), "sessionID": id_, **data}
            event = {"id": f"evt_{self._seq[id_]}", "type": PREFIX + kind, "durable": durable, "data": told}
            self.logs[id_].append(event)

    def hide(self, id_: str, count: int = 1) -> None:
        """Use up numbers that the history does not show."""
        self._seq[id_] += count

    def turn(self, id_: str, prompt: str, calls: int = 0, answer: str = "Done") -> None:
        """A whole one, complete."""
        self.add(id_, *prompted(prompt))
        for index in range(calls):
            self.add(id_, *called(f"call_{self._seq[id_]}", f"echo {index}"), *answered(self.logs[id_]))
        self.add(id_, ("step.started", {}), ("text.started", {}), ("text.ended", {"text": answer}))
        self.add(id_, ("step.ended", {"finish": "stop"}))

    # -- what it answers ----------------------------------------------------------------------------------------------

    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.asked]

    def body(self, index: int) -> Any:
        return json.loads(self.asked[index].content)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.asked.append(request)
        self.meanwhile(request.url.path)
        faulty = self.fault(request)
        return faulty if faulty is not None else self._good(request)

    def _good(self, request: httpx.Request) -> httpx.Response:  # noqa: PLR0911, PLR0912 - a table of its routes
        path, body = request.url.path, json.loads(request.content or b"{}")
        match request.method, path.strip("/").split("/"):
            case "GET", ["global", "health"]:
                return httpx.Response(200, json={"healthy": True, "version": "1.18.33"})
            case "GET", ["api", "session", "active"]:
                return httpx.Response(200, json={"data": {id_: {"type": "running"} for id_ in self.active}})
            case "POST", ["api", "session"]:
                id_ = self.session(body["id"])
                return httpx.Response(200, json={"data": self.sessions[id_]})
            case "GET", ["session"]:
                newest = sorted(self.sessions.values(), key=lambda each: -each["time"]["created"])
                return httpx.Response(200, json=newest[: int(request.url.params["limit"])])
            case _, ["session", id_] if id_ in self.sessions:
                if request.method == "PATCH":
                    self.hide(id_)
                    self.sessions[id_] |= body
                return httpx.Response(200, json=self.sessions[id_])
            case _, ["session", id_]:
                return httpx.Response(404, json={"name": "NotFoundError", "data": {"message": f"No {id_}"}})
            case _, ["api", "session", id_, *_] if id_ not in self.sessions:
                return httpx.Response(404, json={"_tag": "SessionNotFoundError", "message": f"No {id_}"})
            case "GET", ["api", "session", id_, "history"]:
                after, limit = int(request.url.params["after"]), int(request.url.params["limit"])
                behind = [event for event in self.logs[id_] if event["durable"]["seq"] > after]
                return httpx.Response(200, json={"data": behind[:limit], "hasMore": len(behind) > limit})
            case "GET", ["api", "session", id_, "event"]:
                after = int(request.url.params["after"])
                behind = [event for event in self.logs[id_] if event["durable"]["seq"] > after]
                lines = "".join(f"data: {json.dumps(event)}\n\n" for event in behind)
                return httpx.Response(200, text=lines, headers={"Content-Type": "text/event-stream"})
            case "POST", ["api", "session", id_, "prompt"]:
                return httpx.Response(200, json={"data": {"id": body["id"], "sessionID": id_}})
            case "GET", ["api", "session", _, ("permission" | "question") as kind]:
                return httpx.Response(200, json={"data": self.waiting[kind]})
            case "POST", ["api", "session", _, ("permission" | "question") as kind, request_id, _]:
                if not any(each["id"] == request_id for each in self.waiting[kind]):
                    return httpx.Response(404, json={"_tag": f"{kind.title()}NotFoundError", "message": "Not found"})
                self.waiting[kind].clear()
                return httpx.Response(204)
            case "POST", ["api", "session", _, "interrupt"]:
                return httpx.Response(204)
        raise AssertionError(f"{request.method} {path}")


Event = tuple[str, Mapping[str, Any]]


def prompted(text: str) -> list[Event]:
    said = {"messageID": "msg_1", "prompt": {"text": text}}
    return [("prompt.admitted", said), ("prompted", said)]


def called(call: str, command: str) -> list[Event]:
    """A step up to where a tool is at work."""
    about = {"callID": call}
    asked = {"tool": "bash", "input": {"command": command}}
    return [
        ("step.started", {}),
        ("tool.input.started", {**about, "name": "bash"}),
        ("tool.input.ended", {**about, "text": json.dumps(asked["input"])}),
        ("tool.called", {**about, **asked}),
    ]


def answered(log: list[dict[str, Any]]) -> list[Event]:
    """The rest of the step, for the call that will be there by then."""
    call = f"call_{log[-1]['durable']['seq'] if log else 0}"
    content = [{"type": "text", "text": "out\n"}, {"type": "text", "text": "Command exited with code 0."}]
    return [("tool.success", {"callID": call, "content": content}), ("step.ended", {"finish": "tool-calls"})]
