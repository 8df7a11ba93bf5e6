"""How a turn is answered: described as a run, told in events, or by its outcome when that is there.

Who waits for an event or an outcome gets signs of life until then.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations, TurnEnded, pending_of, tell, updates
from codegen_api.dialects import rejected
from codegen_api.dialects.agent_protocol.dependencies import MyConversations
from codegen_api.dialects.agent_protocol.events import (
    DOCUMENTED_STATUSES,
    STATUSES,
    WHOLE_STATES,
    ThreadTeller,
    failure,
    position,
)
from codegen_api.dialects.agent_protocol.messages import human, interrupts
from codegen_api.dialects.agent_protocol.rendering import EntryRenderer
from codegen_api.dialects.agent_protocol.state import messages_before, turn_values
from codegen_api.dialects.agent_protocol.wire import moment
from codegen_api.errors import GatewayError, StreamCut
from codegen_api.parts import parts_of
from codegen_api.runs import Json, to_json
from codegen_api.sse import HEARTBEAT_SECONDS, STREAM_HEADERS, lasting, with_heartbeats
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import note

EVENTS_TYPE = "text/event-stream"
"""Without a charset, as SDKs know it."""

HEARTBEAT = b": heartbeat\n"
"""One line: after a blank one, clients in JavaScript believe in an event."""

UNFINISHED = b": unfinished, go on behind the last id\n"

SIGN_OF_LIFE = b"\n"
"""Whitespace before the JSON that somebody waits for."""


def places_of(turn: Turn, kind: str) -> dict[str, str]:
    """Where the run is. SDKs put these behind their base URL, so the gateway's own prefix must not stand in them."""
    place = f"/threads/{quote(turn.conversation, safe='')}/runs/{turn.id}"
    return {"Location": f"{place}/{kind}", "Content-Location": place}


def states_called(words: Mapping[TurnState, str], status: str | None, where: str) -> list[TurnState] | None:
    """The states that ``words`` call by this; None for all of them. ``where``: in which part of the request it stood.

    Raises:
        Rejected: no run ever has this status.
    """
    if status is None:
        return None
    if status not in ("timeout", *words.values()):  # that one is the protocol's, and no run is over because of the time
        raise rejected(f"must be one of {', '.join(sorted(set(words.values())))}", "enum", where, "status")
    return [state for state in TurnState if words[state] == status]


class RunAnswers:
    """How runs are answered to one request. Where it ``stops`` them, a client who leaves before the end has stopped
    theirs. Where it ``forgets`` their threads, these are removed when the end has been sent.
    """

    def __init__(self, request: Request, conversations: CallerConversations) -> None:
        self.conversations = conversations
        documented = parts_of(request).documented_statuses
        self.statuses: Mapping[TurnState, str] = DOCUMENTED_STATUSES if documented else STATUSES
        self.request = request

    def fields(self, turn: Turn) -> dict[str, Json]:
        """A run as clients know it."""
        options: dict[str, Any] = dict(turn.options)
        assistant = options.get("assistant_id") or turn.agent
        given: dict[str, Json] = {
            "input": {"messages": [human(message) for message in turn.messages]},
            "config": options.get("config") or {},
            "context": options.get("context") or {},
        }
        return {
            "run_id": turn.id,
            "thread_id": turn.conversation,
            "assistant_id": assistant,
            "agent_id": assistant,
            "status": self.statuses[turn.state],
            "created_at": moment(turn.created),
            "updated_at": moment(turn.updated),
            "metadata": options.get("metadata") or {},
            "multitask_strategy": options.get("multitask_strategy") or "reject",
            **given,
            "kwargs": given,
            "output": None,
            "error_message": turn.error,
        }

    def events(
        self,
        turn: Turn,
        *,
        modes: Sequence[str] = (),
        last_event_id: str | None = None,
        forgets: bool = False,
        stops: bool = False,
    ) -> Response:
        """The events behind the last one seen; all of them, when there can be no such event."""
        if not modes:
            remembered = turn.options.get("stream_mode")
            modes = [str(mode) for mode in remembered] if isinstance(remembered, list) else ["values"]
        pieces = self._events(turn, frozenset(modes), position(turn, last_event_id), forgets=forgets)
        return self._lasting(turn, pieces, EVENTS_TYPE, "stream", stops=stops)

    def outcome(self, turn: Turn, *, forgets: bool = False, stops: bool = False) -> Response:
        """What came of a turn, when it is over: the state of the thread, or ``__error__``."""
        return self._lasting(turn, self._outcome(turn, forgets=forgets), "application/json", "join", stops=stops)

    async def _events(
        self, turn: Turn, modes: frozenset[str], after: int, *, forgets: bool
    ) -> AsyncGenerator[bytes, None]:
        conversations = self.conversations
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
            wording = EntryRenderer(turn, modes, conversations.step, conversations.rendered)

            def teller(is_believed: bool) -> ThreadTeller:
                start, changes = after if is_believed else 0, conversations.changes_of(turn)
                return ThreadTeller(wording, after=start, before=before, changes=changes, statuses=self.statuses)

            try:
                async with aclosing(
                    with_heartbeats(tell(conversations, turn, teller, at_once=True), HEARTBEAT_SECONDS)
                ) as told:
                    async for piece in told:
                        if piece is None:
                            yield HEARTBEAT
                        elif piece:
                            yield piece
            except StreamCut:
                yield UNFINISHED
                raise
            await self._done(turn, forgets=forgets)
        except GatewayError as error:
            note(error.code, error.root_reason)
            yield b"event: error\ndata: %b\n\n" % to_json({"error": error.code, "message": error.message})

    async def _outcome(self, turn: Turn, *, forgets: bool) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(with_heartbeats(updates(self.conversations, turn), HEARTBEAT_SECONDS)) as news:
                async for update in news:
                    if update is None:
                        yield SIGN_OF_LIFE
                    elif isinstance(update, TurnEnded):
                        yield to_json(await self._values(update.turn))
                        await self._done(turn, forgets=forgets)
        except GatewayError as error:
            note(error.code, error.root_reason)
            yield to_json({"__error__": {"error": error.code, "message": error.message}})

    async def _done(self, turn: Turn, *, forgets: bool) -> None:
        if forgets:
            await self.conversations.remove_conversation(turn.conversation)

    async def _values(self, turn: Turn) -> Mapping[str, Json]:
        if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
            return {"__error__": failure(turn)}
        values = await turn_values(self.conversations, turn)
        if turn.state is not TurnState.WAITING:
            return values
        return {**values, "__interrupt__": interrupts(turn, await pending_of(self.conversations, turn))}

    def _lasting(
        self, turn: Turn, pieces: AsyncGenerator[bytes, None], media_type: str, kind: str, *, stops: bool
    ) -> Response:
        # the type is among the headers, or a charset would be added to it
        headers = {"Content-Type": media_type, **STREAM_HEADERS, **places_of(turn, kind)}
        abandoning = Abandoning(self.conversations, turn) if stops else None
        pieces = pieces if abandoning is None else abandoning.watched(pieces)
        return lasting(self.request, pieces, media_type, headers, abandoning)


@dataclass
class Abandoning:
    """Stops a turn when its client leaves before the end, where they have asked for that."""

    conversations: CallerConversations
    turn: Turn
    kept: bool = False

    async def watched(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """``pieces``; when they end by themselves, or we break them off, nothing is to be stopped."""
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except StreamCut:
            self.kept = True
            raise
        self.kept = True

    async def aclose(self) -> None:
        if not self.kept:
            self.conversations.abandon(self.turn)


async def answers(request: Request, conversations: MyConversations) -> RunAnswers:
    return RunAnswers(request, conversations)


Answers = Annotated[RunAnswers, Depends(answers)]
