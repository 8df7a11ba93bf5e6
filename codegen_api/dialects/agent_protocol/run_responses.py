"""How a turn is answered: described as a run, told in events, or by its outcome when that is there."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request
from starlette.responses import Response

from codegen_api.conversations import CallerConversations
from codegen_api.dialects.agent_protocol.dependencies import MyConversations
from codegen_api.dialects.agent_protocol.events import DOCUMENTED_STATUSES, STATUSES, position
from codegen_api.dialects.agent_protocol.messages import human
from codegen_api.dialects.agent_protocol.rendering import EntryRenderer
from codegen_api.dialects.agent_protocol.streams import Abandoning, Ending, events, outcome
from codegen_api.dialects.agent_protocol.wire import moment
from codegen_api.errors import Detail, Rejected
from codegen_api.parts import parts_of
from codegen_api.runs import Json
from codegen_api.sse import STREAM_HEADERS, lasting
from codegen_api.stores import Turn, TurnState

EVENTS_TYPE = "text/event-stream"
"""Without a charset, as SDKs know it."""


async def nothing(_: Turn) -> None:
    """What most runs want done at their end."""


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
        said = f"must be one of {', '.join(sorted(set(words.values())))}"
        raise Rejected(details=[Detail((where, "status"), said, "enum")])
    return [state for state in TurnState if words[state] == status]


class RunAnswers:
    """How runs are answered to one request. Where it ``stops`` them, a client who leaves before the end has stopped
    theirs.
    """

    def __init__(self, request: Request, conversations: CallerConversations) -> None:
        self.conversations = conversations
        documented = parts_of(request).documented_statuses
        self.statuses: Mapping[TurnState, str] = DOCUMENTED_STATUSES if documented else STATUSES
        self._request = request

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
        at_end: Ending = nothing,
        stops: bool = False,
    ) -> Response:
        remembered = turn.options.get("stream_mode")
        chosen = frozenset(
            modes or [str(mode) for mode in (remembered if isinstance(remembered, list) else ["values"])]
        )
        context: dict[str, Json] = {
            "run_id": turn.id,
            "thread_id": turn.conversation,
            "assistant_id": turn.options.get("assistant_id"),
            "graph_id": "agent",
            "tags": [],
        }
        pieces = events(
            self.conversations,
            turn,
            modes=chosen,
            after=position(turn, last_event_id),
            wording=EntryRenderer(turn, chosen, context, self.conversations.step, self.conversations.rendered),
            statuses=self.statuses,
            at_end=at_end,
        )
        return self._lasting(turn, pieces, EVENTS_TYPE, "stream", stops=stops)

    def outcome(self, turn: Turn, *, at_end: Ending = nothing, stops: bool = False) -> Response:
        pieces = outcome(self.conversations, turn, at_end)
        return self._lasting(turn, pieces, "application/json", "join", stops=stops)

    def _lasting(
        self, turn: Turn, pieces: AsyncGenerator[bytes, None], media_type: str, kind: str, *, stops: bool
    ) -> Response:
        # the type is among the headers, or a charset would be added to it
        headers = {"Content-Type": media_type, **STREAM_HEADERS, **places_of(turn, kind)}
        abandoning = Abandoning(self.conversations, turn) if stops else None
        pieces = pieces if abandoning is None else abandoning.watched(pieces)
        return lasting(self._request, pieces, media_type, headers, abandoning)


async def answers(request: Request, conversations: MyConversations) -> RunAnswers:
    return RunAnswers(request, conversations)


Answers = Annotated[RunAnswers, Depends(answers)]
