"""Responses about a turn: its description as a run, its events, or its outcome once it is over.

Clients that wait for an event or an outcome get signs of life until then.
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
from codegen_api.dialects.agent_protocol.messages import human_message, interrupts
from codegen_api.dialects.agent_protocol.rendering import EntryRenderer
from codegen_api.dialects.agent_protocol.state import messages_before, turn_values
from codegen_api.dialects.agent_protocol.wire import moment
from codegen_api.errors import GatewayError, StreamCut
from codegen_api.http.parts import parts_of
from codegen_api.http.sse import HEARTBEAT_SECONDS, STREAM_HEADERS, lasting, with_heartbeats
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.telemetry import note

EVENTS_TYPE = "text/event-stream"
"""Without a charset, as SDKs expect it."""

HEARTBEAT = b": heartbeat\n"
"""Without a blank line, after which JavaScript clients would see an event."""

UNFINISHED = b": unfinished, go on behind the last id\n"

SIGN_OF_LIFE = b"\n"
"""White space before the JSON of an outcome."""


def location_headers(turn: Turn, kind: str) -> dict[str, str]:
    """Where the run is. SDKs append these paths to their base URL, so they leave out the gateway's own prefix."""
    place = f"/threads/{quote(turn.conversation, safe='')}/runs/{turn.id}"
    return {"Location": f"{place}/{kind}", "Content-Location": place}


def states_with_status(statuses: Mapping[TurnState, str], status: str | None, where: str) -> list[TurnState] | None:
    """The states with this status, or None for all. ``where`` is the part of the request that has the status.

    Raises:
        Rejected: no run ever has this status.
    """
    if status is None:
        return None
    if status not in ("timeout", *statuses.values()):  # the protocol has "timeout", but no run ends like this
        raise rejected(f"must be one of {', '.join(sorted(set(statuses.values())))}", "enum", where, "status")
    return [state for state in TurnState if statuses[state] == status]


class RunResponder:
    """Responses about runs to one request. With ``stop_on_disconnect``, a client that leaves before the end stops the
    run. With ``delete_thread``, the thread is deleted when the end has been sent.
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
            "input": {"messages": [human_message(message) for message in turn.messages]},
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
        delete_thread: bool = False,
        stop_on_disconnect: bool = False,
    ) -> Response:
        """The events after the last one seen; all events, if the turn cannot have that one."""
        if not modes:
            remembered = turn.options.get("stream_mode")
            modes = [str(mode) for mode in remembered] if isinstance(remembered, list) else ["values"]
        pieces = self._events(turn, frozenset(modes), position(turn, last_event_id), delete_thread=delete_thread)
        return self._stream_response(turn, pieces, EVENTS_TYPE, "stream", stop_on_disconnect=stop_on_disconnect)

    def outcome(self, turn: Turn, *, delete_thread: bool = False, stop_on_disconnect: bool = False) -> Response:
        """The outcome of a turn, once it is over: the state of the thread, or ``__error__``."""
        pieces = self._outcome(turn, delete_thread=delete_thread)
        return self._stream_response(turn, pieces, "application/json", "join", stop_on_disconnect=stop_on_disconnect)

    async def _events(
        self, turn: Turn, modes: frozenset[str], after: int, *, delete_thread: bool
    ) -> AsyncGenerator[bytes, None]:
        conversations = self.conversations
        before: Sequence[bytes] = ()
        try:
            if turn.state is TurnState.QUEUED:
                async with aclosing(conversations.waiting(turn)) as looks:
                    async for turn in looks:  # noqa: PLR1704 - the same turn, as it is now
                        if turn.state is TurnState.QUEUED:
                            yield HEARTBEAT
                if turn.state is TurnState.QUEUED:
                    raise StreamCut
            if turn.state is TurnState.WITHDRAWN:
                modes = frozenset()  # the host never got its messages
            if WHOLE_STATES & modes:
                before = [to_json(message) for message in await messages_before(conversations, turn)]
            renderer = EntryRenderer(turn, modes, conversations.step, conversations.rendered)

            def teller(is_believed: bool) -> ThreadTeller:
                start, changes = after if is_believed else 0, conversations.changes_of(turn)
                return ThreadTeller(renderer, after=start, before=before, changes=changes, statuses=self.statuses)

            try:
                async with aclosing(
                    with_heartbeats(tell(conversations, turn, teller, at_once=True), HEARTBEAT_SECONDS)
                ) as pieces:
                    async for piece in pieces:
                        if piece is None:
                            yield HEARTBEAT
                        elif piece:
                            yield piece
            except StreamCut:
                yield UNFINISHED
                raise
            await self._finish(turn, delete_thread=delete_thread)
        except GatewayError as error:
            note(error.code, error.root_reason)
            yield b"event: error\ndata: %b\n\n" % to_json({"error": error.code, "message": error.message})

    async def _outcome(self, turn: Turn, *, delete_thread: bool) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(with_heartbeats(updates(self.conversations, turn), HEARTBEAT_SECONDS)) as news:
                async for update in news:
                    if update is None:
                        yield SIGN_OF_LIFE
                    elif isinstance(update, TurnEnded):
                        yield to_json(await self._values(update.turn))
                        await self._finish(turn, delete_thread=delete_thread)
        except GatewayError as error:
            note(error.code, error.root_reason)
            yield to_json({"__error__": {"error": error.code, "message": error.message}})

    async def _finish(self, turn: Turn, *, delete_thread: bool) -> None:
        if delete_thread:
            await self.conversations.remove_conversation(turn.conversation)

    async def _values(self, turn: Turn) -> Mapping[str, Json]:
        if turn.state in (TurnState.FAILED, TurnState.UNKNOWN):
            return {"__error__": failure(turn)}
        values = await turn_values(self.conversations, turn)
        if turn.state is not TurnState.WAITING:
            return values
        return {**values, "__interrupt__": interrupts(turn, await pending_of(self.conversations, turn))}

    def _stream_response(
        self, turn: Turn, pieces: AsyncGenerator[bytes, None], media_type: str, kind: str, *, stop_on_disconnect: bool
    ) -> Response:
        # as a header, because Starlette would add a charset to the media type
        headers = {"Content-Type": media_type, **STREAM_HEADERS, **location_headers(turn, kind)}
        stopper = StopOnDisconnect(self.conversations, turn) if stop_on_disconnect else None
        pieces = pieces if stopper is None else stopper.watch(pieces)
        return lasting(self.request, pieces, media_type, headers, stopper)


@dataclass
class StopOnDisconnect:
    """Stops a turn when its client leaves before the end of what ``watch`` passes on."""

    conversations: CallerConversations
    turn: Turn
    completed: bool = False

    async def watch(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """``pieces``. If they end, or the gateway breaks them off, the turn is not stopped."""
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        except StreamCut:
            self.completed = True
            raise
        self.completed = True

    async def aclose(self) -> None:
        if not self.completed:
            self.conversations.abandon(self.turn)


async def responder(request: Request, conversations: MyConversations) -> RunResponder:
    return RunResponder(request, conversations)


Responder = Annotated[RunResponder, Depends(responder)]
