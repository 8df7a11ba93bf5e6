"""The stream of a turn. One that breaks off has no end: the client then knows that it lacks something."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from codegen_api.conversations import CallerConversations, TurnEntry, tell
from codegen_api.dialects.ai_sdk.events import ChatEntry, ChatTeller
from codegen_api.dialects.ai_sdk.wire import DONE, HEARTBEAT, chunk, error_text
from codegen_api.errors import GatewayError, ShuttingDown, StreamCut
from codegen_api.stores import Turn
from codegen_api.telemetry import note


async def frames(conversations: CallerConversations, turn: Turn) -> AsyncGenerator[bytes, None]:
    """A turn from its beginning to its end, as it comes.

    Raises:
        StreamCut: it breaks off, and the turn goes on.
    """

    def render(came: TurnEntry) -> ChatEntry:
        return conversations.rendered.of(
            ("ai_sdk", turn.id, came.offset),
            came.entry,
            lambda: ChatEntry.of(turn, came, conversations.step(came.entry)),
            lambda entry: entry.size,
        )

    def teller(_: bool) -> ChatTeller:
        return ChatTeller(turn, conversations.step, render, conversations.changes_of(turn))

    try:
        async with aclosing(tell(conversations, turn, teller, at_once=True)) as told:
            async for piece in told:
                if piece is None:
                    yield HEARTBEAT
                elif piece:
                    yield piece
    except ShuttingDown as error:
        raise StreamCut from error
    except GatewayError as error:
        note(error.code, error.root_reason)
        yield chunk("error", errorText=error_text(error)) + DONE
