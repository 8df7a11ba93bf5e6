"""Web origins as browsers send them (RFC 6454), and loopback names."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx

ALL = "*"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::[0-9]*)?")
"""A Host header in lower case. The first group is its name."""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\*\.)?(\[[0-9a-f:.]+\]|[^]\s/?#@:*%\\[]+)(:[0-9]*)?")
_OPAQUE = frozenset({"about", "blob", "data", "file", "javascript", "ws", "wss"})
_PORTS = {"http": 80, "https": 443}


def normalized(text: str) -> str:
    """An origin in the exact form that browsers send, or ``*``: no other form would ever match.

    Raises:
        ValueError: no page can have this origin.
    """
    if text == ALL:
        return text
    if text == "null":
        raise ValueError("any page can make itself `null`; to let all pages in, say `*`")
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError(
            "an origin is a scheme, :// and a host, perhaps with a port, and nothing behind it, such as"
            " https://app.example.com; `*.` in front of the host stands for its subdomains"
        )
    scheme, subdomains, host, port = found.groups()
    if scheme in _OPAQUE:
        raise ValueError(f"no page has an origin that begins with {scheme}:")
    number = int((port or ":")[1:] or 0)
    if number > 65_535:
        raise ValueError("there is no such port")
    shown = "" if number in (0, _PORTS.get(scheme)) else f":{number}"
    return f"{scheme}://{subdomains or ''}{host_as_sent(host)}{shown}"


def host_as_sent(host: str) -> str:
    """A lower-case host, as browsers write it."""
    if host.startswith("["):
        return f"[{IPv6Address(host[1:-1])}]"
    # browsers parse a host that ends in a number as an address
    if re.fullmatch(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?", host):
        return str(IPv4Address(host))
    try:
        return httpx.URL(scheme="http", host=host).raw_host.decode()  # IDNA
    except httpx.InvalidURL:
        raise ValueError("this host cannot be one") from None


def pattern(origins: Iterable[str]) -> str:
    """A regular expression for ``origins``, with ``*.`` for subdomains."""
    return "|".join(re.escape(origin).replace(r"\*\.", r"([a-z0-9_-]+\.)+") for origin in origins)


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached only from this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
