"""The events of a session: those so far, and live streams, which stay open between turns.

When the gateway ends a stream (it is old, this process stops, the session was deleted, the host fails), the event
``disconnecting`` says why, and when to reconnect.
"""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from codegen_api.conversations import CallerConversations, StreamLife, Stretch, TurnEntry, heard_of, tell
from codegen_api.dialects.everruns.events import EventRenderer, SessionEvent, SessionTeller, last_spot, unrendered
from codegen_api.dialects.everruns.families import NESTED, START, Family, Spot
from codegen_api.dialects.everruns.messages import SessionMessage
from codegen_api.dialects.everruns.rendering import EventFrame, FrameRenderer
from codegen_api.errors import GatewayError, NotFound, ShuttingDown, StreamCut
from codegen_api.http.sse import frame, retry
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import note

TURNS_AT_A_TIME = 50

HEARTBEAT = b": heartbeat\n\n"

RETRY_MS = 1000
"""The delay before a client reconnects."""

FAULT_RETRY_MS = 5000
"""The delay after a failure of the host or the gateway, which may fail again at once."""

CONNECTED = retry(RETRY_MS) + frame("connected", b'{"status":"connected"}')
"""The first frames of a stream."""


# -- lists ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events between ``after`` and ``before`` (exclusive) for which ``predicate`` holds: at most ``limit``, the
    first or the ``newest``.
    """

    after: Spot = START
    before: Spot | None = None
    predicate: Callable[[SessionEvent], bool] = lambda _: True
    limit: int | None = None
    newest: bool = False

    def matches(self, event: SessionEvent) -> bool:
        return self.after < event.spot and (self.before is None or event.spot < self.before) and self.predicate(event)


async def turns_after(conversations: CallerConversations, session: str, number: int) -> list[Turn]:
    """The turns of a session after number ``number``, in order. Reads only as far back as necessary."""
    found: list[Turn] = list(await conversations.turns(session, limit=1))
    while found and found[-1].number > number + 1:
        more = await conversations.turns(session, limit=TURNS_AT_A_TIME, offset=len(found))
        seen = {turn.id for turn in found}  # a turn that began meanwhile shifts the offsets
        found += [turn for turn in more if turn.id not in seen]
        if len(more) < TURNS_AT_A_TIME:
            break
    return [turn for turn in reversed(found) if turn.number > number]


async def messages_of(conversations: CallerConversations, session: str) -> list[SessionMessage]:
    """The messages of a session so far."""
    events = await events_of(conversations, session, EventFilter())
    # a message that was sent again keeps its place
    return list({event.message.id: event.message for event in events if event.message is not None}.values())


async def events_of(conversations: CallerConversations, session: str, wanted: EventFilter) -> list[SessionEvent]:
    """The events of a session so far, in order. A reader whose position is in a turn that does not exist gets all of
    them.
    """
    turns = await turns_after(conversations, session, max(0, wanted.after.turn - 1))
    if not turns and wanted.after > START:
        wanted = replace(wanted, after=START)
        turns = await turns_after(conversations, session, 0)
    stretches: list[list[SessionEvent]] = []
    count = 0
    for turn in reversed(turns) if wanted.newest else turns:
        found = [event for event in await _events(conversations, turn, wanted) if wanted.matches(event)]
        stretches.append(found)
        count += len(found)
        if wanted.limit is not None and count >= wanted.limit:
            break
    events = [event for found in (reversed(stretches) if wanted.newest else stretches) for event in found]
    if wanted.limit is None:
        return events
    return events[max(0, len(events) - wanted.limit) :] if wanted.newest else events[: wanted.limit]


async def _events(conversations: CallerConversations, turn: Turn, wanted: EventFilter) -> Sequence[SessionEvent]:
    if not heard_of(turn):
        return ()
    is_over = turn.state.over
    if (is_over and last_spot(turn) <= wanted.after) or (
        wanted.before is not None and wanted.before <= Spot(turn.number, 0, 0)
    ):
        return ()  # the log is not needed
    renderer = EventRenderer(conversations.step, unrendered)
    teller = SessionTeller(turn, renderer, conversations.changes_of(turn), wanted.after)
    entries = await conversations.entries(Stretch(turn, None))
    events = list(teller.take([TurnEntry(offset, entry) for offset, entry in enumerate(entries, 1)]))
    return [*events, *teller.over(turn)] if is_over else events


# -- live -------------------------------------------------------------------------------------------------------------


class _SessionDeleted(Exception):
    """The session does not exist any more."""


class _TurnRemoved(Exception):
    """The turn does not exist any more, and never began."""


@dataclass
class Listener:
    """A listener to a session. ``after`` is the last event that it has; None if it names none.

    Without one, the nested family gets everything, and the flat one the last turn: a client that sends a message and
    then listens misses nothing of the answer, and does not mistake an older answer for it. ``types`` (none: all) and
    ``exclude`` are the kinds of events that it selects and excludes.
    """

    conversations: CallerConversations
    family: Family
    session: str
    after: Spot | None
    types: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._renderer = FrameRenderer(self.family, self.conversations.step, self.conversations.rendered)
        self._life = StreamLife(self.conversations)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The stream, as server-sent events."""
        yield CONNECTED
        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    if piece:
                        yield piece
        except _SessionDeleted:
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

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        done, after = await self._start()
        while True:
            for turn in await turns_after(self.conversations, self.session, done):
                try:
                    async with aclosing(self._turn_pieces(turn, after)) as pieces:
                        async for piece in pieces:
                            yield piece
                except _TurnRemoved:
                    break
                done = turn.number
                self._life.check()
            if not await self._wait_for_turn_after(done):
                yield HEARTBEAT
            self._life.check()

    async def _start(self) -> tuple[int, Spot]:
        """The number of the turn and the spot after which to begin."""
        after, session = self.after, self.session
        _, last = (await self.conversations.ends([session])).get(session, (None, None))
        latest = 0 if last is None else last.number
        if after is None:
            if last is not None and last.state is TurnState.QUEUED:
                waiting = [state for state in TurnState if not state.over]
                going_on = await self.conversations.turns(session, states=waiting, limit=1, newest_first=False)
                latest = min((turn.number for turn in going_on), default=latest)
            return (0 if self.family is NESTED else latest - 1), START
        # a listener whose position does not exist gets everything
        return (after.turn - 1, after) if after > START and after.turn <= latest else (0, START)

    async def _wait_for_turn_after(self, number: int) -> bool:
        """Wait for the turn after ``number``, one heartbeat long. True if it has come."""
        within = min(self._life.heartbeat, self._life.left)
        async with self.conversations.attend() as attendant:
            try:
                coming = await self.conversations.turn_after(
                    self.session, number, within=within, leaving=attendant.leaving
                )
            except NotFound as error:
                raise _SessionDeleted from error
            return coming is not None

    async def _turn_pieces(self, turn: Turn, after: Spot) -> AsyncGenerator[bytes, None]:
        """The events of a turn after ``after``; all of them, if the turn cannot have that one."""
        if turn.state.over and after == last_spot(turn):
            return  # the log is not needed
        runs = turn.state is TurnState.RUNNING
        if runs:
            await self.conversations.require_right(turn)

        def teller(is_believed: bool) -> SessionTeller[EventFrame]:
            changes = self.conversations.changes_of(turn)
            return SessionTeller(turn, self._renderer, changes, after if is_believed else START)

        async with aclosing(tell(self.conversations, turn, teller, at_once=runs)) as batches:
            async for events in batches:
                if events is None:
                    yield HEARTBEAT
                    await self._check_still_there(turn)
                else:
                    yield b"".join(event.frame for event in events if self._wants(event.kind))
                self._life.check()

    async def _check_still_there(self, turn: Turn) -> None:
        """
        Raises:
            _SessionDeleted: the session was deleted.
            _TurnRemoved: the turn was taken back, because another one preceded it.
        """
        if await self.conversations.turn(turn.id) is None:
            if await self.conversations.conversation(self.session) is None:
                raise _SessionDeleted
            raise _TurnRemoved


def _disconnecting(reason: str, retry_ms: int = RETRY_MS, error: GatewayError | None = None) -> bytes:
    """The last event of a stream, with a jittered delay, so that clients do not reconnect together."""
    milliseconds = int(retry_ms * random.uniform(1, 2))  # noqa: S311 - spreads load only
    data: dict[str, Json] = {"reason": reason, "retry_ms": milliseconds}
    if error is not None:
        data["error"] = {"code": error.code, "message": error.message}
    return retry(milliseconds) + frame("disconnecting", to_json(data))
