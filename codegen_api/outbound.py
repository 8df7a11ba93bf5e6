"""HTTP to a host for the adapters: one exchange at a time, with failures mapped to the gateway's errors.

No retries, no redirects, no cookies, and every answer and exchange is bounded in size and time.
"""

import asyncio
import codecs
import json
import os
import re
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import metadata

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from codegen_api import errors
from codegen_api.exhaustion import shortage
from codegen_api.proxies import proxy_for, redacted
from codegen_api.runs import Json, from_json, whole
from codegen_api.telemetry import Allowance, Observation
from codegen_api.worker_thread import LARGE, in_thread

MAX_ANSWER = 32 * 1024 * 1024
"""Maximum bytes of one decompressed answer."""


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """An answer of the host. ``readable``: it was JSON, parsed in ``json``.

    ``account`` describes the exchange for the log, without content. ``large``: processing it takes long and belongs off
    the event loop. ``cut``: it begins like JSON but is not, as if a proxy had truncated it and corrected its
    Content-Length.
    """

    status: int
    json: Json
    readable: bool
    retry_after: str | None
    allowance: Allowance | None
    account: str
    large: bool
    cut: bool


class Outbound:
    """A client for one host at ``base_url`` plus ``prefix``.

    Timeouts in seconds: ``connect_timeout`` to connect, ``read_timeout`` between two chunks of an answer, and
    ``connect_timeout + 2 * read_timeout`` for a whole exchange. ``via`` is the pseudonym in the ``Via`` header. Proxies
    and certificates come from the environment unless a ``transport`` is given.

    Raises:
        ValueError: ``base_url`` or the proxy cannot be used; neither is quoted.
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
        base = _base(base_url)
        self.observation: Observation | None = None
        self._root = str(base).rstrip("/") + prefix
        self._deadline = connect_timeout + 2 * read_timeout
        proxy = None if transport else proxy_for(base)
        self._via_proxy = "" if proxy is None else f" through {redacted(proxy)}"
        # only gzip, which we decompress ourselves: httpx unpacks each chunk whole, and "gzip, gzip" can make gigabytes
        # of one
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": f"codegen_api/{_version()}"}
        self._timeout = httpx.Timeout(read_timeout, connect=connect_timeout, pool=connect_timeout)
        self._client = httpx.AsyncClient(
            transport=transport or _transport(proxy),
            headers=headers if via is None else {**headers, "Via": f"1.1 {via}"},
            # All users share this client: a cookie set for one must not be sent for another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=self._timeout,
            trust_env=False,
        )

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: bytes | None,
        headers: list[tuple[str, str]],
        *,
        order: bool = False,
        unread: bool = False,
    ) -> HostAnswer:
        """Send one request; ``body`` is JSON. ``order``: the head of a successful answer is enough even if its body
        fails; ``unread``: the body is not wanted at all.

        Raises:
            UpstreamUnreachable, UpstreamTimeout, UpstreamError: there was no answer, or only part of one
                (``AnswerCut``).
        """
        content = None
        if body is not None:
            headers = [*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            content = _pieces(body)
        request = self._client.build_request(method, self._root + path, params=query, headers=headers, content=content)
        asked = f"{method} {self._root}{_without_ids(path)}{self._via_proxy}"
        try:
            response, received = await self._exchange(request, order=order, unread=unread)
        except errors.UpstreamFailure as error:
            outcome = error.reason or error.message
            self._observe(outcome)
            error.reason = f"{asked}: {outcome}"
            raise
        try:
            answer, readable = await _decoded(received), True
        except ValueError:
            answer, readable = None, False
        outcome = _describe_answer(response, received, readable)
        usable = response.status_code < 500 and (readable or (order and response.is_success))
        self._observe(None if usable else outcome)
        answer_headers = response.headers
        return HostAnswer(
            response.status_code,
            answer,
            readable,
            answer_headers.get("Retry-After"),
            _allowance(answer_headers),
            f"{asked}: {outcome}",
            len(received) > LARGE,
            not readable and received.lstrip().startswith((b"{", b"[")),
        )

    async def aclose(self) -> None:
        """Close all connections; later calls raise ``UpstreamUnreachable``."""
        await self._client.aclose()

    def _observe(self, trouble: str | None) -> None:
        now, before = time.time(), self.observation
        since = before.since if before is not None and before.since is not None else now
        self.observation = Observation(trouble is None, now, trouble, None if trouble is None else since)

    async def _exchange(self, request: httpx.Request, *, order: bool, unread: bool) -> tuple[httpx.Response, bytearray]:
        if self._client.is_closed:
            raise _not_sent(errors.UpstreamUnreachable(reason="not asked: the gateway is about to stop"))
        # Needed although there are timeouts: aiohttp 3.14 waits for ever when a chunked body turns invalid half-way.
        done = None
        try:
            with self._faults(answered=False):
                async with asyncio.timeout(self._deadline):
                    response = await self._client.send(request, stream=True)
                    try:
                        done = response if order and response.is_success else None
                        if unread and done:
                            return done, bytearray()
                        with self._faults(answered=True):
                            return response, await _read_body(response)
                    finally:
                        await response.aclose()
        except errors.UpstreamFailure:
            if done is None:
                raise
            return done, bytearray()

    @contextmanager
    def _faults(self, *, answered: bool) -> Iterator[None]:
        """Map transport errors to the gateway's. ``answered``: the head of an answer had arrived."""
        try:
            yield
        except (httpx.HTTPError, aiohttp.ClientError, zlib.error, OSError) as error:
            # httpx-aiohttp 0.2 reports a refused connection as a timeout and lets other errors through: look at the
            # cause.
            fault = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
            if shortage(error):  # our own shortage; nothing was sent
                raise errors.AtCapacity("This instance cannot do more just now.", retry_after=5) from error
            slow = isinstance(fault, httpx.TimeoutException | TimeoutError)
            why = _describe_fault(fault)
            if isinstance(fault, _NOT_CONNECTED):
                why = f"no connection within {self._timeout.connect:g} s" if slow else f"no connection: {why}"
                kind = errors.UpstreamTimeout if slow else errors.UpstreamUnreachable
                raise _not_sent(kind(reason=why)) from error
            if slow:
                if not isinstance(fault, httpx.TimeoutException | aiohttp.ServerTimeoutError):
                    why = f"no whole answer within {self._deadline:g} s"
                else:
                    why = f"{'nothing more of the' if answered else 'no'} answer within {self._timeout.read:g} s"
                raise errors.UpstreamTimeout(reason=why) from error
            # httpx also reports a close without any answer as a protocol error; only the text tells them apart.
            silent = isinstance(fault, aiohttp.ClientHttpProxyError) or str(fault).startswith("Server disconnected")
            if answered:
                broken = "cannot be unpacked" if isinstance(fault, zlib.error) else "broke off"
                raise errors.AnswerCut(reason=f"the answer {broken}: {why}") from error
            if isinstance(fault, httpx.ProtocolError | aiohttp.ClientResponseError) and not silent:
                message = "The host's answer broke off or cannot be read."
                raise errors.UpstreamError(message, reason=f"what came is no HTTP: {why}") from error
            raise errors.UpstreamUnreachable(reason=f"the connection broke before an answer: {why}") from error


def _base(text: str) -> httpx.URL:
    """Parse and check the host's address."""
    try:
        url = httpx.URL(text.strip())
        url.host.encode("idna")  # aiohttp would do this later, outside its error handling
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("The base URL is not a URL.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("The base URL must begin with http:// or https:// and name a host.")
    # httpx would replace our Authorization header with user and password from here.
    if url.userinfo or url.query or url.fragment:
        raise ValueError("The base URL must have neither user and password nor a query nor a fragment.")
    return url.copy_with(path=url.path.rstrip("/") or "/")


def _version() -> str:
    try:
        return metadata.version("codegen-gateway")
    except metadata.PackageNotFoundError:
        return "0"


def _transport(proxy: httpx.URL | None) -> httpx.AsyncBaseTransport:
    certificates = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=500, ssl=certificates),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=None if proxy is None else str(proxy),
            middlewares=(_without_retry,),
        )

    return AiohttpTransport(verify=certificates, client=session)


async def _without_retry(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Stop aiohttp from retrying a GET after a broken connection, which it does for exactly these two errors."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
)
"""There was no connection: the only failures after which the host surely received nothing."""


def _not_sent(error: errors.UpstreamFailure) -> errors.UpstreamFailure:
    error.may_have_acted = False
    return error


def _describe_fault(fault: BaseException) -> str:
    """What happened, in terms of its type and errno. The text of an exception is not used: it may quote anything."""
    if isinstance(fault, aiohttp.ClientHttpProxyError):
        return f"the proxy answered with status {fault.status}"
    each: BaseException | None = fault
    while each is not None:
        match each:
            case aiohttp.ClientConnectorError():
                pass  # its text repeats that of the inner error
            case ssl.SSLCertVerificationError():
                return f"the certificate is not valid ({each.verify_message.rstrip('.')})"
            case ssl.SSLError():
                return f"TLS failed ({each.reason})"
            case socket.gaierror():
                return f"the name does not resolve ({each.strerror})"
            case OSError(errno=int(number)):
                return f"{os.strerror(number)} (errno {number})"
        each = getattr(each, "os_error", None) or getattr(each, "certificate_error", None) or _cause_of(each)
    return type(fault).__name__


def _cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


def _without_ids(path: str) -> str:
    return re.sub(r"/[0-9]+(?=/|$)", "/{id}", path)


def _describe_answer(response: httpx.Response, received: bytearray, readable: bool) -> str:
    """The kind of answer, for diagnosis; nothing of its content."""
    text = f"status {response.status_code}"
    if 300 <= response.status_code < 400:
        where = ""
        with suppress(httpx.InvalidURL, KeyError):
            where = f" to {response.url.join(response.headers['Location']).host}"
        return f"{text}, a redirect{where}, which is not followed"
    kind = re.match(r"[\w.+-]{1,40}/[\w.+-]{1,40}", response.headers.get("Content-Type", ""), re.ASCII)
    text += f", {kind[0]}" if kind else ", without a Content-Type"
    if response.status_code in (429, 503) and re.fullmatch("[0-9]{1,6}", response.headers.get("Retry-After", "")):
        text += f", Retry-After {response.headers['Retry-After']}"
    return text if readable else f"{text}, {'which is no JSON' if received else 'empty'}"


async def _read_body(response: httpx.Response) -> bytearray:
    """Read the body, decompressing no further than the size limit."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise errors.UpstreamError("The host's answer is packed in a way that was not asked for.")
    unpack = zlib.decompressobj(wbits=31).decompress if encoding == "gzip" else None
    content = bytearray()
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - always true for an AsyncClient
    async for piece in response.stream:
        content += unpack(piece, MAX_ANSWER + 1 - len(content)) if unpack else piece
        if len(content) > MAX_ANSWER:
            raise errors.AnswerTooLong
    return content


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """The body in chunks: aiohttp warns about whole ones beyond 1 MiB, and images are larger."""
    for start in range(0, len(content), 64 * 1024):
        yield content[start : start + 64 * 1024]


async def _decoded(content: bytearray) -> Json:
    """Parse JSON as ``from_json`` does; large input off the event loop.

    Raises:
        ValueError: it is not JSON.
    """
    return await in_thread(_decoded_in_thread, content) if len(content) > LARGE else from_json(content)


def _decoded_in_thread(content: bytearray) -> Json:
    """The same with the standard library's parser. It is slower, but its callback for each object lets other threads
    run, while orjson holds the GIL until it is done.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogatepass")
    starts = range(0, len(content), LARGE)
    text = "".join([*(decoder.decode(content[start : start + LARGE]) for start in starts), decoder.decode(b"", True)])
    try:
        answer: Json = json.loads(text, object_hook=lambda found: found, parse_int=whole)
    except RecursionError:
        answer = from_json(content)
    return answer


def _allowance(headers: httpx.Headers) -> Allowance | None:
    """The host's rate limit headers: ``RateLimit`` (both IETF drafts), ``RateLimit-*`` or ``X-RateLimit-*``."""
    said = headers.get("RateLimit", "")
    if "remaining=" in said:  # the earlier draft, where commas separate the parts of a single policy
        policies = re.findall(r"remaining=([0-9]{1,9}).*?reset=([0-9]{1,9})", said)
    else:
        items = [dict(re.findall(r";\s*(r|t)=([0-9]{1,9})", item)) for item in said.split(",")]
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
