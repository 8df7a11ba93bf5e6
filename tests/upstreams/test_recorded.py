"""What real hosts answered, as ``scripts/record_host.py`` wrote it down: a log only grows, and means what it meant."""

import itertools
import json
from pathlib import Path
from typing import Any

import httpx

from codegen_api.identity import Credential
from codegen_api.runs import LogPage, RunRef, RunStatus, StepKind
from codegen_api.upstreams import Upstream
from codegen_api.upstreams.a2a import A2AUpstream
from codegen_api.upstreams.langgraph import LangGraphUpstream

WHO = Credential.of("sandbox-alice", b"key")
BASE = "https://host.example"
CARD = {"supportedInterfaces": [{"url": f"{BASE}/rest", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"}]}


def recorded(host: str) -> list[dict[str, Any]]:
    path = Path(__file__).parent / "hosts/recorded" / f"{host}.json"
    exchanges: list[dict[str, Any]] = json.loads(path.read_text())["exchanges"]
    return exchanges


async def logs(upstream: Upstream, run: str, count: int) -> list[LogPage]:
    """Each look at the log, checked to show all that the one before it did."""
    pages = [await upstream.read_log(WHO, RunRef("default", run), 0, 100) for _ in range(count)]
    for before, after in itertools.pairwise(pages):
        assert [entry.id for entry in after.entries[: before.length]] == [entry.id for entry in before.entries]
    assert [entry.said for entry in pages[-1].entries if entry.said] == ["steps 2"]
    return pages


def meaning(upstream: Upstream, page: LogPage) -> list[tuple[StepKind, str]]:
    return [(step.kind, step.text) for step in map(upstream.step, page.entries)]


async def test_a_run_of_aegra() -> None:
    _, started, *looks = recorded("aegra")
    states = iter(looks)
    run = started["answer"] | {"status": "success"}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[run] if request.url.path.endswith("/runs") else next(states)["answer"])

    upstream = LangGraphUpstream(BASE, transport=httpx.MockTransport(answer))
    *_, page = await logs(upstream, run["thread_id"], len(looks))
    assert meaning(upstream, page) == [
        (StepKind.USER, "steps 2"),
        (StepKind.THOUGHT, "step 0"),
        (StepKind.ACTION, ""),
        (StepKind.THOUGHT, "step 1"),
        (StepKind.ACTION, ""),
        (StepKind.ANSWER, "The answer after 2 calls"),
    ]
    assert page.run.status is RunStatus.COMPLETED
    assert upstream.answer(page.run) == "The answer after 2 calls"
    assert page.revision == looks[-1]["answer"]["checkpoint"]["checkpoint_id"]


async def test_a_task_of_an_a2a_server() -> None:
    _, *looks = recorded("a2a")
    tasks = iter(looks)

    def answer(request: httpx.Request) -> httpx.Response:
        card = request.url.path.endswith("agent-card.json")
        return httpx.Response(200, json=CARD if card else next(tasks)["answer"])

    upstream = A2AUpstream(BASE, transport=httpx.MockTransport(answer))
    *_, page = await logs(upstream, looks[0]["answer"]["id"], len(looks))
    assert meaning(upstream, page)[:3] == [
        (StepKind.USER, "steps 2"),
        (StepKind.THOUGHT, "step 0"),
        (StepKind.THOUGHT, "step 1"),
    ]
    assert meaning(upstream, page)[-1] == (StepKind.ANSWER, "The answer after 2 calls")
    assert (page.run.status, page.run.final) == (RunStatus.COMPLETED, True)
