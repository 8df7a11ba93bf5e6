"""What the values of settings may look like: types with validators, whose errors name no secret."""

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from codegen_api import origins

KEY_CHARACTERS = 32


def split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("it names nothing")
    return value


def http_url(value: str | None) -> str | None:
    if value is not None and not value.lower().startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    return one_word(value)


def extensible_url(value: str | None) -> str | None:
    """A URL to which paths are appended."""
    if value is not None and not set("?#").isdisjoint(value):
        raise ValueError("it may have neither ? nor #")
    return value if value is None else (http_url(value) or "").rstrip("/")


def one_word(value: str | None) -> str | None:
    if value is not None and not (value.isprintable() and " " not in value):
        raise ValueError("it may hold no white space and no control characters")
    return value


def sendable(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("it is no token: it may hold visible ASCII characters only, and no white space")
    return value


def trusted_host(value: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", value.lower()):
        raise ValueError("a host is a name or an address without a port, or *. and a domain")
    return origins.host_as_sent(value.lower()) if value.startswith("[") else value.lower()


def network(value: str) -> str:
    ip_network(value)  # its errors are readable
    return value


def key_prefix(value: str) -> str:
    if not re.fullmatch(r"[\w.:/-]{1,64}", value, re.ASCII):
        raise ValueError("it is 1 to 64 letters, digits, and any of _ . : / -")
    return value


def url_path(value: str) -> str:
    if not re.fullmatch(r"[\w.~!$&'()*+,;=:@%/-]*", value, re.ASCII):
        raise ValueError("it is no path; what is not ASCII is written with %")
    return "/" + value.strip("/") if value.strip("/") else ""


def long_keys(value: SecretStr | None) -> SecretStr | None:
    if value is not None and min(map(len, separate_keys(value)), default=0) < KEY_CHARACTERS:
        raise ValueError(f"a key needs {KEY_CHARACTERS} characters or more; `openssl rand -hex 32` makes one")
    return value


def separate_keys(value: SecretStr) -> list[str]:
    return [key.strip() for key in value.get_secret_value().split(",") if key.strip()]


Origins = Annotated[tuple[Annotated[str, AfterValidator(origins.normalized)], ...], NoDecode, BeforeValidator(split)]
Modes = Annotated[
    tuple[Literal["token", "jwt", "key"], ...], NoDecode, BeforeValidator(split), AfterValidator(not_empty)
]
Word = Annotated[str | None, AfterValidator(one_word)]
Url = Annotated[str | None, AfterValidator(http_url)]
ExtensibleUrl = Annotated[str | None, AfterValidator(extensible_url)]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]  # fmt: skip
Algorithms = Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(split)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(trusted_host)], ...], NoDecode, BeforeValidator(split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(network)], ...], NoDecode, BeforeValidator(split)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)]
LongKeys = Annotated[SecretStr | None, AfterValidator(long_keys)]
Token = Annotated[SecretStr | None, AfterValidator(sendable)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Mebibytes = Annotated[int, Field(ge=1, le=1_048_576)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
