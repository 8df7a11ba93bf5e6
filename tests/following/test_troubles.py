"""What the log says of runs that cannot be read."""

import asyncio
import logging

import pytest

from codegen_api.errors import UpstreamError, UpstreamRateLimited, UpstreamUnreachable
from codegen_api.following.troubles import SELDOM, Troubles
from codegen_api.runs import RunRef
from tests.fakehost import opened
from tests.following.viewing import watched

pytestmark = pytest.mark.virtual_time

ONE, TWO = RunRef("9", "1"), RunRef("9", "2")
REFUSED, HTML = "GET http://host: no connection: refused", "GET http://host: status 200, text/html"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> "list[str]":
    caplog.set_level(logging.INFO, "codegen_api")

    class Lines(list[str]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([record.getMessage() for record in caplog.records if "log of run" in record.getMessage()])

    return Lines()


def test_trouble_is_told_when_it_begins_and_when_it_is_over(lines: list[str]) -> None:
    clock = Clock()
    troubles = Troubles(clock)
    troubles.over(ONE)
    for _ in range(5):
        troubles.met(ONE, REFUSED)
        clock.now += 12.6
    troubles.over(ONE)
    troubles.over(ONE)
    late, over = lines
    assert late == f"the log of run 1 is late, and is asked for again: {REFUSED}"
    assert over == "the log of run 1 goes on, after 63 s"


def test_what_strikes_many_runs_is_told_once(lines: list[str]) -> None:
    clock = Clock()
    troubles = Troubles(clock)
    refs = [RunRef("9", str(number)) for number in range(200)]
    for ref in refs:
        troubles.met(ref, REFUSED)
    troubles.met(TWO, HTML)  # it has its line
    troubles.met(RunRef("9", "x"), HTML)
    clock.now += 10
    for ref in refs:
        troubles.over(ref)
    assert [line.partition(":")[0] for line in lines] == [
        "the log of run 0 is late, and is asked for again",
        "the log of run x is late, and is asked for again",
        "the log of run 199 goes on, after 10 s",
    ]


def test_what_comes_and_goes_is_told_once_a_minute(lines: list[str]) -> None:
    clock = Clock()
    troubles = Troubles(clock)
    for _ in range(int(3 * SELDOM)):
        troubles.met(ONE, REFUSED)
        clock.now += 0.5
        troubles.over(ONE)
        clock.now += 0.5
    assert 4 <= len(list(lines)) <= 8


def test_a_run_that_nobody_reads_any_more_is_not_late(lines: list[str]) -> None:
    troubles = Troubles(Clock())
    troubles.met(ONE, REFUSED)
    troubles.gone(ONE)
    troubles.gone(ONE)
    troubles.over(ONE)
    assert len(list(lines)) == 1


@pytest.mark.parametrize(
    "error",
    [UpstreamUnreachable(reason=REFUSED), UpstreamError(reason=HTML), UpstreamRateLimited(reason=HTML, retry_after=3)],
)
async def test_a_follower_tells_of_an_outage_in_two_lines_however_often_it_tries(
    error: UpstreamError, lines: list[str]
) -> None:
    host, _, gateway = opened(3)
    _, watching = watched(gateway)
    await asyncio.sleep(5)
    failing = True

    async def fail(operation: str) -> None:
        if failing and operation == "log":
            raise error

    host.before = fail
    await asyncio.sleep(120)
    failing = False
    host.runs["1"].complete()
    await asyncio.sleep(120)
    assert host.calls["log"] > 5
    late, over = lines
    assert late == f"the log of run 1 is late, and is asked for again: {error.reason}"
    assert over.startswith("the log of run 1 goes on, after ")
    await asyncio.wait_for(watching, 30)
