"""What clients say twice: messages that may not have arrived, all of them with every request, or the same request.

A request begins a turn once, however often it is sent: by its key, or, as some SDKs repeat by themselves, without one.
The id of a turn is made of what tells its request from all others, so it is there, or it is not. Where a repeat has
none of that, because the first went to another process or came before a restart, equal bodies are looked for.
"""

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from codegen_api.conversations.caller_store import CallerStore, retried
from codegen_api.conversations.conversations import CallerConversations
from codegen_api.conversations.planning import new_id
from codegen_api.errors import ConversationBusy, GatewayError, IdempotencyKeyReused, NotFound
from codegen_api.idempotency import Idempotency
from codegen_api.idempotency.keys import REPEATED_WITHIN, Key, Series
from codegen_api.idempotency.records import RequestState
from codegen_api.runs import Json
from codegen_api.stores import Turn, TurnState

NAMESPACE = uuid.UUID("b1a7cf0a-3a0e-4d0f-9d2e-5f3c3a2f6e11")

BODY = "body_digest"
"""Under this name the options of a turn have the digest of what was sent for it."""

LOOKED_THROUGH = 50
"""So many of a conversation's turns are looked through for a message, the latest."""


def heard_of(turn: Turn) -> bool:
    """Whether the host has heard of a turn, or may have, or may yet. Of one that it refused the client was told."""
    return turn.state is not TurnState.WITHDRAWN and (turn.state is not TurnState.FAILED or turn.end is not None)


async def said_before(own: CallerStore, conversation: str, message: Mapping[str, Json]) -> Turn | None:
    """The turn in which the user said this, under this id, if the host may have heard it; raises
    ``IdempotencyKeyReused`` where they said something else.
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


@dataclass(frozen=True, slots=True)
class TurnIds:
    """The ids of the turn of a request, and of the conversation that may be made for it. ``options`` are to be kept
    with the turn, ``metadata`` with its conversation.
    """

    turn: str
    conversation: str
    options: Mapping[str, Json]
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Once:
    """Begins the turn of one request, unless it is there. ``key`` is what the client sent of it to ``route``."""

    conversations: CallerConversations
    idempotency: Idempotency
    route: str
    key: Key | None

    async def begin(self, body: Json, begin: Callable[[TurnIds], Awaitable[Turn]]) -> Turn:
        """The turn that is there for this ``body``, as it is now, or the one that ``begin`` gives. Raises
        ``IdempotencyKeyReused`` where the key was used for another body.
        """
        if self.key is None:
            return await retried(lambda: begin(TurnIds(new_id(), new_id(), {})))
        series, digest = await self.idempotency.series(self.conversations.caller, self.route, self.key, body)
        name = f"{self.conversations.owner} {self.route} {series.key}"
        turn_id, conversation = (str(uuid.uuid5(NAMESPACE, f"{what} {name}")) for what in ("turn", "conversation"))
        ids = TurnIds(turn_id, conversation, {BODY: digest})
        turn = await retried(lambda: self._begun(series, ids, begin))
        series.state, series.run = RequestState.DONE, turn.run
        return turn

    async def _begun(self, series: Series, ids: TurnIds, begin: Callable[[TurnIds], Awaitable[Turn]]) -> Turn:
        turn = await self._there(series, ids)
        if turn is not None:
            return turn
        try:
            return await begin(ids)
        except GatewayError as error:
            # of a turn or conversation that is busy or not there, this very request may be the reason, sent twice
            if isinstance(error, ConversationBusy | NotFound) and (turn := await self._there(series, ids)) is not None:
                return turn
            series.state = None
            raise

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
        return await self.conversations.as_it_is(turn)

    async def _equal(self, series: Series, ids: TurnIds) -> Turn | None:
        """The newest turn of an equal body that no other request here has, if it goes on, or ended a moment ago."""
        taken = [each.run for each in series.equal or () if each is not series and each.run is not None]
        since = self.conversations.clock() - REPEATED_WITHIN
        for turn in await self.conversations.turns(limit=LOOKED_THROUGH):
            is_recent = not turn.state.over or turn.updated > since
            if turn.options.get(BODY) == ids.options[BODY] and is_recent and heard_of(turn) and turn.run not in taken:
                return turn
        return None
