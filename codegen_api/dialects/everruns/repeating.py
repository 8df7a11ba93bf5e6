"""What is asked for again with an ``Idempotency-Key``: it is found under an id made of the key, and not done again.

So nothing is kept for a key but what was made with it, and a repeat finds that however long after, from any instance.
"""

import re
from collections.abc import Mapping

from codegen_api.conversations import Conversations, new_id, owner_of
from codegen_api.dialects.everruns.families import heard_of
from codegen_api.dialects.everruns.ids import derived_id
from codegen_api.errors import IdempotencyKeyReused, InvalidIdempotencyKey
from codegen_api.identity import Caller
from codegen_api.runs import Json
from codegen_api.stores import Conversation, Turn

LOOKED_THROUGH = 50
"""So many of a session's turns are looked through for a message, the latest."""

REPLAYED = {"Idempotent-Replayed": "true"}

_FORM = re.compile(r"[ -~]{1,255}", re.ASCII)


def id_for(key: str | None, *of: str) -> str:
    """The id of what is made with this key; a new one without a key.

    Raises:
        InvalidIdempotencyKey: it cannot be one.
    """
    if key is None:
        return new_id()
    if not _FORM.fullmatch(key):
        raise InvalidIdempotencyKey
    return derived_id("key", *of, key)


def same_session(asked: Conversation, there: Conversation) -> None:
    """
    Raises:
        IdempotencyKeyReused: what is there was made of something else.
    """
    if (asked.agent, asked.metadata) != (there.agent, there.metadata):
        raise IdempotencyKeyReused


async def said_before(
    conversations: Conversations, caller: Caller, session: str, message: Mapping[str, Json]
) -> Turn | None:
    """The turn in which the user said this, under this id, if the host may have heard it.

    Raises:
        IdempotencyKeyReused: they said something else.
    """
    turns = await conversations.store.turns(owner_of(caller), session, limit=LOOKED_THROUGH)
    for turn in turns:
        for said in turn.messages:
            if heard_of(turn) and said.get("id") == message["id"]:
                if dict(said) != dict(message):
                    raise IdempotencyKeyReused
                return turn
    return None
