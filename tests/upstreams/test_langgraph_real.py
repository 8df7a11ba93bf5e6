"""What only LangGraph's API has, in front of both servers of it: LangGraph's own and Aegra."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, aclosing

import pytest

from codegen_api.identity import Credential
from codegen_api.upstreams import NewRun
from codegen_api.upstreams.langgraph import LangGraphUpstream
from tests.upstreams.hosts.aegra import Aegra
from tests.upstreams.hosts.langgraph import LangGraph
from tests.upstreams.hosts.running import RealHost, is_here, serving
from tests.upstreams.site import Site, eventually, facts_of


@pytest.fixture(
    scope="module", params=[kind for kind in (LangGraph, Aegra) if is_here(kind)], ids=lambda kind: kind.name
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    yield from serving(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def site(host: RealHost) -> Iterator[Site]:
    with ExitStack() as held:
        yield Site(facts_of(type(host)), host, held)


async def test_the_log_is_the_messages_and_results_say_of_what(site: Site) -> None:
    run = await site.alice.create("steps 3")
    viewer = await site.alice.viewer(run).watch()
    assert [entry["type"] for entry in viewer.entries] == ["human", *["ai", "tool"] * 3, "ai"]
    assert viewer.entries[2]["tool_input"] == {"command": "echo step 0"}


async def test_what_is_said_to_a_question_is_the_result_of_the_call(site: Site) -> None:
    decided, resumed = await asyncio.gather(site.alice.create("ask"), site.alice.create("question say Done"))
    await asyncio.gather(*(site.alice.until(run, "waiting") for run in (decided, resumed)))
    (request,) = (await site.alice.told("GET", f"/agent-runs/{decided}/pending"))["items"]
    assert request["text"] == "May I run 'date'?"
    answer = {"decision": "answer", "text": "yes you may"}
    await site.alice.told("POST", f"/agent-runs/{decided}/pending/{request['id']}", answer)
    assert (await site.alice.resume(resumed, "B")).is_success
    for run, said in ((decided, "yes you may"), (resumed, "B")):
        await site.alice.until(run, "completed")
        log = await site.alice.log(run)
        assert [entry["type"] for entry in log] == ["human", "ai", "tool", "ai"]
        assert log[2]["content"] == said


async def test_a_run_is_resumed_when_it_has_ended_and_its_answer_can_be_stopped(site: Site) -> None:
    run = await site.alice.create("ask hold")
    await site.alice.until(run, "waiting")
    assert (await site.alice.resume(run, "yes")).is_success
    await site.alice.until(run, "running")
    assert (await site.alice.resume(run, "and that")).status_code == 409
    assert (await site.alice.cancel(run)).json()["run_status"] == "cancelled"


async def test_what_cannot_be_is_refused(site: Site) -> None:
    assert (await site.alice.ask("GET", "/agent-runs/7")).status_code == 422
    missing = await site.alice.ask("POST", "/agent-runs", {"prompt": "Hi", "agent_type": "no-such-graph"})
    assert missing.status_code in (404, 422)


async def test_a_prompt_with_a_key_is_said_once(site: Site) -> None:
    who = Credential.of("any-token-will-do", b"key")
    async with aclosing(LangGraphUpstream(site.host.url)) as upstream:
        made = [await upstream.create_run(who, "default", NewRun("steps 1", key="one")) for _ in range(3)]
        (ref,) = {run.ref for run in made}
        for _ in range(3):
            await eventually(lambda: upstream.get_run(who, ref), lambda run: run.status.ended)
            await upstream.resume_run(who, ref, "say Once", None, key="another")
        page = await upstream.read_log(who, ref, 0, 100)
        assert page.run.status.ended
        assert [entry.said for entry in page.entries if entry.said] == ["steps 1", "say Once"]
