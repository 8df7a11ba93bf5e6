"""Connections to a host, through aiohttp, or through an httpx transport, with which tests emulate hosts.

Also descriptions of faults and answers that quote nothing of their content.
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

RequestBody = bytes | AsyncIterator[bytes] | None
RequestHeaders = Sequence[tuple[str, str]]

FAULTS = (httpx.HTTPError, aiohttp.ClientError, zlib.error, OSError)
"""All errors of connections."""

NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
)
"""Errors without a connection: only after these it is certain that the host received nothing."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """An answer whose head has arrived. ``headers`` ignores the case of names, ``pieces`` yields the body as it
    arrives, and ``close`` must be called, possibly before the last piece.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    pieces: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


class AiohttpConnections:
    """Up to 500 connections, opened on first use. No cookies, no redirects, no retries, no decompression.

    Timeouts in seconds: ``connect`` to connect, or until one of the connections is free; ``read`` between two pieces of
    an answer, None for no limit. ``proxy`` is a URL. ``certificates`` are the trusted ones, if TLS is used.
    """

    def __init__(
        self, *, connect: float, read: float | None, certificates: ssl.SSLContext | None, proxy: str | None
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(connect=connect, sock_connect=connect, sock_read=read)
        self._certificates = certificates or True
        self._proxy = proxy
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, headers: RequestHeaders, body: RequestBody) -> Arriving:
        """Send a request, and wait for the head of the answer. ``url`` is encoded.

        Raises:
            aiohttp.ClientError, OSError: no head came, or it is invalid. Reading the pieces raises the same.
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
            if answer.connection is not None:  # None once all has been received
                await answer.__aexit__(None, None, None)

        return Arriving(answer.status, answer.headers, url, answer.content.iter_any(), close)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class HttpxConnections:
    """Like ``AiohttpConnections``, through an httpx transport, whose errors are raised."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, connect: float, read: float | None) -> None:
        self._transport = transport
        self._timeout = httpx.Timeout(read, connect=connect, pool=connect).as_dict()

    async def send(self, method: str, url: str, headers: RequestHeaders, body: RequestBody) -> Arriving:
        request = httpx.Request(method, url, headers=headers, content=body, extensions={"timeout": self._timeout})
        answer = await self._transport.handle_async_request(request)
        answer.request = request
        assert isinstance(answer.stream, httpx.AsyncByteStream)  # noqa: S101 - always true for an asynchronous one
        return Arriving(answer.status_code, answer.headers, url, aiter(answer.stream), answer.aclose)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def _without_retry(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from retrying a GET on a broken connection, which it does only for these two errors."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def describe_fault(fault: BaseException) -> str:
    """A fault in words, by its type and errno. The text of an exception is not used, since it may quote anything."""
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
    """The kind of an answer from ``url``, for diagnosis, without its content."""
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
