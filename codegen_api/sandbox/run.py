"""One agent run: the scripts it has played, and what is visible of it at a given moment.

A run is a chain of segments. Each segment plays a script from the moment it was started until the next one
begins, which freezes it: its log stays as it is and the new segment's entries follow. Everything that is shown
is computed from (segments, moment). Entries are kept as encoded JSON once they are read and can no longer change,
so a page costs the entries it shows, whatever the length of the log.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from operator import attrgetter

from .answers import encode, page_numbers, timestamp
from .directory import HostedUser
from .scenarios import JsonObject, Script, StatusChange

OVER = {"COMPLETE", "ERROR", "FAILED", "TIMEOUT", "MAX_ITERATIONS_REACHED", "OUT_OF_TOKENS", "CANCELLED", "STOPPED"}
"""The host's statuses of runs that have ended in any way."""

_PULL_REQUEST = dict.fromkeys(("id", "title", "url", "created_at", "head_branch_name"))
_NOT_WITH_LOGS = {"summary", "source_type", "github_pull_requests"}


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, on both clocks: `clock` in monotonic seconds, `wall` in seconds since the epoch."""

    clock: float
    wall: float


@dataclass(frozen=True, slots=True)
class RunState:
    """What changes about a run beside its log. `status` is the host's word, null included."""

    status: str | None
    result: str | None = None
    summary: str | None = None
    pull_requests: tuple[JsonObject, ...] = ()


@dataclass(slots=True)
class Segment:
    """A script being played since `started`, `speed` times as fast as written.

    `base` is the index of its first entry in the run's log, `before` the state of all that went before, and
    `stopped` the reading of the clock at which it was frozen, if it was.
    """

    script: Script
    started: Moment
    speed: float
    base: int
    before: RunState
    stopped: float | None = None
    edits: dict[int, JsonObject] = field(default_factory=dict)
    encoded: dict[int, bytes] = field(default_factory=dict)

    def elapsed(self, clock: float) -> float:
        """Seconds of the script that have been played."""
        until = clock if self.stopped is None else min(clock, self.stopped)
        return (until - self.started.clock) * self.speed

    def count(self, clock: float) -> int:
        """How many entries have appeared. The extra nanosecond keeps rounding from hiding an entry at its offset."""
        return bisect_right(self.script.entries, self.elapsed(clock) + 1e-9, key=attrgetter("at"))

    def wall_at(self, offset: float) -> float:
        return self.started.wall + offset / self.speed

    def entry(self, run_id: int, index: int, clock: float) -> bytes:
        """An entry of this segment, encoded; kept as it is once the script will not change it any more."""
        if index in self.encoded:
            return self.encoded[index]
        entry = self.script.entries[index]
        pending = entry.later is not None and entry.later.at > self.elapsed(clock)
        amended = {} if entry.later is None or pending else entry.later.fields
        own = {"agent_run_id": run_id, "created_at": timestamp(self.wall_at(entry.at))}
        body = encode({**own, **entry.fields, **amended, **self.edits.get(index, {})})
        if not pending:
            self.encoded[index] = body
        return body

    def edit(self, index: int, fields: JsonObject) -> None:
        """Change members of an entry that is already there, for good."""
        self.edits[index] = {**self.edits.get(index, {}), **fields}
        self.encoded.pop(index, None)

    def state(self, clock: float) -> RunState:
        """The run's state by this segment, after the changes that have happened."""
        elapsed, state = self.elapsed(clock), self.before
        for change in self.script.changes:
            if change.at > elapsed:
                break
            pull_requests = state.pull_requests
            if change.pull_request is not None:
                created_at = timestamp(self.wall_at(change.at))
                pull_requests += ({**_PULL_REQUEST, **change.pull_request, "created_at": created_at},)
            result = state.result if change.result is None else change.result
            summary = state.summary if change.summary is None else change.summary
            state = RunState(change.status, result, summary, pull_requests)
        return state


@dataclass(slots=True, kw_only=True)
class HostedRun:
    """A run and its log. Indices count from 0 over the whole log. `resumed` says how often it was."""

    id: int
    organization_id: int
    user: HostedUser
    source_type: str | None
    metadata: JsonObject | None
    created_at: str
    segments: list[Segment]
    banned: bool = False
    resumed: int = 0

    def length(self, now: Moment) -> int:
        last = self.segments[-1]
        return last.base + last.count(now.clock)

    def state(self, now: Moment) -> RunState:
        return self.segments[-1].state(now.clock)

    def is_over(self, now: Moment) -> bool:
        """Whether the run has ended, and no change is pending, as just after a resume."""
        segment = self.segments[-1]
        elapsed = segment.elapsed(now.clock)
        return self.state(now).status in OVER and all(change.at <= elapsed for change in segment.script.changes)

    def play(self, script: Script, now: Moment, state: RunState | None = None) -> None:
        """Freeze the log as it is and go on with `script`, and with this `state` if one is given."""
        last = self.segments[-1]
        base, before = self.length(now), state or self.state(now)
        last.stopped = now.clock
        self.segments.append(Segment(script, now, last.speed, base, before))

    def replay(self, script: Script, now: Moment) -> None:
        """Forget the log and begin a new one with `script`; the state stays."""
        self.segments = [Segment(script, now, self.segments[-1].speed, 0, self.state(now))]

    def ban(self, now: Moment) -> None:
        """Flag the run's pull request, and stop the run until it is resumed. One that is over is not rewritten."""
        self.banned = True
        if not self.is_over(now):
            self.play(Script(changes=(StatusChange(0.0, "CANCELLED"),)), now)

    def to_wire(self, now: Moment) -> dict[str, object]:
        """The host's AgentRunResponse."""
        state = self.state(now)
        return {
            "id": self.id,
            "organization_id": self.organization_id,
            "status": state.status,
            "created_at": self.created_at,
            "web_url": f"https://codegen.com/agent/trace/{self.id}",
            "result": state.result,
            "summary": state.summary,
            "source_type": self.source_type,
            "github_pull_requests": state.pull_requests,
            "metadata": self.metadata,
        }

    def log_page(self, now: Moment, skip: int, limit: int, reverse: bool) -> bytes:
        """The host's AgentRunWithLogsResponse, encoded: a run without summary, source and pull requests.

        With `reverse` the newest entry comes first and `skip` counts from the end, as it does for the host.
        """
        total = self.length(now)
        head = encode({name: each for name, each in self.to_wire(now).items() if name not in _NOT_WITH_LOGS})
        start, stop = min(skip, total), min(skip + limit, total)
        indices = range(total - 1 - start, total - 1 - stop, -1) if reverse else range(start, stop)
        places = (self.place(index) for index in indices)
        logs = b",".join([segment.entry(self.id, place, now.clock) for segment, place in places])
        tail = encode({"total_logs": total, **page_numbers(total, skip, limit)})
        return b"".join((head[:-1], b',"logs":[', logs, b"],", tail[1:]))

    def place(self, index: int) -> tuple[Segment, int]:
        """The segment with the entry `index` of the whole log, and the entry's index in it."""
        segment = self.segments[bisect_right(self.segments, index, key=attrgetter("base")) - 1]
        return segment, index - segment.base
