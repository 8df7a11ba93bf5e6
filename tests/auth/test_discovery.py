"""An issuer that is asked where its keys are, over real sockets: what it answers, and what the operator is told."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from codegen_api import create_app
from codegen_api.build_auth import warnings_for
from codegen_api.settings.environment import SettingsError
from tests.auth.issuer import AUDIENCE, Issuer
from tests.dialects.site import Site, run, serving, settings
from tests.fakehost import FakeHost

DOCUMENT = "/.well-known/openid-configuration"
PEOPLE = {"auth": ("jwt",), "api_token": "alice", "secret_key": "k" * 32, "org_id": "9", "jwt_audience": AUDIENCE}
Answer = tuple[int, str, str]


@dataclass
class Published:
    """What an issuer answers, by path: status, type and body; and what it was asked for."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def say(self, path: str, value: Any, status: int = 200) -> None:
        self.answers[path] = (status, "application/json", json.dumps(value))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        self.asked.append(path)
        status, kind, body = self.answers.get(path, (404, "text/html", "<html>"))
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nLocation: /elsewhere\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def publishing() -> AsyncIterator[tuple[Published, Issuer]]:
    """An issuer whose name is its own address."""
    published = Published()
    server = await asyncio.start_server(published.answer, "127.0.0.1", 0)
    async with server:
        published.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        issuer = Issuer(name=f"{published.url}/realms/people")
        keys = f"{published.url}/certs"
        published.say(f"/realms/people{DOCUMENT}", {"issuer": issuer.name, "jwks_uri": keys})
        published.say("/certs", issuer.jwks)
        yield published, issuer


async def looked(site: Site) -> Any:
    """What /health says of the issuer, when it was asked."""
    while True:
        body = (await site.get("/health", token=None)).json()
        if body["issuer"]["checked_at"] is not None:
            return body
        await asyncio.sleep(0.01)


@pytest.mark.wire("auth-jwt-keys", "health")
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_issuer_s_name_is_enough_to_find_its_keys(slash: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with publishing() as (published, issuer):
            issuer.name += slash
            published.say(f"/realms/people{DOCUMENT}", {"issuer": issuer.name, "jwks_uri": f"{published.url}/certs"})
            async with serving(FakeHost(), **PEOPLE, jwt_issuer=issuer.name) as site:
                body = await looked(site)  # nobody has come yet
                assert body["status"] == "healthy"
                assert (body["issuer"]["name"], body["issuer"]["reachable"]) == (issuer.name, True)
                assert published.asked == [f"/realms/people{DOCUMENT}", "/certs"]
                assert (await site.get("/users/me", token=issuer.token("ann"))).status_code == 200
                assert (await site.get("/users/me", token=Issuer(name=issuer.name).token("ann"))).status_code == 401

    with caplog.at_level(logging.INFO):
        run(main())
    assert "the issuer's keys are there: the 1 keys of the issuer" in caplog.text


def moved(published: Published, issuer: Issuer) -> None:
    published.answers[f"/realms/people{DOCUMENT}"] = (302, "text/html", "")


def page(published: Published, issuer: Issuer) -> None:
    published.answers["/certs"] = (200, "text/html", "<html>Sign in</html>")


def another(published: Published, issuer: Issuer) -> None:
    published.say(f"/realms/people{DOCUMENT}", {"issuer": f"{issuer.name}/", "jwks_uri": f"{published.url}/certs"})


def nowhere(published: Published, issuer: Issuer) -> None:
    published.say(f"/realms/people{DOCUMENT}", {"issuer": issuer.name, "jwks_uri": "file:///etc/keys"})


def no_object(published: Published, issuer: Issuer) -> None:
    published.say(f"/realms/people{DOCUMENT}", [issuer.name])


def gone(published: Published, issuer: Issuer) -> None:
    del published.answers["/certs"]


def down(published: Published, issuer: Issuer) -> None:
    published.say(f"/realms/people{DOCUMENT}", {"issuer": issuer.name, "jwks_uri": "http://127.0.0.1:9/certs"})


def unknown(published: Published, issuer: Issuer) -> None:
    published.say(f"/realms/people{DOCUMENT}", {"issuer": issuer.name, "jwks_uri": "http://keys.invalid/certs"})


def odd(published: Published, issuer: Issuer) -> None:
    published.say(f"/realms/people{DOCUMENT}", {"issuer": issuer.name, "jwks_uri": "http://a:b@c:d"})


@pytest.mark.wire("health")
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (moved, f"/realms/people{DOCUMENT}: status 302, a redirect to 127.0.0.1, which is not followed"),
        (page, "/certs: status 200, text/html, which is no JSON"),
        (gone, "/certs: status 404"),
        (another, '/realms/people/", and not "'),
        (nowhere, 'says jwks_uri="file:///etc/keys", which cannot be used'),
        (no_object, "says issuer=null"),
        (down, "GET http://127.0.0.1:9/certs: "),
        (unknown, "GET http://keys.invalid/certs: "),
        (odd, "cannot be used"),
    ],
)
def test_what_is_wrong_with_an_issuer_is_said_at_the_start_and_in_health(
    trouble: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with publishing() as (published, issuer):
            trouble(published, issuer)
            async with serving(FakeHost(), **PEOPLE, jwt_issuer=issuer.name) as site:
                body = await looked(site)
                assert (body["status"], body["issuer"]["reachable"]) == ("degraded", False)
                (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
                assert line.startswith("the issuer's keys cannot be had: ")
                assert said in line
                answer = await site.get("/users/me", token=issuer.token("ann"))
                assert (answer.status_code, answer.json()["code"]) == (503, "auth_unavailable")
                assert "127.0.0.1" not in answer.text

    with caplog.at_level(logging.INFO):
        run(main())


# -- what is said before anything runs --------------------------------------------------------------------------------


def refused(**more: Any) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        create_app(settings(**more), upstream=FakeHost())
    return [line.partition(":")[0].removeprefix("CODEGEN_") for line in str(raised.value).splitlines()]


def test_all_that_is_missing_for_users_of_one_s_own_is_said_at_once() -> None:
    assert refused(auth=("jwt",)) == ["API_TOKEN", "SECRET_KEY", "JWT_ISSUER", "JWT_AUDIENCE"]
    assert refused(auth=("jwt",), jwt_issuer="people") == ["API_TOKEN", "SECRET_KEY", "JWT_AUDIENCE", "JWT_JWKS_URL"]
    assert refused(auth=("key",)) == ["API_TOKEN", "SECRET_KEY", "API_KEYS"]
    assert refused(auth=("token", "jwt", "key"), jwt_jwks_url="https://a.example", jwt_key="k" * 32) == [
        "API_TOKEN",
        "SECRET_KEY",
        "JWT_ISSUER",
        "JWT_AUDIENCE",
        "JWT_JWKS_URL",
        "API_KEYS",
    ]


@pytest.mark.parametrize("text", ["staff", "staff=", "=runs:read", "staff=runs:read runs:all", "a=runs:read; b=admin"])
def test_a_map_of_scopes_that_makes_no_sense_is_refused(text: str) -> None:
    given = {**PEOPLE, "jwt_issuer": "https://a.example", "jwt_scope_map": text}
    assert refused(**given) == ["JWT_SCOPE_MAP"]


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({"jwt_issuer": "http://issuer.example"}, True),
        ({"jwt_issuer": "https://issuer.example", "jwt_jwks_url": "HTTP://10.0.0.1/keys"}, True),
        ({"jwt_issuer": "http://issuer.example", "jwt_jwks_url": "https://issuer.example/keys"}, False),
        ({"jwt_issuer": "http://issuer.example", "jwt_key": "k" * 32}, False),
        ({"jwt_issuer": "http://localhost:8080/realms/people"}, False),
        ({"jwt_issuer": "http://[::1]:8080"}, False),
        ({"jwt_issuer": "http://issuer.example", "auth": ("token",)}, False),
    ],
)
def test_keys_that_come_over_plain_http_are_warned_of(more: dict[str, Any], warned: bool) -> None:
    found = list(warnings_for(settings(**{**PEOPLE, **more})))
    assert len(found) == warned
    assert all("http://" in each for each in found)
