"""Recognizes what clients send again: a message that may not have arrived, a whole history, or the same request.

A request begins a turn once, however often it is sent, with a key or, by SDKs that retry by themselves, without one.
The turn's id is made from what identifies the request, so a repeat finds the turn under it. If a repeat without a key
cannot be identified, because the first went to another process or came before a restart, bodies are compared.
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
"""The option of a turn that holds the digest of its request's body."""

LOOKED_THROUGH = 50
"""How many turns, the latest ones, are searched for a message or a body."""


def heard_of(turn: Turn) -> bool:
    """Whether the host has received a turn, or may have, or may yet. The client knows of a turn that it refused."""
    return turn.state is not TurnState.WITHDRAWN and (turn.state is not TurnState.FAILED or turn.end is not None)


async def said_before(own: CallerStore, conversation: str, message: Mapping[str, Json]) -> Turn | None:
    """The turn with this message, found by the message's id, if the host may have received it. Raises
    ``IdempotencyKeyReused`` if the message under that id is another one.
    """
    for turn in await own.turns(conversation, limit=LOOKED_THROUGH):
        for said in turn.messages:
            if heard_of(turn) and said.get("id") == message["id"]:
                if dict(said) != dict(message):
                    raise IdempotencyKeyReused
                return turn
    return None


def said_ids(turns: Iterable[Turn]) -> set[Json]:
    """The ids of the messages of these turns: when a client sends them again, they are not new."""
    return {message.get("id") for turn in turns for message in turn.messages}


@dataclass(frozen=True, slots=True)
class TurnIds:
    """The ids for the turn of a request, and for a conversation if it needs a new one. ``options`` are to be stored
    with the turn, ``metadata`` with its conversation.
    """

    turn: str
    conversation: str
    options: Mapping[str, Json]
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Once:
    """Begins the turn of one request once. ``key`` identifies the request to ``route``; None: nothing does."""

    conversations: CallerConversations
    idempotency: Idempotency
    route: str
    key: Key | None

    async def begin(self, body: Json, begin: Callable[[TurnIds], Awaitable[Turn]]) -> Turn:
        """The turn that this request has begun before, brought up to date, or else the one that ``begin`` returns.
        Raises ``IdempotencyKeyReused`` if the key was used with another ``body``.
        """
        if self.key is None:
            return await retried(lambda: begin(TurnIds(new_id(), new_id(), {})))
        series, digest = await self.idempotency.series(self.conversations.caller, self.route, self.key, body)
        name = f"{self.conversations.owner} {self.route} {series.key}"
        turn_id, conversation = (str(uuid.uuid5(NAMESPACE, f"{what} {name}")) for what in ("turn", "conversation"))
        ids = TurnIds(turn_id, conversation, {BODY: digest})
        turn = await retried(lambda: self._find_or_begin(series, ids, begin))
        series.state, series.run = RequestState.DONE, turn.run
        return turn

    async def _find_or_begin(self, series: Series, ids: TurnIds, begin: Callable[[TurnIds], Awaitable[Turn]]) -> Turn:
        turn = await self._find(series, ids)
        if turn is not None:
            return turn
        try:
            return await begin(ids)
        except GatewayError as error:
            # the cause may be this very request, sent twice at the same time
            if isinstance(error, ConversationBusy | NotFound) and (turn := await self._find(series, ids)) is not None:
                return turn
            series.state = None
            raise

    async def _find(self, series: Series, ids: TurnIds) -> Turn | None:
        turn = await self.conversations.turn(ids.turn)
        if turn is not None and not heard_of(turn):
            await self.conversations.remove_turn(turn.id)  # refused by the host, which the client knows
            turn = None
        if turn is None and series.elsewhere and series.counted:
            turn = await self._find_by_body(series, ids)
        if turn is None:
            return None
        if turn.options.get(BODY) != ids.options[BODY]:
            raise IdempotencyKeyReused
        return await self.conversations.as_it_is(turn)

    async def _find_by_body(self, series: Series, ids: TurnIds) -> Turn | None:
        """The newest turn of an equal body that is unfinished or ended lately, and belongs to no other request here."""
        taken = [each.run for each in series.equal or () if each is not series and each.run is not None]
        since = self.conversations.clock() - REPEATED_WITHIN
        for turn in await self.conversations.turns(limit=LOOKED_THROUGH):
            is_recent = not turn.state.over or turn.updated > since
            if turn.options.get(BODY) == ids.options[BODY] and is_recent and heard_of(turn) and turn.run not in taken:
                return turn
        return None
