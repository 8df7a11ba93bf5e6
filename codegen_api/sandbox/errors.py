"""What the hosted API refuses, with its literal texts.

    Refusal                  answered as {"message": ..., "status_code": ...}
      402 out_of_runs        the plan's quota is used up
      403 no_access          not a member of the organization, or no such organization
      404 no_run, no_user, no_repos
      429 rate_limited

The texts are the defaults in the host's OpenAPI document, "Alloted" included. Two more shapes exist and are not
refusals: 401 `{"detail": "Invalid or expired API token"}`, seen on the wire though not in the document, and
FastAPI's own 422, 404 and 405.
"""


class Refusal(Exception):
    """A domain error: an HTTP status and the sentence that goes with it."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.message = message

    def to_wire(self) -> dict[str, object]:
        return {"message": self.message, "status_code": self.status_code}


def no_access() -> Refusal:
    return Refusal(403, "You do not have access to this organization.")


def no_run() -> Refusal:
    return Refusal(404, "Agent run not found.")


def no_user() -> Refusal:
    return Refusal(404, "User not found.")


def no_repos() -> Refusal:
    return Refusal(404, "No repos found in the organization. Please add some repos and try again.")


def out_of_runs() -> Refusal:
    return Refusal(
        402,
        "Alloted agent runs for the current billing plan have been reached. Please upgrade your plan to continue.",
    )


def rate_limited() -> Refusal:
    return Refusal(429, "Rate limit exceeded. Please try again later.")


INVALID_TOKEN = "Invalid or expired API token"  # noqa: S105 - an error text
"""The `detail` of every 401; a missing header is answered alike."""
