"""The front door's part in a request, before the application is asked. As a process it is in tests/end_to_end."""

import asyncio
from typing import Any

import pytest
import uvicorn

from codegen_api.serve import _options
from tests.dialects.site import settings

FORGED = [(b"x-forwarded-for", b"192.0.2.9"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"evil.example")]


def seen(client: str, **more: Any) -> dict[str, Any]:
    """What an application sees of a request from ``client`` with forged headers, served as the front door serves it."""
    scopes = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    config = uvicorn.Config(look, **{**_options(settings(**more)), "log_config": None})
    config.load()
    scope = {"type": "http", "scheme": "http", "client": (client, 4711), "headers": FORGED}
    asyncio.run(config.loaded_app(scope, None, None))
    (scope,) = scopes
    return scope


@pytest.mark.parametrize(
    ("proxies", "client"),
    [("", "127.0.0.1"), ("", "10.0.0.1"), ("10.0.0.1", "127.0.0.1"), ("10.0.0.0/24,::1", "10.0.1.1")],
)
def test_what_a_stranger_says_was_forwarded_changes_nothing(
    proxies: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # which uvicorn reads by itself
    scope = seen(client, trusted_proxies=proxies)
    assert (scope["client"], scope["scheme"]) == ((client, 4711), "http")


@pytest.mark.parametrize(("proxies", "client"), [("10.0.0.1", "10.0.0.1"), ("::1,10.0.0.0/24", "10.0.0.77")])
def test_what_a_trusted_proxy_says_was_forwarded_is_believed(proxies: str, client: str) -> None:
    scope = seen(client, trusted_proxies=proxies)
    assert (scope["client"], scope["scheme"]) == (("192.0.2.9", 0), "https")
