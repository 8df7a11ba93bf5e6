"""The live events of a session: turn after turn, for as long as somebody listens.

Between turns the stream stays open. When the gateway ends it (it is old, this process is about to stop, the session was
deleted, the host fails) it says ``disconnecting``, why, and when to come back.
"""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from codegen_api.conversations import CallerConversations, StreamLife, tell
from codegen_api.dialects.everruns.events import SessionTeller, last_spot
from codegen_api.dialects.everruns.families import NESTED, Family
from codegen_api.dialects.everruns.history import turns_behind
from codegen_api.dialects.everruns.ids import START, Spot
from codegen_api.dialects.everruns.rendering import EventFrame, FrameStyle
from codegen_api.errors import GatewayError, NotFound, ShuttingDown, StreamCut
from codegen_api.runs import Json, to_json
from codegen_api.sse import frame, retry
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import note

HEARTBEAT = b": heartbeat\n\n"

RETRY_MS = 1000
"""How long a client is to wait before it comes back."""

FAULT_RETRY_MS = 5000
"""The same when the host, or the gateway, has failed: it may fail again at once."""

CONNECTED = retry(RETRY_MS) + frame("connected", b'{"status":"connected"}')
"""How a stream begins."""


class _Deleted(Exception):
    """The session is not there any more."""


class _Removed(Exception):
    """The turn is not there any more, and never began."""


@dataclass
class Listener:
    """Who listens to what. ``after`` is the last event that they have; None: they name none.

    Without one the nested family is told everything, and the flat one of the last turn: who says something and listens
    then misses nothing, and whoever does so again does not take an old answer for the new one. ``types`` (none: all)
    and ``exclude`` are the kinds of events that they want and do not want.
    """

    conversations: CallerConversations
    family: Family
    session: str
    after: Spot | None
    types: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._style = FrameStyle(self.family, self.conversations.step, self.conversations.rendered)
        self._life = StreamLife(self.conversations)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The events of the session behind the last one, as server-sent events."""
        yield CONNECTED
        try:
            async with aclosing(self._told()) as pieces:
                async for piece in pieces:
                    if piece:
                        yield piece
        except _Deleted:
            yield _disconnecting("session_deleted", FAULT_RETRY_MS)
        except StreamCut as cut:
            yield _disconnecting("shutdown" if cut.is_shutdown else "connection_cycle")
        except ShuttingDown:
            yield _disconnecting("shutdown")
        except GatewayError as error:
            note(error.code, error.root_reason)
            yield _disconnecting("error", int(max(FAULT_RETRY_MS, (error.retry_after or 0) * 1000)), error)

    def _wants(self, kind: str) -> bool:
        return (not self.types or kind in self.types) and kind not in self.exclude

    async def _told(self) -> AsyncGenerator[bytes, None]:
        done, after = await self._beginning()
        while True:
            for turn in await turns_behind(self.conversations, self.session, done):
                try:
                    async with aclosing(self._turn(turn, after)) as pieces:
                        async for piece in pieces:
                            yield piece
                except _Removed:
                    break
                done = turn.number
                self._life.check()
            if not await self._another(done):
                yield HEARTBEAT
            self._life.check()

    async def _beginning(self) -> tuple[int, Spot]:
        """The number of the turn behind which to begin, and the spot behind which events are told."""
        after, session = self.after, self.session
        _, last = (await self.conversations.ends([session])).get(session, (None, None))
        latest = 0 if last is None else last.number
        if after is None:
            if last is not None and last.state is TurnState.QUEUED:
                waiting = [state for state in TurnState if not state.over]
                going_on = await self.conversations.turns(session, states=waiting, limit=1, newest_first=False)
                latest = min((turn.number for turn in going_on), default=latest)
            return (0 if self.family is NESTED else latest - 1), START
        # whoever has something that is not there has lost their place: they get all of it
        return (after.turn - 1, after) if after > START and after.turn <= latest else (0, START)

    async def _another(self, number: int) -> bool:
        """Wait for the turn behind ``number``; whether there is one, after a while."""
        within = min(self._life.heartbeat, self._life.left)
        async with self.conversations.attend() as attendant:
            try:
                coming = await self.conversations.turn_after(
                    self.session, number, within=within, leaving=attendant.leaving
                )
            except NotFound as error:
                raise _Deleted from error
            return coming is not None

    async def _turn(self, turn: Turn, after: Spot) -> AsyncGenerator[bytes, None]:
        """The events of a turn behind ``after``; all of them, when there can be no such event."""
        if turn.state.over and after == last_spot(turn):
            return  # nobody need be asked
        runs = turn.state is TurnState.RUNNING
        if runs:
            await self.conversations.require_right(turn)

        def teller(is_believed: bool) -> SessionTeller[EventFrame]:
            changes = self.conversations.changes_of(turn)
            return SessionTeller(turn, self._style, changes, after if is_believed else START)

        async with aclosing(tell(self.conversations, turn, teller, at_once=runs)) as told:
            async for events in told:
                if events is None:
                    yield HEARTBEAT
                    await self._look_for(turn)
                else:
                    yield b"".join(event.frame for event in events if self._wants(event.kind))
                self._life.check()

    async def _look_for(self, turn: Turn) -> None:
        """
        Raises:
            _Deleted: the session was.
            _Removed: the turn was taken back, because another one had come before it.
        """
        if await self.conversations.turn(turn.id) is None:
            if await self.conversations.conversation(self.session) is None:
                raise _Deleted
            raise _Removed


def _disconnecting(reason: str, retry_ms: int = RETRY_MS, error: GatewayError | None = None) -> bytes:
    """The last words of a stream, jittered, so that not all come back together."""
    milliseconds = int(retry_ms * random.uniform(1, 2))  # noqa: S311 - spreads load only
    data: dict[str, Json] = {"reason": reason, "retry_ms": milliseconds}
    if error is not None:
        data["error"] = {"code": error.code, "message": error.message}
    return retry(milliseconds) + frame("disconnecting", to_json(data))
