"""Checkpoints: places in a conversation from which it can continue again.

A checkpoint is a turn and a number of its entries. Nothing is stored for it.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from codegen_api.conversations.caller_store import CallerStore
from codegen_api.errors import NotFound
from codegen_api.stores import Conversation, Turn, TurnState

BEFORE = -1
"""The offset of the checkpoint before the turn's message."""

_FORM = re.compile(r"(.{1,200})\.(input|[0-9]{1,15})", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class TurnCheckpoint:
    """The place after entry ``offset`` of the turn, counted from 1. Offset 0 is after the message, before entry 1."""

    turn: str
    offset: int

    def __str__(self) -> str:
        return f"{self.turn}.{'input' if self.offset == BEFORE else self.offset}"

    @classmethod
    def of(cls, text: str) -> "TurnCheckpoint":
        """Parse a checkpoint. Raises ``NotFound`` if ``text`` is none."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise NotFound.named("TurnCheckpoint", text)
        return cls(found[1], BEFORE if found[2] == "input" else int(found[2]))


def end_of(turn: Turn) -> TurnCheckpoint:
    """The last checkpoint of a turn that is over."""
    return TurnCheckpoint(turn.id, turn.length)


def parent_of(child: Turn | Conversation) -> TurnCheckpoint | None:
    """The checkpoint that a turn continues from, or that a conversation is a fork of."""
    return None if child.parent is None else TurnCheckpoint.of(child.parent)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a turn that leads to a checkpoint: its first ``upto`` entries, or with None all of them."""

    turn: Turn
    upto: int | None


async def path(
    own: CallerStore, checkpoint: TurnCheckpoint | None, known: Sequence[Turn] = (), *, asked_for: bool = False
) -> list[Stretch]:
    """The stretches that lead to a checkpoint, oldest first. Turns in ``known`` are not looked up. Where turns of a
    forked conversation have been removed, the path begins after them; but if the checkpoint itself is missing, and
    ``asked_for`` by a client, ``NotFound`` is raised.
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
    """``path`` for a checkpoint of a conversation, or of one that it is a fork of. Raises ``NotFound`` for others.
    ``known`` are the conversation's turns, and ``has`` says whether a turn has an entry by now.
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
    """Whether a conversation is a fork that continues from a checkpoint of another one, or from a later place."""
    stored, ids = await own.conversation(conversation), {turn.id for turn in known}
    parents = {turn.parent for turn in known} | {None if stored is None else stored.parent}
    for parent in (TurnCheckpoint.of(each) for each in parents if each is not None):
        if parent == checkpoint:
            return True
        for stretch in await path(own, parent) if parent.turn not in ids else []:
            if stretch.turn.id == checkpoint.turn and (stretch.upto is None or checkpoint.offset <= stretch.upto):
                return True
    return False


def _reaches(turn: Turn, offset: int) -> bool:
    """Whether a turn has ``offset`` entries, or may have them by now."""
    if turn.end is None:
        return turn.state is TurnState.RUNNING or offset <= 0
    return offset <= turn.length
