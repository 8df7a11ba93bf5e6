"""The state of a sandbox: its runs, its faults, rate limits and counts of requests, and the two clocks.

All in memory, without a bound on runs or entries: a run keeps its prompt, its metadata and, once they are read,
its encoded entries (about 300 bytes each) until the process ends. Not for threads: one event loop owns it.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import Scope

from .answers import NO_RUN, REFUSED, Refusal, timestamp
from .directory import ALICE, HostedUser, without_tokens
from .faults import Faults
from .run import HostedRun, Moment, RunState, Segment
from .scenarios import EXAMPLE_ID, Cue, JsonObject, Script, example_script, scenario_script

LimitPolicy = Literal["table", "shared", "off"]


TABLE = {"create": (10, 60.0), "logs": (60, 60.0)}
"""Maximum answers in so many seconds, for endpoints with limits of their own; resume and ban have none."""

OTHERS = (60, 30.0)
SHARED = (60, 60.0)


class Limits:
    """How often the host answers: sliding windows over the answers it really gave to every token.

    Three policies, because the host's own documents contradict each other: `table` is the per-endpoint table of its
    OpenAPI document, counted per token and endpoint; `shared` is the sentence of its logs guide, one allowance per
    token for everything; `off` never refuses. A refused request costs nothing.
    """

    def __init__(self, policy: LimitPolicy, clock: Callable[[], float]) -> None:
        if policy not in ("table", "shared", "off"):
            raise ValueError(f"limits must be table, shared or off, not {policy!r}")
        self.policy = policy
        self._clock = clock
        self._windows: dict[tuple[str, str], deque[float]] = {}

    def take(self, user: str, operation: str) -> int | None:
        """Count one answer for `user`. Returns None, or, if it is refused, the whole seconds until the next one."""
        if self.policy == "off":
            return None
        shared = self.policy == "shared"
        answers, seconds = SHARED if shared else TABLE.get(operation, OTHERS)
        window = self._windows.setdefault((user, "" if shared else operation), deque())
        now = self._clock()
        while window and window[0] <= now - seconds:
            window.popleft()
        if len(window) >= answers:
            return max(1, math.ceil(window[0] + seconds - now))
        window.append(now)
        return None


REMEMBERED = 100
"""How many requests are kept in detail."""

HEADERS = {
    "accept",
    "accept-encoding",
    "baggage",
    "content-type",
    "forwarded",
    "host",
    "idempotency-key",
    "last-event-id",
    "traceparent",
    "tracestate",
    "user-agent",
    "via",
    "x-codegen-client",
    "x-forwarded-for",
    "x-organization-id",
    "x-request-id",
}
"""The request headers worth remembering; `authorization` and `cookie` must never be among them."""


class RequestLog:
    """What was asked of a sandbox: counts per operation and user, and the last requests in some detail.

    Tokens never come in here: a request stands under its user's name, or `null` for an unknown token.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        self._rows: dict[tuple[str, str | None], Counter[str]] = {}
        self._recent = deque[dict[str, object]](maxlen=REMEMBERED)
        self._with_cookie = 0

    def begin(self, scope: Scope, operation: str, user: str | None) -> Callable[[int], None]:
        """Count a request as it arrives. Returns a function to call with the status of its answer."""
        headers = Headers(scope=scope)
        request: dict[str, object] = {
            "at": self._clock(),
            "operation": operation,
            "user": user,
            "method": scope["method"],
            "path": without_tokens(scope["path"]),
            "query": without_tokens(scope["query_string"].decode("latin-1")),
            "headers": {name: value for name, value in headers.items() if name in HEADERS},
            "status": None,
        }
        self._recent.append(request)
        row = self._rows.setdefault((operation, user), Counter({"total": 0, "429": 0}))
        row["total"] += 1
        self._with_cookie += "cookie" in headers

        def answered(status: int) -> None:
            request["status"] = status
            row["429"] += status == 429

        return answered

    def to_wire(self) -> dict[str, object]:
        """Totals, one row per operation, the same per operation and user, and the last requests, oldest first."""
        total, operations = Counter({"total": 0, "429": 0}), dict[str, Counter[str]]()
        for (operation, _), row in self._rows.items():
            total.update(row)
            operations.setdefault(operation, Counter()).update(row)
        return {
            **total,
            "with_cookie": self._with_cookie,
            "operations": operations,
            "by_user": [{"operation": row[0], "user": row[1], **counts} for row, counts in self._rows.items()],
            "recent": list(self._recent),
        }


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
        self.requests = RequestLog(clock)
        self.faults = Faults(clock)
        self.limits = Limits(limits, clock)
        self.speed = speed
        self._resume_lag = resume_lag
        self._clock = clock
        self._wall = wall
        # Milliseconds since the epoch: a sandbox started later continues above the ids of an earlier one.
        self._ids = count(max(int(wall() * 1000), EXAMPLE_ID + 1))
        self.runs: dict[int, HostedRun] = {}
        # The example run is there from the start, long finished.
        now = self.now()
        long_ago = Moment(now.clock - EXAMPLE_AGE, now.wall - EXAMPLE_AGE)
        self.add(323, ALICE, example_script(), run_id=EXAMPLE_ID, speed=1.0, started=long_ago)

    def now(self) -> Moment:
        return Moment(self._clock(), self._wall())

    def create(
        self, organization_id: int, user: HostedUser, prompt: str, images: int, metadata: JsonObject | None
    ) -> HostedRun:
        """Start a run of the scenario its metadata names. Raises Refusal for a scenario that is refused."""
        wishes = metadata or {}
        name = wishes.get("scenario")
        if isinstance(name, str) and name in REFUSED:
            raise Refusal(*REFUSED[name])
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
        self.runs[run.id] = run
        return run

    def run(self, run_id: int, organization_id: int | None = None) -> HostedRun:
        """The run with this id, of that organization if one is given. Raises Refusal(404)."""
        run = self.runs.get(run_id)
        if run is None or organization_id not in (None, run.organization_id):
            raise Refusal(*NO_RUN)
        return run

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
