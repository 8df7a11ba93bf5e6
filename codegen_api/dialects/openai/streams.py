"""A response as an answer that lasts: its events, or, for who only waits, signs of life and then all of it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

from codegen_api.conversations import CallerConversations, Stretch, TurnEnded, TurnEntry, frames, pending_of, updates
from codegen_api.dialects.openai.events import ResponseTeller
from codegen_api.dialects.openai.items import Item, ResponseEntry, last_items, settled
from codegen_api.dialects.openai.wire import event, last_event, response_fields
from codegen_api.errors import GatewayError, StreamCut
from codegen_api.runs import Json
from codegen_api.sse import BEAT, beating
from codegen_api.stores import Turn
from codegen_api.telemetry import note
from codegen_api.upstreams import PendingRequest
from codegen_api.worker_thread import encoded

SIGN_OF_LIFE = b"\n"
"""White space before the JSON that somebody waits for."""


async def events(conversations: CallerConversations, turn: Turn, after: int = -1) -> AsyncGenerator[bytes, None]:
    """The events of a response behind number ``after``; all of them, when there can be no such number. Raises
    ``StreamCut`` where it breaks off, and the response goes on.
    """
    told: list[ResponseTeller] = []

    def teller(is_believed: bool) -> ResponseTeller:
        start, changes = after if is_believed else -1, conversations.changes_of(turn)
        told.append(ResponseTeller(turn, partial(rendered, conversations, turn), changes, start))
        return told[-1]

    def failed(error: GatewayError) -> bytes:
        return event(told[-1].number, "error", code=error.code, message=error.message, param=None)

    async with aclosing(frames(conversations, turn, teller, failed=failed)) as pieces:
        async for piece in pieces:
            yield piece
    if told[-1].ended is not None:
        over, pending = told[-1].ended
        try:
            response = await encoded(await described(conversations, over, pending))
        except GatewayError as error:  # it can be had later
            note(error.code, error.root_reason)
            raise StreamCut from error
        yield last_event(told[-1].number, over.state, response)


async def outcome(
    conversations: CallerConversations, turn: Turn, describe: Callable[[Turn], Awaitable[Mapping[str, Json]]]
) -> AsyncGenerator[bytes, None]:
    """A turn when it is over, as it is described. Raises ``StreamCut`` where it breaks off, and the response goes on:
    the client sends its request again, and waits on.
    """
    try:
        async with aclosing(beating(updates(conversations, turn), BEAT)) as news:
            async for update in news:
                if update is None:
                    yield SIGN_OF_LIFE
                elif isinstance(update, TurnEnded):
                    yield await encoded(await describe(update.turn))
    except GatewayError as error:
        note(error.code, error.root_reason)
        raise StreamCut from error


async def described(
    conversations: CallerConversations, turn: Turn, pending: Sequence[PendingRequest] | None = None
) -> dict[str, Json]:
    """A response as it is now, with what has come of it. ``pending`` is what its run waits for, if that is known."""
    pending = await pending_of(conversations, turn) if pending is None else pending
    return response_fields(turn, turn.state, await items_of(conversations, Stretch(turn, None), pending), pending)


async def items_of(
    conversations: CallerConversations, stretch: Stretch, pending: Sequence[PendingRequest] = ()
) -> list[Item]:
    """The items that have come of a turn by now, up to where the stretch goes."""
    turn, entries = stretch.turn, await conversations.entries(stretch)
    came = [TurnEntry(offset, entry) for offset, entry in enumerate(entries, 1)]
    items = [item for each in came for item in rendered(conversations, turn, each).items]
    if turn.state.active or stretch.upto is not None:
        return items
    return [*map(settled, items), *last_items(turn, pending)]


def rendered(conversations: CallerConversations, turn: Turn, came: TurnEntry) -> ResponseEntry:
    return conversations.rendered.of_turn("openai", turn, ResponseEntry.of, conversations.step)(came)
