"""A turn as a response that lasts: its events, or, for who only waits, signs of life and then the outcome."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

from fastapi import Request

from codegen_api.conversations import CaughtUp, Conversations, TurnEnded
from codegen_api.dialects.agent_protocol.events import WHOLE_STATES, ThreadTeller, encoded, interrupt
from codegen_api.dialects.agent_protocol.rendering import PLACES, Wording
from codegen_api.dialects.agent_protocol.state import messages_before, turn_values
from codegen_api.errors import GatewayError
from codegen_api.following import Leaving, Notice, Quiet
from codegen_api.identity import Caller
from codegen_api.parts import parts_of
from codegen_api.runs import Json, to_json
from codegen_api.sse import BEAT, STREAM_HEADERS, Cut, EventStream, beating
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import note

HEARTBEAT = b": heartbeat\n"
"""One line: after a blank one, clients in JavaScript believe in an event."""

UNFINISHED = b": unfinished, go on behind the last id\n"

SIGN_OF_LIFE = b"\n"
"""Whitespace before the JSON that somebody waits for."""

Ending = Callable[[Turn], Awaitable[None]]


class _Ahead(Exception):
    """A client says that it has events which nobody can have sent."""


async def events(
    conversations: Conversations,
    caller: Caller,
    turn: Turn,
    *,
    modes: frozenset[str],
    after: int,
    wording: Wording,
    statuses: Mapping[TurnState, str],
    at_end: Ending,
) -> AsyncGenerator[bytes, None]:
    """The events of a turn behind number ``after``; all of them, when there can be no such number."""
    before: Sequence[bytes] = ()
    try:
        if turn.state is TurnState.QUEUED:
            async with aclosing(conversations.waiting(caller, turn)) as looks:
                async for turn in looks:  # noqa: PLR1704 - it is the same one, as it is now
                    if turn.state is TurnState.QUEUED:
                        yield HEARTBEAT
            if turn.state is TurnState.QUEUED:
                raise Cut
        if turn.state is TurnState.WITHDRAWN:
            modes = frozenset()  # nothing of it was ever said
        if WHOLE_STATES & modes:
            before = encoded(await messages_before(conversations, caller, turn))
        for start in dict.fromkeys((after, 0)):
            changes = conversations.late.of(turn.id)
            teller = ThreadTeller(
                turn, wording, modes=modes, after=start, before=before, changes=changes, statuses=statuses
            )
            try:
                async with aclosing(_told(conversations, caller, turn, teller, at_end)) as told:
                    async for piece in told:
                        yield piece
            except _Ahead:
                continue
            return
    except GatewayError as error:
        note(error.code, error.root_reason)
        yield b"event: error\ndata: %b\n\n" % to_json({"error": error.code, "message": error.message})


async def _told(
    conversations: Conversations, caller: Caller, turn: Turn, teller: ThreadTeller, at_end: Ending
) -> AsyncGenerator[bytes, None]:
    claims_more = False
    if begun := teller.begin():
        yield begun
    async with aclosing(beating(conversations.follow(caller, turn), BEAT)) as progress:
        async for news in progress:
            match news:
                case CaughtUp(offset=offset):
                    claimed = teller.after // PLACES
                    # another instance may have read further than this one; behind the last entry stands the end
                    claims_more = claimed > offset and not await conversations.has(caller, turn, claimed)
                    if claims_more and claimed > offset + 1:
                        raise _Ahead
                case TurnEnded(turn=over):
                    if teller.after > teller.end:
                        raise _Ahead
                    teller.after = min(teller.after, teller.end - 1)  # whoever asks for the end again is told of it
                    yield teller.over(over)
                    await at_end(over)
                case Leaving():
                    conversations.require_good(caller)
                    yield UNFINISHED
                    raise Cut
                case None | Quiet() | Notice():
                    yield HEARTBEAT
                case _:
                    if claims_more:
                        raise _Ahead
                    if piece := teller.take(news):
                        yield piece


async def outcome(
    conversations: Conversations, caller: Caller, turn: Turn, at_end: Ending
) -> AsyncGenerator[bytes, None]:
    """What came of a turn, when it is over: the state of the thread, or ``__error__``."""
    try:
        async with aclosing(beating(conversations.follow(caller, turn), BEAT)) as progress:
            async for news in progress:
                match news:
                    case TurnEnded(turn=over):
                        yield to_json(await _values(conversations, caller, over))
                        await at_end(over)
                    case Leaving():
                        conversations.require_good(caller)
                        raise Cut
                    case None | Quiet() | Notice():
                        yield SIGN_OF_LIFE
                    case _:
                        pass
    except GatewayError as error:
        note(error.code, error.root_reason)
        yield to_json({"__error__": {"error": error.code, "message": error.message}})


async def _values(conversations: Conversations, caller: Caller, turn: Turn) -> Mapping[str, Json]:
    if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
        kind = "OutcomeUnknown" if turn.state is TurnState.UNKNOWN else "RunFailed"
        return {"__error__": {"error": kind, "message": turn.error or "The run has failed."}}
    values = await turn_values(conversations, caller, turn)
    return {**values, "__interrupt__": [interrupt(turn)]} if turn.state is TurnState.WAITING else values


class Abandoning:
    """Stops a turn when its client leaves before the end, where they have asked for that."""

    def __init__(self, conversations: Conversations, caller: Caller, turn: Turn) -> None:
        self._conversations = conversations
        self._caller = caller
        self._turn = turn
        self._kept = False

    async def watched(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """``pieces``; when they end by themselves, or we break them off, nothing is to be stopped."""
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except Cut:
            self._kept = True
            raise
        self._kept = True

    async def aclose(self) -> None:
        if not self._kept:
            self._conversations.abandon(self._caller, self._turn)


def response(
    request: Request,
    pieces: AsyncGenerator[bytes, None],
    media_type: str,
    headers: Mapping[str, str],
    abandoning: Abandoning | None = None,
) -> EventStream:
    return EventStream(
        pieces if abandoning is None else abandoning.watched(pieces),
        media_type=media_type,
        headers={"Content-Type": media_type, **STREAM_HEADERS, **headers},  # or a charset would be added to it
        stall_seconds=parts_of(request).stall_seconds,
        connection=request.scope["connection"],
        source=abandoning,
    )
