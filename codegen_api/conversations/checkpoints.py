"""Checkpoints: places in a conversation to which one can come back.

A checkpoint is a cursor in a turn: so many entries of the turn's stretch of the log have come. Nothing is stored for
it.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from codegen_api.conversations.caller_store import CallerStore
from codegen_api.errors import NotFound
from codegen_api.stores import Conversation, Turn, TurnState

BEFORE = -1
"""The offset of the checkpoint before the user has said anything."""

_FORM = re.compile(r"(.{1,200})\.(input|[0-9]{1,15})", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class TurnCheckpoint:
    """Behind entry ``offset`` of the turn's stretch, counted from 1; at 0 the user has spoken and nothing has come."""

    turn: str
    offset: int

    def __str__(self) -> str:
        return f"{self.turn}.{'input' if self.offset == BEFORE else self.offset}"

    @classmethod
    def of(cls, text: str) -> "TurnCheckpoint":
        """Raises ``NotFound``: there can be no such checkpoint."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise NotFound.named("TurnCheckpoint", text)
        return cls(found[1], BEFORE if found[2] == "input" else int(found[2]))


def end_of(turn: Turn) -> TurnCheckpoint:
    """The last checkpoint of a turn that is over."""
    return TurnCheckpoint(turn.id, turn.length)


def parent_of(child: Turn | Conversation) -> TurnCheckpoint | None:
    """From where it goes on, if it does."""
    return None if child.parent is None else TurnCheckpoint.of(child.parent)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Of a turn, what a checkpoint in it or behind it holds: all that has come (None), or so many entries."""

    turn: Turn
    upto: int | None


async def path(
    own: CallerStore, checkpoint: TurnCheckpoint | None, known: Sequence[Turn] = (), *, asked_for: bool = False
) -> list[Stretch]:
    """The turns that lead to a checkpoint, the first one first. ``known`` need not be looked up. What a conversation is
    a fork of may be no more: then that is missing at the front; of a checkpoint that somebody has ``asked_for``,
    ``NotFound`` is raised.
    """
    turns = {turn.id: turn for turn in known}
    found: list[Stretch] = []
    while checkpoint is not None:
        turn = turns.get(checkpoint.turn) or await own.turn(checkpoint.turn)
        if turn is None or not turn.state.begun or not _reaches(turn, checkpoint.offset):
            if asked_for:
                raise NotFound.named("TurnCheckpoint", str(checkpoint))
            break
        asked_for = False
        if checkpoint.offset != BEFORE:
            at_end = turn.end is not None and checkpoint.offset == turn.length
            found.append(Stretch(turn, None if at_end else checkpoint.offset))
        checkpoint = parent_of(turn)
    return found[::-1]


async def path_within(
    own: CallerStore,
    conversation: str,
    checkpoint: TurnCheckpoint,
    known: Sequence[Turn],
    has: Callable[[Turn, int], Awaitable[bool]],
) -> list[Stretch]:
    """The same for a checkpoint of a conversation, or of one that it is a fork of; else raises ``NotFound``. ``known``
    are its turns, and ``has`` says whether there is an entry of one by now.
    """
    found = await path(own, checkpoint, known, asked_for=True)
    if any(turn.id == checkpoint.turn for turn in known):
        turn = found[-1].turn if checkpoint.offset > 0 else None
        if turn is not None and turn.end is None and not await has(turn, checkpoint.offset):
            raise NotFound.named("TurnCheckpoint", str(checkpoint))
    elif not await _inherits(own, conversation, checkpoint, known):
        raise NotFound.named("TurnCheckpoint", str(checkpoint))
    return found


async def _inherits(own: CallerStore, conversation: str, checkpoint: TurnCheckpoint, known: Sequence[Turn]) -> bool:
    """Whether a checkpoint of another conversation is one that leads to this one, which is a fork of it."""
    there, ids = await own.conversation(conversation), {turn.id for turn in known}
    parents = {turn.parent for turn in known} | {None if there is None else there.parent}
    for parent in (TurnCheckpoint.of(each) for each in parents if each is not None):
        if parent == checkpoint:
            return True
        for stretch in await path(own, parent) if parent.turn not in ids else []:
            if stretch.turn.id == checkpoint.turn and (stretch.upto is None or checkpoint.offset <= stretch.upto):
                return True
    return False


def _reaches(turn: Turn, offset: int) -> bool:
    """Whether so much has come of a turn, or may have by now."""
    if turn.end is None:
        return turn.state is TurnState.RUNNING or offset <= 0
    return offset <= turn.length
