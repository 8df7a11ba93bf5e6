"""Who may vouch for callers, made from the settings: the host, an issuer of JWTs, our own list of keys.

A part of the composition root that would fill it up.
"""

import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import httpx

from codegen_api.auth.callers import Callers
from codegen_api.auth.jwts import FixedKey, Jwts, KeySet
from codegen_api.auth.keys import Keys
from codegen_api.auth.tokens import UpstreamTokens
from codegen_api.errors import UpstreamError
from codegen_api.gateway import Gateway
from codegen_api.identity import Credential
from codegen_api.outbound import Outbound
from codegen_api.ownership import Ownership
from codegen_api.runs import Json
from codegen_api.settings import PREFIX, Settings, SettingsError, read_text, secret_keys

SHARED = {"jwt": "callers with a JWT", "key": "callers with a key"}
"""The modes in which the host is called with one token for all."""


def ownership(settings: Settings) -> Ownership:
    """
    Raises:
        SettingsError: whose a run is must be written down, and there is no key for that.
    """
    if not SHARED.keys() & set(settings.auth):
        return Ownership()
    if settings.secret_key is None:
        raise _missing(settings, "secret_key", "what marks a run as its owner's must outlive this process")
    return Ownership(secret_keys(settings.secret_key))


def callers(settings: Settings, gateway: Gateway, closing: AsyncExitStack) -> Callers:
    """What ``auth`` names; what has to be closed at the end is put into ``closing``.

    Raises:
        SettingsError: something is missing for that, or cannot be used.
    """
    digest_key = secrets.token_bytes(32)
    tokens = jwts = keys = None
    if "token" in settings.auth:
        seconds = settings.token_cache_seconds
        tokens = UpstreamTokens(gateway.identify, gateway.upstream_name, digest_key=digest_key, good_seconds=seconds)
        closing.push_async_callback(tokens.aclose)
    if SHARED.keys() & set(settings.auth):
        if settings.api_token is None:
            raise _missing(settings, "api_token", "it is what the host is shown for them")
        credential = Credential.of(settings.api_token.get_secret_value(), digest_key)
        if "jwt" in settings.auth:
            jwts = _jwts(settings, credential, closing)
        if "key" in settings.auth:
            keys = _keys(settings, credential)
    return Callers(tokens=tokens, jwts=jwts, keys=keys)


def _jwts(settings: Settings, credential: Credential, closing: AsyncExitStack) -> Jwts:
    if settings.jwt_issuer is None:
        raise _missing(settings, "jwt_issuer", "a JWT is good from one issuer only")
    if settings.jwt_audience is None:
        raise _missing(settings, "jwt_audience", "a JWT that is meant for somebody else must not be good here")
    if (settings.jwt_jwks_url is None) == (settings.jwt_key is None):
        raise SettingsError(f"{PREFIX}JWT_JWKS_URL, {PREFIX}JWT_KEY: one of them is needed, and only one")
    keys: KeySet | FixedKey
    if settings.jwt_key is not None:
        try:
            keys = FixedKey(settings.jwt_key.get_secret_value(), settings.jwt_algorithms)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}JWT_KEY: {error}") from None
    else:
        try:
            keys = KeySet(_fetching(settings, closing), settings.jwt_algorithms)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}JWT_ALGORITHMS: {error}") from None
    jwts = Jwts(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway_seconds,
        credential=credential,
    )
    closing.push_async_callback(jwts.aclose)
    return jwts


def _fetching(settings: Settings, closing: AsyncExitStack) -> Callable[[], Awaitable[Json]]:
    """Getting the issuer's keys, through the same proxies and with the same patience as the host."""
    try:
        url = httpx.URL(str(settings.jwt_jwks_url))
        issuer = Outbound(
            str(url.copy_with(path="/", query=None)),
            "",
            transport=None,
            connect_timeout=settings.upstream_connect_timeout_seconds,
            read_timeout=settings.upstream_read_timeout_seconds,
            via=None,
        )
    except (httpx.InvalidURL, ValueError):
        raise SettingsError(f"{PREFIX}JWT_JWKS_URL: it cannot be used as a URL") from None
    closing.push_async_callback(issuer.aclose)

    async def fetch() -> Json:
        answer = await issuer.ask("GET", url.path, dict(url.params), None, [])
        if answer.status != 200 or not answer.readable:
            raise UpstreamError(f"The issuer answered with status {answer.status} and no keys.")
        return answer.json

    return fetch


def _keys(settings: Settings, credential: Credential) -> Keys:
    path, text = settings.api_keys_file, settings.api_keys
    read: Callable[[], str]
    if path is not None and text is None:
        name, read = "API_KEYS_FILE", partial(read_text, path)
    elif text is not None and path is None:
        name, read = "API_KEYS", text.get_secret_value
    else:
        raise SettingsError(f"{PREFIX}API_KEYS, {PREFIX}API_KEYS_FILE: one of them is needed, and only one")
    try:
        return Keys(read, credential=credential)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{PREFIX}{name}: {path} cannot be read") from error
    except ValueError as error:
        raise SettingsError(f"{PREFIX}{name}: {error}") from None


def _missing(settings: Settings, name: str, why: str) -> SettingsError:
    shared = " and ".join(words for mode, words in SHARED.items() if mode in settings.auth)
    return SettingsError(f"{PREFIX}{name.upper()}: it is needed for {shared}; {why}")
