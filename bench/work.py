"""What a row is, how much of its work is done, and in which order."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench import peers
from bench.machine import Failed, Server
from bench.report import Figure, Sample

LOAD = Figure("load", "load", "%", 100, compared=False)
"""What its makers took, and the host; it is as much as there is where they are the bound."""

SHARE = Figure("share", "of a processor", "%", 100)
CPU_EACH = Figure("cpu", "CPU each", "us", 1e6)


@dataclass(frozen=True)
class Scale:
    """How much is done. ``MINIATURE`` shows only that everything works."""

    gateway: Callable[..., AbstractContextManager[Server]] = peers.gateway
    connections: int = 32
    seconds: float = 4.0
    warm: float = 0.5
    viewers: Sequence[int] = (1000, 100)
    burst: tuple[int, int] = (500, 200)
    """Viewers, and entries at once."""
    idle: tuple[int, float] = (5000, 16.0)
    """Viewers, and seconds: a heartbeat to each of them is within."""
    followed: Sequence[int] = (100, 1000)
    settling: float = 15.0
    followed_seconds: float = 25.0
    active: Sequence[int] = (10, 100, 1000)
    active_settling: float = 4.0
    active_seconds: float = 8.0
    backlogs: Sequence[int] = (1000, 5000, 20_000)
    backlog_viewers: int = 50
    stuck: int = 50
    turns: int = 50
    batches: int = 2
    litellm: str | None = None
    """The Python of an environment that has it."""


MINIATURE = Scale(
    gateway=peers.warm_gateway,
    connections=4,
    seconds=0.2,
    warm=0.1,
    viewers=(10,),
    burst=(10, 50),
    idle=(30, 0.2),
    followed=(3,),
    settling=0.1,
    followed_seconds=0.2,
    active=(3,),
    active_settling=0.5,
    active_seconds=1.5,
    backlogs=(200,),
    backlog_viewers=3,
    stuck=2,
    turns=3,
    batches=1,
)


@dataclass(frozen=True)
class Case:
    """``who`` does the work; ``measure`` has it done once, by a fresh process.

    ``group``: with which other cases it is compared, and where it is in a plot. ``missing``: what is not here.
    """

    who: str
    measure: Callable[[], Sample]
    group: float = 0
    missing: str | None = None


@dataclass(frozen=True)
class Row:
    """One kind of work. The first case of a group is what the others in it are compared with."""

    name: str
    title: str
    figures: Sequence[Figure]
    cases: Callable[[Scale], Sequence[Case]]
    note: str = ""
    counts: str = ""
    """What the numbers of the groups count."""
    plotted: str = ""
    """The figure of which there is a plot against that number."""
    rounds: int = 3
    asked: bool = False
    """It is run only when it is asked for."""


@dataclass(frozen=True)
class Found:
    """All rounds of each case that is here, without figures where it failed; and why there are none of which cases."""

    rounds: dict[Case, list[Sample]]
    without: list[str]


def measured(row: Row, scale: Scale, rounds: int) -> Found:
    """The cases in turn, every other round from the last to the first."""
    cases = row.cases(scale)
    here = [case for case in cases if case.missing is None]
    found = Found(
        {case: [] for case in here}, [f"{case.who}: {case.missing} is not here" for case in cases if case.missing]
    )
    for number in range(rounds):
        for case in here if number % 2 == 0 else reversed(here):
            began, who = time.monotonic(), f"{case.who} {case.group or ''}".strip()
            sample: Sample = {}
            try:
                sample = case.measure()
                said = ", ".join(f"{name} {value:.4g}" for name, value in sample.items())
            except (Failed, OSError) as error:  # which time-outs are, too
                said = f"it failed: {error!r}"
                found.without.append(f"{who}, round {number + 1}: {str(error)[:300]!r}")
            found.rounds[case].append(sample)
            print(f"{row.name}: {who}: {said} [{time.monotonic() - began:.0f} s]", file=sys.stderr, flush=True)
    return found
