"""The host's limit is kept, and what it leaves is shared by need."""

import asyncio
import itertools

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import Forbidden, UpstreamRateLimited, UpstreamTimeout
from codegen_api.following import Patrol, ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, LogPage, RunRef
from codegen_api.telemetry import Exchange
from codegen_api.upstreams import NewRun, observed
from tests.fakehost import Hosted, Sequence, caller, in_front_of
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer, watched
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

FIVE_MINUTES = 300.0


async def work(hosted: Hosted, every: float, until: float) -> None:
    """The run makes an entry every so often, and then completes."""
    while asyncio.get_running_loop().time() + every < until:
        await asyncio.sleep(every)
        hosted.append()
    await asyncio.sleep(until - asyncio.get_running_loop().time())
    hosted.status = "COMPLETE"


@pytest.mark.wire("budget-kept", "budget-first", "budget-shared")
@pytest.mark.parametrize("runs", [1, 10, 50])
@pytest.mark.parametrize("every", [2.0, 20.0, 1000.0])
async def test_runs_followed_at_once_are_all_read_in_time_and_nobody_is_refused(runs: int, every: float) -> None:
    loop = asyncio.get_running_loop()
    host = StrictHost()
    gateway = in_front_of(host)
    viewers = [Viewer() for _ in range(runs)]
    for number in range(1, runs + 1):
        host.add(str(number)).append(5)
    working = [asyncio.create_task(work(hosted, every, FIVE_MINUTES)) for hosted in host.runs.values()]
    watching = [
        asyncio.create_task(viewer.watch(gateway, run=str(number), until=FIVE_MINUTES))
        for number, viewer in enumerate(viewers, 1)
    ]
    await gateway.accounts.identify(caller().credential)
    for moment in (30.0, 110.0, 215.0):
        await asyncio.sleep(moment - loop.time())
        asked = loop.time()
        await gateway.create(caller(), "9", NewRun("in the middle"))
        assert loop.time() - asked <= host.latency + 0.001
    await asyncio.gather(*working, *watching)
    gaps = [host.longest_gap(str(number), 0, FIVE_MINUTES) for number in range(1, runs + 1)]
    assert not host.refused
    assert max(gaps) <= 90


def requests_for(viewers: int) -> tuple[int, int]:
    """What it costs the host when so many follow one run, each of whom reconnects once; and how many it refused."""

    async def main() -> tuple[int, int]:
        host = StrictHost()
        hosted = host.add(length=250)
        gateway = Gateway(host, MemoryBroker(), max_streams_each=viewers)
        working = asyncio.create_task(work(hosted, 3.0, FIVE_MINUTES))

        async def come(viewer: Viewer, number: int) -> None:
            await asyncio.sleep(20 * number / viewers)
            await viewer.watch(gateway, until=60 + 120 * number / viewers)
            await viewer.watch(gateway)

        watching = [Viewer() for _ in range(viewers)]
        await asyncio.gather(*(come(viewer, number) for number, viewer in enumerate(watching)), working)
        told = hosted.encoded()
        assert all(viewer.texts() == told and viewer.ends for viewer in watching)
        await gateway.aclose()
        return len(host.log), len(host.refused)

    return run(main())


@pytest.mark.wire("stream-shared")
def test_two_hundred_viewers_of_a_run_cost_the_host_what_one_costs() -> None:
    one, refused_to_one = requests_for(1)
    many, refused_to_many = requests_for(200)
    assert refused_to_one == refused_to_many == 0
    assert abs(many - one) <= 0.05 * one + 2


@pytest.mark.wire("budget-shared")
async def test_news_comes_first_and_what_rests_comes_last() -> None:
    host = StrictHost()
    gateway = in_front_of(host)
    busy, quiet, resting = ("1", "2"), tuple(map(str, range(3, 11))), tuple(map(str, range(11, 21)))
    for number in (*busy, *quiet, *resting):
        host.add(number, status="PAUSED" if number in resting else "ACTIVE").append(5)
    working = [asyncio.create_task(work(host.runs[number], 2.0, FIVE_MINUTES)) for number in busy]
    watching = [asyncio.create_task(Viewer().watch(gateway, run=number, until=FIVE_MINUTES)) for number in host.runs]
    await asyncio.gather(*working, *watching)
    reads = {
        kind: sum(len(host.reads[number]) for number in numbers) / len(numbers)
        for kind, numbers in (("busy", busy), ("quiet", quiet), ("resting", resting))
    }
    assert reads["busy"] > 2 * reads["quiet"] > 3 * reads["resting"]
    assert max(host.longest_gap(number, 0, FIVE_MINUTES) for number in host.runs) <= 90
    assert not host.refused


@pytest.mark.wire("budget-kept", "budget-first")
@pytest.mark.parametrize("together", [False, True])
async def test_reading_gives_way_to_callers_who_wait(together: bool) -> None:
    host = StrictHost(together=together)
    gateway = in_front_of(host, turns=ReadQueue(together=together))
    for number in "123":
        host.add(number).append(5)
    working = [asyncio.create_task(work(hosted, 1.0, FIVE_MINUTES)) for hosted in host.runs.values()]
    watching = [asyncio.create_task(Viewer().watch(gateway, run=number, until=FIVE_MINUTES)) for number in host.runs]
    loop = asyncio.get_running_loop()
    await asyncio.sleep(60)
    while loop.time() < FIVE_MINUTES - 2:  # more than their fifth, for minutes
        asked = loop.time()
        await gateway.get(caller("bob" if together else "alice"), "9", "1")
        assert loop.time() - asked <= host.latency + 0.001
        await asyncio.sleep(2)
    await asyncio.gather(*working, *watching)
    assert not host.refused
    assert len(host.log) > 4 * 50  # and what there is, is used


async def test_reads_rotate_over_the_credentials_by_what_each_has_left() -> None:
    host = StrictHost()
    hosted = host.add()
    gateway = in_front_of(host)
    working = asyncio.create_task(work(hosted, 1.0, FIVE_MINUTES))
    watching = [
        asyncio.create_task(Viewer().watch(gateway, who=caller(name), until=FIVE_MINUTES)) for name in ("alice", "bob")
    ]
    for _ in range(140):  # bob has other things to do as well
        await asyncio.sleep(2)
        await gateway.get(caller("bob"), "9", "1")
    await asyncio.gather(working, *watching)
    shown = {
        name: [moment for moment, operation, token in host.log if (operation, token) == ("log", name)]
        for name in ("alice", "bob")
    }
    assert len(shown["alice"]) > 2 * len(shown["bob"]) > 0
    moments = [0.0, *(moment for moment, _, token in host.log if token == "bob"), FIVE_MINUTES]
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) < 70
    assert len(shown["alice"]) + len(shown["bob"]) > 200  # together they read as fast as is worth while
    assert not host.refused


@pytest.mark.parametrize("says", [False, True])
async def test_a_limit_that_is_lower_than_was_thought_is_learned(says: bool) -> None:
    host = StrictHost(limit=20, says=says)
    gateway = in_front_of(host)
    viewers = [Viewer() for _ in range(3)]
    for number in "123":
        host.add(number).append(5)
    working = [asyncio.create_task(work(hosted, 1.0, 500)) for hosted in host.runs.values()]
    watching = [
        asyncio.create_task(viewer.watch(gateway, run=number))
        for number, viewer in zip(host.runs, viewers, strict=True)
    ]
    await asyncio.gather(*working, *watching)
    assert [viewer.texts() for viewer in viewers] == [hosted.encoded() for hosted in host.runs.values()]
    if says:
        assert not host.refused
    else:
        assert 0 < len(host.refused) <= 2 * 9  # one too many twice a minute, and no more
    assert len(host.log) > 12 * 9


@pytest.mark.parametrize("retry_after", [None, 5.0, 45.0])
async def test_after_a_429_all_readers_of_that_credential_wait_and_come_back_one_by_one(
    retry_after: float | None,
) -> None:
    host = StrictHost()
    gateway = in_front_of(host)
    for number in "123456":
        host.add(number).append(5)
    working = [asyncio.create_task(work(hosted, 1.0, 150)) for hosted in host.runs.values()]
    viewers = {number: Viewer() for number in host.runs}
    watching = [
        asyncio.create_task(viewer.watch(gateway, who=caller("bob" if number == "6" else "alice"), run=number))
        for number, viewer in viewers.items()
    ]
    await asyncio.sleep(30)
    refused_at: list[float] = []

    async def refuse(operation: str) -> None:
        if operation == "log" and not refused_at and host.log[-1][2] == "alice":
            refused_at.append(asyncio.get_running_loop().time())
            raise UpstreamRateLimited(retry_after=retry_after)

    host.before = refuse
    await asyncio.gather(*working, *watching)
    wait = retry_after or 10.0
    (since,) = refused_at
    reads = [moment - since for moment, operation, token in host.log if (operation, token) == ("log", "alice")]
    back = [moment for moment in reads if moment > 0.5]
    assert wait <= back[0] <= 1.25 * wait + 10
    told = {number for number, viewer in viewers.items() if "rate_limited" in viewer.notices}
    assert told == {"1", "2", "3", "4", "5"}  # bob's budget is another one
    assert all(viewer.notices.count("rate_limited") == viewer.notices.count("recovered") for viewer in viewers.values())
    assert all(viewer.texts() == host.runs[number].encoded() for number, viewer in viewers.items())


@pytest.mark.wire("budget-shared", "budget-first")
@pytest.mark.parametrize(("refusals", "every"), [(3, 2.0), (4, 2.5), (8, 1.8)])
def test_after_429s_a_log_goes_on_although_calls_take_all_that_is_still_believed_of_the_limit(
    refusals: int, every: float
) -> None:
    async def main() -> None:
        host = StrictHost()
        hosted = host.add(length=5)
        gateway = in_front_of(host, patrol=lambda: Patrol(max_age=FIVE_MINUTES * 10))
        viewer, watching = watched(gateway)
        await asyncio.sleep(5)
        host.before = Sequence("log", *[UpstreamRateLimited()] * refusals)
        hosted.append()

        async def poll() -> None:
            while True:
                await gateway.get(caller(), "9", "1")
                await asyncio.sleep(every)

        polling = asyncio.create_task(poll())
        loop = asyncio.get_running_loop()
        await asyncio.sleep(80 * refusals)  # each is heeded for 75 seconds at most
        assert viewer.cursor == 6
        assert viewer.notices[-1] == "recovered"
        since = loop.time()
        working = asyncio.create_task(work(hosted, 30.0, since + FIVE_MINUTES))
        await asyncio.gather(working, watching)
        assert loop.time() < since + FIVE_MINUTES + 150  # an end takes two or three reads
        assert viewer.texts() == hosted.encoded()
        assert host.longest_gap("1", since, loop.time()) < 90
        assert not host.refused
        polling.cancel()

    run(main())


@pytest.mark.wire("right-revoked")
@pytest.mark.parametrize("of_his_own", [1, 2, 20])
async def test_a_lost_right_is_noticed_although_others_have_more_left(of_his_own: int) -> None:
    host = StrictHost()
    gateway = in_front_of(host)
    for number in range(1, of_his_own + 2):
        host.add(str(number)).append(3)
    working = [asyncio.create_task(work(hosted, 2.0, 400)) for hosted in host.runs.values()]
    alone = [
        asyncio.create_task(Viewer().watch(gateway, who=caller("bob"), run=str(number), until=400))
        for number in range(2, of_his_own + 2)
    ]
    _, watching = watched(gateway, who=caller("alice"), until=400)
    barred = asyncio.create_task(Viewer().watch(gateway, who=caller("bob"), until=400))
    await asyncio.sleep(100)
    host.barred.add(("bob", "1"))
    await asyncio.wait({barred}, timeout=90)
    assert isinstance(barred.exception(), Forbidden)
    await asyncio.gather(watching, *alone, *working)
    assert host.longest_gap("1", 0, 400) < 5  # nobody waited for that
    assert not host.refused


@pytest.mark.wire("right-revoked")
async def test_however_many_tokens_view_a_quiet_run_each_is_shown_to_the_host_every_minute() -> None:
    host = StrictHost()
    host.add().append(3)
    names = [f"user-{number}" for number in range(200)]
    host.tokens = {name: name for name in names}
    gateway = in_front_of(host)
    watching = {name: asyncio.create_task(Viewer().watch(gateway, who=caller(name), until=400)) for name in names}
    await asyncio.sleep(100)
    for name in names[::2]:
        host.barred.add((name, "1"))
    await asyncio.sleep(90)
    assert all(isinstance(watching[name].exception(), Forbidden) for name in names[::2])
    assert not any(watching[name].done() for name in names[1::2])
    await asyncio.gather(*watching.values(), return_exceptions=True)


@pytest.mark.wire("budget-shared", "fault-notice")
async def test_runs_that_the_host_cannot_show_hold_up_no_other() -> None:
    class Broken(StrictHost):
        async def read_log(
            self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
        ) -> LogPage:
            if int(ref.id) > 5:
                with observed(self.observer, credential, "read_log"):
                    await asyncio.sleep(30)
                    raise UpstreamTimeout
            return await super().read_log(credential, ref, after, limit, newest_first=newest_first)

    host = Broken()
    gateway = in_front_of(host)
    for number in range(1, 36):
        host.add(str(number)).append(3)
    viewers = {number: Viewer() for number in host.runs}
    working = [asyncio.create_task(work(host.runs[str(number)], 2.0, 400)) for number in range(1, 6)]
    watching = [asyncio.create_task(viewer.watch(gateway, run=number, until=400)) for number, viewer in viewers.items()]
    await asyncio.gather(*watching, *working)
    assert max(host.longest_gap(str(number), 0, 400) for number in range(1, 6)) <= 90
    assert all("upstream_unavailable" in viewers[str(number)].notices for number in range(6, 36))


@pytest.mark.wire("fault-notice")
async def test_after_a_long_wait_nobody_rushes() -> None:
    host = StrictHost()
    gateway = in_front_of(host)
    for number in range(1, 41):
        host.add(str(number)).append(3)
    watching = [asyncio.create_task(Viewer().watch(gateway, run=number, until=FIVE_MINUTES)) for number in host.runs]
    await asyncio.sleep(100)
    told: list[float] = []

    async def refuse(operation: str) -> None:
        if operation == "log" and not told:
            told.append(asyncio.get_running_loop().time())
            raise UpstreamRateLimited(retry_after=70)

    host.before = refuse
    await asyncio.gather(*watching)
    reads = sorted(moment for moment, operation, _ in host.log if operation == "log" and moment > told[0] + 1)
    assert reads[0] >= told[0] + 70
    assert min(reads[tenth + 10] - reads[tenth] for tenth in range(len(reads) - 10)) > 5


async def test_credentials_that_are_never_seen_again_are_forgotten() -> None:
    turns = ReadQueue()
    for number in range(5000):
        turns.asking(f"digest {number}", "identify")
        turns.asked(Exchange(f"digest {number}", "identify", "invalid_token", 0.0))
    await asyncio.sleep(100)
    turns.asking("another", "identify")
    assert len(turns._queues) == 1
    turns.asked(Exchange("another", "identify", "ok", 0.0))


async def test_what_the_host_says_of_a_single_operation_s_limit_does_not_stop_the_logs() -> None:
    host = StrictHost()
    hosted = host.add(length=3)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(5)

    async def refuse(operation: str) -> None:
        if operation == "get":
            raise UpstreamRateLimited(retry_after=600)

    host.before = refuse
    hosted.complete(3)
    await watching
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [6]  # although the host never described the whole run
    assert asyncio.get_running_loop().time() < 100


@pytest.mark.wire("right-asked-first")
async def test_who_has_just_started_a_run_may_see_it_and_nobody_else_may_unasked() -> None:
    host = StrictHost()
    gateway = in_front_of(host)
    started = await gateway.create(caller(), "9", NewRun("go"))
    await Viewer().watch(gateway, run=started.ref.id, until=3)
    assert host.calls["get"] == 0
    host.barred.add(("bob", started.ref.id))
    with pytest.raises(Forbidden):
        await Viewer().watch(gateway, who=caller("bob"), run=started.ref.id, until=3)
