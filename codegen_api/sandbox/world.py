"""Everything the sandbox knows: its runs, who they belong to, and the two clocks.

All in memory, without a bound on runs or entries: a run keeps its prompt, its metadata and, once they are read,
its encoded entries (about 300 bytes each) until the process ends. Not for threads: one event loop owns it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count

from .directory import Directory, HostedUser
from .errors import NO_RUN, Refusal
from .run import HostedRun, JsonObject, Moment, RunState, Segment
from .scenarios import EXAMPLE_ID, Cue, check_not_refused, example_script, scenario_script
from .script import Script, StatusChange, listed

ACTIVE = RunState("ACTIVE")
EXAMPLE_AGE = 7200.0
"""Seconds between the creation of the example run and the start of the sandbox."""


class World:
    """The state behind the emulated API.

    `clock` gives monotonic seconds, `wall` seconds since the epoch. `speed` multiplies every script's; it must be
    a positive number. `resume_lag` is how many seconds, at speed 1, a resumed run still reads with its old status.
    """

    def __init__(
        self, *, clock: Callable[[], float], wall: Callable[[], float], speed: float, resume_lag: float
    ) -> None:
        if not (math.isfinite(speed) and speed > 0):
            raise ValueError(f"speed must be a positive number, not {speed!r}")
        if not (math.isfinite(resume_lag) and resume_lag >= 0):
            raise ValueError(f"resume_lag must be zero or a positive number, not {resume_lag!r}")
        self.directory = Directory()
        self.speed = speed
        self._resume_lag = resume_lag
        self._clock = clock
        self._wall = wall
        # Milliseconds since the epoch: a sandbox started later continues above the ids of an earlier one.
        self._ids = count(max(int(wall() * 1000), EXAMPLE_ID + 1))
        self._runs: dict[int, HostedRun] = {}
        self._by_organization: dict[int, list[HostedRun]] = {key: [] for key in self.directory.organizations}
        self._add_example()

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
        segment = Segment(script, started or self.now(), speed or self.speed, 0, state)
        run_id = run_id or next(self._ids)
        run = HostedRun(run_id, organization_id, user, segment, source_type=source_type, metadata=metadata)
        self._runs[run_id] = run
        self._by_organization[organization_id].append(run)
        return run

    def run(self, run_id: int, organization_id: int | None = None) -> HostedRun:
        """The run with this id, of that organization if one is given. Raises Refusal(404)."""
        run = self._runs.get(run_id)
        if run is None or organization_id not in (None, run.organization_id):
            raise Refusal(*NO_RUN)
        return run

    def runs(self, organization_id: int, user_id: int | None, source_type: str | None) -> Sequence[HostedRun]:
        """The runs of an organization, oldest first, that match the filters given."""
        every = self._by_organization[organization_id]
        if user_id is None and source_type is None:
            return every
        return [run for run in every if user_id in (None, run.user.id) and source_type in (None, run.source_type)]

    def resume(self, run: HostedRun, prompt: str, images: int) -> None:
        """Go on with a run, whatever its status. For a moment the status still reads as before."""
        run.resumed += 1
        name = (run.metadata or {}).get("scenario")
        cue = Cue(run.id, prompt, images, delay=self._resume_lag, segment=run.resumed)
        run.play(scenario_script(name, cue), self.now())

    def ban(self, run: HostedRun) -> None:
        """Flag a run's pull request, and stop the run until it is resumed. One that is over is not rewritten."""
        run.banned = True
        now = self.now()
        if not run.is_over(now):
            run.play(listed((), StatusChange(0.0, "CANCELLED")), now)

    def unban(self, run: HostedRun) -> None:
        """Take the flag back. The run stays stopped: the host has resume for that."""
        run.banned = False

    def _add_example(self) -> None:
        """The run that is there from the start, long finished."""
        now = self.now()
        long_ago = Moment(now.clock - EXAMPLE_AGE, now.wall - EXAMPLE_AGE)
        self.add(323, self.directory.alice, example_script(), run_id=EXAMPLE_ID, speed=1.0, started=long_ago)


def _factor(wish: object) -> float:
    """The speed a client asked for in its metadata; anything but a positive number counts as none."""
    if isinstance(wish, bool) or not isinstance(wish, int | float):
        return 1.0
    try:
        factor = float(wish)
    except OverflowError:
        return 1.0
    # Beyond these a script's offsets would lose all meaning, and the wall clock its range.
    return factor if 1e-6 <= factor <= 1e6 else 1.0
