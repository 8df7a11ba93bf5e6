"""What one turn costs besides its requests: statements, commits, calls to threads, and calls to the host."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import event

from codegen_api.runs import Run
from codegen_api.stores.sql import SqlStore
from codegen_api.stores.sql.sqlite import ConnectedThreads
from tests.dialects.site import Site, serving
from tests.fakehost import FakeHost

HELLO = {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "Mend the build"}]}}


class Brief(FakeHost):
    """Its runs are over at once."""

    async def create_run(self, *args: Any) -> Run:
        return self._answered(await super().create_run(*args))

    async def resume_run(self, *args: Any, **more: Any) -> Run:
        return self._answered(await super().resume_run(*args, **more))

    def _answered(self, run: Run) -> Run:
        hosted = self.runs[run.ref.id]
        hosted.complete(3, text="A step.")
        return run


def counted(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the store does from now on."""
    counts: Counter[str] = Counter()
    engine: Any = store._database._engine  # type: ignore[attr-defined]
    engine = getattr(engine, "sync_engine", engine)

    def statement(connection: Any, cursor: Any, text: str, *_: Any) -> None:
        counts["statements"] += not text.startswith(("BEGIN", "SAVEPOINT", "RELEASE"))

    def commit(connection: Any) -> None:
        reads = engine.dialect.name == "sqlite" and not connection.get_execution_options().get("writes")
        counts["commits"] += not reads

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "commit", commit)
    run = ConnectedThreads.run

    async def counting(self: ConnectedThreads, *given: Any) -> Any:
        counts["calls to threads"] += 1
        return await run(self, *given)

    monkeypatch.setattr(ConnectedThreads, "run", counting)
    return counts


async def play(site: Site, thread: str) -> None:
    answer = await site.post(f"/threads/{thread}/runs/stream", HELLO)
    assert answer.status_code == 200
    assert 'event: end\ndata: {"status":"success"}' in answer.text


@pytest.mark.parametrize("earlier", [0, 3])
async def test_a_turn_is_read_for_once_and_written_down_three_times(
    url: str, earlier: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, store = Brief(), SqlStore(url)
    host.latency = 0
    limits = {"upstream_requests_per_minute": 1_000_000}
    async with serving(host, store=store, dialects=("agent_protocol",), org_id="9", **limits) as site:
        for thread in ("before", "now"):
            assert (await site.post("/threads", {"thread_id": thread})).status_code == 200
        await play(site, "before")
        for _ in range(earlier):
            await play(site, "now")
        host.calls.clear()
        counts = counted(store, monkeypatch)
        await play(site, "now")
        spent = dict(counts)
    again = bool(earlier)  # what was said before is told again
    # the conversation and its turns; that, how things are, and the turn; that it runs; its end
    expected = {"statements": 2 + 3 + 1 + 1 + again, "commits": 3}
    assert spent == (expected | {"calls to threads": 1 + 3 + again} if url.startswith("sqlite") else expected)
    if not earlier:  # the order, and its end: described, and read twice, the second time up to an empty page
        assert host.calls == {"create": 1, "get": 1, "log": 3}


async def test_a_thread_that_is_made_for_a_run_costs_nothing_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host, store = Brief(), SqlStore(url)
    host.latency = 0
    limits = {"upstream_requests_per_minute": 1_000_000}
    async with serving(host, store=store, dialects=("agent_protocol",), org_id="9", **limits) as site:
        await play(site, "before")
        counts = counted(store, monkeypatch)
        await play(site, "now")
        assert counts["commits"] == 3
        assert counts["statements"] <= 7
