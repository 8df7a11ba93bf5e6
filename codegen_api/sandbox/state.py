"""The state of a sandbox: its runs and users, its faults, limits and counts, and the two clocks.

All in memory, without a bound on runs or entries: a run keeps its prompt, its metadata and, once they are read,
its encoded entries (about 300 bytes each) until the process ends. Not for threads: one event loop owns it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count

from .answers import NO_RUN, Refusal, timestamp
from .directory import Directory, HostedUser
from .faults import Faults
from .limits import LimitPolicy, Limits
from .request_log import RequestLog
from .run import HostedRun, JsonObject, Moment, RunState, Segment
from .scenarios import EXAMPLE_ID, Cue, check_not_refused, example_script, scenario_script
from .script import Script

ACTIVE = RunState("ACTIVE")
EXAMPLE_AGE = 7200.0
"""Seconds between the creation of the example run and the start of the sandbox."""


class SandboxState:
    """The state behind the emulated API. The arguments are those of `create_sandbox`."""

    def __init__(
        self,
        *,
        limits: LimitPolicy,
        clock: Callable[[], float],
        wall: Callable[[], float],
        speed: float,
        resume_lag: float,
    ) -> None:
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be a positive number, not {speed!r}")
        if not 0 <= resume_lag < math.inf:
            raise ValueError(f"resume_lag must be zero or a positive number, not {resume_lag!r}")
        self.directory = Directory()
        self.requests = RequestLog(clock, self.directory)
        self.faults = Faults(clock)
        self.limits = Limits(limits, clock)
        self.speed = speed
        self._resume_lag = resume_lag
        self._clock = clock
        self._wall = wall
        # Milliseconds since the epoch: a sandbox started later continues above the ids of an earlier one.
        self._ids = count(max(int(wall() * 1000), EXAMPLE_ID + 1))
        self._runs: dict[int, HostedRun] = {}
        # The example run is there from the start, long finished.
        now = self.now()
        long_ago = Moment(now.clock - EXAMPLE_AGE, now.wall - EXAMPLE_AGE)
        self.add(323, self.directory.alice, example_script(), run_id=EXAMPLE_ID, speed=1.0, started=long_ago)

    def now(self) -> Moment:
        return Moment(self._clock(), self._wall())

    def create(
        self, organization_id: int, user: HostedUser, prompt: str, images: int, metadata: JsonObject | None
    ) -> HostedRun:
        """Start a run of the scenario its metadata names. Raises Refusal for a scenario that is refused."""
        wishes = metadata or {}
        name = wishes.get("scenario")
        check_not_refused(name)
        run_id = next(self._ids)
        script = scenario_script(name, Cue(run_id, prompt, images))
        speed = self.speed * _factor(wishes.get("speed"))
        return self.add(organization_id, user, script, run_id=run_id, metadata=metadata, speed=speed)

    def add(
        self,
        organization_id: int,
        user: HostedUser,
        script: Script,
        state: RunState = ACTIVE,
        *,
        run_id: int | None = None,
        source_type: str | None = "API",
        metadata: JsonObject | None = None,
        speed: float | None = None,
        started: Moment | None = None,
    ) -> HostedRun:
        """Add a run that plays `script`, from now on and at the sandbox's speed unless told otherwise."""
        started = started or self.now()
        run = HostedRun(
            id=run_id or next(self._ids),
            organization_id=organization_id,
            user=user,
            source_type=source_type,
            metadata=metadata,
            created_at=timestamp(started.wall),
            segments=[Segment(script, started, speed or self.speed, 0, state)],
        )
        self._runs[run.id] = run
        return run

    def run(self, run_id: int, organization_id: int | None = None) -> HostedRun:
        """The run with this id, of that organization if one is given. Raises Refusal(404)."""
        run = self._runs.get(run_id)
        if run is None or organization_id not in (None, run.organization_id):
            raise Refusal(*NO_RUN)
        return run

    def runs(self, organization_id: int, user_id: int | None, source_type: str | None) -> Sequence[HostedRun]:
        """The runs of an organization, oldest first, that match the filters given."""
        return [
            run
            for run in self._runs.values()
            if run.organization_id == organization_id
            and user_id in (None, run.user.id)
            and source_type in (None, run.source_type)
        ]

    def resume(self, run: HostedRun, prompt: str, images: int) -> None:
        """Go on with a run, whatever its status. For a moment the status still reads as before."""
        run.resumed += 1
        name = (run.metadata or {}).get("scenario")
        cue = Cue(run.id, prompt, images, delay=self._resume_lag, segment=run.resumed)
        run.play(scenario_script(name, cue), self.now())


def _factor(wish: object) -> float:
    """The speed a client asked for in its metadata; anything but a positive number counts as none."""
    if isinstance(wish, bool) or not isinstance(wish, int | float):
        return 1.0
    # Beyond these a script's offsets would lose all meaning, and the wall clock its range.
    return float(wish) if 1e-6 <= wish <= 1e6 else 1.0
