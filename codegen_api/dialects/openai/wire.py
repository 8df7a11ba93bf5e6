"""Errors, responses and events as they go over the wire. Pure functions."""

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from codegen_api.conversations import parent_of
from codegen_api.dialects import pending_fields
from codegen_api.dialects.openai.items import CONVERSATION, RESPONSE
from codegen_api.errors import Detail, GatewayError, InProgress, Interrupted, NotOffered, Unavailable, UpstreamFailure
from codegen_api.http.sse import frame
from codegen_api.http.web import RequestTimeout, error_headers, json_response, status_of
from codegen_api.runs import Json, to_json
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import PendingRequest

OWN = "openai"

DEFAULT = "default"
"""The model that leaves the choice to the host."""

KINDS = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}

TEMPORARY = (Unavailable, InProgress, Interrupted, UpstreamFailure, RequestTimeout)
"""Errors that may not occur again when the request is repeated, which SDKs do by themselves."""


def error_fields(error: GatewayError) -> dict[str, Json]:
    first = next((item for item in error.details if isinstance(item, Detail)), None)
    status = error_status(error)
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = "unsupported_parameter" if isinstance(error, NotOffered) else error.code
    param = None if first is None else _place(first.loc)
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def render_error(error: GatewayError) -> Response:
    """The answer to a failed request. SDKs repeat requests after 409 and 5xx, unless a header tells them not to."""
    headers = error_headers(error)
    if not isinstance(error, TEMPORARY):
        headers["X-Should-Retry"] = "false"
    return json_response(to_json(error_fields(error)), error_status(error), headers)


def error_status(error: GatewayError) -> int:
    """The status of an error: for ``NotOffered`` 400, as SDKs expect."""
    return 400 if isinstance(error, NotOffered) else status_of(error)


def _place(loc: tuple[str | int, ...]) -> str | None:
    """A field in this API's notation: ``input[0].content``."""
    if loc[:1] != ("body",):
        return str(loc[-1]) if loc else None
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc[1:])
    return path.removeprefix(".") or None


STATUSES: Mapping[TurnState, str] = {
    TurnState.QUEUED: "queued",
    TurnState.STARTING: "in_progress",
    TurnState.RUNNING: "in_progress",
    TurnState.WAITING: "completed",
    TurnState.COMPLETED: "completed",
    TurnState.FAILED: "failed",
    TurnState.UNKNOWN: "failed",
    TurnState.CANCELLED: "cancelled",
    TurnState.WITHDRAWN: "cancelled",
}
ENDS: Mapping[str, str] = {"completed": "completed", "failed": "failed", "cancelled": "incomplete"}
"""The last event by the status. None says `cancelled`, and clients take `completed` for success."""

REPEATED = (
    *("background", "instructions", "metadata", "model", "parallel_tool_calls"),
    *("service_tier", "temperature", "top_p", "truncation", "user"),
)
"""Fields of a request that its response repeats."""

NULL = (
    *("incomplete_details", "instructions", "max_output_tokens", "reasoning", "service_tier"),
    *("temperature", "top_p", "usage", "user"),
)
"""Fields of a response that are null unless they repeat the request's."""

LOST = "The host did not answer, and it is not known whether the agent began."


def event(number: int, kind: str, **fields: Json) -> bytes:
    return frame(kind, to_json({"type": kind, "sequence_number": number, **fields}))


def last_event(number: int, state: TurnState, response: bytes) -> bytes:
    """The event that ends a stream, with all of the ``response``."""
    kind = f"response.{ENDS[STATUSES[state]]}"
    return frame(kind, b'{"type":"%b","sequence_number":%d,"response":%b}' % (kind.encode(), number, response))


def response_fields(
    turn: Turn, state: TurnState | None, output: Sequence[Json], pending: Sequence[PendingRequest] = ()
) -> dict[str, Json]:
    """A response in a ``state``; with None as it was at the beginning."""
    given, parent = own(turn.options), parent_of(turn)
    status = "in_progress" if state is None else STATUSES[state]
    failure = LOST if state is TurnState.UNKNOWN else turn.error or "The run has failed."
    return {
        "id": f"{RESPONSE}{turn.id}",
        "object": "response",
        "created_at": int(turn.created),
        "status": status,
        "completed_at": int(turn.updated) if status == "completed" else None,
        "error": {"code": "server_error", "message": failure} if status == "failed" else None,
        "output": output,
        "previous_response_id": None if parent is None else f"{RESPONSE}{parent.turn}",
        "conversation": {"id": f"{CONVERSATION}{turn.conversation}"},
        **dict.fromkeys(NULL),
        "background": False,
        "parallel_tool_calls": False,
        "truncation": "disabled",
        "store": True,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        **{name: given[name] for name in REPEATED if name in given},
        "model": given.get("model") or turn.agent or DEFAULT,
        "metadata": _metadata(turn, state, pending),
    }


def own(kept: Mapping[str, Json]) -> Mapping[str, Json]:
    """This dialect's part of a turn's ``options`` or a conversation's ``metadata``."""
    found = kept.get(OWN)
    return found if isinstance(found, Mapping) else {}


def _metadata(turn: Turn, state: TurnState | None, pending: Sequence[PendingRequest]) -> dict[str, Json]:
    """The client's metadata, and facts about the run. SDKs expect all values to be strings."""
    given = own(turn.options).get("metadata")
    about: dict[str, Json] = dict(given) if isinstance(given, Mapping) else {}
    if turn.run is not None:
        about |= {"codegen_run": turn.run.id, "codegen_organization": turn.run.organization}
    if state is TurnState.WAITING:
        about["codegen_status"] = "waiting"
    if pending:
        about["codegen_pending"] = to_json([pending_fields(each) for each in pending]).decode()
    return about
