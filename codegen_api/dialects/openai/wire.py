"""Errors and events as they go over the wire. Pure functions."""

from starlette.responses import Response

from codegen_api.errors import (
    AnswerTooLong,
    Detail,
    GatewayError,
    InProgress,
    Interrupted,
    NotOffered,
    Rejected,
    Unavailable,
    UpstreamFailure,
)
from codegen_api.runs import Json, to_json
from codegen_api.web import RequestTimeout, error_headers, json_response, status_of

UNSUPPORTED = "unsupported_parameter"

TEMPORARY = (Unavailable, InProgress, Interrupted, UpstreamFailure, RequestTimeout)
"""Errors that may be gone when the request is repeated, which SDKs do by themselves."""


def error_fields(error: GatewayError) -> dict[str, Json]:
    """An error in the shape of this API."""
    first = next((item for item in error.details if isinstance(item, Detail)), None)
    return {
        "error": {
            "message": error.message,
            "type": _kind(error),
            "param": None if first is None else _place(first.loc),
            "code": UNSUPPORTED if isinstance(error, NotOffered) else error.code,
        }
    }


def render_error(error: GatewayError) -> Response:
    """The answer to a request that failed. SDKs repeat what failed with 409 or a 5xx, unless they are told not to."""
    headers = error_headers(error)
    if not isinstance(error, TEMPORARY) or isinstance(error, AnswerTooLong):
        headers["X-Should-Retry"] = "false"
    return json_response(to_json(error_fields(error)), error_status(error), headers)


def error_status(error: GatewayError) -> int:
    """A request with the wrong shape is 400 here, as SDKs know it."""
    return 400 if isinstance(error, Rejected) else status_of(error)


def _kind(error: GatewayError) -> str:
    match error_status(error):
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 402:
            return "insufficient_quota"
        case 429:
            return "rate_limit_error"
        case status if status < 500:
            return "invalid_request_error"
    return "server_error"


def _place(loc: tuple[str | int, ...]) -> str | None:
    """A field as this API names it: ``input[0].content``."""
    if loc[:1] != ("body",):
        return str(loc[-1]) if loc else None
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc[1:])
    return path.removeprefix(".") or None
