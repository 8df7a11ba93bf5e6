"""Errors, assistants, threads and items as JSON: pure functions. ``messages`` and ``events`` have the turns."""

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from codegen_api.dialects import detail_fields
from codegen_api.dialects.agent_protocol.messages import interrupts
from codegen_api.errors import GatewayError
from codegen_api.http.web import WAITS, error_headers, json_response, retry_after, status_of, timestamp
from codegen_api.runs import Json, to_json
from codegen_api.stores import Agent, Conversation, Item, Turn, TurnState
from codegen_api.telemetry import request_id
from codegen_api.upstreams import PendingRequest

GRAPH = "agent"
"""The only graph: the host's agent."""

KINDS: Mapping[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "payload_too_large",
    414: "uri_too_long",
    422: "validation_error",
    429: "rate_limited",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
    508: "loop_detected",
}
"""The names of HTTP statuses in this protocol's errors."""

STATUSES: Mapping[str, tuple[TurnState | None, ...]] = {
    "idle": (None, TurnState.COMPLETED, TurnState.CANCELLED, TurnState.WITHDRAWN),
    "busy": (TurnState.QUEUED, TurnState.STARTING, TurnState.RUNNING),
    "interrupted": (TurnState.WAITING,),
    "error": (TurnState.FAILED, TurnState.UNKNOWN),
}
"""The status of a thread, by the state of its latest turn (None: it has no turn)."""


# -- errors -----------------------------------------------------------------------------------------------------------


def error_fields(error: GatewayError) -> dict[str, Json]:
    """An error for all generations of clients: some read ``message``, some ``detail``, and some ``error``."""
    status = status_of(error)
    fields: dict[str, Json] = {
        "error": KINDS[status],
        "message": error.message,
        "detail": error.message,
        "details": detail_fields(error) or None,
        "code": error.code,
        "status_code": status,
        "request_id": request_id(),
    }
    if status in WAITS:
        fields["retry_after"] = retry_after(error)
    return fields


def render_error(error: GatewayError) -> Response:
    return json_response(to_json(error_fields(error)), status_of(error), error_headers(error))


# -- data -------------------------------------------------------------------------------------------------------------


def assistant_fields(agent: Agent) -> dict[str, Json]:
    """An agent as an assistant. Agents created in other dialects belong to the same graph."""
    return {
        "assistant_id": agent.id,
        "graph_id": agent.configuration.get("graph_id", GRAPH),
        "name": agent.name,
        "description": agent.description,
        "config": agent.configuration.get("config", {}),
        "context": agent.configuration.get("context", {}),
        "metadata": agent.metadata,
        "version": agent.version,
        "created_at": moment(agent.created),
        "updated_at": moment(agent.updated),
    }


def agent_fields(agent: Agent) -> dict[str, Json]:
    """An agent as the published protocol describes it."""
    return {
        "agent_id": agent.id,
        "name": agent.name,
        "description": agent.description or "",
        "metadata": agent.metadata,
        "capabilities": {"ap.io.messages": True},
    }


def thread_fields(
    thread: Conversation, latest: Turn | None, values: Json, pending: Sequence[PendingRequest] = ()
) -> dict[str, Json]:
    """A conversation as a thread, with its latest turn, the ``values`` of its state, and what it waits for."""
    state = None if latest is None else latest.state
    waiting = latest is not None and state is TurnState.WAITING
    return {
        "thread_id": thread.id,
        "created_at": moment(thread.created),
        "updated_at": moment(thread.updated),
        "metadata": thread.metadata,
        "status": next(name for name, states in STATUSES.items() if state in states),
        "values": values,
        "interrupts": {task_id(latest): interrupts(latest, pending)} if latest is not None and waiting else {},
    }


def task_id(turn: Turn) -> str:
    return f"{turn.id}-task"


def item_fields(item: Item) -> dict[str, Json]:
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": moment(item.created),
        "updated_at": moment(item.updated),
    }


def moment(seconds: float) -> str:
    return timestamp(seconds, "microseconds")


def selected(fields: Mapping[str, Json], select: Sequence[str] | None) -> Mapping[str, Json]:
    """The ``fields`` that a client selects; all of them by default."""
    return fields if select is None else {name: value for name, value in fields.items() if name in select}


def paged(items: Sequence[Json], offset: int, total: int) -> Response:
    """A page of a list. The headers say how long the list is, and where the next page begins."""
    return json_response(to_json(items), headers=page_headers(offset, len(items), total))


def page_headers(offset: int, count: int, total: int | None) -> dict[str, str]:
    """The headers of a page: the total, and the offset of the next page. Without a ``total`` there is a next page."""
    headers = {} if total is None else {"X-Pagination-Total": str(total)}
    if count and (total is None or offset + count < total):
        headers["X-Pagination-Next"] = str(offset + count)
    return headers
