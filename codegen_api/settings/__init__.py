"""Settings: environment variables that begin with ``CODEGEN_``, and a ``.env`` file.

Only the composition root and the entry points read them; everything else is passed what it needs. Any secret can also
be given as the path of a file, in a variable with the suffix ``_FILE``. White space and byte order marks around a value
are dropped: ``echo token | base64`` and some editors add them.
"""

import difflib
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from codegen_api import origins
from codegen_api.settings import environment
from codegen_api.settings.environment import PREFIX, SettingsError

# -- types of values, with validators whose errors quote no secret -----------------------------------------------------

KEY_CHARACTERS = 32


def split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("it is empty")
    return value


def http_url(value: str) -> str:
    if not value.lower().startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    return one_word(value)


def extensible_url(value: str) -> str:
    """A URL to which paths are appended."""
    if not set("?#").isdisjoint(value):
        raise ValueError("it must contain neither ? nor #")
    return http_url(value).rstrip("/")


def one_word(value: str) -> str:
    if not value.isprintable() or " " in value:
        raise ValueError("it must contain no white space or control characters")
    return value


def sendable(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("it is not a token: only visible ASCII characters without white space are allowed")
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
        raise ValueError("it is not a path; characters other than ASCII must be percent-encoded")
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
Word = Annotated[str, AfterValidator(one_word)]
Url = Annotated[str, AfterValidator(http_url)]
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


# -- the settings ------------------------------------------------------------------------------------------------------


class Settings(BaseSettings):
    """All settings with their defaults. Durations in seconds, sizes in MiB, as the names say."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding=environment.ENCODING,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # a key that is too short is still a secret
    )

    base_url: Url = "https://api.codegen.com/v1"
    """URL of the host. The default is Codegen's; others need one."""
    upstream: str = "codegen"
    """Adapter for the host's API: `codegen`, `opencode`, `langgraph`, `a2a`, `openhands`, or an upstream from another
    package. The settings that only one of them has are in [hosts](hosts).
    """
    org_id: str | None = None
    """Organization for requests that do not name one."""
    dialects: Names = ("native",)
    """APIs to serve, comma-separated: `native` (always on), `codegen` (the hosted API's own paths), `agent_protocol`
    (for LangGraph's SDKs), `everruns`, `agio`, `ai_sdk` (for `useChat`), `openai` (for OpenAI's SDKs), `mcp`, or a
    dialect from another package.
    """
    auth: Modes = ("token",)
    """Accepted credentials, comma-separated: `token` (of the host), `jwt`, `key` (an API key of the gateway)."""
    api_token: Token = None
    """Host token that callers with a JWT or an API key share. The server does not use it otherwise."""
    secret_key: LongKeys = None
    """Seals stream tickets and signs the owners of runs. Of several keys, comma-separated, the first is used and all
    are accepted.
    """
    jwt_issuer: Word | None = None
    """Required `iss` of JWTs, compared exactly."""
    jwt_audience: Word | None = None
    """Required `aud` of JWTs, or one of its values."""
    jwt_audience_claim: str = "aud"
    """Claim that holds the audience; `client_id` for Cognito."""
    jwt_jwks_url: Url | None = None
    """URL of the issuer's keys. By default it is read from the issuer's `/.well-known/openid-configuration`."""
    jwt_key: SecretStr | None = None
    """Used instead of that URL: the issuer's public key or certificate (PEM), or a shared secret."""
    jwt_algorithms: Algorithms = ()
    """Accepted signature algorithms, comma-separated. Default: RS256, ES256 and EdDSA; HS256 for a shared secret."""
    jwt_scope_claim: Annotated[Names, AfterValidator(not_empty)] = ("scope", "scp")
    """Claims that hold scopes, comma-separated; `realm_access.roles` is the claim `roles` inside another."""
    jwt_scope_prefix: str | None = None
    """Prefix of scopes in these claims, such as `gateway/`."""
    jwt_scope_map: str | None = None
    """Scopes of a role or group: `staff=runs:read runs:write; admins=runs:read:all`. `*` is everybody with a valid
    token.
    """
    jwt_leeway_seconds: float = Field(30.0, ge=0, le=600)
    """Allowed difference between the issuer's clock and the gateway's."""
    api_keys: SecretStr | None = None
    """API keys of the gateway, one line each as `keys new` prints it, or separated by `;`."""
    api_keys_file: Path | None = None
    """File of such lines. It is read again when it changes, so removing a line revokes the key."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65_535)
    """Port to listen on; 0 picks a free one."""
    workers: int = Field(1, ge=1, le=64)
    """Number of worker processes. Without Redis each gets a share of the budget for requests to the host."""
    public_url: Annotated[str, AfterValidator(extensible_url)] | None = None
    """URL under which clients reach the gateway, with its path. Answers that contain URLs are made from it; by default,
    from the URL of the request.
    """
    root_path: Annotated[str, AfterValidator(url_path)] = ""
    """Path under which a proxy serves the gateway."""
    cors_origins: Origins = ()
    """Origins of web pages that may call the gateway, comma-separated. `*` allows all, `https://*.example.com` all
    subdomains.
    """
    trusted_hosts: Hosts = ("*",)
    """Host names that requests may use, comma-separated. `*.example.com` allows all subdomains."""
    trusted_proxies: Networks = ()
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted, comma-separated."""
    log_level: Annotated[str, BeforeValidator(str.upper)] = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$"
    )
    """Log level: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Format of log lines: `json` (an object each), `text`, or `auto`: text on a terminal, else JSON."""
    upstream_requests_per_minute: Count | None = None
    """The host's rate limit for one token. Log reads use at most four fifths of it. By default what is known of the
    host: 60 for Codegen, no limit for the others.
    """
    upstream_read_interval_seconds: Seconds | None = None
    """How soon the log of an active run is read again. By default 0.25 for a host without a rate limit; for the others
    as often as the limit allows.
    """
    upstream_budget: Literal["token", "gateway"] = "token"
    """What the host's rate limit applies to: each `token`, or the whole `gateway` (if the host counts by address)."""
    upstream_connect_timeout_seconds: Seconds = 5.0
    """Timeout for connecting to the host."""
    upstream_read_timeout_seconds: Seconds = 30.0
    """Timeout for a host that sends nothing."""
    token_cache_seconds: Seconds = 60.0
    """How long a token that the host accepted is not checked again."""
    stream_max_age_seconds: Seconds = 600.0
    """A stream asks its client to reconnect after about this time."""
    stream_heartbeat_seconds: Seconds = 15.0
    """Interval between heartbeats on a silent stream."""
    stream_stall_seconds: Seconds = 30.0
    """A client that reads nothing for this long is disconnected."""
    requests_per_minute: Count | None = None
    """Requests per user and minute, counted by each process, or in Redis. Unlimited by default."""
    streams_per_caller: Count = 100
    """Maximum number of live logs one user can have open, in a process or with Redis in all."""
    streams_per_process: Count = 10_000
    """Maximum number of live logs one process serves at a time."""
    follower_linger_seconds: Seconds = 5.0
    """How long a run's log stays in memory after its last viewer left."""
    keep_alive_seconds: Seconds = 75.0
    """Idle timeout of connections. A load balancer in front must use a shorter one."""
    drain_seconds: Seconds = 20.0
    """How long open streams may take to end after SIGTERM."""
    max_body_mib: int = Field(25, ge=1, le=1024)
    """Maximum size of a request body, images included."""
    memory_mib: Mebibytes = 128
    """Memory limit for all logs that a process holds."""
    data_dir: Path = Path("data")
    """Directory for the SQLite database of conversations, unless a database URL is set."""
    database_url: SecretStr | None = None
    """Database of conversations: `postgresql://user:password@host/name`, or `sqlite:///path`. Only for dialects with
    conversations.
    """
    redis_url: SecretStr | None = None
    """Redis that several instances share: `redis://user:password@host:6379/0`, or `rediss://` for TLS. Without it each
    process works for itself.
    """
    redis_prefix: Annotated[str, AfterValidator(key_prefix)] = "codegen_api:"
    """What all keys in Redis begin with. The same for all instances of a deployment."""
    redis_log_seconds: Seconds = 300.0
    """How long log entries stay in Redis after the run was last followed by any instance."""
    conversation_days: float | None = Field(None, gt=0, le=36_500)
    """Conversations are deleted after this many days without use. By default they are kept."""
    store_mib_per_user: Mebibytes = 256
    """Storage limit for one user's agents, conversations and items."""
    embeddings_url: Url | None = None
    """Embeddings endpoint, such as `https://api.openai.com/v1`, for semantic search in the Agent Protocol's store."""
    embeddings_model: str | None = None
    """Name of the embeddings model."""
    embeddings_token: Token = None
    """Token for the embeddings endpoint, if it needs one."""
    agent_protocol_statuses: Literal["current", "documented"] = "current"
    """Names of final run statuses in the Agent Protocol: `current` (`success`) or `documented` (`completed`)."""
    demo_token: Token = None
    """Token for requests without credentials, in `mcp` and dialects with conversations. For demos only."""
    metrics: bool = True
    """Serve `/metrics`, without authentication."""
    console: bool = True
    """Serve the console, a web page, at `/console/`."""
    console_client_id: Word | None = None
    """Client id of the console at the issuer of JWTs, so that users can sign in there."""
    console_scope: str = "openid runs:read runs:write"
    """Scopes that the console asks the issuer for."""
    sandbox: bool = False
    """The host is the sandbox, so pages on localhost may call the gateway. Set by `--sandbox`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = dotenv_settings(), environment.secrets_in_files(settings_cls), env_settings(), init_settings()
        found = {name: value for source in sources for name, value in environment.stripped(source).items()}
        return (InitSettingsSource(settings_cls, found),)

    @property
    def trusted_names(self) -> tuple[str, ...]:
        """The Host names under which the gateway may be called.

        Where clients on this machine need no credentials, only loopback names are accepted by default: a web page could
        otherwise reach the gateway under its own domain name, pointed at this machine (DNS rebinding).
        """
        allows_anonymous = self.sandbox or self.demo_token is not None
        if allows_anonymous and origins.is_loopback(self.host) and "trusted_hosts" not in self.model_fields_set:
            return (*origins.LOOPBACK, f"[{self.host}]" if ":" in self.host else self.host)
        return self.trusted_hosts

    @property
    def secret_keys(self) -> list[str]:
        """The keys of ``secret_key``: the first seals, all of them open."""
        return [] if self.secret_key is None else separate_keys(self.secret_key)

    def changed(self) -> dict[str, str]:
        """The settings that differ from their defaults, for the log. Secrets are shown as ``set``."""
        fields = type(self).model_fields
        return {name: self._shown(name, value) for name, value in self if value != fields[name].default}

    def _shown(self, name: str, value: object) -> str:
        if environment.is_secret(type(self), name):
            return "set"
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return f'"{text}"' if " " in text or not text else text


TERMINAL_VARIABLES = {"URL", "TOKEN"}
"""Read by ``codegen-api tail`` and the like, and not by the server."""


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: with one line per invalid variable.
    """
    try:
        with environment.dotenv_path_in_warnings():
            return Settings()
    except ValidationError as error:
        # not the error's own text, which quotes the values
        raise SettingsError("\n".join(_line(item["loc"], item["msg"]) for item in error.errors())) from None
    except UnicodeDecodeError:
        raise SettingsError("The file .env cannot be read: it is not UTF-8.") from None


def _line(where: tuple[int | str, ...], what: str) -> str:
    item = f"item {where[1] + 1}: " if len(where) > 1 and isinstance(where[1], int) else ""
    return f"{PREFIX}{str(where[0]).upper()}: {item}{what.removeprefix('Value error, ')}"


def suspicious_variables(upstream: str) -> list[str]:
    """Warnings about variables that look like settings but are not, most likely typos. The adapter ``upstream`` checks
    its own.
    """
    known = {name.upper() for name in Settings.model_fields} | TERMINAL_VARIABLES
    known |= {f"{name}_FILE".upper() for name in Settings.model_fields if environment.has_file(Settings, name)}
    warnings = []
    for variable, value in sorted(environment.variables().items()):
        if not variable.upper().startswith(PREFIX) or variable.upper().startswith(environment.option_prefix(upstream)):
            continue
        name = variable.upper().removeprefix(PREFIX)
        if name.endswith("PORT") and environment.SERVICE_LINK.fullmatch(value or ""):
            if name in known:
                warnings.append(
                    f"{variable} is ignored: it is not a port, but a link that Kubernetes makes from the name of a"
                    " Service (enableServiceLinks)"
                )
        elif name not in known and not environment.SERVICE_VARIABLE.fullmatch(variable.upper()):
            near = difflib.get_close_matches(name, sorted(known), 1, 0.7)
            warnings.append(
                f"{variable} is not a setting" + "".join(f"; did you mean {PREFIX}{each}?" for each in near)
            )
    return warnings
