"""What can be set from outside: environment variables that begin with ``CODEGEN_``, and a ``.env`` file.

Read by the composition root and the entry points only; everything else is handed what it needs. A secret can also be
given as the path of a file that holds it, in the variable with ``_FILE`` behind its name. White space and byte order
marks around a value are never meant: ``echo token | base64`` and some editors leave them there.
"""

import difflib
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from codegen_api import origins
from codegen_api.environment import (
    ENCODING,
    OF_A_SERVICE,
    PREFIX,
    SERVICE_LINK,
    SecretFiles,
    SettingsError,
    Stripped,
    has_file,
    is_secret,
    variables,
)

KEY_CHARACTERS = 32


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("it names nothing")
    return value


def _http_url(value: str | None) -> str | None:
    if value is not None and not value.lower().startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    return _one_word(value)


def _one_word(value: str | None) -> str | None:
    if value is not None and not (value.isprintable() and " " not in value):
        raise ValueError("it may hold no white space and no control characters")
    return value


def _sendable(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("it is no token: it may hold visible ASCII characters only, and no white space")
    return value


def _trusted_host(value: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", value.lower()):
        raise ValueError("a host is a name or an address without a port, or *. and a domain")
    return origins.host_as_sent(value.lower()) if value.startswith("[") else value.lower()


def _network(value: str) -> str:
    ip_network(value)  # whose errors are sentences
    return value


def _root_path(value: str) -> str:
    if not re.fullmatch(r"[\w.~!$&'()*+,;=:@%/-]*", value, re.ASCII):
        raise ValueError("it is no path; what is not ASCII is written with %")
    return "/" + value.strip("/") if value.strip("/") else ""


def _long_keys(value: SecretStr | None) -> SecretStr | None:
    if value is not None and min(map(len, secret_keys(value)), default=0) < KEY_CHARACTERS:
        raise ValueError(f"a key needs {KEY_CHARACTERS} characters or more; `openssl rand -hex 32` makes one")
    return value


def secret_keys(value: SecretStr) -> list[str]:
    """The keys of ``secret_key``: the first one seals, all of them open."""
    return [key.strip() for key in value.get_secret_value().split(",") if key.strip()]


Origins = Annotated[tuple[Annotated[str, AfterValidator(origins.normalized)], ...], NoDecode, BeforeValidator(_split)]
Modes = Annotated[
    tuple[Literal["token", "jwt", "key"], ...], NoDecode, BeforeValidator(_split), AfterValidator(_not_empty)
]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]  # fmt: skip
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_trusted_host)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Token = Annotated[SecretStr | None, AfterValidator(_sendable)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """Everything that can be set, with its default. Durations are in seconds, sizes in MiB, as the names say."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding=ENCODING,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # a key that is too short is a secret all the same
    )

    base_url: Annotated[str, AfterValidator(_http_url)] = Field(
        "https://api.codegen.com/v1", description="The hosted API, with or without /v1."
    )
    upstream: str = Field(
        "codegen", description="What it speaks: `codegen`, or the name of an upstream that another package adds."
    )
    org_id: str | None = Field(None, description="The organization that is meant when a request names none.")
    dialects: Names = Field(
        ("native",),
        description="What is spoken here, by commas: `native`, always; `codegen`, the hosted API's own paths;"
        " `agent_protocol`, as LangGraph's SDKs speak it; `everruns`, Everruns' API; `agio`, Agio's; or what"
        " another package adds.",
    )
    auth: Modes = Field(
        ("token",),
        description="What callers show, one or several: a `token` of the host, a `jwt`, a `key` of the gateway's own.",
    )
    api_token: Token = Field(
        None, description="A token of the host: the one that callers with a JWT or a key share. Else unused here."
    )
    secret_key: Annotated[SecretStr | None, AfterValidator(_long_keys)] = Field(
        None,
        description="Seals stream tickets, signs whose a run is. Of several, by commas, the first is used.",
    )
    jwt_issuer: Annotated[str | None, AfterValidator(_one_word)] = Field(
        None, description="The `iss` of JWTs, to the letter."
    )
    jwt_audience: Annotated[str | None, AfterValidator(_one_word)] = Field(
        None, description="What the `aud` of JWTs must be, or hold."
    )
    jwt_audience_claim: str = Field("aud", description="The claim that holds it; `client_id` for Cognito.")
    jwt_jwks_url: Annotated[str | None, AfterValidator(_http_url)] = Field(
        None,
        description="Where the issuer publishes its keys. By default its `/.well-known/openid-configuration` says so.",
    )
    jwt_key: SecretStr | None = Field(
        None, description="In place of that: its public key or certificate (PEM), or a secret shared with it."
    )
    jwt_algorithms: Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Which may sign; else RS256, ES256 and EdDSA, and HS256 for a shared secret."
    )
    jwt_scope_claim: Annotated[Names, AfterValidator(_not_empty)] = Field(
        ("scope", "scp"),
        description="The claims that hold scopes, by commas; `realm_access.roles` is the claim `roles` within another.",
    )
    jwt_scope_prefix: str | None = Field(None, description="What stands in front of scopes there, such as `gateway/`.")
    jwt_scope_map: str | None = Field(
        None,
        description="Which scopes a role or group means: `staff=runs:read runs:write; admins=runs:read:all`. `*` is"
        " everybody with a good token.",
    )
    jwt_leeway_seconds: float = Field(30.0, ge=0, le=600, description="How far the issuer's clock and ours may differ.")
    api_keys: SecretStr | None = Field(
        None,
        description="Keys of the gateway's own, a line for each, as `keys new` prints it; `;` separates them, too.",
    )
    api_keys_file: Path | None = Field(
        None, description="A file of such lines. It is read again when it changes, so a key can be taken out."
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="The port to listen on; 0 takes a free one.")
    workers: int = Field(1, ge=1, le=64, description="Processes beside each other. Each takes its share of the budget.")
    root_path: Annotated[str, AfterValidator(_root_path)] = Field(
        "", description="The path under which a proxy serves the gateway."
    )
    cors_origins: Origins = Field(
        (),
        description="Origins of web pages that may call the gateway, by commas; `*` for all, `https://*.` in front:"
        " subdomains.",
    )
    trusted_hosts: Hosts = Field(
        ("*",),
        description="Names the gateway may be called by, separated by commas; `*.` in front: subdomains.",
    )
    trusted_proxies: Networks = Field(
        (), description="Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed, by commas."
    )
    log_level: Annotated[str, BeforeValidator(str.upper)] = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$", description="How much is logged."
    )
    upstream_requests_per_minute: int = Field(
        60, ge=1, le=1_000_000, description="What the host allows one token. Reading logs takes four fifths at most."
    )
    upstream_budget: Literal["token", "gateway"] = Field(
        "token", description="What the host's limit holds for: each `token`, or the whole `gateway` (by its address)."
    )
    upstream_connect_timeout_seconds: Seconds = Field(5.0, description="How long a connection to the host may take.")
    upstream_read_timeout_seconds: Seconds = Field(30.0, description="How long the host may be silent.")
    token_cache_seconds: Seconds = Field(60.0, description="How long the host's word on a token is good.")
    stream_max_age_seconds: Seconds = Field(
        600.0, description="After about this long a stream asks its client to come back."
    )
    stream_heartbeat_seconds: Seconds = Field(15.0, description="A silent stream sends a sign of life this often.")
    stream_stall_seconds: Seconds = Field(
        30.0, description="A client that takes nothing for this long is disconnected."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, le=1_000_000, description="How many requests one user may make in a minute, to each process."
    )
    streams_per_caller: int = Field(
        100, ge=1, le=1_000_000, description="How many live logs one user may have open at a time."
    )
    streams_per_process: int = Field(
        10_000, ge=1, le=1_000_000, description="How many live logs one process serves at a time."
    )
    follower_linger_seconds: Seconds = Field(
        5.0, description="How long what is known of a run is kept ready after its last viewer left."
    )
    keep_alive_seconds: Seconds = Field(
        75.0, description="How long a connection may be idle. A balancer in front must keep one for less."
    )
    drain_seconds: Seconds = Field(20.0, description="How long open streams are given after SIGTERM.")
    max_body_mib: int = Field(25, ge=1, le=1024, description="The largest request that is read, images included.")
    memory_mib: int = Field(128, ge=1, le=1_048_576, description="What all logs held in memory may take together.")
    data_dir: Path = Field(Path("data"), description="Where conversations are kept, unless a database is named.")
    database_url: SecretStr | None = Field(
        None,
        description="Where instead: `postgresql://user:password@host/name`, or `sqlite:///path`. Only for dialects with"
        " conversations.",
    )
    conversation_days: float | None = Field(
        None, gt=0, le=36_500, description="Conversations that nobody has touched for so many days are removed."
    )
    store_mib_per_user: int = Field(
        256, ge=1, le=1_048_576, description="What one user may keep there: agents, conversations, items."
    )
    embeddings_url: Annotated[str | None, AfterValidator(_http_url)] = Field(
        None,
        description="Where texts become vectors, such as `https://api.openai.com/v1`: items of the Agent Protocol's"
        " store are then found by meaning.",
    )
    embeddings_model: str | None = Field(None, description="The model there.")
    embeddings_token: Token = Field(None, description="The token for it, where it needs one.")
    agent_protocol_statuses: Literal["current", "documented"] = Field(
        "current", description="How the Agent Protocol calls the ends of runs: `success`, or as once `completed`."
    )
    demo_token: Token = Field(
        None,
        description="Dialects with conversations let requests without credentials in with this token. For trying out.",
    )
    metrics: bool = Field(True, description="Serves `/metrics`, to anybody who can reach it.")
    sandbox: bool = Field(
        False, description="The host is the sandbox: pages on localhost may call the gateway. Set by --sandbox."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = SecretFiles(settings_cls)
        return Stripped(init_settings), Stripped(env_settings), files, Stripped(dotenv_settings)

    @property
    def trusted_names(self) -> tuple[str, ...]:
        """The names by which the gateway may be called.

        Where anybody is let in from this machine alone, no page may reach it by a name of its own that it makes lead
        here.
        """
        lets_anybody_in = self.sandbox or self.demo_token is not None
        if lets_anybody_in and origins.is_loopback(self.host) and "trusted_hosts" not in self.model_fields_set:
            return (*origins.LOOPBACK, f"[{self.host}]" if ":" in self.host else self.host)
        return self.trusted_hosts

    def redacted(self) -> dict[str, str]:
        """What is in force, to be logged: secrets only as set or not set."""
        return {
            name: ("set" if value else "not set") if is_secret(type(self), name) else str(value) for name, value in self
        }


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: one line for each variable that is not valid.
    """
    try:
        return Settings()
    except ValidationError as error:
        # not the error's own text: it quotes what was set
        raise SettingsError("\n".join(_line(item["loc"], item["msg"]) for item in error.errors())) from None
    except UnicodeDecodeError:
        raise SettingsError("The file .env cannot be read: it is not UTF-8.") from None


def _line(where: tuple[int | str, ...], what: str) -> str:
    item = f"item {where[1] + 1}: " if len(where) > 1 and isinstance(where[1], int) else ""
    return f"{PREFIX}{str(where[0]).upper()}: {item}{what.removeprefix('Value error, ')}"


def remarks() -> list[str]:
    """What is to be said of variables that look like settings and are none: slips of the pen, most likely."""
    known = {name.upper() for name in Settings.model_fields}
    known |= {f"{name}_FILE".upper() for name in Settings.model_fields if has_file(Settings, name)}
    said = []
    for variable, value in sorted(variables().items()):
        if not variable.upper().startswith(PREFIX):
            continue
        name = variable.upper().removeprefix(PREFIX)
        if name.endswith("PORT") and SERVICE_LINK.fullmatch(value or ""):
            if name in known:
                said.append(
                    f"{variable} is passed over: it is no port, but what Kubernetes makes of the name of a Service"
                    " (enableServiceLinks)"
                )
        elif name not in known and not OF_A_SERVICE.fullmatch(variable.upper()):
            near = difflib.get_close_matches(name, sorted(known), 1, 0.7)
            said.append(f"{variable} is not a setting" + "".join(f"; did you mean {PREFIX}{each}?" for each in near))
    return said
