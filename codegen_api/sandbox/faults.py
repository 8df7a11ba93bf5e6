"""Faults on demand: which are armed, and which strike a given request.

A fault strikes requests of one operation or all, of one user or all, for a number of requests, for some seconds
of the sandbox's clock, or until it is removed. Several may strike the same request: every `latency` and `cookie`,
and of the others the one armed first; only those that strike are counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

from starlette.types import Send

from .bodies import FaultKind, FaultOrder
from .encoding import encode
from .errors import INVALID_TOKEN, RATE_LIMITED, Refusal

GENTLE: frozenset[FaultKind] = frozenset({"latency", "cookie"})
"""The kinds that let the request go on to its real answer."""

BODILESS = frozenset({204, 304})
"""The statuses whose answers have no body."""


@dataclass(slots=True)
class Fault:
    """An armed fault. `user` is the name of the user it strikes, `until` a reading of the clock."""

    id: int
    order: FaultOrder
    user: str | None
    until: float | None
    remaining: int | None
    struck: int = 0

    def strikes(self, operation: str, user: str | None) -> bool:
        return self.order.match.operation in (None, operation) and self.user in (None, user)

    def to_wire(self) -> dict[str, object]:
        return {
            "id": self.id,
            "kind": self.order.kind,
            "match": {"operation": self.order.match.operation, "token": self.user},
            "times_left": self.remaining,
            "struck": self.struck,
        }


class Faults:
    """The faults of one sandbox, in the order in which they were armed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ids = count(1)
        self._armed: list[Fault] = []

    def arm(self, order: FaultOrder, user: str | None) -> Fault:
        """Arm a fault; `user` is the name behind its `match.token`."""
        until = None if order.for_seconds is None else self._clock() + order.for_seconds
        fault = Fault(next(self._ids), order, user, until, order.times)
        self._armed.append(fault)
        return fault

    def armed(self) -> list[Fault]:
        """The faults that can still strike."""
        now = self._clock()
        self._armed = [each for each in self._armed if each.remaining != 0 and (each.until is None or now < each.until)]
        return self._armed

    def disarm(self) -> None:
        self._armed.clear()

    def strike(self, operation: str, user: str | None) -> list[Fault]:
        """The faults that strike this request, each counted as having done so."""
        if not self._armed:
            return []
        striking: list[Fault] = []
        harsh = False
        for fault in self.armed():
            gentle = fault.order.kind in GENTLE
            if not fault.strikes(operation, user) or (harsh and not gentle):
                continue
            harsh = harsh or not gentle
            fault.struck += 1
            if fault.remaining is not None:
                fault.remaining -= 1
            striking.append(fault)
        return striking


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that takes the place of the real one."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    async def send(self, send: Send) -> None:
        """Give the answer, whole, with its length."""
        headers = [(b"content-type", self.content_type.encode())]
        # HTTP forbids a length where it forbids a body.
        if self.status not in BODILESS:
            headers.append((b"content-length", str(len(self.body)).encode()))
        headers.extend((name.encode(), value.encode()) for name, value in self.headers)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def _too_many(order: FaultOrder) -> Answer:
    body = encode(Refusal(*RATE_LIMITED).to_wire())
    if order.retry_after is None:
        return Answer(429, body)
    text = order.retry_after if isinstance(order.retry_after, str) else f"{order.retry_after:g}"
    return Answer(429, body, headers=(("retry-after", text),))


def _server_error(_order: FaultOrder) -> Answer:
    return Answer(500, encode({"message": "Internal server error.", "status_code": 500}))


def _unavailable_page(_order: FaultOrder) -> Answer:
    page = b"<html><head><title>503</title></head><body><h1>Service Unavailable</h1></body></html>"
    return Answer(503, page, "text/html")


def _parked_page(_order: FaultOrder) -> Answer:
    page = b"<!doctype html><html><body><h1>We have moved</h1><p>This service has ended.</p></body></html>"
    return Answer(200, page, "text/html; charset=utf-8")


def _any_status(order: FaultOrder) -> Answer:
    return Answer(order.status, b"" if order.status in BODILESS else encode(order.body))


def _nothing(_order: FaultOrder) -> Answer:
    return Answer(200, b"")


def _revoked(_order: FaultOrder) -> Answer:
    return Answer(401, encode({"detail": INVALID_TOKEN}))


ANSWERS: Mapping[str, Callable[[FaultOrder], Answer]] = {
    "429": _too_many,
    "500": _server_error,
    "503_html": _unavailable_page,
    "html": _parked_page,
    "status": _any_status,
    "empty": _nothing,
    "revoked": _revoked,
}
"""The kinds that are simply another answer; the rest need the connection or the real answer."""
