"""Faults on demand: which are armed, which strike a given request, and what they do to it.

A fault strikes requests of one operation or all, of one user or all, for a number of requests, for some seconds
of the sandbox's clock, or until it is removed. Several may strike the same request: every `latency` and `cookie`,
and of the others the one armed first; only those that strike are counted.

Hanging and cut connections reach through uvicorn's `send` to its transport. Under an in-process test transport there
is no connection to cut: a ConnectionResetError takes its place, and `hang` simply waits.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import count
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import Refusal, encode, invalid_token, rate_limited
from .bodies import FaultKind, FaultOrder

GENTLE: frozenset[FaultKind] = frozenset({"latency", "cookie"})
"""The kinds after which the request still gets its real answer."""


@dataclass(slots=True)
class Fault:
    """An armed fault. `user` is the name of the user it strikes, `until` a reading of the clock."""

    id: int
    order: FaultOrder
    user: str | None
    until: float | None
    struck: int = 0

    @property
    def times_left(self) -> int | None:
        return None if self.order.times is None else self.order.times - self.struck

    def to_wire(self) -> dict[str, object]:
        return {
            "id": self.id,
            "kind": self.order.kind,
            "match": {"operation": self.order.match.operation, "token": self.user},
            "times_left": self.times_left,
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
        fault = Fault(next(self._ids), order, user, until)
        self._armed.append(fault)
        return fault

    def armed(self) -> list[Fault]:
        """The faults that can still strike."""
        now = self._clock()
        self._armed = [
            each for each in self._armed if each.times_left != 0 and (each.until is None or now < each.until)
        ]
        return self._armed

    def disarm(self) -> None:
        self._armed.clear()

    def strike(self, operation: str, user: str | None) -> list[FaultOrder]:
        """The faults that strike this request, each counted as having done so."""
        striking: list[FaultOrder] = []
        for fault in self.armed():
            matches = fault.order.match.operation in (None, operation) and fault.user in (None, user)
            gentle = fault.order.kind in GENTLE
            if matches and (gentle or all(order.kind in GENTLE for order in striking)):
                fault.struck += 1
                striking.append(fault.order)
        return striking


def _any_status(order: FaultOrder) -> Response:
    # HTTP forbids a body here, and a length with it.
    body = b"" if order.status in (204, 304) else encode(order.body)
    return Response(body, order.status, media_type="application/json")


UNAVAILABLE = b"<html><head><title>503</title></head><body><h1>Service Unavailable</h1></body></html>"
MOVED = b"<!doctype html><html><body><h1>We have moved</h1><p>This service has ended.</p></body></html>"

ANSWERS: Mapping[str, Callable[[FaultOrder], Response]] = {
    "429": lambda order: rate_limited(order.retry_after),
    "500": lambda _: Refusal(500, "Internal server error.").answer(),
    "503_html": lambda _: Response(UNAVAILABLE, 503, {"content-type": "text/html"}),
    "html": lambda _: HTMLResponse(MOVED),
    "status": _any_status,
    "empty": lambda _: Response(media_type="application/json"),
    "revoked": lambda _: invalid_token(),
}
"""The kinds that are simply another answer; the rest need the connection or the real answer."""


async def play(order: FaultOrder, app: ASGIApp, scope: Scope, receive: Receive, answer: Send, server: Send) -> None:
    """Answer a request with a fault that is not gentle.

    `app` gives the real answer, `answer` sends any, and `server` is the server's own `send`.
    """
    if order.kind in ANSWERS:
        await ANSWERS[order.kind](order)(scope, receive, answer)
    elif order.kind == "reset":
        await _reset(receive, server)
    elif order.kind == "hang":
        await _hang(receive, server, seconds_of(order, 60.0))
    else:
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await app(scope, receive, hold)
        start, *rest = held
        body = b"".join(message.get("body", b"") for message in rest)
        if order.kind == "half_body":
            await answer(start)
            await _send_half(body, receive, server)
            return
        body = odd(body, scope["query_string"].decode("latin-1"))
        kept = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await answer({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await answer({"type": "http.response.body", "body": body})


def seconds_of(order: FaultOrder, otherwise: float) -> float:
    return otherwise if order.seconds is None else order.seconds


async def _reset(receive: Receive, server: Send) -> None:
    """Drop the connection with RST, without another byte."""
    transport = _transport(server)
    # Lingering for zero seconds makes the kernel send RST instead of FIN. The transport's own socket cannot be changed
    # with every event loop, so this is another object for its descriptor.
    twin = socket.socket(fileno=transport.get_extra_info("socket").fileno())
    try:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        twin.detach()
    transport.abort()
    await _gone(receive)


async def _hang(receive: Receive, server: Send, seconds: float) -> None:
    """Send nothing until the client leaves; reset the connection after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await _gone(receive)
    except TimeoutError:
        await _reset(receive, server)


async def _send_half(body: bytes, receive: Receive, server: Send) -> None:
    """Send half of a body whose whole length is already announced, and close."""
    await server({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    # close() and not abort(): what was written must still reach the client, or it would not be half a body.
    _transport(server).close()
    await _gone(receive)


def _transport(server: Send) -> asyncio.Transport:
    """The connection under uvicorn's `send`. Raises ConnectionResetError when there is none to cut."""
    transport: asyncio.Transport | None = getattr(getattr(server, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("the sandbox cut this connection on demand")
    return transport


async def _gone(receive: Receive) -> None:
    """Wait until the connection is closed, from either side."""
    while (await receive())["type"] != "http.disconnect":
        pass


# -- odd JSON --
#
# Answers that are still JSON to a lenient reader, yet not what anybody expects. Every entry of a log page gets one
# oddity, chosen by its position in the log, so that reading it again shows the same. Every object answer loses its
# status and gains unknown members. NaN and 1e400 go beyond the JSON standard; Python's parser and JavaScript's
# disagree about them, which is the point.

DEPTH = 300
"""Levels of nesting: fine for a parser, more than orjson writes."""

_HUGE = "\u0000huge\u0000"
"""Stands for the number 1e400 until the text is written: no Python value prints that way."""

ODDITIES: tuple[dict[str, object], ...] = (
    {"tool_output": {"score": float("nan"), "low": float("-inf")}},
    {"tool_output": {"size": _HUGE, "count": 10**40}},
    {"thought": "half a pair: \ud800, the other half: \udc00"},
    {"observation": {"nested": reduce(lambda inner, _: [inner], range(DEPTH), list[object]())}},
    {"observation": ["a", "list", {"of": "things"}, None]},
    {"tool_output": "plain text, with a line\nbreak and a separator \u2028"},
    {"id": "log-1", "x_tokens": {"in": 812, "out": 77}},
    {"message_type": "HOLOGRAM_RENDERED"},
    {"message_type": None, "created_at": None, "tool_name": None},
)
"""Members that are set in an entry."""


def odd(body: bytes, query: str) -> bytes:
    """The real answer `body` to a request with `query`, made odd; what is not a JSON object stays as it is."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    if not isinstance(answer, dict):
        return body
    if "status" in answer:
        answer["status"] = None
    answer["x_unknown"] = {"nested": [1, 2.5, None, {"deep": True}]}
    logs = answer.get("logs")
    if isinstance(logs, list):
        for entry, position in zip(logs, _positions(query, answer["total_logs"]), strict=False):
            entry.update(ODDITIES[position % len(ODDITIES)])
    return json.dumps(answer, separators=(",", ":")).replace(json.dumps(_HUGE), "1e400").encode("ascii")


def _positions(query: str, total: int) -> range:
    """The places in the log, from 0, of the entries of a page that was answered and so had a valid query."""
    values = parse_qs(query)
    skip = int(values.get("skip", ["0"])[-1])
    if values.get("reverse", ["false"])[-1].lower() in ("true", "1", "on", "t", "y", "yes"):
        return range(total - 1 - skip, -1, -1)
    return range(skip, total)
