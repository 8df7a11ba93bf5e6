"""A host in memory for tests of the core: an ``Upstream`` whose runs grow, change and fail exactly as a test says."""

import asyncio
import copy
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from codegen_api.brokers import Broker
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    AnswerTooLong,
    Forbidden,
    GatewayError,
    InvalidToken,
    NotFound,
    Rejected,
    UpstreamUnreachable,
)
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.runs import (
    Cursor,
    Json,
    LogEntry,
    LogPage,
    Paging,
    Run,
    RunRef,
    RunStatus,
    Step,
    StepKind,
    WaitReason,
)
from codegen_api.telemetry import Allowance, Observation, Observer
from codegen_api.upstreams import (
    Decision,
    Listing,
    NewRun,
    Organization,
    PendingRequest,
    Repository,
    RunFilter,
    Upstream,
    User,
    observed,
)
from tests.closing import closed_later
from tests.leaks import WATCH

STATUSES = {
    "ACTIVE": RunStatus.RUNNING,
    "COMPLETE": RunStatus.COMPLETED,
    "PAUSED": RunStatus.PAUSED,
    "CANCELLED": RunStatus.CANCELLED,
    "WAITING": RunStatus.WAITING,
    "ERROR": RunStatus.FAILED,
}

OPERATIONS = {
    "create": "create_run",
    "get": "get_run",
    "list": "list_runs",
    "resume": "resume_run",
    "cancel": "cancel_run",
    "uncancel": "uncancel_run",
    "log": "read_log",
}
"""What the contract calls that for which the tests have shorter words."""


@dataclass
class Hosted:
    """A run as the host has it. ``serial`` tells apart two logs under one name."""

    ref: RunRef
    status: str = "ACTIVE"
    entries: list[dict[str, Any]] = field(default_factory=list)
    serial: int = 0
    result: str | None = None
    organizationless: bool = False
    marks: Mapping[str, str] | None = field(default_factory=dict)
    weight: int = 0
    final: bool = False
    pending: dict[str, PendingRequest] = field(default_factory=dict)

    def wait(self, id: str = "1", reason: WaitReason = WaitReason.APPROVAL, **fields: Any) -> None:  # noqa: A002
        """Wait for a decision."""
        self.status = "WAITING"
        self.pending[id] = PendingRequest(id, reason, **{"text": "May I?", **fields})

    def append(self, count: int = 1, **fields: Any) -> None:
        for name in ("text", "prompt"):
            WATCH.secret(f"a {name} of a log", fields.get(name, ""))
        for _ in range(count):
            number = len(self.entries) + 1
            self.entries.append(
                {"n": number, "created_at": f"{self.serial}-{number:06}", "type": "NOTE", "version": 0, **fields}
            )

    def complete(self, count: int = 1, **fields: Any) -> None:
        """Append the last entries, and be over."""
        self.append(count, **fields)
        self.status = "COMPLETE"

    def act(self) -> int:
        """Append a tool call whose output is to come; its position."""
        self.append(type="ACTION", output=None)
        return len(self.entries)

    def amend(self, position: int, **fields: Any) -> None:
        entry = self.entries[position - 1]
        self.entries[position - 1] = {**entry, "version": entry["version"] + 1, **fields}

    def replace(self, count: int) -> None:
        self.serial += 1
        self.entries.clear()
        self.append(count)

    def encoded(self) -> list[str]:
        return [json.dumps(entry) for entry in self.entries]


class FakeHost:
    """An ``Upstream``. ``before`` is awaited ahead of each call, with the operation's name, and may raise or wait."""

    name = "fake"
    page_size = 100
    requests_per_minute: int | None = 60
    exchanges_per_read = 1
    keeps_marks = True
    lags = True

    def __init__(self, *, with_totals: bool = True) -> None:
        self.observer: Observer = Observer()
        self.runs: dict[str, Hosted] = {}
        self.tokens: dict[str, str] = {"alice": "1", "bob": "2"}
        self.barred: set[tuple[str, str]] = set()
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[float, str, str]] = []
        self.with_totals = with_totals
        self.with_ids = False
        self.with_times = True
        self.with_revisions = False
        self.before: Callable[[str], Any] = _nothing
        self.latency = 0.05
        self.most = 100
        """How many entries or items it gives at most, whatever it is asked for."""
        self.counts: Callable[[int, int], int] = lambda length, _: length
        """What it says of how many there are, from how many there are and how many it gives."""
        self.heaviest = 10**9
        """Bytes of entries that it gives at most in one answer; for more it fails as ``too_heavy``."""
        self.too_heavy: Callable[[], GatewayError] = AnswerTooLong
        self.closed = False
        self.decisions: list[tuple[str, Decision]] = []

    @property
    def observation(self) -> Observation | None:
        return None

    def add(self, id: str = "1", length: int = 0, **fields: Any) -> Hosted:  # noqa: A002
        """Have a run with so many entries."""
        hosted = self.runs[id] = Hosted(RunRef("9", id), **fields)
        hosted.append(length)
        return hosted

    def elsewhere(self) -> Self:
        """This host as one of several processes has it: it is told only what is asked there. To be set up before."""
        return copy.copy(self)

    def organization_id(self, text: str) -> str:
        return _digits(text)

    def run_id(self, text: str) -> str:
        return _digits(text)

    def placeholder(self, ref: RunRef) -> LogEntry:
        return LogEntry(b'{"type":"UNREADABLE"}', None, open=False, amendable=True, absent=True)

    def step(self, entry: LogEntry) -> Step:
        fields = json.loads(entry.json)
        if entry.said is not None:
            return Step(StepKind.USER, fields["type"], entry.said)
        if fields["type"] == "ACTION":
            text, tool, given = fields.get("text", ""), fields.get("tool", "look"), fields.get("input", {})
            return Step(StepKind.ACTION, "ACTION", text, tool, given, fields.get("output"), not entry.open)
        kind = StepKind.ANSWER if fields["type"] == "ANSWER" else StepKind.THOUGHT
        return Step(kind, fields["type"], fields.get("text", f"note {fields['n']}"))

    def answer(self, run: Run) -> str | None:
        return run.fields.get("result")  # type: ignore[return-value]

    async def identify(self, credential: Credential) -> User:
        await self._called("identify", credential)
        return User(self.tokens[credential.token], {"id": self.tokens[credential.token]})

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        await self._called("organizations", credential)
        items = (Organization("9", {"id": 9}),)[skip:]
        return Listing(items, Paging(1, 1, limit, 1), at_end=True)

    async def users(self, credential: Credential, organization: str, skip: int, limit: int) -> Listing[User]:
        await self._called("users", credential)
        items = [User(number, {"id": int(number), "github_username": name}) for name, number in self.tokens.items()]
        return Listing(tuple(items[skip : skip + limit]), Paging(len(items), 1, limit, 1), skip + limit >= len(items))

    async def user(self, credential: Credential, organization: str, user_id: str) -> User:
        wanted = _digits(user_id)
        await self._called("user", credential)
        for name, number in self.tokens.items():
            if number == wanted:
                return User(number, {"id": int(number), "github_username": name})
        raise NotFound

    async def repositories(
        self, credential: Credential, organization: str, skip: int, limit: int
    ) -> Listing[Repository]:
        await self._called("repositories", credential)
        items = [Repository(str(number), {"id": number, "unheard_of": [None]}) for number in (71, 72)]
        return Listing(tuple(items[skip : skip + limit]), Paging(2, 1, limit, 1), skip + limit >= 2)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        await self._called("create", credential)
        hosted = self.add(str(len(self.runs) + 1), marks=new.marks)
        hosted.append(prompt=new.prompt)
        return self._run(hosted)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        await self._called("get", credential)
        return self._run(self._hosted(credential, ref), summary="whole")

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        await self._called("list", credential)
        newest_first = list(reversed(self.runs.values()))
        items = tuple(self._run(hosted) for hosted in newest_first[skip : skip + min(limit, self.most)])
        if sum(hosted.weight for hosted in newest_first[skip : skip + len(items)]) > self.heaviest:
            raise self.too_heavy()
        total = self.counts(len(newest_first), len(items)) if self.with_totals else None
        at_end = not items or (len(items) < limit and skip + len(items) == total)
        return Listing(items, Paging(total, None, limit, None), at_end)

    async def resume_run(
        self,
        credential: Credential,
        ref: RunRef,
        prompt: str,
        images: tuple[str, ...] | None,
        *,
        key: str | None = None,
    ) -> Run:
        await self._called("resume", credential)
        hosted = self._hosted(credential, ref)
        hosted.append(prompt=prompt)
        hosted.status = "ACTIVE"
        return self._run(hosted)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        await self._called("cancel", credential)
        self._hosted(credential, ref).status = "CANCELLED"

    async def uncancel_run(self, credential: Credential, ref: RunRef) -> None:
        await self._called("uncancel", credential)
        self._hosted(credential, ref)

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        await self._called("pending", credential)
        return tuple(self._hosted(credential, ref).pending.values())

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        await self._called("decide", credential)
        hosted = self._hosted(credential, ref)
        if hosted.pending.pop(request_id, None) is None:
            raise NotFound
        self.decisions.append((request_id, decision))
        if not hosted.pending:
            hosted.status = "ACTIVE"

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        await self._called("log", credential)
        hosted = self._hosted(credential, ref)
        entries = list(reversed(hosted.entries)) if newest_first else hosted.entries
        given = entries[after : after + min(limit, self.most)]
        total = self.counts(len(entries), len(given)) if self.with_totals else None
        if sum(len(json.dumps(entry)) for entry in given) > self.heaviest:
            raise self.too_heavy()
        return LogPage(
            self._run(hosted),
            after,
            tuple(
                LogEntry(
                    json.dumps(entry).encode(),
                    entry["created_at"] if self.with_times else None,
                    entry["type"] == "ACTION" and entry.get("output") is None,
                    entry["type"] == "ACTION",
                    entry.get("prompt"),
                    entry["type"] == "ANSWER",
                    id=f"{hosted.serial}-{entry['n']}" if self.with_ids else None,
                )
                for entry in given
            ),
            not given or (len(given) < limit and after + len(given) == total),
            Paging(total, None, limit, None),
            newest_first,
            str(hash((hosted.serial, *hosted.encoded()))) if self.with_revisions else None,
        )

    async def aclose(self) -> None:
        self.closed = True

    def refusal(self, operation: str, credential: Credential) -> GatewayError | None:
        """What a request is answered with that comes now, instead of what it asks for."""
        return None

    def allowance(self, credential: Credential) -> Allowance | None:
        """What an answer says of the host's limits."""
        return None

    async def _called(self, operation: str, credential: Credential) -> None:
        WATCH.secret("a token", credential.token)
        self.calls[operation] += 1
        self.log.append((asyncio.get_running_loop().time(), operation, credential.token))
        refusal = self.refusal(operation, credential)
        with observed(self.observer, credential, OPERATIONS.get(operation, operation)) as heard:
            await asyncio.sleep(self.latency)
            heard.allowance = self.allowance(credential)
            if refusal is not None:
                raise refusal
            await self.before(operation)
            if credential.token not in self.tokens:
                raise InvalidToken

    def _hosted(self, credential: Credential, ref: RunRef) -> Hosted:
        if (credential.token, ref.id) in self.barred:
            raise Forbidden
        if ref.id not in self.runs:
            raise NotFound
        return self.runs[ref.id]

    def _run(self, hosted: Hosted, **more: Json) -> Run:
        id = int(hosted.ref.id) if hosted.ref.id.isdecimal() else hosted.ref.id  # noqa: A001 - the wire's own word
        fields: dict[str, Json] = {"id": id, "status": hosted.status, "result": hosted.result, **more}
        status = STATUSES.get(hosted.status, RunStatus.UNKNOWN)
        reasons = [each.reason for each in hosted.pending.values()] if status is RunStatus.WAITING else []
        return Run(hosted.ref, status, hosted.status, fields, hosted.marks, next(iter(reasons), None), hosted.final)


def caller(name: str = "alice") -> Caller:
    return Caller(Principal("fake", name), Credential.of(name, b"key"), name)


async def _nothing(_: str) -> None:
    return None


class TellingHost(FakeHost):
    """One that says within ``tells_within`` seconds when a run has changed. ``deaf``: it accepts nobody who listens."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.tells_within = 0.1
        self.deaf = False
        self.listeners = 0

    async def changes(self, credential: Credential, ref: RunRef, after: Cursor) -> AsyncGenerator[None, None]:
        await self._called("changes", credential)
        self.listeners += 1
        try:
            seen = None
            while not self.deaf:
                hosted = self._hosted(credential, ref)
                now = (hosted.serial, hosted.status, *hosted.encoded())
                if now != seen:
                    yield
                seen = now
                await asyncio.sleep(self.tells_within)
        finally:
            self.listeners -= 1
        raise UpstreamUnreachable


def _digits(text: str) -> str:
    if not text.isdigit():
        raise Rejected
    return text


class Sequence:
    """Raises each of ``errors`` once, for calls of ``operation``, then lets everything pass."""

    def __init__(self, operation: str, *errors: GatewayError) -> None:
        self._operation = operation
        self._errors = list(errors)

    async def __call__(self, operation: str) -> None:
        if operation == self._operation and self._errors:
            raise self._errors.pop(0)


def in_front_of(host: Upstream, broker: Broker | None = None, **options: Any) -> Gateway:
    """A gateway, which is closed when the test is over."""
    return closed_later(Gateway(host, broker or MemoryBroker(), **options))


def opened(
    length: int = 0, *, status: str = "ACTIVE", result: str | None = None, **options: Any
) -> tuple[FakeHost, Hosted, Gateway]:
    """A host with one run, which has so many entries, and a gateway in front of it with these options."""
    host = FakeHost()
    return host, host.add(length=length, status=status, result=result), in_front_of(host, **options)
