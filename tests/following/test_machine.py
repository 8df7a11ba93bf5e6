"""Everything that can happen to a log and its viewers, in any order, on one clock that jumps.

Whatever happens, each viewer sees each entry once and in order, its last copy of each is the host's, each life of the
run ends once for it, reading is never refused for want of patience, and nothing is left running.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from codegen_api.brokers import Broker
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    Forbidden,
    GatewayError,
    Unavailable,
    UpstreamError,
    UpstreamFailure,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.following import ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.positions import AMENDABLE
from tests.brokers.relayed import RelayedBroker
from tests.fakehost import TellingHost, caller
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer
from tests.redis_servers import RedisServer, redis_server
from tests.virtual import VirtualLoop

LARGE = 96 * 1024 * 1024
FAULTS: list[GatewayError] = [
    UpstreamError(),
    UpstreamTimeout(),
    UpstreamUnreachable(),
    UpstreamRateLimited(),
    UpstreamRateLimited(retry_after=3),
]

waits = st.sampled_from([0.0, 0.1, 0.7, 1.3, 4.0, 11.0, 40.0])
counts = st.sampled_from([1, 1, 2, 5, 30, 130])
who = st.sampled_from(["alice", "bob"])


class Watcher:
    """Somebody who wants to see the log, and comes back whatever happens."""

    def __init__(self, gateway: Gateway, name: str, *, plain: bool) -> None:
        self.viewer = Viewer(plain=plain)
        self.name = name
        self.refusals = 0
        self.gateway = gateway
        self._task: asyncio.Task[None] | None = None

    @property
    def present(self) -> bool:
        return self._task is not None

    def come(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    async def go(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        viewer = self.viewer
        while True:
            over = bool(viewer.ends) and viewer.ends[-1] == viewer.cursor
            viewer.left_at = None
            try:
                await viewer.watch(self.gateway, who=caller(self.name), over=over)
            except Forbidden:
                self.refusals += 1
                await asyncio.sleep(5)
            except (Unavailable, UpstreamFailure):
                await asyncio.sleep(2)
            else:
                if over and viewer.ends[-2:] == [viewer.cursor] * 2:
                    viewer.ends.pop()  # nobody could say in time that this is still the end, so it was told again
                if viewer.left_at is None:  # it has ended
                    await asyncio.sleep(4)  # and then see whether it goes on


class TellingStrictHost(TellingHost, StrictHost):
    """One that says soon when a run has changed."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.tells_within = 2.0


class Life(RuleBasedStateMachine):
    relayed = False
    """Whether the processes tell each other what they read."""

    @initialize(
        start=st.sampled_from([0, 0, 3, 99, 100, 120, 450]),
        memory=st.sampled_from([LARGE, LARGE, 60_000, 9_000]),
        page_size=st.sampled_from([7, 30, 100, 100]),
        with_totals=st.booleans(),
        processes=st.sampled_from([1, 1, 2]),
        seed=st.integers(0, 1000),
        kind=st.sampled_from([StrictHost, StrictHost, TellingStrictHost]),
        with_ids=st.booleans(),
        with_times=st.booleans(),
        with_revisions=st.booleans(),
    )
    def begin(
        self,
        start: int,
        memory: int,
        page_size: int,
        with_totals: bool,
        processes: int,
        seed: int,
        kind: type[StrictHost],
        with_ids: bool,
        with_times: bool,
        with_revisions: bool,
    ) -> None:
        self.loop = VirtualLoop()
        self.random = random.Random(seed)
        self.memory = memory
        self.host = kind(with_totals=with_totals)
        self.host.with_ids, self.host.with_times, self.host.with_revisions = with_ids, with_times, with_revisions
        self.host.page_size = page_size
        self.hosted = self.host.add()
        self.hosted.append(start)
        self.faults: list[GatewayError] = []
        self.host.before = self.fail
        brokers = self.brokers(processes)
        self.gateways = [
            Gateway(self.host.elsewhere(), broker, turns=ReadQueue(limit=60 / len(brokers))) for broker in brokers
        ]
        # another process that reads for itself has no reason to look at what changes where nothing is missing
        self.sees_all = (processes == 1 or self.relayed) and memory == LARGE
        self.watchers: list[Watcher] = []

    def brokers(self, count: int) -> list[Broker]:
        return [MemoryBroker(max_bytes=self.memory) for _ in range(count)]

    async def fail(self, operation: str) -> None:
        if self.faults and operation == "log":
            raise self.faults.pop()

    def do(self, what: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20_000):
                await what

        self.loop.run_until_complete(bounded())

    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    # -- time and trouble ---------------------------------------------------------------------------------------------

    @rule(seconds=waits)
    def time_passes(self, seconds: float) -> None:
        self.wait(seconds)

    @rule(fault=st.sampled_from(FAULTS), count=st.integers(1, 4))
    def the_host_will_fail(self, fault: GatewayError, count: int) -> None:
        self.faults.extend([fault] * count)

    # -- the log ------------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        return self.hosted.status == "COMPLETE"

    @precondition(lambda self: not self.ended)
    @rule(count=counts, large=st.booleans(), seconds=waits)
    def the_run_makes_entries(self, count: int, large: bool, seconds: float) -> None:
        self.hosted.append(count, text="x" * (1000 if large else 1))
        self.wait(seconds)

    @precondition(lambda self: not self.ended)
    @rule()
    def the_run_calls_a_tool(self) -> None:
        self.hosted.act()

    @precondition(lambda self: not self.ended)
    @rule(seconds=waits)
    def outputs_are_filled_in(self, seconds: float) -> None:
        for position, each in enumerate(self.hosted.entries, 1):
            waiting = each["type"] == "ACTION" and each.get("output") is None
            if waiting and position > len(self.hosted.entries) - AMENDABLE and self.random.random() < 0.7:
                self.hosted.amend(position, output="done")
        self.wait(seconds)

    @precondition(
        lambda self: (
            not self.ended and self.hosted.entries and (self.sees_all or self.hosted.entries[-1]["type"] == "ACTION")
        )
    )
    @rule()
    def the_last_entry_changes(self) -> None:
        """Of what is not held, only entries of a kind that changes are sent again to who comes back."""
        self.hosted.amend(len(self.hosted.entries), note=self.random.random())

    @precondition(lambda self: not self.ended)
    @rule(paused=st.booleans())
    def the_run_rests_or_goes_on(self, paused: bool) -> None:
        self.hosted.status = "PAUSED" if paused else "ACTIVE"

    @precondition(lambda self: not self.ended)
    @rule(seconds=waits)
    def the_run_ends(self, seconds: float) -> None:
        self.hosted.status = "COMPLETE"
        self.wait(seconds)

    @precondition(lambda self: not self.ended and self.sees_all and any(each.present for each in self.watchers))
    @rule(backs=st.lists(st.integers(0, 500), min_size=1, max_size=5))
    def older_entries_change_and_the_run_ends(self, backs: list[int]) -> None:
        """Which is seen when what was given is compared, unless the run goes on before that."""
        self.admit()
        self.faults.clear()
        for back in backs:
            if back < len(self.hosted.entries):
                self.hosted.amend(len(self.hosted.entries) - back, note=self.random.random())
        self.hosted.status = "COMPLETE"
        self.wait(300)

    @precondition(lambda self: self.host.with_revisions and self.sees_all and self.hosted.entries)
    @rule(back=st.integers(0, 500), seconds=waits)
    def an_older_entry_changes(self, back: int, seconds: float) -> None:
        """While the run works or after it, which only the revision tells."""
        if back < len(self.hosted.entries):
            self.hosted.amend(len(self.hosted.entries) - back, note=self.random.random())
        self.wait(seconds)

    @precondition(lambda self: self.ended)
    @rule(stale=st.booleans(), seconds=waits)
    def somebody_resumes_it_here(self, stale: bool, seconds: float) -> None:
        async def resume() -> None:
            with contextlib.suppress(Unavailable):
                await self.gateways[0].resume(caller(), "9", "1", "on", None)
                if stale and len(self.gateways) == 1:
                    await self.lag()

        self.do(resume())
        self.wait(seconds)

    async def lag(self) -> None:
        """For a moment the host still answers as before."""
        self.hosted.status = "COMPLETE"
        await asyncio.sleep(1.5)
        self.hosted.status = "ACTIVE"

    @precondition(lambda self: self.ended)
    @rule(stale=st.booleans(), seconds=waits)
    def somebody_resumes_it_elsewhere(self, stale: bool, seconds: float) -> None:
        self.hosted.append(prompt="on")
        self.hosted.status = "ACTIVE"
        self.wait(seconds)

    @precondition(
        lambda self: (
            self.hosted.status == "ACTIVE"
            and len(self.gateways) == 1
            and all(each.present for each in self.watchers)
            and (self.host.with_ids or self.host.with_times)
        )
    )
    @rule(count=counts)
    def the_log_is_replaced(self, count: int) -> None:
        """It can be told only by who watches, and only when the answers cannot be old ones."""
        self.admit()
        self.faults.clear()
        self.wait(150)
        self.hosted.replace(count)
        for watcher in self.watchers:
            watcher.viewer.ends.clear()
        self.wait(150)

    # -- the viewers --------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.watchers) < 4)
    @rule(name=who, plain=st.booleans(), process=st.integers(0, 2), seconds=waits)
    def somebody_comes(self, name: str, plain: bool, process: int, seconds: float) -> None:
        self.watchers.append(Watcher(self.gateways[process % len(self.gateways)], name, plain=plain))
        self.loop.call_soon(self.watchers[-1].come)
        self.wait(seconds)

    @precondition(lambda self: any(each.present for each in self.watchers))
    @rule(which=st.integers(0, 3))
    def somebody_goes(self, which: int) -> None:
        self.do(self.watchers[which % len(self.watchers)].go())

    @precondition(lambda self: any(not each.present for each in self.watchers))
    @rule(
        which=st.integers(0, 3),
        part=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.0]),
        process=st.integers(0, 2),
        seconds=waits,
    )
    def somebody_comes_back(self, which: int, part: float, process: int, seconds: float) -> None:
        away = [each for each in self.watchers if not each.present]
        watcher = away[which % len(away)]
        watcher.gateway = self.gateways[process % len(self.gateways)]
        viewer = watcher.viewer
        if part < 1:
            viewer.position = None
        viewer.cursor = int(viewer.cursor * part)
        viewer.log = {position: entry for position, entry in viewer.log.items() if position <= viewer.cursor}
        viewer.ends = [end for end in viewer.ends if end <= viewer.cursor]
        self.loop.call_soon(watcher.come)
        self.wait(seconds)

    @precondition(lambda self: not self.host.barred)
    @rule()
    def bob_loses_his_right(self) -> None:
        bobs = [each for each in self.watchers if each.name == "bob" and each.present and not self.ended]
        refusals = sum(each.refusals for each in bobs)
        self.faults.clear()
        self.host.barred.add(("bob", "1"))
        if bobs and not self.ended:
            self.wait(150)  # his own minute, and what the patience of before adds to it
            assert sum(each.refusals for each in bobs) > refusals

    @rule()
    def admit(self) -> None:
        self.host.barred.clear()

    # -- what it comes to ---------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.settle()
        finally:
            self.loop.close()

    def settle(self) -> None:
        self.admit()
        self.wait(1)
        for watcher in self.watchers:
            if not watcher.present:
                self.loop.call_soon(watcher.come)
        self.wait(60)
        self.hosted.status = "COMPLETE"
        self.wait(3000)  # small pages, a small memory and a host that often said no: then it takes its time
        for watcher in self.watchers:
            self.do(watcher.go())
        for watcher in self.watchers:
            viewer = watcher.viewer
            assert viewer.texts() == self.hosted.encoded()
            assert viewer.ends[-1] == len(self.hosted.entries)
            assert viewer.ends == sorted(set(viewer.ends)), "an end was told twice"
        assert "log" not in {operation for _, operation in self.host.refused}
        for gateway in self.gateways:
            self.do(gateway.aclose())
        left = asyncio.all_tasks(self.loop)
        assert not left, f"still running: {left}"


class RelayedLife(Life):
    """The processes have a Redis in common."""

    relayed = True
    server: RedisServer

    def brokers(self, count: int) -> list[Broker]:
        found = []
        prefix = f"{secrets.token_hex(8)}:"
        for _ in range(count + 1):
            found.append(RelayedBroker(self.server.url, prefix, max_bytes=self.memory))
            self.loop.run_until_complete(found[-1].open())
        return [*found]


def play(life: type[Life], share: float) -> None:
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=max(5, int(settings().max_examples * share)),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_every_viewer_sees_the_whole_log_once() -> None:
    play(Life, 0.4)


def test_so_does_every_viewer_of_several_instances_over_one_redis() -> None:
    with redis_server() as server:
        RelayedLife.server = server
        play(RelayedLife, 0.05)
