"""Whatever the host does, in whatever order: every viewer sees every entry once, in order, its last copy of each equals
the host's, and each life of the run ends once."""

import asyncio
import random
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    Forbidden,
    Unavailable,
    UpstreamError,
    UpstreamFailure,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.fakehost import FakeHost, Hosted, caller, in_front_of
from tests.following.viewing import Viewer
from tests.virtual import run

FAULTS = [
    UpstreamError(),
    UpstreamTimeout(),
    UpstreamUnreachable(),
    UpstreamRateLimited(),
    UpstreamRateLimited(retry_after=3),
]


@dataclass(frozen=True)
class Step:
    """After ``wait`` seconds the host does ``what``, ``count`` times."""

    wait: float
    what: str
    count: int


steps = st.builds(
    Step,
    wait=st.sampled_from([0.0, 0.1, 0.7, 1.3, 4.0, 11.0, 40.0]),
    what=st.sampled_from(["append", "append", "act", "fill", "amend", "fault", "pause", "unpause", "end", "resume"]),
    count=st.sampled_from([1, 1, 2, 5, 30, 130]),
)
visits = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 2.0, 9.0]), st.sampled_from([0.3, 1.0, 3.0, 20.0, 1000.0])), max_size=5
)


def play(hosted: Hosted, host: FakeHost, step: Step, rng: random.Random, faults: list[Exception]) -> None:
    match step.what:
        case "append":
            hosted.append(step.count, text="x" * rng.choice([1, 1, 1000]))
        case "act":
            hosted.act()
        case "fill":
            waiting = [n for n, e in enumerate(hosted.entries, 1) if e["type"] == "ACTION" and e.get("output") is None]
            # the host fills in what is near the tail; older ones only up to the end of the run
            for n in waiting[-step.count :]:
                if n > len(hosted.entries) - 20:
                    hosted.amend(n, output="done")
        case "amend" if hosted.entries:
            hosted.amend(len(hosted.entries), note=rng.random())
        case "fault":
            faults.extend(rng.choice(FAULTS) for _ in range(min(step.count, 5)))
        case "pause":
            hosted.status = "PAUSED"
        case "unpause":
            hosted.status = "ACTIVE"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.sampled_from([0, 0, 3, 99, 100, 120, 450]),
    script=st.lists(steps, max_size=12),
    coming=st.lists(visits, min_size=1, max_size=4),
    memory=st.sampled_from([96 * 1024 * 1024, 60_000, 9_000]),
    seed=st.integers(0, 1000),
    with_totals=st.booleans(),
)
def test_every_viewer_ends_with_the_log_that_the_host_has(
    start: int, script: list[Step], coming: list[list[tuple[float, float]]], memory: int, seed: int, with_totals: bool
) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        host = FakeHost(with_totals=with_totals)
        hosted = host.add()
        hosted.append(start)
        faults: list[Exception] = []

        async def before(operation: str) -> None:
            if faults and operation == "log":
                raise faults.pop()

        host.before = before
        gateway = in_front_of(host, MemoryBroker(max_bytes=memory))
        viewers = [Viewer() for _ in coming]

        async def visit(viewer: Viewer, stays: list[tuple[float, float]]) -> None:
            for away, stay in [*stays, (1.0, 5000.0)]:
                await asyncio.sleep(away)
                while True:
                    ends = len(viewer.ends)
                    try:
                        await viewer.watch(gateway, until=stay, over=bool(ends) and viewer.ends[-1] == viewer.cursor)
                    except (Unavailable, UpstreamFailure):
                        await asyncio.sleep(2)
                        continue
                    break

        visiting = [asyncio.create_task(visit(viewer, stays)) for viewer, stays in zip(viewers, coming, strict=True)]
        for step in script:
            await asyncio.sleep(step.wait)
            if step.what == "end":
                hosted.status = "COMPLETE"
            elif step.what == "resume":
                await gateway.resume(caller(), "9", "1", "on", None)
            else:
                if hosted.status == "COMPLETE":  # resumed elsewhere
                    hosted.append(prompt="on")
                    hosted.status = "ACTIVE"
                play(hosted, host, step, rng, faults)
        await asyncio.sleep(60)
        hosted.status = "COMPLETE"
        await asyncio.gather(*visiting)
        for viewer in viewers:  # one last visit, as a page that is reloaded makes it
            await asyncio.sleep(6)
            await viewer.watch(gateway, over=bool(viewer.ends) and viewer.ends[-1] == viewer.cursor)
        for viewer in viewers:
            assert viewer.texts() == hosted.encoded()
            assert viewer.ends[-1] == len(hosted.entries)
            assert viewer.ends == sorted(viewer.ends)
            assert not viewer.resyncs

    run(main(), at_most=20_000)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.sampled_from([1, 30, 150]),
    script=st.lists(
        st.tuples(
            st.sampled_from([0.5, 3.0, 40.0, 70.0]),
            st.sampled_from(["append", "replace", "bar bob", "admit bob", "fault"]),
            st.sampled_from([1, 3, 40, 120]),
        ),
        max_size=8,
    ),
    seed=st.integers(0, 1000),
)
def test_replaced_logs_and_lost_rights_concern_those_whom_they_concern(
    start: int, script: list[tuple[float, str, int]], seed: int
) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        host = FakeHost()
        hosted = host.add()
        hosted.append(start)
        faults: list[Exception] = []

        async def before(operation: str) -> None:
            if faults and operation == "log":
                raise faults.pop()

        host.before = before
        gateway = in_front_of(host)
        alice, bob = Viewer(), Viewer()
        refusals = 0

        async def persist(viewer: Viewer, who: str) -> None:
            nonlocal refusals
            while not viewer.ends:
                try:
                    await viewer.watch(gateway, who=caller(who))
                except Forbidden:
                    assert who == "bob"
                    refusals += 1
                    await asyncio.sleep(5)

        watching = [asyncio.create_task(persist(alice, "alice")), asyncio.create_task(persist(bob, "bob"))]
        barred = False
        for wait, what, count in script:
            await asyncio.sleep(wait)
            match what:
                case "append":
                    hosted.append(count)
                case "replace":  # seen in time if the host answers; who is away would not see it
                    host.barred.clear()
                    faults.clear()
                    await asyncio.sleep(50)
                    hosted.replace(count)
                    await asyncio.sleep(60)  # until nobody can take it for a stale answer any more
                case "bar bob":
                    faults.clear()
                    await asyncio.sleep(50)  # until the longest wait of before is over
                    host.barred.add(("bob", "1"))
                    barred = True
                    before_that = refusals
                    await asyncio.sleep(65)
                    assert refusals > before_that
                case "admit bob":
                    host.barred.clear()
                case "fault":
                    faults.extend(rng.choice(FAULTS) for _ in range(3))
        host.barred.clear()
        await asyncio.sleep(60)
        hosted.status = "COMPLETE"
        await asyncio.gather(*watching)
        assert alice.texts() == bob.texts() == hosted.encoded()
        assert alice.ends == bob.ends == [len(hosted.entries)]
        assert barred or not refusals

    run(main(), at_most=20_000)
