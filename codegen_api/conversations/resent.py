"""What of a client's words was said before: some send a message again that may not have arrived, some all of them."""

from collections.abc import Iterable, Mapping

from codegen_api.conversations.caller_store import CallerStore
from codegen_api.errors import IdempotencyKeyReused
from codegen_api.runs import Json
from codegen_api.stores import Turn, TurnState

LOOKED_THROUGH = 50
"""So many of a conversation's turns are looked through for a message, the latest."""


def heard_of(turn: Turn) -> bool:
    """Whether the host has heard of a turn, or may have, or may yet. Of one that it refused the client was told."""
    return turn.state is not TurnState.WITHDRAWN and (turn.state is not TurnState.FAILED or turn.end is not None)


async def said_before(own: CallerStore, conversation: str, message: Mapping[str, Json]) -> Turn | None:
    """The turn in which the user said this, under this id, if the host may have heard it.

    Raises:
        IdempotencyKeyReused: they said something else.
    """
    for turn in await own.turns(conversation, limit=LOOKED_THROUGH):
        for said in turn.messages:
            if heard_of(turn) and said.get("id") == message["id"]:
                if dict(said) != dict(message):
                    raise IdempotencyKeyReused
                return turn
    return None


def said_ids(turns: Iterable[Turn]) -> set[Json]:
    """The ids of the messages that were said in these turns: of those that come again, these are not new."""
    return {message.get("id") for turn in turns for message in turn.messages}
