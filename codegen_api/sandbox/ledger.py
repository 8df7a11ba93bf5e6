"""What was asked of the sandbox: counts per operation and user, and the last requests in some detail.

Tokens never come in here: a request is booked under its user's name, or `null` for an unknown token. The counts
have one row per operation and user; the details are the last 100 requests.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

REMEMBERED = 100
"""How many requests are kept in detail."""

HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "baggage",
        "content-type",
        "forwarded",
        "host",
        "idempotency-key",
        "last-event-id",
        "traceparent",
        "tracestate",
        "user-agent",
        "via",
        "x-codegen-client",
        "x-forwarded-for",
        "x-organization-id",
        "x-request-id",
    }
)
"""The request headers worth remembering; `authorization` and `cookie` must never be among them."""


@dataclass(slots=True)
class Request:
    """One request. `at` is the sandbox's clock in seconds; `status` stays None when no answer was sent."""

    at: float
    operation: str
    user: str | None
    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int | None = None


@dataclass(slots=True)
class Tally:
    """How many requests came, and how many of them were answered 429."""

    total: int = 0
    refused: int = 0

    def to_wire(self) -> dict[str, object]:
        return {"total": self.total, "429": self.refused}


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    named = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return {name: value for name, value in named if name in HEADERS}


@dataclass(slots=True)
class Ledger:
    """The book of one sandbox."""

    tallies: dict[tuple[str, str | None], Tally] = field(default_factory=dict)
    recent: deque[Request] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    with_cookie: int = 0

    def open(
        self,
        at: float,
        *,
        operation: str,
        user: str | None,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[bytes, bytes]],
    ) -> Request:
        """Book a request as it arrives."""
        headers = list(headers)
        request = Request(at, operation, user, method, path, query, _decoded(headers))
        self.recent.append(request)
        self.tallies.setdefault((operation, user), Tally()).total += 1
        if any(name.lower() == b"cookie" for name, _ in headers):
            self.with_cookie += 1
        return request

    def close(self, request: Request, status: int) -> None:
        """Note with which status `request` is being answered."""
        request.status = status
        # A reset in between forgets the row; the late answer must not bring half of it back.
        tally = self.tallies.get((request.operation, request.user))
        if status == 429 and tally is not None:
            tally.refused += 1

    def forget(self) -> None:
        """Start again from nothing."""
        self.tallies.clear()
        self.recent.clear()
        self.with_cookie = 0

    def to_wire(self) -> dict[str, object]:
        """Totals, one row per operation, the same per operation and user, and the last requests, oldest first."""
        overall = Tally()
        operations: dict[str, Tally] = {}
        rows: list[dict[str, object]] = []
        for (operation, user), tally in self.tallies.items():
            for sum_ in (overall, operations.setdefault(operation, Tally())):
                sum_.total += tally.total
                sum_.refused += tally.refused
            rows.append({"operation": operation, "user": user, **tally.to_wire()})
        return {
            **overall.to_wire(),
            "with_cookie": self.with_cookie,
            "operations": {name: tally.to_wire() for name, tally in operations.items()},
            "by_user": rows,
            "recent": [asdict(request) for request in self.recent],
        }
