"""Clients of Agio's API in front of a gateway in a process of its own."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, eventually, kill
from tests.end_to_end.sdk import hosted
from tests.leaks import WATCH

SETTINGS: dict[str, Any] = {
    "dialects": "native,agio",
    "upstream_requests_per_minute": 100_000,
    "follower_linger_seconds": 0.3,
}
ENDLESS = {"scenario": "endless"}
"""Metadata of a run with eight entries a second that only ends when it is stopped."""
QUICK = {"scenario": "quick"}
ENDS = ("run_completed", "run_cancelled", "error")


def with_agents(server: Server) -> None:
    """Nobody is there from the start but in the sandbox that the gateway brings along."""
    for body in ({"name": "assistant"}, {"name": "helper", "system_prompt": "You mend bicycles."}):
        assert server.request("POST", "/api/agents", json=body).status_code == 201


class Viewer:
    """A client that reads a stream in a thread of its own. ``broke``: it ended before its end was told."""

    def __init__(self, server: Server, method: str, path: str, body: Any = None, **headers: str) -> None:
        self.events: list[tuple[str, Any, str]] = []
        self.broke = False
        self._arrived = threading.Condition()
        given = {**ALICE, "Accept": "text/event-stream", **headers}
        WATCH.sent(given, body)
        args = (server.url + path, method, body, given)
        self.thread = threading.Thread(target=self._read, args=args, daemon=True)
        self.thread.start()

    def _read(self, url: str, method: str, body: Any, headers: dict[str, str]) -> None:
        try:
            with (
                httpx.Client(timeout=WAIT, trust_env=False) as client,
                client.stream(method, url, json=body, headers=headers) as answer,
            ):
                assert answer.status_code == 200, answer.read()
                self._take(answer)
        except httpx.HTTPError:
            self.broke = True
        with self._arrived:
            self._arrived.notify_all()

    def _take(self, answer: httpx.Response) -> None:
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                with self._arrived:
                    self.events.append((fields["event"], json.loads(fields["data"]), fields.get("id", "")))
                    self._arrived.notify_all()
            fields = {}

    def until(self, count: int) -> list[tuple[str, Any, str]]:
        """The events, once there are so many."""
        with self._arrived:
            there = self._arrived.wait_for(lambda: len(self.events) >= count, WAIT)
        assert there, self.events
        return list(self.events)

    @property
    def run_id(self) -> str:
        """The id of its run, as the first event tells it."""
        name, data, _ = self.until(1)[0]
        assert name == "run_started"
        return str(data["run_id"])

    @property
    def end(self) -> list[tuple[str, Any, str]]:
        """All its events, when the last one has come: one that is an end, and none before it."""
        self.thread.join(WAIT)
        assert not self.thread.is_alive(), self.events
        assert not self.broke
        assert [name in ENDS for name, _, _ in self.events] == [False] * (len(self.events) - 1) + [True]
        ids = [each for _, _, each in self.events[:-1]]
        assert len(set(ids)) == len(ids)
        return self.events

    @property
    def name(self) -> str:
        """What its end is called."""
        return self.end[-1][0]

    def grow(self, by: int = 3) -> None:
        """Until so many more events have come."""
        self.until(len(self.events) + by)


def chat(server: Server, message: str, agent_id: str = "assistant", metadata: Any = None, **more: Any) -> Viewer:
    body = {"agent_id": agent_id, "message": message, "metadata": metadata or ENDLESS, **more}
    return Viewer(server, "POST", "/api/chat", body)


def view(server: Server, run_id: str, last: str | None = None) -> Viewer:
    return Viewer(server, "GET", f"/api/runs/{run_id}/events", **({} if last is None else {"Last-Event-ID": last}))


def control(server: Server, run_id: str, what: str, body: Any = None) -> Any:
    answer = server.request("POST", f"/api/runs/{run_id}/{what}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def shown(server: Server, run_id: str) -> Any:
    answer = server.get(f"/api/runs/{run_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def status_of(server: Server, run_id: str) -> str:
    return str(shown(server, run_id)["status"])


def go_on(server: Server, checkpoint: str, how: str, body: Any = None) -> Any:
    answer = server.request("POST", f"/api/checkpoints/{checkpoint}/{how}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def over(server: Server, message: str, **more: Any) -> str:
    """The id of a run that is over."""
    viewer = chat(server, message, metadata=QUICK, **more)
    assert viewer.name == "run_completed"
    return viewer.run_id


def done(server: Server, run_id: str) -> Any:
    """The run, when it is over."""
    return eventually(lambda: shown(server, run_id), lambda run: run["status"] not in ("starting", "running"))


def numbers(host: Sandbox) -> set[int]:
    """The host's runs."""
    return {int(each["id"]) for each in hosted(host)}


def length_when_still(host: Sandbox, number: int) -> int:
    """How long a log is, in which the agent would have written something in the meantime."""
    length = len(host.log(number))
    other = host.create("endless")
    eventually(lambda: len(host.log(other)), lambda count: count > 4)
    assert len(host.log(number)) == length
    return length


@contextmanager
def killed_in(server: Server) -> Iterator[None]:
    """A block at whose end the gateway is killed."""
    yield
    kill(server.pid)
    server.process.wait(WAIT)
