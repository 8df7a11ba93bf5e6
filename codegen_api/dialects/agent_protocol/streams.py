"""A turn as a response that lasts: its events, or, for who only waits, signs of life and then the outcome."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

from codegen_api.conversations import CallerConversations, TurnEnded, pending_of, tell, updates
from codegen_api.dialects.agent_protocol.events import WHOLE_STATES, ThreadTeller, failure
from codegen_api.dialects.agent_protocol.interrupts import interrupts
from codegen_api.dialects.agent_protocol.rendering import EntryRenderer
from codegen_api.dialects.agent_protocol.state import messages_before, turn_values
from codegen_api.errors import GatewayError, StreamCut
from codegen_api.runs import Json, to_json
from codegen_api.sse import BEAT, beating
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import note

HEARTBEAT = b": heartbeat\n"
"""One line: after a blank one, clients in JavaScript believe in an event."""

UNFINISHED = b": unfinished, go on behind the last id\n"

SIGN_OF_LIFE = b"\n"
"""Whitespace before the JSON that somebody waits for."""

Ending = Callable[[Turn], Awaitable[None]]


async def events(
    conversations: CallerConversations,
    turn: Turn,
    *,
    modes: frozenset[str],
    after: int,
    wording: EntryRenderer,
    statuses: Mapping[TurnState, str],
    at_end: Ending,
) -> AsyncGenerator[bytes, None]:
    """The events of a turn behind number ``after``; all of them, when there can be no such number."""
    before: Sequence[bytes] = ()
    try:
        if turn.state is TurnState.QUEUED:
            async with aclosing(conversations.waiting(turn)) as looks:
                async for turn in looks:  # noqa: PLR1704 - it is the same one, as it is now
                    if turn.state is TurnState.QUEUED:
                        yield HEARTBEAT
            if turn.state is TurnState.QUEUED:
                raise StreamCut
        if turn.state is TurnState.WITHDRAWN:
            modes = frozenset()  # nothing of it was ever said
        if WHOLE_STATES & modes:
            before = [to_json(message) for message in await messages_before(conversations, turn)]

        def teller(is_believed: bool) -> ThreadTeller:
            start, changes = after if is_believed else 0, conversations.changes_of(turn)
            return ThreadTeller(
                turn, wording, modes=modes, after=start, before=before, changes=changes, statuses=statuses
            )

        try:
            async with aclosing(beating(tell(conversations, turn, teller, at_once=True), BEAT)) as told:
                async for piece in told:
                    if piece is None:
                        yield HEARTBEAT
                    elif piece:
                        yield piece
        except StreamCut:
            yield UNFINISHED
            raise
        await at_end(turn)
    except GatewayError as error:
        note(error.code, error.root_reason)
        yield b"event: error\ndata: %b\n\n" % to_json({"error": error.code, "message": error.message})


async def outcome(conversations: CallerConversations, turn: Turn, at_end: Ending) -> AsyncGenerator[bytes, None]:
    """What came of a turn, when it is over: the state of the thread, or ``__error__``."""
    try:
        async with aclosing(beating(updates(conversations, turn), BEAT)) as news:
            async for update in news:
                if update is None:
                    yield SIGN_OF_LIFE
                elif isinstance(update, TurnEnded):
                    yield to_json(await _values(conversations, update.turn))
                    await at_end(update.turn)
    except GatewayError as error:
        note(error.code, error.root_reason)
        yield to_json({"__error__": {"error": error.code, "message": error.message}})


async def _values(conversations: CallerConversations, turn: Turn) -> Mapping[str, Json]:
    if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
        return {"__error__": failure(turn)}
    values = await turn_values(conversations, turn)
    if turn.state is not TurnState.WAITING:
        return values
    return {**values, "__interrupt__": interrupts(turn, await pending_of(conversations, turn))}


class Abandoning:
    """Stops a turn when its client leaves before the end, where they have asked for that."""

    def __init__(self, conversations: CallerConversations, turn: Turn) -> None:
        self._conversations = conversations
        self._turn = turn
        self._kept = False

    async def watched(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """``pieces``; when they end by themselves, or we break them off, nothing is to be stopped."""
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except StreamCut:
            self._kept = True
            raise
        self._kept = True

    async def aclose(self) -> None:
        if not self._kept:
            self._conversations.abandon(self._turn)
