"""Turns that are begun once, however often a client sends the same request: by its key, or, as some SDKs repeat by
themselves, without one.

The id of a turn is made of what tells its request from all others, so it is there, or it is not. Where a repeat has
none of that, because the first went to another process or came before a restart, equal bodies are looked for.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from codegen_api.conversations.caller_store import TRIES
from codegen_api.conversations.conversations import CallerConversations
from codegen_api.conversations.planning import new_id
from codegen_api.conversations.resent import LOOKED_THROUGH, heard_of
from codegen_api.errors import Conflict, ConversationBusy, GatewayError, IdempotencyKeyReused, NotFound
from codegen_api.idempotency import Idempotency
from codegen_api.idempotency.keys import REPEATED_WITHIN, Key, Series
from codegen_api.idempotency.records import RequestState
from codegen_api.runs import Json
from codegen_api.stores import Overtaken, Turn

NAMESPACE = uuid.UUID("b1a7cf0a-3a0e-4d0f-9d2e-5f3c3a2f6e11")

BODY = "body_digest"
"""Under this name the options of a turn have the digest of what was sent for it."""


@dataclass(frozen=True, slots=True)
class TurnIds:
    """The ids of the turn of a request, and of the conversation that may be made for it. ``options`` are to be kept
    with the turn, ``metadata`` with its conversation.
    """

    turn: str
    conversation: str
    options: Mapping[str, Json]
    metadata: Mapping[str, Json] = field(default_factory=dict)


class Once:
    """Begins the turn of one request, unless it is there. ``key`` is what the client sent of it to ``route``."""

    def __init__(
        self, conversations: CallerConversations, idempotency: Idempotency, route: str, key: Key | None
    ) -> None:
        self.conversations = conversations
        self._idempotency = idempotency
        self._route = route
        self._key = key

    async def begin(self, body: Json, begin: Callable[[TurnIds], Awaitable[Turn]]) -> Turn:
        """The turn that is there for this ``body``, as it is now, or the one that ``begin`` gives.

        Raises:
            IdempotencyKeyReused: the key was used for another body.
            GatewayError: the host has not begun it, and it can be sent again.
        """
        if self._key is None:
            for _ in range(TRIES):
                with suppress(Overtaken):
                    return await begin(TurnIds(new_id(), new_id(), {}))
            raise Conflict("Others are changing this, too; try again.")
        series, digest = await self._idempotency.series(self.conversations.caller, self._route, self._key, body)
        name = f"{self.conversations.owner} {self._route} {series.key}"
        turn_id, conversation = (str(uuid.uuid5(NAMESPACE, f"{what} {name}")) for what in ("turn", "conversation"))
        ids = TurnIds(turn_id, conversation, {BODY: digest})
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
        if turn.options.get(BODY) != ids.options[BODY]:
            raise IdempotencyKeyReused
        await self.conversations.require_right(turn)
        return await self.conversations.find_turn(turn.id)

    async def _equal(self, series: Series, ids: TurnIds) -> Turn | None:
        """The newest turn of an equal body that no other request here has, if it goes on, or ended a moment ago."""
        taken = [each.run for each in series.equal or () if each is not series and each.run is not None]
        since = self.conversations.clock() - REPEATED_WITHIN
        for turn in await self.conversations.turns(limit=LOOKED_THROUGH):
            is_recent = not turn.state.over or turn.updated > since
            if turn.options.get(BODY) == ids.options[BODY] and is_recent and heard_of(turn) and turn.run not in taken:
                return turn
        return None
