"""What the hosted API refuses, with its literal texts.

    Refusal                  answered as {"message": ..., "status_code": ...}
      402, 404               by the scenario of a new run: see scenarios.toml
      403 NO_ACCESS          not a member of the organization, or no such organization
      404 NO_RUN, NO_USER
      429 RATE_LIMITED

The texts are the defaults in the host's OpenAPI document, "Alloted" included. Two more shapes exist and are not
refusals: 401 `{"detail": "Invalid or expired API token"}`, seen on the wire though not in the document, and
FastAPI's own 422, 404 and 405.
"""

from starlette.responses import Response

from .encoding import encode, plain_response


class Refusal(Exception):
    """A domain error: an HTTP status and the sentence that goes with it."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.message = message

    def to_wire(self) -> dict[str, object]:
        return {"message": self.message, "status_code": self.status_code}


NO_ACCESS = 403, "You do not have access to this organization."
NO_RUN = 404, "Agent run not found."
NO_USER = 404, "User not found."
RATE_LIMITED = 429, "Rate limit exceeded. Please try again later."


def rate_limited(retry_after: str | None) -> Response:
    answer = plain_response(429, encode(Refusal(*RATE_LIMITED).to_wire()))
    if retry_after is not None:
        answer.headers["retry-after"] = retry_after
    return answer


def invalid_token() -> Response:
    """The answer also to a missing header."""
    return plain_response(401, encode({"detail": "Invalid or expired API token"}))
