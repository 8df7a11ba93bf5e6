"""Connections to a host: those of aiohttp, or a transport of httpx, which is how tests put a host in their place.

And what came of a request, in words that quote nothing of its content.
"""

import os
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import httpx

Content = bytes | AsyncIterator[bytes] | None
"""The body of a request."""
Sent = Sequence[tuple[str, str]]
"""The headers of a request."""

FAULTS = (httpx.HTTPError, aiohttp.ClientError, zlib.error, OSError)
"""What goes wrong with a connection."""

NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
)
"""There was no connection: the only failures after which the host surely received nothing."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """An answer whose head has arrived. ``headers`` takes names in any case. ``pieces`` are of the body, as they come;
    ``close``, which must be called, may be called before the last one.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    pieces: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


class AiohttpConnections:
    """At most 500 connections, made on first use. No cookies, no redirects, nothing sent twice, nothing unpacked.

    Times in seconds: ``connect`` to connect, or to wait until one of the connections is free; ``read`` between two
    pieces of an answer, None for no limit. ``proxy`` is a URL. ``certificates`` are those that are trusted, if any is
    needed.
    """

    def __init__(
        self, *, connect: float, read: float | None, certificates: ssl.SSLContext | None, proxy: str | None
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(connect=connect, sock_connect=connect, sock_read=read)
        self._certificates = certificates or True
        self._proxy = proxy
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, headers: Sent, body: Content) -> Arriving:
        """Send a request, and wait for the head of the answer. ``url`` is encoded.

        Raises:
            aiohttp.ClientError, OSError: there was none, or it cannot be read. Reading the pieces may fail in the same
                ways.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=500, ssl=self._certificates),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                proxy=self._proxy,
                middlewares=(_without_retry,),
            )
        answer = await self._session.request(method, url, headers=headers, data=body, allow_redirects=False)

        async def close() -> None:
            if answer.connection is not None:  # it went back by itself when all had been received
                await answer.__aexit__(None, None, None)

        return Arriving(answer.status, answer.headers, url, answer.content.iter_any(), close)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class HttpxConnections:
    """The same through a transport of httpx, whose errors are raised."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, connect: float, read: float | None) -> None:
        self._transport = transport
        self._timeout = httpx.Timeout(read, connect=connect, pool=connect).as_dict()

    async def send(self, method: str, url: str, headers: Sent, body: Content) -> Arriving:
        request = httpx.Request(method, url, headers=headers, content=body, extensions={"timeout": self._timeout})
        answer = await self._transport.handle_async_request(request)
        answer.request = request
        assert isinstance(answer.stream, httpx.AsyncByteStream)  # noqa: S101 - always true for an asynchronous one
        return Arriving(answer.status_code, answer.headers, url, aiter(answer.stream), answer.aclose)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def _without_retry(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Stop aiohttp from retrying a GET after a broken connection, which it does for exactly these two errors."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def describe_fault(fault: BaseException) -> str:
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
        inner = getattr(each, "os_error", None) or getattr(each, "certificate_error", None)
        each = inner or each.__cause__ or each.__context__
    return type(fault).__name__


def describe_answer(status: int, headers: Mapping[str, str], url: str, received: bytearray, readable: bool) -> str:
    """The kind of answer from ``url``, for diagnosis; nothing of its content."""
    text = f"status {status}"
    if 300 <= status < 400:
        where = ""
        with suppress(httpx.InvalidURL, KeyError):
            where = f" to {httpx.URL(url).join(headers['Location']).host}"
        return f"{text}, a redirect{where}, which is not followed"
    kind = re.match(r"[\w.+-]{1,40}/[\w.+-]{1,40}", headers.get("Content-Type", ""), re.ASCII)
    text += f", {kind[0]}" if kind else ", without a Content-Type"
    if status in (429, 503) and re.fullmatch("[0-9]{1,6}", headers.get("Retry-After", "")):
        text += f", Retry-After {headers['Retry-After']}"
    return text if readable else f"{text}, {'which is no JSON' if received else 'empty'}"
