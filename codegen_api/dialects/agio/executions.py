"""Executions, which clients call runs: a turn, and the turns that continued it after a pause or from a checkpoint.

A run has the id of its first turn. Turns of other dialects are runs, too.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from codegen_api.conversations import BEFORE, CallerConversations, Stretch, end_of, parent_of, text_of
from codegen_api.errors import InvalidCursor, NotFound
from codegen_api.runs import Json
from codegen_api.stores import Turn, TurnState

OWN = "agio"
"""The key for this dialect's data in a turn's options and an agent's configuration."""

SEARCHED = 10_000
"""How many turns, the newest ones, are searched for a list."""
AT_A_TIME = 1000

MOST_SETTLED = 20
"""How many unfinished runs of a list are brought up to date."""


class AgioStatus(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Execution:
    """A run of ``turns``, oldest first. ``superseded``: its session has gone on with another run."""

    turns: tuple[Turn, ...]
    superseded: bool = False

    @property
    def first(self) -> Turn:
        return self.turns[0]

    @property
    def latest(self) -> Turn:
        """The last turn that the host started. Others do not count, so that they can be tried again."""
        return next((turn for turn in reversed(self.turns) if not _never_begun(turn)), self.turns[0])

    @property
    def id(self) -> str:
        return self.first.id

    @property
    def status(self) -> AgioStatus:
        latest = self.latest
        match latest.state:
            case TurnState.WAITING if own(latest.options).get("cancelled") is True:
                return AgioStatus.CANCELLED
            case TurnState.WAITING:
                return AgioStatus.COMPLETED if self.superseded else AgioStatus.PAUSED
            case TurnState.CANCELLED if self.is_paused and not self.superseded:
                return AgioStatus.PAUSED
            case TurnState.UNKNOWN:
                return AgioStatus.FAILED
            case TurnState.QUEUED:
                return AgioStatus.STARTING
            case TurnState.WITHDRAWN:
                return AgioStatus.CANCELLED
            case state:
                return AgioStatus(state.value)

    @property
    def is_paused(self) -> bool:
        """Whether it was stopped to be resumed later."""
        return own(self.latest.options).get("paused") is True

    @property
    def query(self) -> str:
        """The user's first message."""
        said = own(self.first.options).get("query")
        return said if isinstance(said, str) else "\n".join(map(text_of, self.first.messages))

    @property
    def stretches(self) -> list[Stretch]:
        """The stretches that lead to the end of its latest turn."""
        return self.leading_to(self.latest)

    def leading_to(self, turn: Turn) -> list[Stretch]:
        """The stretches of its turns that lead to the end of one of them."""
        turns = {turn.id: turn for turn in self.turns}
        found, child = [Stretch(turn, None)], turn
        while continued(child) is not None and (checkpoint := parent_of(child)) is not None:
            if checkpoint.turn not in turns:
                break  # a restore went back behind the beginning of the run
            child = turns[checkpoint.turn]
            if checkpoint.offset != BEFORE:
                whole = child.end is not None and checkpoint == end_of(child)
                found.append(Stretch(child, None if whole else checkpoint.offset))
        return found[::-1]

    @property
    def steps(self) -> int:
        return sum(length_of(stretch) or 0 for stretch in self.stretches)

    async def require_step(self, conversations: CallerConversations, step: int) -> None:
        """Raise ``InvalidCursor`` if the run has no such step."""
        for stretch in self.stretches:
            length = length_of(stretch)
            if step == 0 or (length is None and await conversations.has(stretch.turn, step)):
                return
            step -= min(step, length or 0)
        if step:
            raise InvalidCursor("This run has no such event; read it from its beginning.")

    def updated(self, turn: Turn) -> "Execution":
        """The run with a newer version of one of its turns."""
        return replace(self, turns=tuple(turn if each.id == turn.id else each for each in self.turns))


def own(kept: Mapping[str, Json]) -> Mapping[str, Json]:
    """This dialect's part of a turn's ``options`` or an agent's ``configuration``."""
    found = kept.get(OWN)
    return found if isinstance(found, Mapping) else {}


def continued(turn: Turn) -> str | None:
    """The id of the run that a turn continues; None for the first turn of a run."""
    run_id = own(turn.options).get("continues")
    return run_id if isinstance(run_id, str) else None


def user_of(turn: Turn) -> str | None:
    """The user's id as the client sent it. It grants nothing."""
    user = own(turn.options).get("user_id")
    return user if isinstance(user, str) else None


def _never_begun(turn: Turn) -> bool:
    return not turn.state.begun or (turn.end is None and turn.state in (TurnState.FAILED, TurnState.UNKNOWN))


async def note(conversations: CallerConversations, turn_id: str, **values: Json) -> Turn:
    """Store values in a turn's options while it goes on; None removes one. Raises ``NotFound`` or ``Conflict``."""

    def noted(turn: Turn) -> Turn:
        kept = {name: value for name, value in {**own(turn.options), **values}.items() if value is not None}
        return replace(turn, options={**turn.options, OWN: kept})

    return NotFound.unless(await conversations.change_turn(turn_id, noted), "Run", turn_id)


def length_of(stretch: Stretch) -> int | None:
    """How many entries a stretch has; None while it grows."""
    if stretch.upto is not None:
        return stretch.upto
    return None if stretch.turn.end is None and not stretch.turn.state.over else stretch.turn.length


async def find_run(conversations: CallerConversations, run_id: str) -> Execution:
    """A run, brought up to date. Raises ``NotFound`` if there is none."""
    first = await conversations.turn(run_id)
    if first is None or continued(first) is not None:
        raise NotFound.named("Run", run_id)
    turns = await conversations.turns(first.conversation)
    (run,) = [run for run in runs_of(turns) if run.id == run_id] or [Execution((first,))]
    return await settled(conversations, run)


async def settled(conversations: CallerConversations, run: Execution) -> Execution:
    """The run, brought up to date, unless it was removed in the meantime."""
    if run.latest.state.over:
        return run
    try:
        return run.updated(await conversations.find_turn(run.latest.id))
    except NotFound:
        return run


async def every_run(conversations: CallerConversations) -> list[Execution]:
    """The caller's runs, newest first. Some of the unfinished ones are brought up to date."""
    turns: list[Turn] = []
    while len(turns) < SEARCHED:
        more = await conversations.turns(limit=AT_A_TIME, offset=len(turns))
        turns += more
        if len(more) < AT_A_TIME:
            break
    runs = runs_of(turns)
    unfinished = [run for run in runs if not run.latest.state.over][:MOST_SETTLED]
    updated = {run.id: run for run in await asyncio.gather(*(settled(conversations, run) for run in unfinished))}
    return [updated.get(run.id, run) for run in runs]


def runs_of(turns: Sequence[Turn]) -> list[Execution]:
    """Group turns, newest first, into runs. The runs are sorted by their first turns, newest first."""
    groups: dict[str, list[Turn]] = {}
    latest: dict[str, int] = {}  # by session, the number of the latest turn that the host has started
    for turn in turns:
        groups.setdefault(continued(turn) or turn.id, []).append(turn)
        if turn.state is not TurnState.STARTING and not _never_begun(turn):
            latest.setdefault(turn.conversation, turn.number)
    runs = [Execution(tuple(reversed(group))) for run_id, group in groups.items() if group[-1].id == run_id]
    runs = [replace(run, superseded=latest.get(run.first.conversation, 0) > run.latest.number) for run in runs]
    return sorted(runs, key=lambda run: (run.first.created, run.first.number), reverse=True)
