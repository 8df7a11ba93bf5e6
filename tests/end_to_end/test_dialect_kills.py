"""A gateway that is killed (SIGKILL) while it is talked to as Everruns', Agio's and OpenAI's clients do, and started
again with the same database: nothing is said to the host twice, nothing is under way for ever, and all of it can go on.

``ROUNDS`` (2) in the environment says how often, and ``SEED`` repeats the moments of a run that failed.
"""

import asyncio
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, eventually, gateway, kill, sandbox
from tests.end_to_end.relay import Relay, relay
from tests.end_to_end.sdk import ENDLESS, PAUSES, QUICK, run
from tests.end_to_end.test_turn_kills import LATE, SETTINGS, SETTLED, everything, told

ROUNDS = int(os.environ.get("ROUNDS", "2"))
SEED = int(os.environ.get("SEED", time.time_ns() % 10**6))
BUSY = ("active", "in_progress", "running", "starting")
KINDS = (
    *("message", "another message", "response", "another response"),
    *("chat", "another chat", "resume", "pause", "fork", "restore"),
)
SILENT = 1
"""So many of these say nothing to the host."""


@dataclass
class Ask:
    """What a client asks for: ``path`` and ``body``; ``place`` is where to look what has become of it."""

    kind: str
    number: int
    path: str = ""
    place: str = ""
    previous: str | None = None

    @property
    def name(self) -> str:
        return f"{self.kind} {self.number}"

    @property
    def text(self) -> str:
        return f"Pull the {self.kind} out of well {self.number}"

    async def prepare(self, client: httpx.AsyncClient) -> None:
        """What has been there before."""
        if "message" in self.kind:
            session = await post(client, "/v1/sessions", {"title": self.name})
            self.place, self.path = f"/v1/sessions/{session['id']}", f"/v1/sessions/{session['id']}/messages"
            if "another" in self.kind:
                await self.ask(client, "Begin")
                await settled(client, self.place, time.monotonic())
            return
        if "response" in self.kind:
            self.path = "/v1/responses"
            if "another" in self.kind:
                first = await post(client, self.path, {"input": "Begin", "background": True})
                self.previous = first["id"]
                assert await settled(client, f"{self.path}/{self.previous}", time.monotonic()) == "completed"
            return
        self.path = "/api/chat"
        if self.kind == "chat":
            return
        metadata = {"resume": PAUSES, "pause": ENDLESS}.get(self.kind, QUICK)
        begun = await self.ask(client, "Begin", metadata)
        self.place = begun.headers["location"]
        if self.kind != "pause":
            wanted = {"resume": "paused"}.get(self.kind, "completed")
            assert await settled(client, self.place, time.monotonic()) == wanted
        if self.kind in ("resume", "pause"):
            self.path = f"{self.place}/{self.kind}"
        elif self.kind in ("fork", "restore"):
            self.path = f"/api/checkpoints/{self.place.rpartition('/')[2]}.1/{self.kind}"

    async def ask(self, client: httpx.AsyncClient, text: str = "", metadata: Any = QUICK) -> httpx.Response:
        """The head of the answer: whatever lasts goes on by itself."""
        text = text or self.text
        body: dict[str, Any] = {"message": text}
        if self.path == "/api/chat":
            body |= {"agent_id": "assistant", "session_id": self.name, "metadata": metadata}
        elif self.path.endswith("/messages"):
            body = {"message": {"content": [{"type": "text", "text": text}]}, "metadata": metadata}
        elif self.path == "/v1/responses":
            body = {"input": text, "background": True, "previous_response_id": self.previous}
        elif self.path.startswith("/api/checkpoints"):
            body = {"modifications": {"modified_query": text}}
        key = {"Idempotency-Key": text}
        async with client.stream("POST", self.path, json=body, headers=key) as answer:
            if answer.status_code >= 400 or self.path == "/v1/responses":
                await answer.aread()
            return answer


def new_client(server: Server) -> httpx.AsyncClient:
    """A client with a new connection for each request: a kept one may be closed just when it is used again."""
    limits = httpx.Limits(max_connections=20, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=server.url, headers=ALICE, timeout=2 * WAIT, trust_env=False, limits=limits)


async def post(client: httpx.AsyncClient, path: str, body: Any = None) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


async def look(client: httpx.AsyncClient, place: str) -> Any:
    answer = await client.get(place)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def settled(client: httpx.AsyncClient, place: str, since: float) -> str:
    """How something is when it is not under way any more."""
    while True:
        status = str((await look(client, place))["status"])
        if status not in BUSY:
            return status
        assert time.monotonic() < since + SETTLED, f"{place} is under way for ever"
        await asyncio.sleep(1)


async def one_round(
    host: Sandbox, between: Relay, server: Server, number: int, asks: list[Ask], chance: random.Random
) -> None:
    """Clients ask, and then there is no gateway any more: at any moment, or when the host has heard all of it, and has
    answered nothing.
    """
    late = number % 2 == 1

    async def later(ask: Ask) -> None:
        await asyncio.sleep(chance.uniform(0, 0.1))
        with suppress(httpx.TransportError):
            await ask.ask(client)

    async with new_client(server) as client:
        if number == 0:
            await post(client, "/api/agents", {"name": "assistant"})
        await asyncio.gather(*(ask.prepare(client) for ask in asks))
        before = told(host)
        between.late = LATE if late else 0
        asking = [asyncio.ensure_future(later(ask)) for ask in asks]
        if late:
            await asyncio.to_thread(eventually, lambda: told(host), lambda count: count >= before + len(asks) - SILENT)
        await asyncio.sleep(chance.uniform(0, 0.4))
        kill(server.pid)
        await asyncio.gather(*asking)
    between.late = 0


async def check(client: httpx.AsyncClient, prompts: list[str], ask: Ask, since: float) -> None:
    """What has become of it, where the host was told these prompts."""
    heard = times(prompts, ask.text)
    assert heard <= 1, f"{ask} has started twice"
    if "message" in ask.kind:
        assert await settled(client, ask.place, since) == ("started" if not await asked(client, ask) else "idle")
        await ask.ask(client)  # the client repeats what it got no answer to
        assert await settled(client, ask.place, time.monotonic()) == "idle"
    elif "response" in ask.kind:
        answer = await ask.ask(client)
        assert answer.status_code == 200, answer.text
        status = await settled(client, f"{ask.path}/{answer.json()['id']}", time.monotonic())
        assert status == "completed" or (status == "failed" and not heard)
    elif ask.kind == "pause":
        assert (await look(client, ask.place))["status"] in ("running", "paused")
        assert (await post(client, f"{ask.place}/pause"))["status"] == "paused"
        assert (await post(client, f"{ask.place}/cancel"))["status"] == "cancelled"
    elif ask.kind == "resume":
        status = await settled(client, ask.place, since)
        assert status == ("completed" if heard else "paused")
        if status == "paused":
            assert (await ask.ask(client)).status_code == 200
            assert await settled(client, ask.place, time.monotonic()) == "completed"
    else:
        for each in await of_session(client, ask):
            status = await settled(client, f"/api/runs/{each['id']}", since)
            assert status == ("completed" if times(prompts, each["input_query"]) else "failed")


async def asked(client: httpx.AsyncClient, ask: Ask) -> Any:
    """What stands in a session of what was said, and may have been heard."""
    return (await look(client, f"{ask.place}/messages"))["data"]


async def of_session(client: httpx.AsyncClient, ask: Ask) -> list[Any]:
    """Agio's runs of a session, and those that came of forks of it."""
    found: list[Any] = (await look(client, "/api/runs?limit=1000"))["items"]
    return [each for each in found if each["session_id"] == ask.name or each["input_query"] == ask.text]


async def known(client: httpx.AsyncClient, host: Sandbox, asks: list[Ask], since: float) -> list[str]:
    """What the host was told, when it is known what became of all of it."""
    runs = [f"/api/runs/{each['id']}" for each in (await look(client, "/api/runs?limit=1000"))["items"]]
    endless = [ask.place for ask in asks if ask.kind == "pause"]
    await asyncio.gather(*(settled(client, place, since) for place in runs if place not in endless))
    return await asyncio.to_thread(everything, host)


def times(prompts: list[str], text: str) -> int:
    """How often the host was told this."""
    return sum(prompt.endswith(text) for prompt in prompts)


def test_nothing_starts_twice_or_is_under_way_for_ever_however_often_the_gateway_is_killed(tmp_path: Path) -> None:
    print(f"SEED={SEED}")
    chance = random.Random(SEED)
    rounds = [[Ask(kind, number) for kind in KINDS] for number in range(ROUNDS)]
    killed = 0.0

    async def checked(server: Server, host: Sandbox) -> None:
        async with new_client(server) as client:
            asks = [ask for round_ in rounds for ask in round_]
            heard = await known(client, host, asks, killed)
            await asyncio.gather(*(check(client, heard, ask, killed) for ask in asks))
            heard = await asyncio.to_thread(everything, host)
            assert all(times(heard, ask.text) <= 1 for ask in asks), "something has started twice"
            after = await client.post(
                "/api/chat",
                json={"agent_id": "assistant", "message": "And now rest", "stream": False, "metadata": QUICK},
            )
            assert after.json()["status"] == "completed"

    with sandbox() as host, relay(host.url) as between:
        more = {"dialects": "native,everruns,agio,openai", "base_url": between.url}
        settings = {**SETTINGS, **more, "data_dir": str(tmp_path)}
        for number, round_ in enumerate(rounds):
            with gateway(host, **settings) as server:
                run(one_round(host, between, server, number, round_, chance))
                killed = time.monotonic()
        with gateway(host, **settings) as server:
            run(checked(server, host), within=SETTLED + 4 * WAIT)
            assert " ERROR " not in server.log.read_text()
