"""Parses a PostgreSQL URL as libpq and ``psql`` do, for a driver that differs.

asyncpg sends every parameter that it does not know to the server as a setting, and the server refuses the connection.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

DRIVER_PARAMETERS = {
    "dbname", "gsslib", "host", "krbsrvname", "passfile", "password", "port", "service", "sslcert", "sslcrl", "sslkey",
    "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "ssl_max_protocol_version", "ssl_min_protocol_version",
    "target_session_attrs", "user",
}  # fmt: skip
"""Parameters that asyncpg reads as libpq does."""

SERVER_PARAMETERS = {"application_name", "options"}
"""Parameters for the server."""

IGNORED_PARAMETERS = {
    "channel_binding", "client_encoding", "gssdelegation", "hostaddr", "keepalives", "keepalives_count",
    "keepalives_idle", "keepalives_interval", "load_balance_hosts", "max_protocol_version", "min_protocol_version",
    "sslcertmode", "sslcompression", "sslkeylogfile", "sslsni", "tcp_user_timeout",
}  # fmt: skip
"""Parameters to ignore: they concern libpq itself, or things that asyncpg does in its own way."""

SPECIAL = {"connect_timeout", "fallback_application_name", "gssencmode", "requiressl", "ssl"}

CHOICES: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer"),
    "ssl": ("true",),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
ENCRYPTED = ("require", "verify-ca", "verify-full")

UNREADABLE = "The URL of the database cannot be read. In a password, write / ? # @ : and % as %2F and so on."

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,40}")


@dataclass(frozen=True, slots=True)
class Target:
    """Arguments for asyncpg: the URL with the parameters it knows, settings for the server, and the connect timeout."""

    url: str = field(repr=False)
    settings: Mapping[str, str]
    timeout: float | None
    ssl: ssl.SSLContext | None


def read(url: str) -> Target:
    """Parse the URL.

    Raises:
        ValueError: the URL is invalid, or a parameter is unknown or cannot be honoured. The text quotes nothing that
            may be part of the password.
    """
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        readable = url.isprintable() and not parts.fragment and all(_HOST.fullmatch(host) for host in hosts)
    except ValueError:
        readable = False
    if not readable:
        raise ValueError(UNREADABLE)
    given = dict(_parameter(pair) for pair in parts.query.split("&") if pair)
    for name, value in given.items():
        if name not in DRIVER_PARAMETERS | SERVER_PARAMETERS | IGNORED_PARAMETERS | SPECIAL:
            # the part of a password behind a ? looks like a parameter
            if "@" in parts.query or not _NAME.fullmatch(name):
                raise ValueError(UNREADABLE)
            raise ValueError(
                f"The URL of the database has the parameter {name}, which is not known or cannot be honoured;"
                " settings of the server go into options."
            )
        if value not in CHOICES.get(name, (value,)):
            raise ValueError(f"In the URL of the database {name} may be {', '.join(CHOICES[name])}.")
    if given.get("requiressl") == "1" or given.get("ssl") == "true":
        given.setdefault("sslmode", "require")
    if given.get("channel_binding") == "require" and given.get("sslmode") not in ENCRYPTED:
        given["sslmode"] = "require"  # binding requires encryption
    if "hostaddr" in given and not parts.netloc.rpartition("@")[2]:
        given.setdefault("host", given["hostaddr"])
    system = given.get("sslrootcert") == "system"
    if system:
        if given.pop("sslmode", "verify-full") != "verify-full":
            raise ValueError("In the URL of the database sslrootcert=system goes together with sslmode=verify-full.")
        del given["sslrootcert"]
    name = given.get("application_name") or given.get("fallback_application_name") or "codegen_api"
    query = "&".join(f"{each}={quote(given[each], safe='')}" for each in sorted(DRIVER_PARAMETERS & set(given)))
    return Target(
        url.partition("?")[0] + (query and f"?{query}"),
        {**{each: given[each] for each in sorted(SERVER_PARAMETERS & set(given))}, "application_name": name},
        _seconds(given.get("connect_timeout", "0")),
        ssl.create_default_context() if system else None,
    )


def _parameter(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not (name and equals):
        raise ValueError(UNREADABLE)
    return unquote(name), unquote(value)


def _seconds(text: str) -> float | None:
    if not re.fullmatch(r"\s*[-+]?[0-9]{1,9}\s*", text):
        raise ValueError("In the URL of the database connect_timeout is a number of seconds.")
    return float(text) if int(text) > 0 else None
