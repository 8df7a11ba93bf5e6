"""The proxy for a URL, according to the environment (``HTTPS_PROXY``, ``NO_PROXY``)."""

import ipaddress
import re
from fnmatch import fnmatchcase
from urllib.request import getproxies_environment

import httpx


def proxy_for(url: httpx.URL) -> httpx.URL | None:
    """The proxy for a URL. Raises ``ValueError`` if it is unusable; the message does not quote it."""
    # not aiohttp's trust_env: it also reads ~/.netrc, and fails if that has other credentials for the host
    environment = getproxies_environment()
    text = environment.get(url.scheme)
    if not text or _is_excepted(url, environment.get("no", "")):
        return None
    try:
        proxy = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        raise ValueError("The proxy that the environment names for the host is not a URL.") from None
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError("The proxy that the environment names for the host must be an http:// or https:// one.")
    return proxy


def displayed_proxy(address: str) -> str | None:
    """The proxy for an address, for display; None without one, or if either is unusable, which their users report."""
    try:
        proxy = proxy_for(httpx.URL(address.strip()))
    except (httpx.InvalidURL, ValueError):
        return None
    return None if proxy is None else redacted(proxy)


def redacted(proxy: httpx.URL) -> str:
    """A proxy for display, without user and password."""
    return f"{proxy.scheme}://{proxy.netloc.decode()}"


def _is_excepted(url: httpx.URL, exceptions: str) -> bool:
    """Whether ``NO_PROXY`` excludes a URL. It may have the forms that curl knows and other common ones: a domain with
    its subdomains, with or without a leading dot; an address; a network (10.0.0.0/8, fd00::/8); a name with wildcards
    (*.example.com); each with or without a port.
    """
    names = {name.lower().rstrip(".") for name in (url.host, url.raw_host.decode())}
    port = str(url.port or {"http": 80, "https": 443}.get(url.scheme))
    for exception in re.split(r"[\s,]+", exceptions.lower()):
        host, colon, its_port = exception.rpartition(":")
        if not colon or (":" in host and not host.endswith("]")):  # no port: a name, or an IPv6 address
            host, its_port = exception, port
        if host and its_port == port and any(_excepts(host.strip("[]"), name) for name in names):
            return True
    return False


def _excepts(exception: str, name: str) -> bool:
    if "*" in exception:
        return fnmatchcase(name, exception)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:  # a name, which is resolved only on connecting
        return f".{name}".endswith("." + exception.rstrip(".").removeprefix("."))
    try:
        return address in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        return False
