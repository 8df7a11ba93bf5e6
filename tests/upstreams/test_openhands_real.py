"""The gateway in front of a real OpenHands agent server, with two users of the gateway."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from codegen_api import errors
from codegen_api.auth.keys import new_key
from codegen_api.identity import Credential
from codegen_api.runs import RunRef
from codegen_api.upstreams import NewRun
from codegen_api.upstreams.openhands import OpenHandsUpstream
from tests.end_to_end.processes import WAIT, Server, eventually, gateway
from tests.end_to_end.viewing import Viewer
from tests.upstreams.hosts.openhands import OpenHands
from tests.upstreams.hosts.running import serving

NOBODY = "98262223-6465-4df7-8d52-ff96dedc6a69"
(ALICE, ALICE_LINE), (BOB, BOB_LINE) = (new_key(name, ["runs:read", "runs:write"]) for name in ("alice", "bob"))

pytestmark = pytest.mark.anyio


@dataclass
class Place:
    """A host and the gateway in front of it."""

    host: OpenHands
    server: Server

    def ask(self, method: str, path: str, body: object = None, key: str = ALICE) -> httpx.Response:
        return self.server.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})

    def create(self, prompt: str) -> str:
        made = self.ask("POST", "/agent-runs", {"prompt": prompt, "metadata": {"team": "a", "größe": [1, "é" * 300]}})
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    def resume(self, run: str, prompt: str) -> httpx.Response:
        return self.ask("POST", f"/agent-runs/{run}/resume", {"prompt": prompt})

    def until(self, run: str, *statuses: str) -> dict[str, Any]:
        def described() -> dict[str, Any]:
            found: dict[str, Any] = self.ask("GET", f"/agent-runs/{run}").json()
            return found

        return eventually(described, lambda found: found.get("run_status") in statuses)

    def viewer(self, run: str) -> Viewer:
        return Viewer(self.server.url, run, ALICE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    for host in serving(OpenHands, tmp_path_factory):
        settings = {
            "auth": "key",
            "api_keys": f"{ALICE_LINE};{BOB_LINE}",
            "api_token": host.token,
            "secret_key": "0123456789abcdef" * 2,
            "openhands_agent_file": agent_file(host),
            "openhands_directory": host.project,
            "openhands_confirm": "risky",
        }
        with gateway(None, upstream="openhands", base_url=host.url, **settings) as server:
            yield Place(host, server)


def agent_file(host: OpenHands) -> Path:
    path = host.directory / "agent.json"
    path.write_text(json.dumps(host.conversation["agent"]))
    return path


@asynccontextmanager
async def upstream_of(host: OpenHands) -> AsyncIterator[tuple[OpenHandsUpstream, Credential]]:
    """One whose agents need no approval."""
    options = {"agent": json.dumps(host.conversation["agent"]), "directory": str(host.project)}
    upstream = OpenHandsUpstream(host.url, options=options)
    try:
        async with asyncio.timeout(WAIT):
            yield upstream, Credential.of(host.token, b"key")
    finally:
        await upstream.aclose()


def kinds(viewer: Viewer) -> list[str]:
    """Without changes of state, and what comes of an analysis."""
    shown = [entry["kind"] for entry in viewer.entries if "State" not in entry["kind"] and "Sec" not in entry["kind"]]
    return [kind.removesuffix("Event").removesuffix("Observation") for kind in shown]


def said(viewer: Viewer) -> str:
    """The last message."""
    messages = [entry["llm_message"] for entry in viewer.entries if entry["kind"] == "MessageEvent"]
    return str(messages[-1]["content"][0]["text"])


def end(viewer: Viewer) -> str:
    (found,) = viewer.of("end")
    return str(found.data["run_status"])


async def test_two_viewers_see_every_event_once_in_order_and_one_end(place: Place) -> None:
    run = await asyncio.to_thread(place.create, "steps 3 slow 1")
    both = [place.viewer(run), place.viewer(run)]
    await asyncio.gather(*(viewer.watch() for viewer in both))
    items = await asyncio.to_thread(whole_log, place.host, run)
    for viewer in both:
        # the server may count up what the title has cost when all is over
        assert [entry["id"] for entry in viewer.entries] == [item["id"] for item in items][: len(viewer.entries)]
        assert kinds(viewer) == ["SystemPrompt", "Message", *["Action", ""] * 3, "Message"]
        results = [entry for entry in viewer.entries if entry["kind"] == "ObservationEvent"]
        assert [entry["tool_input"]["command"] for entry in results] == [f"echo step {index}" for index in range(3)]
        assert end(viewer) == "completed"
    shown = place.until(run, "completed")
    assert shown["result"].endswith("The answer after 3 calls")
    assert shown["metadata"] == {"team": "a", "größe": [1, "é" * 300]}
    assert (shown["tags"], shown["execution_status"]) == ({}, "finished")
    everything = json.dumps([shown, both[0].entries])
    assert "codegengateway" not in everything
    assert "base_url" not in everything
    items = await asyncio.to_thread(whole_log, place.host, run)
    log = place.ask("GET", f"/agent-runs/{run}/logs?reverse=true&limit=3").json()
    assert [entry["position"] for entry in log["logs"]] == [len(items), len(items) - 1, len(items) - 2]
    assert [entry["id"] for entry in log["logs"]] == [item["id"] for item in items[:-4:-1]]


async def test_a_resumed_run_goes_on_in_the_same_log(place: Place) -> None:
    run = await asyncio.to_thread(place.create, "say One")
    await place.viewer(run).watch()
    assert place.resume(run, "say Once more").is_success
    viewer = await place.viewer(run).watch()
    assert kinds(viewer) == ["SystemPrompt", "Message", "Message", "Message", "Message"]
    assert (said(viewer), end(viewer)) == ("Once more", "completed")
    assert place.ask("GET", f"/agent-runs/{run}").json()["result"] == "Once more"


@pytest.mark.parametrize(("verdict", "came"), [("approve", ""), ("reject", "UserReject")])
async def test_a_risky_action_waits_for_a_decision(place: Place, verdict: str, came: str) -> None:
    run = await asyncio.to_thread(place.create, "steps 1 ask")
    watching = asyncio.ensure_future(place.viewer(run).watch())
    await asyncio.to_thread(place.until, run, "waiting")
    (request,) = place.ask("GET", f"/agent-runs/{run}/pending").json()["items"]
    assert (request["tool"], request["input"]["command"]) == ("terminal", "date")
    assert place.resume(run, "say Whatever").status_code == 409
    decision = {"decision": verdict} | ({"text": "No"} if verdict == "reject" else {})
    answer = place.ask("POST", f"/agent-runs/{run}/pending/{request['id']}", decision)
    assert answer.is_success, answer.text
    viewer = await watching
    assert kinds(viewer) == ["SystemPrompt", "Message", *["Action", ""], *["Action", came], "Message"]
    assert (said(viewer), end(viewer)) == ("The answer after 2 calls", "completed")
    assert place.ask("GET", f"/agent-runs/{run}/pending").json()["items"] == []
    assert place.ask("POST", f"/agent-runs/{run}/pending/{request['id']}", decision).status_code == 404


async def test_a_failure_is_an_end_and_a_failed_run_goes_on(place: Place) -> None:
    run = await asyncio.to_thread(place.create, "steps 1 boom")
    viewer = await place.viewer(run).watch()
    assert (kinds(viewer)[-1], end(viewer)) == ("ConversationError", "failed")
    assert place.resume(run, "say Better").is_success
    viewer = await place.viewer(run).watch()
    assert (said(viewer), end(viewer)) == ("Better", "completed")


async def test_a_cancelled_run_stops_and_can_be_resumed(place: Place) -> None:
    run = await asyncio.to_thread(place.create, "steps 1 hold")
    watching = asyncio.ensure_future(place.viewer(run).watch())
    log = f"/agent-runs/{run}/logs"
    await asyncio.to_thread(eventually, lambda: place.ask("GET", log).text, lambda text: "ObservationEvent" in text)
    stopped = await asyncio.to_thread(place.ask, "POST", f"/agent-runs/{run}/cancel")
    assert stopped.json()["run_status"] == "cancelled", stopped.text
    viewer = await watching
    assert (kinds(viewer)[-1], end(viewer)) == ("Interrupt", "cancelled")
    assert place.resume(run, "say Better").is_success
    viewer = await place.viewer(run).watch()
    assert (said(viewer), end(viewer)) == ("Better", "completed")


async def test_a_waiting_run_can_be_cancelled(place: Place) -> None:
    run = await asyncio.to_thread(place.create, "ask")
    await asyncio.to_thread(place.until, run, "waiting")
    stopped = await asyncio.to_thread(place.ask, "POST", f"/agent-runs/{run}/cancel")
    assert stopped.json()["run_status"] == "cancelled", stopped.text
    viewer = await place.viewer(run).watch()
    assert (kinds(viewer)[-2:], end(viewer)) == (["UserReject", "Pause"], "cancelled")


async def test_an_order_that_is_sent_again_is_carried_out_once(place: Place) -> None:
    async with upstream_of(place.host) as (upstream, who):
        new = NewRun("say once", marks={"user": "bob"}, key=f"key {time.time_ns()}")
        first, again = [await upstream.create_run(who, "default", new) for _ in range(2)]
        assert first.ref == again.ref
        await asyncio.to_thread(until_over, place.host, first.ref)
        page = await upstream.read_log(who, first.ref, 0, 100)
        assert [entry.said for entry in page.entries if entry.said] == ["say once"]
        assert page.run.marks == {"user": "bob"}
        assert upstream.answer(page.run) == "once"
        with pytest.raises(errors.InvalidToken):
            await upstream.identify(Credential.of("another", b"key"))


async def test_a_prompt_joins_what_the_agent_is_at(place: Place) -> None:
    async with upstream_of(place.host) as (upstream, who):
        run = await upstream.create_run(who, "default", NewRun("slow 2"))
        await asyncio.to_thread(eventually, lambda: status(place.host, run.ref) == "running")
        await upstream.resume_run(who, run.ref, "say Both", None)
        await asyncio.to_thread(eventually, lambda: "Both" in last_answer(place.host, run.ref))
        page = await upstream.read_log(who, run.ref, 0, 100)
        assert [entry.said for entry in page.entries if entry.said] == ["slow 2", "say Both"]


def whole_log(host: OpenHands, run: str) -> list[dict[str, Any]]:
    with host.client() as client:
        items: list[dict[str, Any]] = client.get(f"/api/conversations/{run}/events/search").json()["items"]
        return items


def status(host: OpenHands, ref: RunRef) -> str:
    with host.client() as client:
        return str(client.get(f"/api/conversations/{ref.id}").json()["execution_status"])


def last_answer(host: OpenHands, ref: RunRef) -> str:
    with host.client() as client:
        return client.get(f"/api/conversations/{ref.id}/agent_final_response").text


def until_over(host: OpenHands, ref: RunRef) -> None:
    eventually(lambda: status(host, ref) == "finished")


async def test_others_runs_are_not_found(place: Place) -> None:
    run = await asyncio.to_thread(place.create, "say Secret")
    for path in (f"/agent-runs/{run}", f"/agent-runs/{run}/logs", f"/agent-runs/{run}/logs/stream"):
        assert place.ask("GET", path, key=BOB).status_code == 404
        assert place.ask("GET", path.replace(run, NOBODY)).status_code == 404
    assert place.ask("POST", f"/agent-runs/{run}/cancel", key=BOB).status_code == 404
    assert place.ask("GET", f"/agent-runs/{run}", key="wrong").status_code == 401
    assert place.ask("GET", "/agent-runs/7").status_code == 422
    mine, theirs = (place.ask("GET", "/agent-runs", key=key).json()["items"] for key in (ALICE, BOB))
    assert mine[0]["id"] == run
    assert theirs == []


async def test_a_long_log_is_read_from_any_position(place: Place) -> None:
    """Another process of the gateway knows no position of it."""
    async with upstream_of(place.host) as (upstream, who):
        run = await upstream.create_run(who, "default", NewRun("steps 40"))
        await asyncio.to_thread(until_over, place.host, run.ref)
        whole = [entry async for entry in entries(upstream, who, run.ref, 100)]
        assert len(whole) > 100
    async with upstream_of(place.host) as (upstream, who):
        page = await upstream.read_log(who, run.ref, 110, 7)
        assert list(page.entries) == whole[110:117]
        assert [entry async for entry in entries(upstream, who, run.ref, 7)] == whole
        for skip, limit in ((0, 100), (90, 20), (100, 100), (1000, 5)):
            page = await upstream.read_log(who, run.ref, skip, limit, newest_first=True)
            assert list(page.entries) == whole[::-1][skip : skip + limit]
            assert page.paging.total == len(whole)


async def entries(upstream: OpenHandsUpstream, who: Credential, ref: RunRef, limit: int) -> AsyncIterator[object]:
    after, at_end = 0, False
    while not at_end:
        page = await upstream.read_log(who, ref, after, limit)
        for entry in page.entries:
            yield entry
        after, at_end = page.last, page.at_end


async def test_viewers_outlive_the_death_of_the_host(place: Place) -> None:
    """The server takes what it was at for failed."""
    run = await asyncio.to_thread(place.create, "steps 2 hold")
    viewer = place.viewer(run)
    watching = asyncio.ensure_future(viewer.watch(4 * WAIT))
    log = f"/agent-runs/{run}/logs"
    await asyncio.to_thread(
        eventually, lambda: place.ask("GET", log).text, lambda text: text.count("ObservationEvent") == 2
    )
    await asyncio.to_thread(place.host.kill)
    await viewer.until("notice")
    await asyncio.to_thread(place.host.start)
    await watching
    assert "recovered" in viewer.notices()
    assert (kinds(viewer)[:6], end(viewer)) == (["SystemPrompt", "Message", *["Action", ""] * 2], "failed")
    assert place.resume(run, "say Alive").is_success
    viewer = await place.viewer(run).watch()
    assert (said(viewer), end(viewer)) == ("Alive", "completed")
