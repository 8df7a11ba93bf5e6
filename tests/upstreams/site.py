"""A real host, a real gateway in front of it, and two users of the gateway; and in what the hosts differ."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import httpx

from codegen_api.auth.keys import new_key
from tests.end_to_end.processes import WAIT, Server, gateway
from tests.end_to_end.viewing import Viewer
from tests.leaks import WATCH
from tests.upstreams.hosts.a2a import A2A
from tests.upstreams.hosts.aegra import Aegra
from tests.upstreams.hosts.langgraph import LangGraph
from tests.upstreams.hosts.opencode import OpenCode
from tests.upstreams.hosts.openhands import OpenHands
from tests.upstreams.hosts.running import RealHost

T = TypeVar("T")

NO_UUID = "98262223-6465-4df7-8d52-ff96dedc6a69"


@dataclass(frozen=True)
class Choice:
    """After ``prompt`` the run waits for ``reason``; it goes on to the status ``end`` with this decision."""

    prompt: str
    reason: Literal["approval", "question"]
    decision: Literal["approve", "reject", "answer"]
    text: str | None = None
    end: str = "completed"


def no_settings(_: Any) -> dict[str, object]:
    return {}


@dataclass(frozen=True)
class Facts:
    """What a host can do, and what comes of it there."""

    host: type[RealHost]
    upstream: str
    choices: tuple[Choice, ...]
    settings: Callable[[Any], dict[str, object]] = no_settings
    """The adapter's own, for the host that runs."""
    unknown: str = NO_UUID
    """An id that a run could have."""
    final: bool = False
    """A run that has ended does not go on."""
    rests: tuple[str, str] = ("steps 1", "completed")
    """After which prompt in which status a run goes on with another one."""
    keyed: frozenset[str] = frozenset({"create", "resume"})
    """Which orders have no effect if another process sends them again."""
    stops_waiting: bool = True
    """A run that waits can be cancelled."""
    at_work: str = "step 0"
    """What the last entry says while the model is at its answer after one step."""
    left: str | None = None
    """What becomes of a run that is at work when the host is killed and started again; None: it is lost."""
    deletes: str | None = None
    """Where the host deletes a run, without the id at the end."""
    edits: bool = False
    """Messages of a log can be changed and removed."""

    def __str__(self) -> str:
        return self.host.name


QUESTION = Choice("question please", "question", "answer", "B")
ASKED = Choice("ask", "question", "answer", "Yes")

HOSTS = (
    Facts(
        OpenCode,
        "opencode",
        (
            Choice("ask", "approval", "approve"),
            Choice("ask", "approval", "reject", "No"),
            QUESTION,
            Choice("question please", "question", "reject", end="cancelled"),
        ),
        lambda host: {"opencode_directory": host.project, "api_token": host.token},
        unknown="ses_00000000000000000000000000",
        at_work="text.started",
        left="failed",
        deletes="/session/",
    ),
    Facts(
        LangGraph,
        "langgraph",
        (QUESTION, ASKED),
        stops_waiting=False,
        at_work='"type": "tool"',
        left="completed",
        deletes="/threads/",
        edits=True,
    ),
    Facts(
        Aegra,
        "langgraph",
        (QUESTION, ASKED),
        stops_waiting=False,
        at_work='"type": "tool"',
        left="running",
        deletes="/threads/",
        edits=True,
    ),
    Facts(A2A, "a2a", (QUESTION, ASKED), final=True, rests=("steps 1 question hold", "waiting"), keyed=frozenset()),
    Facts(
        OpenHands,
        "openhands",
        (Choice("ask", "approval", "approve"), Choice("ask", "approval", "reject", "No")),
        lambda host: {
            "api_token": host.token,
            "openhands_agent": json.dumps(host.conversation["agent"]),
            "openhands_confirm": "risky",
            "openhands_directory": host.project,
        },
        keyed=frozenset({"create"}),
        at_work="ObservationEvent",
        left="failed",
        deletes="/api/conversations/",
    ),
)


def facts_of(host: type[RealHost]) -> Facts:
    (found,) = [facts for facts in HOSTS if facts.host is host]
    return found


async def eventually(probe: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], within: float = WAIT) -> T:
    """What ``probe`` finds once it is ``wanted``."""
    deadline = time.monotonic() + within
    while True:
        found = await probe()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, f"after {within} s it is still {found!r}"
        await asyncio.sleep(0.2)  # to some hosts an answer is as much work as that


class User:
    """Somebody with a key of the gateway's own."""

    def __init__(self, site: "Site", name: str) -> None:
        self._site = site
        self.key, self.line = new_key(name, ["runs:read", "runs:write"])
        WATCH.secret("a key", self.key)

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        sent = {"Authorization": f"Bearer {self.key}", **{name.replace("_", "-"): it for name, it in headers.items()}}
        return await asyncio.to_thread(self._site.server.request, method, path, json=body, headers=sent)

    async def told(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """The body of an answer that refuses nothing."""
        answer = await self.ask(method, path, body, **headers)
        assert answer.is_success, answer.text
        return answer.json()

    async def create(self, prompt: str, **headers: str) -> str:
        body = {"prompt": prompt, "metadata": {"team": "a"}}
        run: str = (await self.told("POST", "/agent-runs", body, **headers))["id"]
        return run

    async def resume(self, run: str, prompt: str, **headers: str) -> httpx.Response:
        return await self.ask("POST", f"/agent-runs/{run}/resume", {"prompt": prompt}, **headers)

    async def cancel(self, run: str) -> httpx.Response:
        return await self.ask("POST", f"/agent-runs/{run}/cancel")

    async def until(self, run: str, *statuses: str) -> Any:
        """The run, once it is in one of these."""
        return await eventually(
            lambda: self.told("GET", f"/agent-runs/{run}"), lambda found: found["run_status"] in statuses
        )

    async def log(self, run: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = (await self.told("GET", f"/agent-runs/{run}/logs"))["logs"]
        return entries

    async def has_said(self, run: str, text: str, *, last: bool = False) -> None:
        """Until this is in the log behind the prompt, or in its ``last`` entry."""
        await eventually(lambda: self.log(run), lambda log: text in json.dumps(log[1:][-last:]))

    async def released(self, run: str, *statuses: str) -> Any:
        """As ``until``; whoever is held by the model goes on meanwhile."""

        async def described() -> Any:
            self._site.host.model.release()
            return await self.told("GET", f"/agent-runs/{run}")

        return await eventually(described, lambda found: found["run_status"] in statuses)

    def viewer(self, run: str) -> Viewer:
        return Viewer(self._site.server.url, run, self.key)


@dataclass
class Site:
    """``host`` with a gateway in front of it, which can be killed and replaced."""

    facts: Facts
    host: RealHost
    held: ExitStack
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.alice, self.bob = User(self, "alice"), User(self, "bob")
        self.start()

    def gateway(self, **settings: object) -> Server:
        """Another one, which ends with the site."""
        mine: Mapping[str, object] = {
            "upstream": self.facts.upstream,
            "base_url": self.host.url,
            "auth": "key",
            "api_token": "of-tests",
            "api_keys": f"{self.alice.line};{self.bob.line}",
            "secret_key": "0123456789abcdef" * 2,
        }
        return self.held.enter_context(gateway(None, **{**mine, **self.facts.settings(self.host), **settings}))

    def start(self) -> None:
        """From now on users ask another gateway, which knows nothing of what the one before has seen."""
        self.server = self.gateway()

    def kill(self) -> None:
        """End the gateway at once, as when a machine fails."""
        self.server.process.kill()
        self.server.process.wait(WAIT)
