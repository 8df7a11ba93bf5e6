"""What was asked of the sandbox: counts per operation and user, and the last requests in some detail.

Tokens never come in here: a request stands under its user's name, or `null` for an unknown token.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import Scope

from .directory import Directory

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


class RequestLog:
    """The requests to one sandbox."""

    def __init__(self, clock: Callable[[], float], directory: Directory) -> None:
        self._clock = clock
        self._directory = directory
        self.forget()

    def forget(self) -> None:
        """Start again from nothing."""
        self._came = Counter[tuple[str, str | None]]()
        self._refused = Counter[tuple[str, str | None]]()
        self._recent = deque[dict[str, object]](maxlen=REMEMBERED)
        self._with_cookie = 0

    def begin(self, scope: Scope, operation: str, user: str | None) -> Callable[[int], None]:
        """Count a request as it arrives. Call what is returned with the status of its answer."""
        headers = Headers(scope=scope)
        hidden = self._directory.without_tokens
        request: dict[str, object] = {
            "at": self._clock(),
            "operation": operation,
            "user": user,
            "method": scope["method"],
            "path": hidden(scope["path"]),
            "query": hidden(scope["query_string"].decode("latin-1")),
            "headers": {name: value for name, value in headers.items() if name in HEADERS},
            "status": None,
        }
        self._recent.append(request)
        self._came[operation, user] += 1
        self._with_cookie += "cookie" in headers

        def answered(status: int) -> None:
            request["status"] = status
            # Forgotten in between, the row is gone; the late answer must not bring half of it back.
            if status == 429 and (operation, user) in self._came:
                self._refused[operation, user] += 1

        return answered

    def to_wire(self) -> dict[str, object]:
        """Totals, one row per operation, the same per operation and user, and the last requests, oldest first."""
        rows = list(self._came)
        operations = dict.fromkeys(operation for operation, _ in rows)
        return {
            **self._counts(rows),
            "with_cookie": self._with_cookie,
            "operations": {name: self._counts([row for row in rows if row[0] == name]) for name in operations},
            "by_user": [{"operation": row[0], "user": row[1], **self._counts([row])} for row in rows],
            "recent": list(self._recent),
        }

    def _counts(self, rows: Collection[tuple[str, str | None]]) -> dict[str, int]:
        """How many requests came, and how many of them were answered 429."""
        return {"total": sum(self._came[row] for row in rows), "429": sum(self._refused[row] for row in rows)}
