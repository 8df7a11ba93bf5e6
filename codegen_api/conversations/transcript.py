"""What came of turns, for whoever reads a conversation."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from codegen_api.conversations.caller_store import CallerStore
from codegen_api.conversations.checkpoints import Stretch
from codegen_api.conversations.progress import CaughtUp, TurnEnded
from codegen_api.conversations.turns import Turns
from codegen_api.errors import Unavailable, UpstreamTimeout
from codegen_api.following import Leaving
from codegen_api.runs import Json, LogEntry, Step, to_json
from codegen_api.stores import Turn, TurnState

PATIENCE = 30.0
"""Seconds that somebody waits for what has come of a turn that is under way."""


class Transcript:
    """Reads the stretches of turns."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def entries(self, own: CallerStore, stretch: Stretch) -> tuple[LogEntry, ...]:
        """What has come of a turn by now, up to where the stretch goes.

        Raises:
            GatewayError: the caller may not see it, or the host does not show it just now.
        """
        turn = stretch.turn
        if turn.run is None or stretch.upto == 0 or (turn.end is None and turn.state is not TurnState.RUNNING):
            return ()
        if turn.end is None:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._so_far(own, turn, stretch.upto)
            except TimeoutError as error:
                raise UpstreamTimeout("The host has not shown in time what has come of this turn.") from error
        return await self._so_far(own, turn, stretch.upto)

    async def _so_far(self, own: CallerStore, turn: Turn, upto: int | None) -> tuple[LogEntry, ...]:
        entries: dict[int, LogEntry] = {}
        async with aclosing(self._turns.follow(own, turn)) as progress:
            async for news in progress:
                if isinstance(news, tuple):
                    entries.update((came.offset, came.entry) for came in news)
                if isinstance(news, Leaving):
                    raise Unavailable(retry_after=1)
                if isinstance(news, CaughtUp | TurnEnded) or (upto is not None and len(entries) >= upto):
                    break
        return tuple(entries[offset] for offset in sorted(entries) if upto is None or offset <= upto)


def arguments_of(step: Step) -> Mapping[str, Json]:
    """What a tool was called with, as an object: clients know nothing else."""
    if step.input is None:
        return {}
    return step.input if isinstance(step.input, Mapping) else {"input": step.input}


def output_of(step: Step) -> str:
    """What a tool answered, as a text."""
    if step.output is None:
        return ""
    return step.output if isinstance(step.output, str) else to_json(step.output).decode()
