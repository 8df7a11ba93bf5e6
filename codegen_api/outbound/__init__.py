"""An HTTP client for adapters, which maps failures to the gateway's errors.

No retries, no redirects, no cookies. The size of answers is bounded, and so is their time, except for streams.
"""

import asyncio
import codecs
import json
import re
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import NoReturn, TypeAlias

import aiohttp
import httpx

from codegen_api import errors
from codegen_api.exhaustion import exhausted_resource
from codegen_api.outbound.connections import (
    FAULTS,
    NOT_CONNECTED,
    AiohttpConnections,
    Arriving,
    HttpxConnections,
    describe_answer,
    describe_fault,
)
from codegen_api.outbound.proxies import proxy_for, redacted
from codegen_api.runs import Json, from_json, whole
from codegen_api.telemetry import Allowance, Observation
from codegen_api.worker_thread import LARGE, in_thread

MAX_ANSWER = 32 * 1024 * 1024
"""Maximum bytes of one decompressed answer."""
LONGEST_LINE = 64 * 1024
"""Bytes to keep of one line of a stream; the rest is dropped."""
PIECE = 64 * 1024
"""Bytes of a request's body to send at a time."""

_PLAIN = re.compile(r"[A-Za-z0-9_/-]*")
"""Text that URLs need not escape."""

Query: TypeAlias = Mapping[str, str | int] | None
Headers: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """An answer of the host. ``readable``: it was JSON, parsed in ``json``.

    ``account`` describes the exchange for the log, without content. ``large``: processing it would block the event loop
    for long. ``cut``: it begins like JSON but is not, as if a proxy had truncated it and corrected its Content-Length.
    """

    status: int
    json: Json
    readable: bool
    retry_after: str | None
    allowance: Allowance | None
    account: Callable[[], str]
    large: bool
    cut: bool


class Outbound:
    """A client for one host at ``base_url`` plus ``prefix``.

    Timeouts in seconds: ``connect_timeout`` to connect, ``read_timeout`` between two chunks of an answer, and
    ``connect_timeout + 2 * read_timeout`` for a whole exchange. ``via`` is the pseudonym in the ``Via`` header. Proxies
    and certificates come from the environment unless a ``transport`` is given.

    Raises:
        ValueError: ``base_url`` or the proxy is unusable; the message quotes neither.
    """

    def __init__(
        self,
        base_url: str,
        prefix: str,
        *,
        transport: httpx.AsyncBaseTransport | None,
        connect_timeout: float,
        read_timeout: float,
        via: str | None,
    ) -> None:
        base = checked_url(base_url)
        self.observation: Observation | None = None
        self._root = str(base).rstrip("/") + prefix
        self._deadline = connect_timeout + 2 * read_timeout
        proxy = None if transport else proxy_for(base)
        self._via_proxy = "" if proxy is None else f" through {redacted(proxy)}"
        agent = ("User-Agent", f"codegen_api/{_version()}")
        self._headers = [agent] if via is None else [agent, ("Via", f"1.1 {via}")]
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        secure = "https" in (base.scheme, None if proxy is None else proxy.scheme)
        certificates = httpx.create_ssl_context() if secure and transport is None else None  # once: 40 ms

        def connections(read: float | None) -> AiohttpConnections | HttpxConnections:
            if transport is not None:
                return HttpxConnections(transport, connect=connect_timeout, read=read)
            return AiohttpConnections(
                connect=connect_timeout,
                read=read,
                certificates=certificates,
                proxy=None if proxy is None else str(proxy),
            )

        self._connections, self._streams = connections(read_timeout), connections(None)
        self._closed = False

    async def ask(
        self,
        method: str,
        path: str,
        query: Query,
        body: bytes | None,
        headers: Headers,
        *,
        order: bool = False,
        unread: bool = False,
    ) -> HostAnswer:
        """Send one request; ``body`` is JSON. ``order``: the head of a successful answer is enough even if its body
        fails; ``unread``: the body is not needed at all.

        Raises:
            UpstreamUnreachable, UpstreamTimeout, UpstreamError: no answer came, or only part of one (``AnswerCut``).
        """
        # gzip, which we unpack ourselves, up to the size limit
        headers = [("Accept", "application/json"), ("Accept-Encoding", "gzip"), *self._headers, *headers]
        content = _pieces(body) if body is not None and len(body) > PIECE else body
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        answer: Arriving | None = None
        received = bytearray()
        try:
            self._require_open()
            # Needed despite the other timeouts: aiohttp 3.14 waits forever when a chunked body turns invalid half-way
            async with asyncio.timeout(self._deadline):
                answer = await self._connections.send(method, self._url(path, query), headers, content)
                order = order and 200 <= answer.status < 300
                try:
                    if not (order and unread):
                        received = await _read_body(answer)
                finally:
                    await answer.close()
        except (*FAULTS, errors.UpstreamFailure) as fault:
            if answer is None or not order:
                self._fail(fault, method, path, answered=answer is not None)
        return await self._host_answer(method, path, answer, received, order=order)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Query, headers: Headers, body: bytes | None
    ) -> AsyncGenerator[tuple[HostAnswer, AsyncGenerator[bytes, None] | None], None]:
        """GET (with a ``body``, POST) a stream of events: its head, and its lines, up to ``LONGEST_LINE`` bytes each.
        For any other answer, its JSON and None.

        Connecting takes ``connect_timeout`` at most. The head and the lines have no timeout: a host may send the head
        only with its first event.

        Raises:
            UpstreamUnreachable, UpstreamTimeout, UpstreamError: as ``ask``; ``AnswerCut`` between lines.
        """
        method = "GET" if body is None else "POST"
        headers = [("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), *self._headers, *headers]
        answer = None
        try:
            try:
                self._require_open()
                answer = await self._streams.send(method, self._url(path, query), headers, body)
                received = bytearray()
                is_stream = 200 <= answer.status < 300 and "text/event-stream" in answer.headers.get("Content-Type", "")
                if not is_stream:
                    async with asyncio.timeout(self._deadline):
                        received = await _read_body(answer)
            except (*FAULTS, errors.UpstreamFailure) as fault:
                self._fail(fault, method, path, answered=answer is not None)
            head = await self._host_answer(method, path, answer, received, order=is_stream)
            async with aclosing(self._lines(answer)) as lines:
                yield head, lines if is_stream else None
        finally:
            if answer is not None:
                await answer.close()

    async def _lines(self, answer: Arriving) -> AsyncGenerator[bytes, None]:
        line = bytearray()
        try:
            async for piece in answer.pieces:
                first, *others = piece.split(b"\n")
                line += first[: LONGEST_LINE - len(line)]
                for other in others:
                    yield bytes(line)
                    line = bytearray(other[:LONGEST_LINE])
        except FAULTS as error:
            raise self._failure(error, answered=True) from error

    def _fail(self, fault: Exception, method: str, path: str, *, answered: bool) -> NoReturn:
        """Observe a fault and raise the gateway's error for it, whose reason names the request."""
        error = fault if isinstance(fault, errors.UpstreamFailure) else self._failure(fault, answered=answered)
        if isinstance(error, errors.UpstreamFailure):
            outcome = error.reason or error.message
            self._observe(outcome)
            error.reason = f"{self._describe_request(method, path)}: {outcome}"
        raise error from (fault.__cause__ if error is fault else fault)

    def _describe_request(self, method: str, path: str) -> str:
        shown = re.sub(r"/[0-9]+(?=/|$)", "/{id}", path)
        return f"{method} {self._root}{shown}{self._via_proxy}"

    async def _host_answer(
        self, method: str, path: str, answer: Arriving, received: bytearray, *, order: bool
    ) -> HostAnswer:
        json, readable = await _decode(received)

        def outcome() -> str:
            return describe_answer(answer.status, answer.headers, answer.url, received, readable)

        usable = answer.status < 500 and (readable or (order and 200 <= answer.status < 300))
        self._observe(None if usable else outcome())
        return HostAnswer(
            answer.status,
            json,
            readable,
            answer.headers.get("Retry-After"),
            _allowance(answer.headers),
            lambda: f"{self._describe_request(method, path)}: {outcome()}",
            len(received) > LARGE,
            not readable and received.lstrip().startswith((b"{", b"[")),
        )

    async def aclose(self) -> None:
        """Close all connections; later calls raise ``UpstreamUnreachable``."""
        self._closed = True
        await self._connections.aclose()
        await self._streams.aclose()

    def _url(self, path: str, query: Query) -> str:
        if _PLAIN.fullmatch(path) and all(_PLAIN.fullmatch(f"{name}{value}") for name, value in (query or {}).items()):
            pairs = "&".join(f"{name}={value}" for name, value in (query or {}).items())
            return f"{self._root}{path}?{pairs}" if pairs else self._root + path
        return str(httpx.URL(self._root + path) if query is None else httpx.URL(self._root + path, params=query))

    def _require_open(self) -> None:
        if self._closed:
            raise _not_sent(errors.UpstreamUnreachable(reason="not asked: the gateway is about to stop"))

    def _observe(self, trouble: str | None) -> None:
        now, before = time.time(), self.observation
        since = before.since if before is not None and before.since is not None else now
        self.observation = Observation(trouble is None, now, trouble, None if trouble is None else since)

    def _failure(self, error: Exception, *, answered: bool) -> errors.GatewayError:
        """The gateway's error for a fault of the connection. ``answered``: the head of an answer had arrived."""
        if exhausted_resource(error):  # our own shortage; nothing was sent
            return errors.AtCapacity("This instance cannot do more just now.", retry_after=5)
        slow = isinstance(error, httpx.TimeoutException | TimeoutError)
        why = describe_fault(error)
        if isinstance(error, NOT_CONNECTED):
            why = f"no connection within {self._connect_timeout:g} s" if slow else f"no connection: {why}"
            return _not_sent((errors.UpstreamTimeout if slow else errors.UpstreamUnreachable)(reason=why))
        if slow:
            if not isinstance(error, httpx.TimeoutException | aiohttp.ServerTimeoutError):
                why = f"no whole answer within {self._deadline:g} s"
            else:
                why = f"{'nothing more of the' if answered else 'no'} answer within {self._read_timeout:g} s"
            return errors.UpstreamTimeout(reason=why)
        if answered:
            broken = "cannot be unpacked" if isinstance(error, zlib.error) else "broke off"
            return errors.AnswerCut(reason=f"the answer {broken}: {why}")
        # httpx also reports a close without any answer as a protocol error; only the text tells them apart
        silent = isinstance(error, aiohttp.ClientHttpProxyError) or str(error).startswith("Server disconnected")
        if isinstance(error, httpx.ProtocolError | aiohttp.ClientResponseError) and not silent:
            message = "The host's answer broke off or cannot be read."
            return errors.UpstreamError(message, reason=f"what came is no HTTP: {why}")
        return errors.UpstreamUnreachable(reason=f"the connection broke before an answer: {why}")


def checked_url(text: str) -> httpx.URL:
    """The base URL of a host. Raises ``ValueError`` if it is unusable."""
    try:
        url = httpx.URL(text.strip())
        url.host.encode("idna")  # aiohttp would do this later, outside its error handling
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("The base URL is not a URL.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("The base URL must begin with http:// or https:// and name a host.")
    # httpx would replace our Authorization header with the user and password in the URL
    if url.userinfo or url.query or url.fragment:
        raise ValueError("The base URL must have neither user and password nor a query nor a fragment.")
    return url.copy_with(path=url.path.rstrip("/") or "/")


def _version() -> str:
    try:
        return metadata.version("codegen-gateway")
    except metadata.PackageNotFoundError:
        return "0"


def _not_sent(error: errors.UpstreamFailure) -> errors.UpstreamFailure:
    error.may_have_acted = False
    return error


async def _read_body(answer: Arriving) -> bytearray:
    """Read the body, and decompress it up to the size limit."""
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise errors.UpstreamError("The host's answer is packed in a way that was not asked for.")
    unpack = zlib.decompressobj(wbits=31).decompress if encoding == "gzip" else None
    content = bytearray()
    async for piece in answer.pieces:
        content += unpack(piece, MAX_ANSWER + 1 - len(content)) if unpack else piece
        if len(content) > MAX_ANSWER:
            raise errors.AnswerTooLong
    return content


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """The body in chunks: aiohttp warns about whole ones beyond 1 MiB, and images are larger."""
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


async def _decode(content: bytearray) -> tuple[Json, bool]:
    """The JSON in ``content``, parsed off the event loop if it is large, and whether it is JSON."""
    try:
        return await in_thread(_decode_in_thread, content) if len(content) > LARGE else from_json(content), True
    except ValueError:
        return None, False


def _decode_in_thread(content: bytearray) -> Json:
    """Parse as ``from_json`` does, but with the standard library. That is slower, but its callback for each object lets
    other threads run, while orjson holds the GIL until it is done.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogatepass")
    starts = range(0, len(content), LARGE)
    text = "".join([*(decoder.decode(content[start : start + LARGE]) for start in starts), decoder.decode(b"", True)])
    try:
        answer: Json = json.loads(text, object_hook=lambda found: found, parse_int=whole)
    except RecursionError:
        answer = from_json(content)
    return answer


def _allowance(headers: Mapping[str, str]) -> Allowance | None:
    """The host's rate limit headers: ``RateLimit`` (both IETF drafts), ``RateLimit-*`` or ``X-RateLimit-*``."""
    if not any(name in headers for name in ("RateLimit", "RateLimit-Remaining", "X-RateLimit-Remaining")):
        return None
    limits = headers.get("RateLimit", "")
    if "remaining=" in limits:  # the earlier draft, where commas separate the parts of a single policy
        policies = re.findall(r"remaining=([0-9]{1,9}).*?reset=([0-9]{1,9})", limits)
    else:
        items = [dict(re.findall(r";\s*(r|t)=([0-9]{1,9})", item)) for item in limits.split(",")]
        policies = [(item["r"], item["t"]) for item in items if len(item) == 2]
    if not policies:
        left, reset = (
            headers.get(f"RateLimit-{name}") or headers.get(f"X-RateLimit-{name}", "")
            for name in ("Remaining", "Reset")
        )
        policies = [(left, reset)] if re.fullmatch("[0-9]{1,9}", left) and re.fullmatch("[0-9]{1,12}", reset) else []
    if not policies:
        return None
    remaining, seconds = min((int(left), float(reset)) for left, reset in policies)
    if seconds > 1_000_000_000:  # some hosts send a point in time instead of a delay
        seconds -= time.time()
    return Allowance(remaining, min(max(seconds, 0.0), 3600.0))
