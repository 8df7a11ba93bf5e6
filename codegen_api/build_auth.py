"""Builds authentication from the settings: tokens of the host, JWTs, and the gateway's own keys.

Part of the composition root, kept apart from ``build_parts`` for its size.
"""

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial

import httpx

from codegen_api.auth.callers import Callers
from codegen_api.auth.jwts import Claims, Jwts
from codegen_api.auth.keys import Keys
from codegen_api.auth.tokens import UpstreamTokens
from codegen_api.console import Discover, SignIn
from codegen_api.errors import UpstreamError
from codegen_api.gateway import Gateway
from codegen_api.gateway.ownership import Ownership
from codegen_api.identity import SCOPES, Credential
from codegen_api.origins import is_loopback
from codegen_api.outbound import Outbound
from codegen_api.runs import Json
from codegen_api.settings import Settings
from codegen_api.settings.environment import PREFIX, SettingsError, errors_about, read_text
from codegen_api.telemetry import Observer, quoted
from codegen_api.upstreams import Upstream

SHARED = {"jwt": "callers with a JWT", "key": "callers with a key"}
"""The modes in which all callers share the deployment's one token at the host."""

DIGESTS = b"codegen_api credential digest, form 1"
"""Label for deriving the key of digests; other purposes derive theirs from the same secret under other labels."""

DISCOVERY = "/.well-known/openid-configuration"
"""Path below an issuer that names its key set (OpenID Connect Discovery, section 4)."""


def require(settings: Settings) -> None:
    """Check that the settings which ``auth`` needs are set.

    Raises:
        SettingsError: with one line for each missing setting.
    """
    missing = [f"{PREFIX}{name}: {why}" for name, why in _missing(settings)]
    if missing:
        raise SettingsError("\n".join(missing))


def warnings_for(settings: Settings) -> Iterator[str]:
    """Warnings about settings that are valid, but probably a mistake."""
    url = (settings.jwt_jwks_url or settings.jwt_issuer or "") if settings.jwt_key is None else ""
    if "jwt" in settings.auth and url.lower().startswith("http://") and not is_loopback(httpx.URL(url).host):
        yield "the issuer's keys are fetched over http://: anybody on the network path can forge tokens"


def ownership(settings: Settings, upstream: Upstream) -> Ownership:
    """The ownership rules. They have keys only if callers share a token: then the host cannot tell whose a run is.

    Raises:
        SettingsError: callers share a token, and this host cannot keep a run's owner with the run.
    """
    shared = SHARED.keys() & set(settings.auth)
    if shared and not upstream.keeps_marks:
        raise SettingsError(f"{PREFIX}AUTH: {upstream.name} cannot store the owner of a run, only `token` is possible")
    return Ownership(settings.secret_keys if shared else ())


def callers(settings: Settings, gateway: Gateway, closing: AsyncExitStack, limit: float, observer: Observer) -> Callers:
    """Build the authorities that ``auth`` names. Cleanup is pushed onto ``closing``. ``limit`` is how many requests per
    minute the host allows.

    Raises:
        SettingsError: a setting for one of them cannot be used.
    """
    key = digest_key(settings)
    tokens = jwts = keys = None
    if "token" in settings.auth:
        tokens = UpstreamTokens(
            gateway.accounts.identify,
            gateway.upstream_name,
            digest_key=key,
            good_seconds=settings.token_cache_seconds,
            bad_per_minute=int(limit / 2),
        )
        closing.push_async_callback(tokens.aclose)
    if settings.api_token is not None:
        credential = Credential.of(settings.api_token.get_secret_value(), key)
        if "jwt" in settings.auth:
            jwts = _jwts(settings, credential, closing)
        if "key" in settings.auth:
            keys = _keys(settings, credential)
    return Callers(tokens=tokens, jwts=jwts, keys=keys, observer=observer)


def digest_key(settings: Settings) -> bytes:
    """The key for digests of credentials. Instances need the same one, as digests are part of names in Redis."""
    if settings.redis_url is None:
        return secrets.token_bytes(32)
    return hmac.digest(settings.secret_keys[0].encode(), DIGESTS, "sha256")  # `require` has checked that there is one


def _missing(settings: Settings) -> Iterator[tuple[str, str]]:
    """Pairs of a missing setting and the reason why it is needed."""
    shared = " and ".join(words for mode, words in SHARED.items() if mode in settings.auth)
    needed = f"it is needed for {shared}"
    if shared and settings.api_token is None:
        yield "API_TOKEN", f"{needed}; the gateway calls the host with it on their behalf"
    if shared and settings.secret_key is None:
        yield "SECRET_KEY", f"{needed}; it signs the owners of runs, and they must outlive this process"
    elif settings.redis_url is not None and settings.secret_key is None:
        yield "SECRET_KEY", f"it is needed with {PREFIX}REDIS_URL, the same for all instances; names in Redis need it"
    can_discover = settings.jwt_issuer is None or settings.jwt_issuer.lower().startswith(("http://", "https://"))
    if "jwt" in settings.auth:
        if settings.jwt_issuer is None:
            yield "JWT_ISSUER", f"{needed}; only JWTs from one issuer are accepted"
        if settings.jwt_audience is None:
            yield "JWT_AUDIENCE", f"{needed}; a JWT that is meant for another service must not be accepted"
        if settings.jwt_jwks_url is not None and settings.jwt_key is not None:
            yield "JWT_JWKS_URL", f"and {PREFIX}JWT_KEY: only one of them can be set"
        if settings.jwt_jwks_url is None and settings.jwt_key is None and not can_discover:
            yield "JWT_JWKS_URL", f"or {PREFIX}JWT_KEY is needed, as the issuer is not a URL that leads to its keys"
    if settings.console_client_id is not None and ("jwt" not in settings.auth or not can_discover):
        yield "CONSOLE_CLIENT_ID", "it needs `jwt` in CODEGEN_AUTH, and an issuer whose URL says where to sign in"
    if "key" in settings.auth and (settings.api_keys is None) == (settings.api_keys_file is None):
        one = f"set it or {PREFIX}API_KEYS_FILE, and not both, for callers with a key"
        yield "API_KEYS", f"{one}; `codegen-api keys new` makes a line for it"


def _jwts(settings: Settings, credential: Credential, closing: AsyncExitStack) -> Jwts:
    # imported on demand: signatures need large libraries
    from codegen_api.auth.issuer_keys import FixedKey, KeySet  # noqa: PLC0415

    keys: KeySet | FixedKey
    if settings.jwt_key is not None:
        with errors_about("JWT_KEY"):
            keys = FixedKey(settings.jwt_key.get_secret_value(), settings.jwt_algorithms)
    else:
        with errors_about("JWT_ALGORITHMS"):
            keys = KeySet(_key_set_fetcher(settings, closing), settings.jwt_algorithms)
        closing.push_async_callback(keys.aclose)
    return Jwts(
        keys,
        issuer=settings.jwt_issuer or "",
        audience=settings.jwt_audience or "",
        leeway=settings.jwt_leeway_seconds,
        credential=credential,
        claims=Claims(
            audience=settings.jwt_audience_claim,
            scopes=settings.jwt_scope_claim,
            prefix=settings.jwt_scope_prefix or "",
            granted=_parse_scope_map(settings.jwt_scope_map or ""),
        ),
    )


def _parse_scope_map(text: str) -> Mapping[str, frozenset[str]]:
    """Parse ``theirs=ours ours; theirs=ours``. The issuer's names may contain anything but a semicolon."""
    found: dict[str, frozenset[str]] = {}
    for entry in filter(None, map(str.strip, re.split(r"[\n;]", text))):
        theirs, _, ours = (part.strip() for part in entry.rpartition("="))
        scopes = frozenset(ours.split())
        if not theirs or not scopes or not scopes <= SCOPES:
            some = ", ".join(sorted(SCOPES))
            raise SettingsError(f"{PREFIX}JWT_SCOPE_MAP: an entry is a name, = and some of {some}, with spaces between")
        found[theirs] = found.get(theirs, frozenset()) | scopes
    return found


# -- asking an issuer -------------------------------------------------------------------------------------------------


def _key_set_fetcher(settings: Settings, closing: AsyncExitStack) -> Callable[[], Awaitable[Json]]:
    """A function that fetches the issuer's key set, from the configured URL or by discovery."""
    issuer, url = settings.jwt_issuer or "", settings.jwt_jwks_url
    try:
        closing.push_async_callback(_client_for(settings, httpx.URL(url or issuer)).aclose)
    except (httpx.InvalidURL, ValueError):
        name = "JWT_ISSUER" if url is None else "JWT_JWKS_URL"
        raise SettingsError(f"{PREFIX}{name}: it cannot be used as a URL") from None

    async def fetch() -> Json:
        if url is not None:
            return await _get_json(settings, url)
        document = await _get_json(settings, issuer.rstrip("/") + DISCOVERY)
        return await _get_json(settings, _discovered_url(issuer, document, "jwks_uri"))

    return fetch


def console_sign_in(settings: Settings) -> Discover | None:
    """A function that discovers where users of the console sign in; None if they do not sign in with the issuer."""
    client_id, issuer = settings.console_client_id, settings.jwt_issuer or ""
    if client_id is None:
        return None

    async def discover() -> SignIn:
        document = await _get_json(settings, issuer.rstrip("/") + DISCOVERY)
        return SignIn(
            issuer=issuer,
            client_id=client_id,
            scope=settings.console_scope,
            audience=settings.jwt_audience or "",
            authorization_endpoint=_discovered_url(issuer, document, "authorization_endpoint"),
            token_endpoint=_discovered_url(issuer, document, "token_endpoint"),
        )

    return discover


def _discovered_url(issuer: str, document: Json, name: str) -> str:
    """A URL from an issuer's discovery document.

    Raises:
        ValueError: the document belongs to another issuer, or names no usable URL.
    """
    fields = document if isinstance(document, Mapping) else {}
    if fields.get("issuer") != issuer:
        raise ValueError(f"{DISCOVERY} says issuer={quoted(fields.get('issuer'))}, and not {quoted(issuer)}")
    url = fields.get(name)
    safe = "https://" if issuer.lower().startswith("https://") else ("http://", "https://")
    if not isinstance(url, str) or not url.lower().startswith(safe):
        raise ValueError(f"{DISCOVERY} says {name}={quoted(url)}, which cannot be used")
    return url


async def _get_json(settings: Settings, text: str) -> Json:
    """Fetch the JSON at this URL.

    Raises:
        ValueError: it is not a usable URL.
        GatewayError: there is no usable answer; ``reason`` says why.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"{quoted(text)} cannot be used as a URL") from error
    client = _client_for(settings, url)
    try:
        answer = await client.ask("GET", url.path, dict(url.params), None, [])
    finally:
        await client.aclose()
    if answer.status != 200 or not answer.readable:
        raise UpstreamError(reason=answer.account())
    return answer.json


def _client_for(settings: Settings, url: httpx.URL) -> Outbound:
    """A client for the issuer, with the same proxies and timeouts as for the host."""
    return Outbound(
        str(url.copy_with(path="/", query=None, fragment=None)),
        "",
        transport=None,
        connect_timeout=settings.upstream_connect_timeout_seconds,
        read_timeout=settings.upstream_read_timeout_seconds,
        via=None,
    )


# -- the gateway's own keys -------------------------------------------------------------------------------------------


def _keys(settings: Settings, credential: Credential) -> Keys:
    path, text = settings.api_keys_file, settings.api_keys
    if path is None:
        assert text is not None  # noqa: S101 - `require` has checked it
        with errors_about("API_KEYS"):
            return Keys(text.get_secret_value, credential=credential)
    with errors_about("API_KEYS_FILE"):
        try:
            return Keys(partial(read_text, path), credential=credential)
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"{path} cannot be read") from None
