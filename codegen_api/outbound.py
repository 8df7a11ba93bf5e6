"""HTTP to a host, for the adapters that speak it: one exchange at a time, and what can go wrong on the way in our
words.

Nothing is repeated, no redirect is followed, no cookie is kept, and no answer or exchange goes on for ever.
"""

import asyncio
import codecs
import json
import re
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import metadata
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from codegen_api import errors
from codegen_api.runs import Json
from codegen_api.shortages import shortage
from codegen_api.telemetry import Allowance, Observation

MAX_ANSWER = 128 * 1024 * 1024
"""Bytes of one answer, decompressed; a host that says more is not listened to any longer."""

LARGE = 1024 * 1024
"""Bytes of an answer that are read in some ten milliseconds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the host said. ``readable``: it was JSON, which is ``json``; else that is None."""

    status: int
    json: Json
    readable: bool
    retry_after: str | None
    allowance: Allowance | None


class Outbound:
    """The way to one host: ``base_url`` with ``prefix`` behind it.

    Times are in seconds: ``connect_timeout`` until there is a connection, ``read_timeout`` between two pieces of an
    answer; a whole exchange has ``connect_timeout + 2 * read_timeout``. ``via`` names this gateway in a ``Via`` header.
    Proxies and certificates of the environment hold unless a ``transport`` is given. Raises ``ValueError``, which
    quotes neither, when ``base_url`` or the proxy cannot be used.
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
        # nothing but gzip: httpx would unpack each piece of an answer whole, and "gzip, gzip" makes gigabytes of one
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": f"codegen_api/{_version()}"}
        self._client = httpx.AsyncClient(
            transport=transport or _transport(base),
            headers=headers if via is None else {**headers, "Via": f"1.1 {via}"},
            # Many users share this client: a cookie set for one must not be sent for another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx.Timeout(read_timeout, connect=connect_timeout, pool=connect_timeout),
            trust_env=False,
        )

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: bytes | None,
        headers: list[tuple[str, str]],
    ) -> Answer:
        """One exchange; ``body`` is JSON.

        Raises:
            UpstreamUnreachable, UpstreamTimeout, UpstreamError: there was no answer, or not the whole of one.
        """
        content = None
        if body is not None:
            headers = [*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            content = _pieces(body)
        request = self._client.build_request(method, self._root + path, params=query, headers=headers, content=content)
        try:
            response, received = await self._exchange(request)
        except errors.UpstreamFailure:
            self.observation = Observation(reachable=False, checked_at=time.time())
            raise
        try:
            answer, readable = await _decoded(received), True
        except ValueError:
            answer, readable = None, False
        self.observation = Observation(readable and response.status_code < 500, time.time())
        said = response.headers
        return Answer(response.status_code, answer, readable, said.get("Retry-After"), _allowance(said))

    async def aclose(self) -> None:
        """Let go of every connection; later calls raise ``UpstreamUnreachable``."""
        await self._client.aclose()

    async def _exchange(self, request: httpx.Request) -> tuple[httpx.Response, bytearray]:
        if self._client.is_closed:
            raise _unheard(errors.UpstreamUnreachable())
        # The deadline is no luxury: aiohttp 3.14 waits for ever when a chunked body turns bad half-way.
        with _faults(answered=False):
            async with asyncio.timeout(self._deadline):
                response = await self._client.send(request, stream=True)
                try:
                    with _faults(answered=True):
                        return response, await _received(response)
                finally:
                    await response.aclose()


def _base(text: str) -> httpx.URL:
    """The host's address, checked."""
    try:
        url = httpx.URL(text.strip())
        url.host.encode("idna")  # aiohttp does this later, where nobody expects an error
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError("The base URL is not a URL.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("The base URL must begin with http:// or https:// and name a host.")
    # httpx would send a user and password from here in the place of our own Authorization header.
    if url.userinfo or url.query or url.fragment:
        raise ValueError("The base URL must have neither user and password nor a query nor a fragment.")
    return url.copy_with(path=url.path.rstrip("/") or "/")


def _version() -> str:
    try:
        return metadata.version("codegen-gateway")
    except metadata.PackageNotFoundError:
        return "0"


def _proxy(base: httpx.URL) -> str | None:
    # aiohttp's trust_env would also read ~/.netrc, and fail when that has a second credential for the host.
    proxy = getproxies().get(base.scheme)
    if not proxy or proxy_bypass(base.host) or proxy_bypass(base.netloc.decode()):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy.lower().startswith(("http://", "https://")):
        raise ValueError("The proxy that the environment names for the host must be an http:// or https:// one.")
    return proxy


def _transport(base: httpx.URL) -> httpx.AsyncBaseTransport:
    proxy = _proxy(base)
    certificates = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=500, ssl=certificates),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy,
            middlewares=(_once,),
        )

    return AiohttpTransport(verify=certificates, client=session)


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET whose connection broke: it does so for exactly these two errors."""
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
"""There was no connection: the only faults after which the host has surely heard nothing."""


def _unheard(error: errors.UpstreamFailure) -> errors.UpstreamFailure:
    error.may_have_acted = False
    return error


@contextmanager
def _faults(*, answered: bool) -> Iterator[None]:
    """Raise what goes wrong on the way as errors of ours. ``answered``: the head of an answer has come."""
    try:
        yield
    except (httpx.HTTPError, aiohttp.ClientError, zlib.error, OSError) as error:
        # httpx-aiohttp 0.2 calls a refused connection a time-out and lets other errors through: ask for the cause.
        if shortage(error):  # ours, not the host's: it has heard nothing
            raise errors.AtCapacity("This instance cannot do more just now.", retry_after=5) from error
        fault = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
        if isinstance(fault, _NOT_CONNECTED):
            slow = isinstance(fault, httpx.TimeoutException | TimeoutError)
            raise _unheard(errors.UpstreamTimeout() if slow else errors.UpstreamUnreachable()) from error
        if isinstance(fault, httpx.TimeoutException | TimeoutError):
            raise errors.UpstreamTimeout from error
        # Without a byte, httpx speaks of a violated protocol too; only its words tell.
        silent = isinstance(fault, aiohttp.ClientHttpProxyError) or str(fault).startswith("Server disconnected")
        if answered or (isinstance(fault, httpx.ProtocolError | aiohttp.ClientResponseError) and not silent):
            raise errors.UpstreamError("The host's answer broke off or cannot be read.") from error
        raise errors.UpstreamUnreachable from error


async def _received(response: httpx.Response) -> bytearray:
    """What the host said, unpacked no further than it may be long."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise errors.UpstreamError("The host's answer is packed in a way that was not asked for.")
    unpack = zlib.decompressobj(wbits=31).decompress if encoding == "gzip" else None
    content = bytearray()
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - an asynchronous client's always is
    async for piece in response.stream:
        content += unpack(piece, MAX_ANSWER + 1 - len(content)) if unpack else piece
        if len(content) > MAX_ANSWER:
            raise errors.UpstreamError("The host's answer is too long.")
    return content


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """Bodies are given in pieces: aiohttp warns of whole ones beyond 1 MiB, and images are larger."""
    for start in range(0, len(content), 64 * 1024):
        yield content[start : start + 64 * 1024]


async def _decoded(content: bytearray) -> Json:
    """Read JSON, also what Python alone calls so: NaN, 1e400, lone surrogates. Raises ``ValueError``.

    What is large is read beside the event loop.
    """
    try:
        if len(content) > LARGE:
            return await asyncio.to_thread(_decoded_aside, content)
        answer: Json = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = _decoded_aside(content)
    return answer


def _decoded_aside(content: bytearray) -> Json:
    """The same with Python's own reader, which is slower, but calls back at each object, so that other threads get on:
    orjson lets nobody else do anything before it has done.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogatepass")
    starts = range(0, len(content), LARGE)
    text = "".join([*(decoder.decode(content[start : start + LARGE]) for start in starts), decoder.decode(b"", True)])
    try:
        answer: Json = json.loads(text, object_hook=lambda found: found)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return answer


def _allowance(headers: httpx.Headers) -> Allowance | None:
    """What is left, as hosts say it: ``RateLimit`` (both drafts of the IETF), ``RateLimit-*`` or ``X-RateLimit-*``."""
    said = headers.get("RateLimit", "")
    if "remaining=" in said:  # an earlier draft, in which commas stand between the parts of the one policy
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
    if seconds > 1_000_000_000:  # some say when instead of in how long
        seconds -= time.time()
    return Allowance(remaining, min(max(seconds, 0.0), 3600.0))
