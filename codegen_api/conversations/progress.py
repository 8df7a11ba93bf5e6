"""A turn as it comes: its stretch of the run's log, entry by entry, and then its end.

Offsets count the entries of the turn from 1. Everything is read through the gateway, so who may not see the run sees no
turn of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

from codegen_api.brokers import Batch
from codegen_api.errors import UpstreamError
from codegen_api.following import Current, Ended, Leaving, Notice, Position, Quiet, Resync, loop_time
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from codegen_api.runs import Appended, Changed, Cursor, LogEntry, Run, RunStatus, StepKind
from codegen_api.stores import Turn, TurnState

RESUME_DOUBT = 30.0
"""Seconds after a resume in which the host may still tell of the end before it."""

DOUBTED_SECONDS = 1.0
"""How long an end that is not believed is left alone."""

RESTING = (RunStatus.WAITING, RunStatus.PAUSED)
"""The host does nothing until somebody answers: that ends a turn, though not the run."""


@dataclass(frozen=True, slots=True)
class Came:
    """Entry ``offset``, new or, if ``amended``, as it is now."""

    offset: int
    entry: LogEntry
    amended: bool = False


@dataclass(frozen=True, slots=True)
class Caught:
    """All that was there has come, up to ``offset``."""

    offset: int


@dataclass(frozen=True, slots=True)
class Over:
    """The turn is over, and all of it has come."""

    turn: Turn


Progress: TypeAlias = "tuple[Came, ...] | Caught | Notice | Quiet | Leaving | Over"

Finish = Callable[[Turn, Run, Cursor, str | None], Awaitable[Turn]]
"""Write down that a turn is over: with the run as it is, where its log ended, and the last answer in it."""


async def live(gateway: Gateway, caller: Caller, turn: Turn, finish: Finish) -> AsyncGenerator[Progress, None]:
    """A turn whose end is not known."""
    assert turn.run is not None  # noqa: S101 - or it would not be running
    watch = _Watch(gateway, caller, turn)
    while True:
        position = Position(turn.begin + watch.offset)
        stream = await gateway.follow(caller, turn.run.organization, turn.run.id, position)
        assert stream is not None  # noqa: S101 - only who has seen an end can know it already
        async with aclosing(stream):
            async for update in stream:
                match update:
                    case Batch():
                        if came := watch.take(update):
                            yield came
                    case Changed(run=run):
                        watch.describe(run)
                    case Current(cursor=cursor):
                        yield Caught(max(0, cursor - turn.begin))
                    case Ended(run=run, length=length):
                        watch.describe(run)
                        watch.ended = length
                    case Resync():
                        raise UpstreamError("The host has another log under the name of this run.")
                    case Leaving():
                        yield update
                        return
                    case Notice() | Quiet():
                        yield update
                if await watch.is_over():
                    over = await finish(turn, watch.run, turn.begin + watch.offset, watch.answer)
                    async for rest in _rest(gateway, caller, over, watch.offset):
                        yield rest
                    yield Over(over)
                    return
        # an end that is not believed: it may be the one from before the resume
        yield Quiet()
        await asyncio.sleep(DOUBTED_SECONDS)


async def whole(gateway: Gateway, caller: Caller, turn: Turn) -> AsyncGenerator[Progress, None]:
    """A turn that is over."""
    async for rest in _rest(gateway, caller, turn, 0):
        yield rest
    yield Over(turn)


async def _rest(gateway: Gateway, caller: Caller, turn: Turn, offset: int) -> AsyncGenerator[tuple[Came, ...], None]:
    """What comes behind ``offset`` in a turn that is over, read in the host's own full pages."""
    end = turn.begin if turn.end is None else turn.end
    size = gateway.page_size
    while turn.run is not None and (cursor := turn.begin + offset) < end:
        start = cursor // size * size
        page = await gateway.read_log(caller, turn.run.organization, turn.run.id, start, size, newest_first=False)
        came = tuple(
            Came(position - turn.begin, entry)
            for position, entry in enumerate(page.entries, start + 1)
            if cursor < position <= end
        )
        if not came:
            raise UpstreamError("The host shows less of this log than it did.")
        offset = came[-1].offset
        yield came


class _Watch:
    """What has been seen of a turn, and whether that is all."""

    def __init__(self, gateway: Gateway, caller: Caller, turn: Turn) -> None:
        self.offset = 0
        self.answer: str | None = None
        self.ended: Cursor | None = None
        self._gateway = gateway
        self._caller = caller
        self._turn = turn
        self._run: Run | None = None
        self._active_seen = not turn.resumes
        self._began = loop_time()
        self._resting_at: Cursor | None = None

    @property
    def run(self) -> Run:
        assert self._run is not None  # noqa: S101 - every stream begins with the run
        return self._run

    def describe(self, run: Run) -> None:
        self._run = run
        self.ended = self._resting_at = None
        self._active_seen = self._active_seen or not (run.status.ended or run.status in RESTING)

    def take(self, batch: Batch) -> tuple[Came, ...]:
        came = tuple(
            Came(event.cursor - self._turn.begin, event.entry, amended=not isinstance(event, Appended))
            for event in batch.entries
            if event.cursor > self._turn.begin
        )
        for each in came:
            self.offset = max(self.offset, each.offset)
            step = self._gateway.step(each.entry)
            if step.kind is StepKind.ANSWER:
                self.answer = step.text
        return came

    async def is_over(self) -> bool:
        """Whether the turn has ended, or the host waits for an answer, and everything has come."""
        turn, cursor = self._turn, self._turn.begin + self.offset
        if self.ended is not None:
            return not self._doubtful()
        if self._run is None or self._run.status not in RESTING or self._doubtful():
            return False
        if self._resting_at is None:
            assert turn.run is not None  # noqa: S101 - it is followed
            page = await self._gateway.read_log(
                self._caller, turn.run.organization, turn.run.id, cursor, self._gateway.page_size, newest_first=False
            )
            self._resting_at = page.last if page.at_end else None
        return self._resting_at == cursor

    def _doubtful(self) -> bool:
        """Whether this may be the state from before the resume: the prompt itself is one entry."""
        return not self._active_seen and self.offset <= 1 and loop_time() - self._began < RESUME_DOUBT


def state_of(run: Run) -> TurnState:
    """What becomes of a turn when its run is like this at its end."""
    match run.status:
        case RunStatus.COMPLETED:
            return TurnState.COMPLETED
        case RunStatus.CANCELLED:
            return TurnState.CANCELLED
        case RunStatus.WAITING | RunStatus.PAUSED:
            return TurnState.WAITING
        case _:
            return TurnState.FAILED
