"""Executions, which clients call runs: a turn, and those that went on with it, after a pause or from a checkpoint.

The run has the id of its first turn. Turns that another dialect began are runs, too.
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
"""Under this name stands what this dialect keeps with a turn or an agent."""

SEARCHED = 10_000
"""So many turns are looked through for a list, the newest first."""
AT_A_TIME = 1000

SETTLED = 20
"""So many runs of a list that go on are looked after."""


class AgioStatus(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Execution:
    """``turns`` are its own, the first one first. ``superseded``: its session has gone on with another run."""

    turns: tuple[Turn, ...]
    superseded: bool = False

    @property
    def first(self) -> Turn:
        return self.turns[0]

    @property
    def latest(self) -> Turn:
        """Where it is: those that the host never began do not count, so that what failed can be tried again."""
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
        """Whether it was stopped in order to go on."""
        return own(self.latest.options).get("paused") is True

    @property
    def query(self) -> str:
        """What the user said at its beginning."""
        said = own(self.first.options).get("query")
        return said if isinstance(said, str) else "\n".join(map(text_of, self.first.messages))

    @property
    def stretches(self) -> list[Stretch]:
        """The stretches of its turns that lead to where it is."""
        return self.leading_to(self.latest)

    def leading_to(self, turn: Turn) -> list[Stretch]:
        """The stretches of its turns that lead to one of them, that turn's own the last."""
        turns = {turn.id: turn for turn in self.turns}
        found, then = [Stretch(turn, None)], turn
        while continued(then) is not None and (checkpoint := parent_of(then)) is not None:
            if checkpoint.turn not in turns:
                break  # all of the run was taken back
            then = turns[checkpoint.turn]
            if checkpoint.offset != BEFORE:
                whole = then.end is not None and checkpoint == end_of(then)
                found.append(Stretch(then, None if whole else checkpoint.offset))
        return found[::-1]

    @property
    def steps(self) -> int:
        return sum(length_of(stretch) or 0 for stretch in self.stretches)

    async def require_step(self, conversations: CallerConversations, step: int) -> None:
        """Raises ``InvalidCursor``: the run has no such step."""
        for stretch in self.stretches:
            length = length_of(stretch)
            if step == 0 or (length is None and await conversations.has(stretch.turn, step)):
                return
            step -= min(step, length or 0)
        if step:
            raise InvalidCursor("This run has no such event; read it from its beginning.")

    def as_now(self, turn: Turn) -> "Execution":
        """The same with one of its turns as it is now."""
        return replace(self, turns=tuple(turn if each.id == turn.id else each for each in self.turns))


def own(kept: Mapping[str, Json]) -> Mapping[str, Json]:
    """What this dialect keeps with a turn, in its ``options``, or with an agent, in its ``configuration``."""
    found = kept.get(OWN)
    return found if isinstance(found, Mapping) else {}


def continued(turn: Turn) -> str | None:
    """The id of the run that it goes on with; None for one that is the first of its run."""
    run_id = own(turn.options).get("continues")
    return run_id if isinstance(run_id, str) else None


def user_of(turn: Turn) -> str | None:
    """Who the client says its user is. Nothing is decided by it."""
    user = own(turn.options).get("user_id")
    return user if isinstance(user, str) else None


def _never_begun(turn: Turn) -> bool:
    return not turn.state.begun or (turn.end is None and turn.state in (TurnState.FAILED, TurnState.UNKNOWN))


async def note(conversations: CallerConversations, turn_id: str, **values: Json) -> Turn:
    """Write on a turn, whatever else happens to it; None takes away. Raises ``NotFound`` or ``Conflict``."""

    def noted(then: Turn) -> Turn:
        on_it = {name: value for name, value in {**own(then.options), **values}.items() if value is not None}
        return replace(then, options={**then.options, OWN: on_it})

    return NotFound.unless(await conversations.change_turn(turn_id, noted), "Run", turn_id)


def length_of(stretch: Stretch) -> int | None:
    """How many entries it has; None while that grows."""
    if stretch.upto is not None:
        return stretch.upto
    return None if stretch.turn.end is None and not stretch.turn.state.over else stretch.turn.length


async def find_run(conversations: CallerConversations, run_id: str) -> Execution:
    """A run as it is now. Raises ``NotFound``: there is none."""
    first = await conversations.turn(run_id)
    if first is None or continued(first) is not None:
        raise NotFound.named("Run", run_id)
    turns = await conversations.turns(first.conversation)
    (run,) = [run for run in together(turns) if run.id == run_id] or [Execution((first,))]
    return await settled(conversations, run)


async def settled(conversations: CallerConversations, run: Execution) -> Execution:
    """The run as it is now, unless it was removed meanwhile."""
    if run.latest.state.over:
        return run
    try:
        return run.as_now(await conversations.find_turn(run.latest.id))
    except NotFound:
        return run


async def every_run(conversations: CallerConversations) -> list[Execution]:
    """The caller's runs, the newest first, those that go on as they are now."""
    turns: list[Turn] = []
    while len(turns) < SEARCHED:
        more = await conversations.turns(limit=AT_A_TIME, offset=len(turns))
        turns += more
        if len(more) < AT_A_TIME:
            break
    runs = together(turns)
    going_on = [run for run in runs if not run.latest.state.over][:SETTLED]
    now = await asyncio.gather(*(settled(conversations, run) for run in going_on))
    as_now = {run.id: run for run in now}
    return [as_now.get(run.id, run) for run in runs]


def together(turns: Sequence[Turn]) -> list[Execution]:
    """The runs that these turns are, in the order of their first turns; ``turns`` are the newest first."""
    mine: dict[str, list[Turn]] = {}
    latest: dict[str, int] = {}  # the number of the latest in each session, of those that the host has begun
    for turn in turns:
        mine.setdefault(continued(turn) or turn.id, []).append(turn)
        if turn.state is not TurnState.STARTING and not _never_begun(turn):
            latest.setdefault(turn.conversation, turn.number)
    runs = [Execution(tuple(reversed(group))) for run_id, group in mine.items() if group[-1].id == run_id]
    runs = [replace(run, superseded=latest.get(run.first.conversation, 0) > run.latest.number) for run in runs]
    return sorted(runs, key=lambda run: (run.first.created, run.first.number), reverse=True)
