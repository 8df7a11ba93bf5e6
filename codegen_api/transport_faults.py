"""What came of a request to a host, in words that quote nothing of its content."""

import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
import httpx

NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
)
"""There was no connection: the only failures after which the host surely received nothing."""


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
        each = getattr(each, "os_error", None) or getattr(each, "certificate_error", None) or _cause_of(each)
    return type(fault).__name__


def _cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__ or error.__context__


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
