"""What only opencode has, at a real server."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogPage, RunRef
from codegen_api.upstreams import NewRun
from codegen_api.upstreams.opencode import OpencodeUpstream
from tests.upstreams.hosts.opencode import OpenCode
from tests.upstreams.hosts.running import serving
from tests.upstreams.site import eventually


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenCode]:
    yield from serving(OpenCode, tmp_path_factory)


@asynccontextmanager
async def upstream_of(host: OpenCode) -> AsyncIterator[tuple[OpencodeUpstream, Credential]]:
    async with aclosing(OpencodeUpstream(host.url, options={"directory": str(host.project)})) as upstream:
        yield upstream, Credential.of(host.token, b"key")


async def read_to_end(upstream: OpencodeUpstream, who: Credential, ref: RunRef) -> LogPage:
    """The log of a run that has ended."""
    return await eventually(lambda: upstream.read_log(who, ref, 0, 100), lambda page: page.run.status.ended)


async def test_entries_have_the_numbers_of_the_host_and_results_say_of_what(host: OpenCode) -> None:
    async with upstream_of(host) as (upstream, who):
        run = await upstream.create_run(who, "default", NewRun("think steps 3", {"mine": 1}))
        page = await read_to_end(upstream, who, run.ref)
    log = [json.loads(entry.json) for entry in page.entries]
    assert [entry["durable"]["seq"] for entry in log] == list(range(1, len(log) + 1))
    results = [entry for entry in log if entry["type"].endswith("tool.success")]
    assert [entry["gateway.call"]["input"]["command"] for entry in results] == [f"echo step {n}" for n in range(3)]


async def test_a_fault_of_the_model_is_in_the_log(host: OpenCode) -> None:
    async with upstream_of(host) as (upstream, who):
        run = await upstream.create_run(who, "default", NewRun("boom"))
        page = await read_to_end(upstream, who, run.ref)
    assert any(json.loads(entry.json)["type"].endswith("step.failed") for entry in page.entries)


async def test_a_prompt_with_a_key_is_said_once(host: OpenCode) -> None:
    async with upstream_of(host) as (upstream, who):
        new = NewRun("say once", marks={"user": "bob"}, key="one")
        first, again = [await upstream.create_run(who, "default", new) for _ in range(2)]
        assert first.ref == again.ref
        for _ in range(2):
            await upstream.resume_run(who, first.ref, "say twice", None, key="another")
        run = await eventually(
            lambda: upstream.get_run(who, first.ref), lambda run: run.status.ended and run.fields["result"] == "twice"
        )
        page = await upstream.read_log(who, first.ref, 0, 100)
    assert [entry.said for entry in page.entries if entry.said] == ["say once", "say twice"]
    assert run.marks == {"user": "bob"}


async def test_who_has_another_password_is_not_let_in(host: OpenCode) -> None:
    async with upstream_of(host) as (upstream, _):
        with pytest.raises(errors.InvalidToken):
            await upstream.identify(Credential.of("of-others", b"key"))
