"""Requests that are sent again: by their key, or, as SDKs do it by themselves, without one.

The id of a turn is made of what tells its request from all others, so that it is there, or it is not. Where a repeat
has none of that, because the first went to another process or came before a restart, equal bodies are looked for.
"""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from codegen_api.conversations import TRIES, CallerConversations, heard_of, new_id
from codegen_api.conversations.resent import LOOKED_THROUGH
from codegen_api.dialects.openai.dependencies import MyConversations
from codegen_api.dialects.openai.wire import own
from codegen_api.errors import Conflict, ConversationBusy, GatewayError, IdempotencyKeyReused, NotFound
from codegen_api.idempotency import Idempotency
from codegen_api.idempotency.keys import REPEATED_WITHIN, Attempt, Key, Series
from codegen_api.idempotency.records import RequestState
from codegen_api.parts import Idempotent
from codegen_api.runs import Json
from codegen_api.stores import Overtaken, Turn
from codegen_api.web import IdempotencyKey

NAMESPACE = uuid.UUID("b1a7cf0a-3a0e-4d0f-9d2e-5f3c3a2f6e11")

COUNT = "x-stainless-retry-count"
"""The header in which SDKs say how often they have sent this before."""


@dataclass(frozen=True, slots=True)
class TurnIds:
    """The ids of the turn of a request, and of the conversation that may be made for it. ``body`` is the digest of what
    was sent, to be kept with the turn.
    """

    turn: str
    conversation: str
    body: str | None = None


class Once:
    """Begins the turn of one request, unless it is there. ``key`` is what the client sent of it."""

    def __init__(self, conversations: CallerConversations, idempotency: Idempotency, key: Key | None) -> None:
        self.conversations = conversations
        self._idempotency = idempotency
        self._key = key

    async def begin(self, body: Json, begin: Callable[[TurnIds], Awaitable[Turn]]) -> Turn:
        """The turn that is there for this ``body``, as it is now, or the one that ``begin`` gives.

        Raises:
            IdempotencyKeyReused: the key was used for another body.
            GatewayError: the host has not begun it, and it can be sent again.
        """
        if self._key is None:
            return await begin(TurnIds(new_id(), new_id()))
        own_, key = self.conversations, self._key
        series, digest = await self._idempotency.series(own_.caller, "openai", key, body)
        turn_id, conversation = (str(uuid.uuid5(NAMESPACE, f"{own_.owner} {what} {series.key}")) for what in "tc")
        ids = TurnIds(turn_id, conversation, digest)
        for _ in range(TRIES):
            turn = await self._there(series, ids)
            if turn is None:
                try:
                    turn = await begin(ids)
                except Overtaken:
                    continue
                except (ConversationBusy, NotFound):  # perhaps by this very request, sent twice
                    turn = await self._there(series, ids)
                    if turn is None:
                        series.state = None
                        raise
                except GatewayError:
                    series.state = None
                    raise
            series.state, series.run = RequestState.DONE, turn.run
            return turn
        raise Conflict("Others are changing this, too; try again.")

    async def _there(self, series: Series, ids: TurnIds) -> Turn | None:
        turn = await self.conversations.turn(ids.turn)
        if turn is not None and not heard_of(turn):
            await self.conversations.remove_turn(turn.id)  # the client was told that it was refused
            turn = None
        if turn is None and series.elsewhere and series.counted:
            turn = await self._equal(series, ids)
        if turn is None:
            return None
        if own(turn.options).get("body") != ids.body:
            raise IdempotencyKeyReused
        await self.conversations.require_right(turn)
        return await self.conversations.find_turn(turn.id)

    async def _equal(self, series: Series, ids: TurnIds) -> Turn | None:
        """The newest turn of an equal body that no other request here has, if it goes on, or ended a moment ago."""
        taken = [each.run for each in series.equal or () if each is not series and each.run is not None]
        since = self.conversations.clock() - REPEATED_WITHIN
        for turn in await self.conversations.turns(limit=LOOKED_THROUGH):
            is_recent = not turn.state.over or turn.updated > since
            if own(turn.options).get("body") == ids.body and is_recent and heard_of(turn) and turn.run not in taken:
                return turn
        return None


async def once(
    request: Request, conversations: MyConversations, idempotency: Idempotent, key: IdempotencyKey = None
) -> Once:
    return Once(conversations, idempotency, key or Attempt.of(request.headers.get(COUNT)))


AtOnce = Annotated[Once, Depends(once)]
