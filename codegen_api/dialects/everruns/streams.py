"""What happens in a session: what has happened by now, and live events, turn after turn, while somebody listens.

Between turns the stream stays open. When the gateway ends it (it is old, this process is about to stop, the session was
deleted, the host fails) it says ``disconnecting``, why, and when to come back.
"""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from codegen_api.conversations import CallerConversations, StreamLife, Stretch, TurnEntry, heard_of, tell
from codegen_api.dialects.everruns.events import SessionEvent, SessionTeller, Style, as_it_is, last_spot
from codegen_api.dialects.everruns.families import NESTED, START, Family, Spot
from codegen_api.dialects.everruns.messages import SessionMessage
from codegen_api.dialects.everruns.rendering import EventFrame, FrameStyle
from codegen_api.errors import GatewayError, NotFound, ShuttingDown, StreamCut
from codegen_api.runs import Json, to_json
from codegen_api.sse import frame, retry
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import note

TURNS_AT_A_TIME = 50

HEARTBEAT = b": heartbeat\n\n"

RETRY_MS = 1000
"""How long a client is to wait before it comes back."""

FAULT_RETRY_MS = 5000
"""The same when the host, or the gateway, has failed: it may fail again at once."""

CONNECTED = retry(RETRY_MS) + frame("connected", b'{"status":"connected"}')
"""How a stream begins."""


# -- by now -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events: behind ``after`` and before ``before``, and those that ``suits``. Of these ``most``, the first or
    the ``newest``.
    """

    after: Spot = START
    before: Spot | None = None
    suits: Callable[[SessionEvent], bool] = lambda _: True
    most: int | None = None
    newest: bool = False

    def has(self, event: SessionEvent) -> bool:
        return self.after < event.spot and (self.before is None or event.spot < self.before) and self.suits(event)


async def turns_behind(conversations: CallerConversations, session: str, number: int) -> list[Turn]:
    """The turns of a session behind number ``number``, in order: as many are read as there are to tell."""
    found: list[Turn] = list(await conversations.turns(session, limit=1))
    while found and found[-1].number > number + 1:
        more = await conversations.turns(session, limit=TURNS_AT_A_TIME, offset=len(found))
        seen = {turn.id for turn in found}  # one that has begun meanwhile has shifted them
        found += [turn for turn in more if turn.id not in seen]
        if len(more) < TURNS_AT_A_TIME:
            break
    return [turn for turn in reversed(found) if turn.number > number]


async def messages_of(conversations: CallerConversations, session: str) -> list[SessionMessage]:
    """What was said in a session by now."""
    events = await events_of(conversations, session, Wanted())
    # one that was told again stands where it did
    return list({event.message.id: event.message for event in events if event.message is not None}.values())


async def events_of(conversations: CallerConversations, session: str, wanted: Wanted) -> list[SessionEvent]:
    """What has happened in a session by now, in order. Whoever has something of a turn that is not there has lost their
    place, and gets all of it.
    """
    turns = await turns_behind(conversations, session, max(0, wanted.after.turn - 1))
    if not turns and wanted.after > START:
        wanted = replace(wanted, after=START)
        turns = await turns_behind(conversations, session, 0)
    stretches: list[list[SessionEvent]] = []
    count = 0
    for turn in reversed(turns) if wanted.newest else turns:
        found = [event for event in await _events(conversations, turn, wanted) if wanted.has(event)]
        stretches.append(found)
        count += len(found)
        if wanted.most is not None and count >= wanted.most:
            break
    events = [event for found in (reversed(stretches) if wanted.newest else stretches) for event in found]
    if wanted.most is None:
        return events
    return events[max(0, len(events) - wanted.most) :] if wanted.newest else events[: wanted.most]


async def _events(conversations: CallerConversations, turn: Turn, wanted: Wanted) -> Sequence[SessionEvent]:
    if not heard_of(turn):
        return ()
    is_over = turn.state.over
    if (is_over and last_spot(turn) <= wanted.after) or (
        wanted.before is not None and wanted.before <= Spot(turn.number, 0, 0)
    ):
        return ()  # nobody need be asked
    style = Style(conversations.step, as_it_is)
    teller = SessionTeller(turn, style, conversations.changes_of(turn), wanted.after)
    entries = await conversations.entries(Stretch(turn, None))
    events = list(teller.take([TurnEntry(offset, entry) for offset, entry in enumerate(entries, 1)]))
    return [*events, *teller.over(turn)] if is_over else events


# -- live -------------------------------------------------------------------------------------------------------------


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
