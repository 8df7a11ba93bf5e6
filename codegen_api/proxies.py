"""Which proxy stands on the way to an address, by what the environment says (``HTTPS_PROXY``, ``NO_PROXY``)."""

import ipaddress
import re
from fnmatch import fnmatchcase
from urllib.request import getproxies_environment

import httpx


def proxy_for(url: httpx.URL) -> httpx.URL | None:
    """The proxy for this address. Raises ``ValueError``, without quoting it, for one that cannot be used."""
    # aiohttp's trust_env would also read ~/.netrc, and fail when that has a second credential for the host.
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


def way_through(address: str) -> str | None:
    """The proxy for this address, as it may be shown. Whether either can be used is for those to say who go there."""
    try:
        proxy = proxy_for(httpx.URL(address.strip()))
    except (httpx.InvalidURL, ValueError):
        return None
    return None if proxy is None else shown(proxy)


def shown(proxy: httpx.URL) -> str:
    """A proxy as it may stand in a log: without a user and password."""
    return f"{proxy.scheme}://{proxy.netloc.decode()}"


def _is_excepted(url: httpx.URL, exceptions: str) -> bool:
    """Whether ``NO_PROXY`` excepts this address, by what curl understands and what else is in use: a domain and all
    below it, with a dot before it or not; an address; a network (10.0.0.0/8, fd00::/8); a name with stars
    (*.example.com); each with a port or without.
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
    except ValueError:  # a name, which is looked up by whoever connects
        return f".{name}".endswith("." + exception.rstrip(".").removeprefix("."))
    try:
        return address in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        return False
