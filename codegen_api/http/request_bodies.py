"""Receives request bodies: only after authentication, and within bounds.

FastAPI by itself receives and parses a body before anything else, so anybody could make us hold and parse 25 MiB.
``CallerFirst`` authenticates first; ``BodyBudget`` bounds the memory of all bodies, ``IncomingBody`` the time of each.
"""

import asyncio
import codecs
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any

from fastapi import HTTPException
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codegen_api.errors import AtCapacity, rejected
from codegen_api.http.lean_routes import LeanCall
from codegen_api.http.unknown_names import WARNINGS, KnownNames, drop_empty, with_suggestions, with_warnings
from codegen_api.identity import Caller
from codegen_api.runs import MOST_DIGITS, Json, from_json, whole
from codegen_api.worker_thread import LARGE, in_thread

MAX_VALUES = 10_000
"""Maximum number of JSON values in a request. Work done for each of them then takes tens of milliseconds in all."""
TOO_MANY_VALUES = f"The request is too large: its JSON may have {MAX_VALUES:,} values."
MAX_DEPTH = 100
"""Maximum nesting of JSON in a request."""

BODY_SECONDS = 30.0
"""Seconds to wait for a body; each ``BYTES_PER_SECOND`` bytes received add one, up to this maximum."""
BYTES_PER_SECOND = 4096
SMALL_BODY = 64 * 1024
"""Bytes of a body that are always accepted, however many other bodies are held."""
MAX_HELD = 4
"""How many bodies of maximum size may be held at once."""


class Authenticator:
    """A dependency that authenticates the caller, once per request; a decorator of the function that does it."""

    def __init__(self, authenticate: Callable[[Request], Awaitable[Caller]]) -> None:
        self.__doc__ = authenticate.__doc__
        self._authenticate = authenticate

    async def __call__(self, request: Request) -> Caller:
        if "caller" not in request.scope:
            request.scope["caller"] = await self._authenticate(request)
        caller: Caller = request.scope["caller"]
        return caller


class CallerFirst(APIRoute):
    """A route that authenticates before it receives a body. With a body, it must depend on an ``Authenticator``."""

    lean_app: ASGIApp | None = None
    """The route without the contexts that FastAPI puts around a call; None if it needs them."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **more: Any) -> None:
        super().__init__(path, endpoint, **{**more, "responses": None})  # calls get_route_handler
        self.app = self.lean_app or self.app
        self._arguments = path, endpoint, more

    def documented(self) -> APIRoute:
        """This route with its responses. Only the OpenAPI document needs them, and analysing them takes FastAPI longer
        than the rest of a start.
        """
        path, endpoint, more = self._arguments
        return APIRoute(path, endpoint, **more)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        lean = LeanCall.of(self.dependant) if self.body_field is None else None
        handle = lean or super().get_route_handler()
        names = KnownNames(self)
        authenticator = next((each for each in dependencies(self.dependant) if isinstance(each, Authenticator)), None)
        if self.body_field is not None and authenticator is None:
            raise TypeError(f"{self.path} takes a body from anybody")

        async def authenticate_first(request: Request) -> Response:
            scope = request.scope
            bounded = BoundedRequest(scope, request.receive)
            if scope["query_string"]:
                drop_empty(bounded)
            if self.body_field is not None and authenticator is not None:
                await authenticator(request)
                if await bounded.body():
                    _require_json(bounded)
                    with suppress(ValueError):  # FastAPI will report the position
                        await bounded.read()
            try:
                response = await handle(bounded)
            except RequestValidationError as error:
                faults = with_suggestions(error.errors(), names.unknown(bounded, bounded.fields))
                raise RequestValidationError(faults) from error
            warnings = [*names.unknown(bounded, bounded.fields), *scope.get(WARNINGS, ())]
            return with_warnings(response, warnings) if warnings else response

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response = await authenticate_first(Request(scope, receive, send))
            await response(scope, receive, send)

        self.lean_app = None if lean is None else answer
        return authenticate_first


def dependencies(dependant: Dependant) -> Iterator[object]:
    """All functions that ``dependant`` depends on, directly or not."""
    for each in dependant.dependencies:
        yield each.call
        yield from dependencies(each)


_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_NESTING = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]


class JsonMeter:
    """Measures JSON while its bytes arrive, which is cheap. Parsing 24 MiB of brackets would make a gigabyte of objects
    and block everybody else.

    ``values`` and ``depth`` are the number of values and the deepest nesting so far. Both are exact for valid JSON;
    anything else fails to parse at the point where it is invalid, whatever is counted after that.
    """

    def __init__(self) -> None:
        self.values = 0
        self.depth = 0
        self._open = 0
        self._in_text = False
        self._escape = b""

    def feed(self, piece: bytes) -> None:
        """Count the next bytes."""
        text = (self._escape + piece).replace(b"\\\\", b"")
        self._escape = b"\\" if text.endswith(b"\\") else b""  # may escape a quote in the next piece
        parts = text.replace(b'\\"', b"").split(b'"')
        outside = b" ".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        # each value but the very first follows one of these; an empty list or object counts as two
        self.values += sum(map(outside.count, (b",", b"[", b"{")))
        depths = list(accumulate(map(_NESTING.__getitem__, outside.translate(None, _OTHERS)), initial=self._open))
        self._open = depths[-1]
        self.depth = max(self.depth, *depths)


class BoundedRequest(Request):
    """A request whose JSON is refused as soon as it exceeds the bounds. ``fields`` are its top-level names.

    FastAPI turns every error while parsing into one message. So ``read``, which is called before FastAPI, raises the
    errors that have their own.
    """

    fields: Collection[str] = ()

    async def body(self) -> bytes:
        """The body, once all of it has arrived.

        Raises:
            Rejected: it is nested too deeply.
            HTTPException: it has too many values, or the client has left.
        """
        if not hasattr(self, "_body"):
            meter = JsonMeter()
            pieces = []
            try:
                async for piece in self.stream():
                    for start in range(0, len(piece), SMALL_BODY):
                        meter.feed(piece[start : start + SMALL_BODY])
                        if meter.depth > MAX_DEPTH:
                            raise rejected(f"JSON may be nested {MAX_DEPTH} times", "json_too_deep", "body")
                        if meter.values > MAX_VALUES:
                            raise HTTPException(413, TOO_MANY_VALUES)
                    pieces.append(piece)
            except ClientDisconnect:
                raise HTTPException(400) from None
            self._body = b"".join(pieces)
        return self._body

    async def read(self) -> None:
        """Receive and parse the body.

        Raises:
            Rejected: it is not UTF-8, or has a number that is too long.
            ValueError: it is not JSON.
        """
        body = await self.body()
        self._parsed = await in_thread(_read, body) if len(body) > LARGE else _read(body)
        if isinstance(self._parsed, dict):
            self.fields = list(self._parsed)

    async def json(self) -> Any:
        if not hasattr(self, "_parsed"):
            await self.read()
        return self.__dict__.pop("_parsed")  # released, since the request lives as long as a streamed response


def _require_json(request: Request) -> None:
    """Raises ``Rejected`` if the head does not declare plain JSON, which FastAPI would treat as something else."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        message = f"must be identity, and is {coding[:100]}: bodies are taken as they are"
        raise rejected(message, "content_encoding", "header", "Content-Encoding")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind.startswith("application/") and kind.rpartition("/")[2].rpartition("+")[2] == "json"):
        found = f"is {kind[:100]}" if kind else "is missing"
        raise rejected(f"must be application/json, and {found}", "content_type", "header", "Content-Type")


def _read(body: bytes) -> Any:
    try:
        # json.loads would also accept UTF-16 and UTF-32, which JsonMeter cannot measure
        if b"\0" not in body[:4] and not body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return from_json(body.removeprefix(codecs.BOM_UTF8), _whole)
    except UnicodeDecodeError:  # which quotes the input
        pass
    raise rejected("Must be JSON in UTF-8", "encoding", "body")


def _whole(digits: str) -> Json:
    number = whole(digits)
    if number is digits:
        raise rejected(f"A whole number may have {MOST_DIGITS} digits", "number_too_long", "body")
    return number


class BodyBudget:
    """The memory that all request bodies share. Each ``IncomingBody`` may have ``max_body`` bytes."""

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body
        self.too_large = f"The request is too large: its body may have {max_body // 1024**2} MiB."
        self.held = 0


class IncomingBody:
    """The body that arrives through the server's ``receive``. ``unfinished``: only part of it has arrived."""

    def __init__(self, bodies: BodyBudget, receive: Receive) -> None:
        self.unfinished = False
        self._whole = False
        self._bodies = bodies
        self._receive = receive
        self._received = self._held = 0
        self._remaining = BODY_SECONDS

    async def receive(self) -> Message:
        """The next ASGI message.

        Raises:
            HTTPException: the body is too large, or too slow.
            AtCapacity: too much is held for other requests.
        """
        if self._whole:
            return await self._receive()
        self.unfinished = True
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._remaining):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408) from None
        size = len(message.get("body", b""))
        self._remaining = min(BODY_SECONDS, self._remaining - (loop.time() - started) + size / BYTES_PER_SECOND)
        self.unfinished = message.get("more_body", False)
        self._whole = not self.unfinished
        self._received += size
        if self._received > self._bodies.max_body:
            raise HTTPException(413, self._bodies.too_large)
        if self._received > SMALL_BODY:
            more = self._received - self._held
            if self._bodies.held + more > MAX_HELD * self._bodies.max_body:
                raise AtCapacity("This instance holds as many large requests as it may.", retry_after=1)
            self._bodies.held += more
            self._held += more
        return message

    def release(self) -> None:
        """Return the memory of this body to the budget."""
        self._bodies.held -= self._held
        self._held = 0
