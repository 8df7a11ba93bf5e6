"""A server made of A2A's own SDK behind the adapter, and behind a gateway."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogPage, RunRef, RunStatus, StepKind
from codegen_api.upstreams import Decision, NewRun, RunFilter
from codegen_api.upstreams.a2a import A2AUpstream
from tests.end_to_end.processes import WAIT
from tests.end_to_end.viewing import Viewer
from tests.upstreams.hosts.a2a import A2A
from tests.upstreams.hosts.running import serving
from tests.upstreams.site import Site, facts_of

CREDENTIAL = Credential.of("a2a-token-of-tests", b"key")

CARDS: dict[str, dict[str, Any] | None] = {
    "rest": None,
    "json-rpc": {"supportedInterfaces": [{"url": "/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]},
    "version 0.3": {"url": "/rpc", "protocolVersion": "0.3.0"},
}
"""What the server offers; None: as it says itself."""


class WithCard(httpx.AsyncHTTPTransport):
    """The server, with another card."""

    def __init__(self, card: dict[str, Any]) -> None:
        super().__init__()
        self._card = card

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("agent-card.json"):
            return httpx.Response(200, json=self._card)
        return await super().handle_async_request(request)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[A2A]:
    yield from serving(A2A, tmp_path_factory)


# -- the adapter alone ------------------------------------------------------------------------------------------------


@pytest.fixture(params=CARDS)
def card(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    return CARDS[request.param]


@dataclass
class Asking:
    upstream: A2AUpstream

    async def begin(self, prompt: str) -> RunRef:
        new = NewRun(prompt, {"ticket": "T-1"}, marks={"owner": "alice"})
        return (await self.upstream.create_run(CREDENTIAL, "default", new)).ref

    async def until(self, ref: RunRef, *statuses: RunStatus) -> LogPage:
        """The log once the run is in one of these; what was there before is still there, in the same form."""
        before: tuple[object, ...] = ()
        async with asyncio.timeout(WAIT):
            while True:
                page = await self.upstream.read_log(CREDENTIAL, ref, 0, 100)
                assert page.entries[: len(before)] == before
                if page.run.status in statuses:
                    return page
                before = page.entries
                await asyncio.sleep(0.02)

    def told(self, page: LogPage) -> list[tuple[StepKind, str]]:
        steps = [self.upstream.step(entry) for entry in page.entries]
        return [(step.kind, step.text) for step in steps]


@asynccontextmanager
async def asking(host: A2A, card: dict[str, Any] | None) -> AsyncIterator[Asking]:
    async with aclosing(A2AUpstream(host.url, transport=None if card is None else WithCard(card))) as upstream:
        yield Asking(upstream)


async def test_a_run_is_read_to_its_end_whichever_way_it_is_asked_for(host: A2A, card: dict[str, Any] | None) -> None:
    async with asking(host, card) as ask:
        ref = await ask.begin("steps 2")
        page = await ask.until(ref, RunStatus.COMPLETED)
        assert ask.told(page) == [
            (StepKind.USER, "steps 2"),
            (StepKind.THOUGHT, "step 0"),
            (StepKind.THOUGHT, "step 1"),
            (StepKind.THOUGHT, "The answer after 2 calls"),
            (StepKind.ANSWER, "The answer after 2 calls"),
        ]
        assert (page.run.marks, page.run.fields["metadata"]) == ({"owner": "alice"}, {"ticket": "T-1"})
        assert ask.upstream.answer(page.run) == "The answer after 2 calls"
        await ask.upstream.cancel_run(CREDENTIAL, ref)  # it has ended


async def test_a_question_is_pending_until_it_is_answered(host: A2A, card: dict[str, Any] | None) -> None:
    async with asking(host, card) as ask:
        ref = await ask.begin("question say done")
        await ask.until(ref, RunStatus.WAITING)
        (request,) = await ask.upstream.pending(CREDENTIAL, ref)
        assert request.text == "Which one?"
        await ask.upstream.decide(CREDENTIAL, ref, request.id, Decision("answer", "B"))
        page = await ask.until(ref, RunStatus.COMPLETED)
        texts = [text for _, text in ask.told(page)]
        assert texts[:-1] == ["question say done", "a question", "Which one?", "B", "done"]


@pytest.mark.parametrize("card", [CARDS["rest"], CARDS["json-rpc"]], indirect=False)
async def test_it_says_when_a_run_changes_until_it_has_ended(host: A2A, card: dict[str, Any] | None) -> None:
    async with asking(host, card) as ask:
        ref = await ask.begin("steps 1 slow 1")
        heard = 0
        async with asyncio.timeout(WAIT), aclosing(ask.upstream.changes(CREDENTIAL, ref, 0)) as changes:
            async for _ in changes:
                heard += 1
        assert heard > 1
        await ask.until(ref, RunStatus.COMPLETED)
        with suppress(errors.Unsupported):
            assert [None async for _ in ask.upstream.changes(CREDENTIAL, ref, 0)] == []


@pytest.mark.parametrize("card", [CARDS["rest"], CARDS["json-rpc"]], indirect=False)
async def test_a_run_is_found_by_its_marks_in_the_list(host: A2A, card: dict[str, Any] | None) -> None:
    async with asking(host, card) as ask:
        refs = [await ask.begin("say done") for _ in range(3)]
        for ref in refs:
            await ask.until(ref, RunStatus.COMPLETED)
        page = await ask.upstream.list_runs(CREDENTIAL, "default", 0, 2, RunFilter())
        behind = await ask.upstream.list_runs(CREDENTIAL, "default", 2, 1, RunFilter())
        found = [*page.items, *behind.items]
        assert [run.ref for run in found] == refs[::-1]
        assert all(run.marks == {"owner": "alice"} for run in found)


# -- behind a gateway -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(host: A2A) -> Iterator[Site]:
    with ExitStack() as held:
        yield Site(facts_of(A2A), host, held)


def told(viewer: Viewer) -> list[str]:
    return ["".join(part.get("text", "") for part in entry["parts"]) for entry in viewer.entries]


async def test_the_log_is_the_messages_and_then_what_was_made(site: Site) -> None:
    run, failed = await asyncio.gather(site.alice.create("steps 1"), site.alice.create("boom"))
    answer = "The answer after 1 calls"
    assert told(await site.alice.viewer(run).watch()) == ["steps 1", "step 0", answer, answer]
    assert told(await site.alice.viewer(failed).watch()) == ["boom", "told to fail"]


async def test_a_viewer_waits_while_the_host_is_away_and_is_told_when_it_has_lost_the_task(site: Site) -> None:
    run = await site.alice.create("steps 1 hold")
    viewer = site.alice.viewer(run)
    watching = asyncio.ensure_future(viewer.watch())
    await viewer.until("log", 2)
    await asyncio.to_thread(site.host.kill)
    await viewer.until("notice")
    await asyncio.to_thread(site.host.start)
    await watching
    assert told(viewer) == ["steps 1 hold", "step 0"]
    (failure,) = viewer.of("failure")
    assert failure.data["code"] == "not_found"  # its tasks were in memory
    assert await site.alice.create("say hello")
