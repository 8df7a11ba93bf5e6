"""The live events of a session: turn after turn, for as long as somebody listens.

Between turns the stream stays open. When the gateway ends it (it is old, this process is about to stop, the session was
deleted, the host fails) it says ``disconnecting``, why, and when to come back.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from codegen_api.conversations import CaughtUp, Conversations, Stretch, TurnEnded, TurnEntry, owner_of
from codegen_api.dialects.everruns.events import SessionTeller, last_spot
from codegen_api.dialects.everruns.families import NESTED, Family
from codegen_api.dialects.everruns.history import turns_behind
from codegen_api.dialects.everruns.ids import START, Spot
from codegen_api.dialects.everruns.rendering import Framed, Renderings, Written
from codegen_api.errors import GatewayError, NotFound, ShuttingDown
from codegen_api.following import Attendant, Leaving, Notice, Quiet, loop_time
from codegen_api.identity import Caller
from codegen_api.runs import Json, to_json
from codegen_api.sse import frame, retry
from codegen_api.stores import Conversation, Turn, TurnState
from codegen_api.telemetry import note

HEARTBEAT = b": heartbeat\n\n"

RETRY_MS = 1000
"""How long a client is to wait before it comes back."""

FAULT_RETRY_MS = 5000
"""The same when the host, or the gateway, has failed: it may fail again at once."""

PORTION = 100
"""Entries of a turn that is over, told at a time."""


class _Gone(Exception):
    """The gateway ends the stream, and says why."""

    def __init__(self, reason: str, retry_ms: int = RETRY_MS, error: GatewayError | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_ms = retry_ms
        self.error = error


class _Removed(Exception):
    """The turn is not there any more, and never began."""


class _AheadOfSession(Exception):
    """A client says that it has events which nobody can have sent."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens to what. ``after`` is the last event that they have; None: they name none.

    Without one the nested family is told everything, and the flat one of the last turn: who says something and listens
    then misses nothing, and whoever does so again does not take an old answer for the new one. ``types`` (none: all)
    and ``exclude`` are the kinds of events that they want and do not want.
    """

    caller: Caller
    family: Family
    session: Conversation
    after: Spot | None
    types: frozenset[str] = frozenset()
    exclude: frozenset[str] = frozenset()

    def wants(self, kind: str) -> bool:
        return (not self.types or kind in self.types) and kind not in self.exclude


async def frames(
    conversations: Conversations, renderings: Renderings, listener: Listener
) -> AsyncGenerator[bytes, None]:
    """The events of a session behind the listener's last one, as server-sent events."""
    yield retry(RETRY_MS) + frame("connected", b'{"status":"connected"}')
    stream = _Stream(conversations, renderings, listener)
    try:
        async with aclosing(stream.told()) as pieces:
            async for piece in pieces:
                yield piece
    except _Gone as gone:
        yield _disconnecting(gone)
    except ShuttingDown:
        yield _disconnecting(_Gone("shutdown"))
    except GatewayError as error:
        note(error.code, error.root_reason)
        at_least = int(max(FAULT_RETRY_MS, (error.retry_after or 0) * 1000))
        yield _disconnecting(_Gone("error", at_least, error))


class _Stream:
    def __init__(self, conversations: Conversations, renderings: Renderings, listener: Listener) -> None:
        self._conversations = conversations
        self._telling = Framed(listener.family, renderings)
        self._listener = listener
        self._caller = listener.caller
        self._session = listener.session.id
        self._patrol = conversations.gateway.patrol(listener.caller)
        self._until = loop_time() + self._patrol.max_age

    async def told(self) -> AsyncGenerator[bytes, None]:
        done, after = await self._beginning()
        while True:
            for turn in await turns_behind(self._conversations, self._caller, self._session, done):
                try:
                    async with aclosing(self._turn(turn, after)) as pieces:
                        async for piece in pieces:
                            if piece:
                                yield piece
                except _Removed:
                    break
                done = turn.number
                self._stay()
            if not await self._another(done):
                yield HEARTBEAT
            self._stay()

    async def _beginning(self) -> tuple[int, Spot]:
        """The number of the turn behind which to begin, and the spot behind which events are told."""
        after, owner = self._listener.after, owner_of(self._caller)
        store, session = self._conversations.store, self._session
        _, last = (await store.ends(owner, [session])).get(session, (None, None))
        latest = 0 if last is None else last.number
        if after is None:
            if last is not None and last.state is TurnState.QUEUED:
                waiting = [state for state in TurnState if not state.over]
                going_on = await store.turns(owner, session, states=waiting, limit=1, newest_first=False)
                latest = min((turn.number for turn in going_on), default=latest)
            return (0 if self._listener.family is NESTED else latest - 1), START
        # whoever has something that is not there has lost their place: they get all of it
        return (after.turn - 1, after) if after > START and after.turn <= latest else (0, START)

    def _stay(self) -> None:
        """
        Raises:
            _Gone: the stream is old.
            InvalidToken: what the listener came with is good no longer.
        """
        self._conversations.require_good(self._caller)
        if loop_time() >= self._until:
            raise _Gone("connection_cycle")

    async def _another(self, number: int) -> bool:
        """Wait for the turn behind ``number``; whether there is one, after a while."""
        within = max(0.0, min(self._patrol.heartbeat, self._until - loop_time()))
        with self._conversations.gateway.attend(self._caller) as attendant:
            coming = asyncio.ensure_future(
                self._conversations.turn_after(self._caller, self._session, number, within=within)
            )
            try:
                await _either(coming, attendant)
                if attendant.leaving.is_set():
                    raise _Gone("shutdown")
                return coming.result() is not None
            except NotFound as error:
                raise _Gone("session_deleted", FAULT_RETRY_MS) from error
            finally:
                await _dropped(coming)

    # -- one turn -----------------------------------------------------------------------------------------------------

    async def _turn(self, turn: Turn, after: Spot) -> AsyncGenerator[bytes, None]:
        """The events of a turn behind ``after``; all of them, when there can be no such event."""
        for start in dict.fromkeys((after, START)):
            teller = SessionTeller(turn, self._telling, self._conversations.late.of(turn.id), start)
            source = self._whole(turn, teller, start) if turn.state.over else self._live(turn, teller, start)
            try:
                async with aclosing(source) as pieces:
                    async for piece in pieces:
                        yield piece
            except _AheadOfSession:
                continue
            return

    async def _whole(self, turn: Turn, teller: SessionTeller[Written], after: Spot) -> AsyncGenerator[bytes, None]:
        """A turn that is over."""
        last = last_spot(turn)
        if after.turn == turn.number and after > last:
            raise _AheadOfSession
        if after == last:
            return  # nobody need be asked
        entries = await self._conversations.entries(self._caller, Stretch(turn, None))
        for start in range(0, len(entries), PORTION):
            portion = entries[start : start + PORTION]
            yield self._written(teller.take([TurnEntry(n, entry) for n, entry in enumerate(portion, start + 1)]), after)
        yield self._written(teller.over(turn), after)

    async def _live(self, turn: Turn, teller: SessionTeller[Written], after: Spot) -> AsyncGenerator[bytes, None]:
        """A turn whose end has not been seen."""
        if turn.state is TurnState.RUNNING:
            await self._conversations.require_right(self._caller, turn)
            yield self._written(teller.begin(), after)
        async with aclosing(self._conversations.follow(self._caller, turn)) as progress:
            async for news in progress:
                match news:
                    case CaughtUp(offset=offset):
                        await self._check(turn, after, offset)
                        yield self._written(teller.begin(), after)
                    case TurnEnded(turn=over):
                        if after.turn == turn.number and after > last_spot(over):
                            raise _AheadOfSession
                        yield self._written(teller.over(over), after)
                    case Leaving():
                        self._conversations.require_good(self._caller)
                        raise _Gone("connection_cycle")
                    case Quiet() | Notice():
                        yield HEARTBEAT
                        await self._look_for(turn)
                    case _:
                        yield self._written(teller.take(news), after)
                self._stay()

    async def _check(self, turn: Turn, after: Spot, offset: int) -> None:
        """
        Raises:
            _Ahead: ``after`` is in a part of the turn that does not exist.
        """
        # another instance may have read further than this one
        ahead = after.turn == turn.number and after.offset > offset
        if ahead and not await self._conversations.has(self._caller, turn, after.offset):
            raise _AheadOfSession

    async def _look_for(self, turn: Turn) -> None:
        """
        Raises:
            _Gone: the session was deleted.
            _Removed: the turn was taken back, because another one had come before it.
        """
        owner, store = owner_of(self._caller), self._conversations.store
        if await store.turn(owner, turn.id) is None:
            if await store.conversation(owner, self._session) is None:
                raise _Gone("session_deleted", FAULT_RETRY_MS)
            raise _Removed

    def _written(self, events: Iterable[Written], after: Spot) -> bytes:
        return b"".join(event.frame for event in events if event.spot > after and self._listener.wants(event.kind))


async def _either(coming: "asyncio.Task[Turn | None]", attendant: Attendant) -> None:
    """Until something has come, or it is time to leave."""
    leaving = asyncio.ensure_future(attendant.leaving.wait())
    try:
        either: set[asyncio.Future[Any]] = {coming, leaving}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _dropped(leaving)


async def _dropped(task: "asyncio.Task[Any]") -> None:
    """A task that nobody waits for any more, whatever became of it."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def _disconnecting(gone: _Gone) -> bytes:
    """The last words of a stream, jittered, so that not all come back together."""
    milliseconds = int(gone.retry_ms * random.uniform(1, 2))  # noqa: S311 - spreads load only
    data: dict[str, Json] = {"reason": gone.reason, "retry_ms": milliseconds}
    if gone.error is not None:
        data["error"] = {"code": gone.error.code, "message": gone.error.message}
    return retry(milliseconds) + frame("disconnecting", to_json(data))
