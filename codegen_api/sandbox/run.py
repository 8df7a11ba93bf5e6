"""One agent run: the scripts it has played, and what is visible of it at a given moment.

A run is a chain of segments. Each segment plays a script from the moment it was started until the next one
begins, which freezes it: its log stays as it is and the new segment's entries follow. Everything that is shown
is computed from (segments, moment). Entries are kept as encoded JSON once they are read and can no longer change,
so a page costs the entries it shows, whatever the length of the log.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from .directory import HostedUser
from .encoding import encode, timestamp
from .script import Fields, Script, listed

JsonObject = Mapping[str, object]

OVER = {"COMPLETE", "ERROR", "FAILED", "TIMEOUT", "MAX_ITERATIONS_REACHED", "OUT_OF_TOKENS", "CANCELLED", "STOPPED"}
"""Words for a run that has ended, whichever way."""

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
    encoded: dict[int, bytes] = field(default_factory=dict)

    def elapsed(self, clock: float) -> float:
        """Seconds of the script that have been played."""
        until = clock if self.stopped is None else min(clock, self.stopped)
        return (until - self.started.clock) * self.speed

    def count(self, clock: float) -> int:
        return self.script.times.count(self.elapsed(clock))

    def wall_at(self, offset: float) -> float:
        """The wall time of an offset of the script."""
        return self.started.wall + offset / self.speed

    def fields(self, index: int, clock: float) -> tuple[Fields, bool]:
        """The fields of an entry of this segment, and whether they can still change by the script."""
        fields, amendment = self.script.entry(index), self.script.amendments.get(index)
        if amendment is None:
            return fields, False
        if amendment.at > self.elapsed(clock):
            return fields, True
        return {**fields, **amendment.fields}, False

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


class HostedRun:
    """A run and its log. Indices count from 0 over the whole log."""

    def __init__(
        self,
        run_id: int,
        organization_id: int,
        user: HostedUser,
        segment: Segment,
        *,
        source_type: str | None,
        metadata: JsonObject | None,
    ) -> None:
        self.id = run_id
        self.organization_id = organization_id
        self.user = user
        self.source_type = source_type
        self.metadata = metadata
        self.created_at = timestamp(segment.started.wall)
        self.banned = False
        self.resumed = 0
        self._segments = [segment]
        self._bases = [0]
        self._edits: dict[int, Fields] = {}

    def length(self, now: Moment) -> int:
        """How many entries the log has."""
        last = self._segments[-1]
        return last.base + last.count(now.clock)

    def state(self, now: Moment) -> RunState:
        return self._segments[-1].state(now.clock)

    def is_over(self, now: Moment) -> bool:
        """Whether the run has ended, and no change of it is to come, as it is just after a resume."""
        segment = self._segments[-1]
        elapsed = segment.elapsed(now.clock)
        return self.state(now).status in OVER and all(change.at <= elapsed for change in segment.script.changes)

    def play(self, script: Script, now: Moment) -> None:
        """Freeze the log as it is and go on with `script`."""
        last = self._segments[-1]
        base = self.length(now)
        before = last.state(now.clock)
        last.stopped = now.clock
        self._segments.append(Segment(script, now, last.speed, base, before))
        self._bases.append(base)

    def replay(self, script: Script, now: Moment) -> None:
        """Forget the log and begin a new one with `script`; the state stays."""
        self._segments = [Segment(script, now, self._segments[-1].speed, 0, self.state(now))]
        self._bases = [0]
        self._edits.clear()

    def settle(self, state: RunState, now: Moment) -> None:
        """Freeze the log as it is, with this state from now on."""
        self.play(listed(()), now)
        self._segments[-1].before = state

    def edit(self, index: int, fields: Fields, now: Moment) -> None:
        """Change members of an entry that is already there, for good. Raises IndexError for any other."""
        if not 0 <= index < self.length(now):
            raise IndexError(index)
        self._edits[index] = {**self._edits.get(index, {}), **fields}

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
        logs = b",".join([self._entry(index, now) for index in indices])
        page, pages = skip // limit + 1, -(-total // limit)
        tail = b'],"total_logs":%d,"page":%d,"size":%d,"pages":%d}' % (total, page, limit, pages)
        return b"".join((head[:-1], b',"logs":[', logs, tail))

    def _entry(self, index: int, now: Moment) -> bytes:
        """One entry of the log, encoded."""
        segment = self._segments[bisect_right(self._bases, index) - 1]
        inner = index - segment.base
        edited = index in self._edits
        if not edited and inner in segment.encoded:
            return segment.encoded[inner]
        fields, changing = segment.fields(inner, now.clock)
        if edited:
            fields = {**fields, **self._edits[index]}
        created_at = timestamp(segment.wall_at(segment.script.times.at(inner)))
        body = encode({"agent_run_id": self.id, "created_at": created_at, **fields})
        if not edited and not changing:
            segment.encoded[inner] = body
        return body
