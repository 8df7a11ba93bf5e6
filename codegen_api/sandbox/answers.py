"""Answers as the hosted API writes them: JSON, times, and the literal texts of its refusals.

Texts are the defaults in the host's OpenAPI document, "Alloted" included. Beside them there are FastAPI's own 422, 404
and 405, and a 401 that was seen on the wire only.
"""

import json
from datetime import UTC, datetime

import orjson
from starlette.responses import Response

NO_ACCESS = 403, "You do not have access to this organization."
NO_RUN = 404, "Agent run not found."
NO_USER = 404, "User not found."
RATE_LIMITED = 429, "Rate limit exceeded. Please try again later."
REFUSED = {
    "quota": (
        402,
        "Alloted agent runs for the current billing plan have been reached. Please upgrade your plan to continue.",
    ),
    "no_repos": (404, "No repos found in the organization. Please add some repos and try again."),
}
"""Scenarios that make the creation of a run fail."""


class Refusal(Exception):
    """An error of the host's own: an HTTP status and the sentence that goes with it."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.message = message

    def answer(self) -> Response:
        return json_response({"message": self.message, "status_code": self.status_code}, self.status_code)


def invalid_token() -> Response:
    """The answer to an unknown token, and to a missing one."""
    return json_response({"detail": "Invalid or expired API token"}, 401)


def rate_limited(retry_after: float | str | None) -> Response:
    """The 429, with `Retry-After` if it is given: seconds, or the literal text of the header."""
    answer = Refusal(*RATE_LIMITED).answer()
    if retry_after is not None:
        answer.headers["retry-after"] = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
    return answer


def page_numbers(total: int, skip: int, limit: int) -> dict[str, object]:
    """What a page says of itself: asked for by skip and limit, it is answered with page and size."""
    return {"page": skip // limit + 1, "size": limit, "pages": -(-total // limit)}


def json_response(value: object, status: int = 200) -> Response:
    return Response(encode(value), status, media_type="application/json")


def encode(value: object) -> bytes:
    """Any value that a request may contain, as JSON; NaN and infinities become null, unknown objects `{}`.

    Raises RecursionError only for values nested about a thousand levels deep.
    """
    try:
        return orjson.dumps(value, default=_empty)
    except TypeError:
        return _encode_slowly(value)


def _encode_slowly(value: object) -> bytes:
    """What orjson refuses: lone surrogates, integers beyond 64 bits, more than 254 levels.

    The result is pure ASCII: a lone surrogate can only travel as its escape, because it has no UTF-8 form.
    """
    text = json.dumps(value, separators=(",", ":"), default=_empty)
    if "NaN" in text or "Infinity" in text:
        # The words may also stand inside strings, so they are parsed away rather than replaced.
        finite = json.loads(text, parse_constant=lambda _constant: None)
        text = json.dumps(finite, separators=(",", ":"))
    return text.encode("ascii")


def _empty(_unknown: object) -> dict[str, object]:
    """What FastAPI makes of the exception objects inside a validation error's `ctx`."""
    return {}


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as `str(datetime)` prints them: naive UTC with a space, neither `T` nor `Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
