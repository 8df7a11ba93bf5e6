"""A deployment with users of its own: an issuer as OpenID Connect has it, the gateway's own keys, and the sandbox."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from codegen_api.auth.keys import new_key
from tests.auth.issuer import AUDIENCE, Issuer
from tests.end_to_end.processes import SERVER, Sandbox, Server, eventually, gateway, launched
from tests.leaks import WATCH

SECRET = "a key for tests of many characters"


@dataclass
class Site:
    """An issuer that is served: it publishes its keys, and gives out tokens for whoever signs in."""

    issuer: Issuer = field(default_factory=Issuer)
    url: str = ""
    up: bool = True
    asked: int = 0

    def sign_in(self, user: str, **more: Any) -> dict[str, str]:
        """The header that this user's page sends from now on."""
        with httpx.Client(trust_env=False) as client:
            token = client.post(f"{self.url}/token", data={"user": user, "more": json.dumps(more)}).json()[
                "access_token"
            ]
        WATCH.secret("a token", token)
        return {"Authorization": f"Bearer {token}"}

    def settings(self, host: Sandbox, **more: Any) -> dict[str, Any]:
        keys = {"jwt_issuer": self.issuer.name, "jwt_audience": AUDIENCE, "jwt_jwks_url": f"{self.url}/keys?policy=1"}
        return {"auth": "jwt", "api_token": "sandbox-alice", "secret_key": SECRET, **keys, **more}


@contextmanager
def issuing() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked += 1
            if not site.up:
                self.answer(503, b"<html>out of order</html>", "text/html")
            elif self.path == "/keys?policy=1":
                self.answer(200, json.dumps(site.issuer.jwks).encode())
            else:
                self.answer(404, b"{}")

        def do_POST(self) -> None:
            said = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            token = site.issuer.token(said["user"][0], **json.loads(said["more"][0]))
            self.answer(200, json.dumps({"access_token": token, "token_type": "Bearer"}).encode())

        def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        site.url = f"http://127.0.0.1:{server.server_port}"
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with issuing() as served:
        yield served


@pytest.fixture(scope="module")
def server(host: Sandbox, site: Site) -> Iterator[Server]:
    with gateway(host, **site.settings(host)) as served:
        yield served


def create(server: Server, user: dict[str, str]) -> int:
    answer = server.request(
        "POST", "/agent-runs", json={"prompt": "x", "metadata": {"scenario": "quick"}}, headers=user
    )
    assert answer.status_code == 201, answer.text
    run: int = answer.json()["id"]
    return run


@pytest.mark.wire("auth-jwt", "owner-checked", "owner-signed", "metadata-reserved", "auth-own-token")
def test_users_sign_in_start_runs_and_follow_their_own(host: Sandbox, site: Site, server: Server) -> None:
    ann, eve = site.sign_in("ann"), site.sign_in("eve")
    run = create(server, ann)
    stream = server.get(f"/agent-runs/{run}/logs/stream", ann).text
    assert "event: end\n" in stream
    assert "codegen_gateway" not in stream
    shown = server.get(f"/agent-runs/{run}", ann).json()
    assert shown["metadata"] == {"scenario": "quick"}
    kept = host.client.get(
        f"{host.url}/v1/organizations/323/agent/run/{run}", headers={"Authorization": "Bearer sandbox-alice"}
    ).json()["metadata"]
    assert set(kept) == {"scenario", "codegen_gateway"}
    assert "ann" not in json.dumps(kept)
    for path in ("", "/logs", "/logs/stream"):
        assert server.get(f"/agent-runs/{run}{path}", eve).status_code == 404
    assert run in [item["id"] for item in server.get("/agent-runs", ann).json()["items"]]
    assert server.get("/agent-runs", eve).json()["items"] == []
    other = create(server, eve)
    assert [item["id"] for item in server.get("/agent-runs", eve).json()["items"]] == [other]


@pytest.mark.wire("owner-signed", "ticket-any-instance")
def test_any_instance_knows_whose_a_run_is(host: Sandbox, site: Site, server: Server) -> None:
    ann, eve = site.sign_in("ann"), site.sign_in("eve")
    run = create(server, ann)
    url = server.request("POST", f"/agent-runs/{run}/logs/stream-ticket", headers=ann).json()["url"]
    with gateway(host, "--workers", "2", **site.settings(host, secret_key=f"{SECRET[::-1]},{SECRET}")) as another:
        for _ in range(6):
            assert another.get(f"/agent-runs/{run}", ann).status_code == 200
            assert another.get(f"/agent-runs/{run}", eve).status_code == 404
        assert "event: end\n" in another.get(url, {}).text


@pytest.mark.wire("auth-jwt")
def test_clocks_may_differ_a_little(site: Site, server: Server) -> None:
    now = int(time.time())
    for claims, status in [
        ({"exp": now - 15}, 200),
        ({"exp": now - 45}, 401),
        ({"nbf": now + 15}, 200),
        ({"nbf": now + 45}, 401),
        ({"iat": now + 3600}, 200),
    ]:
        assert server.get("/users/me", site.sign_in("ann", **claims)).status_code == status, claims


@pytest.mark.wire("trace-travels", "logs-hold-no-secrets")
def test_the_log_says_why_a_token_was_not_taken_with_the_id_of_the_request(site: Site, server: Server) -> None:
    wrong = site.sign_in("ann", aud="billing")
    assert server.get("/users/me", {**wrong, "X-Request-ID": "why-not"}).status_code == 401
    expected = 'INFO a token was not taken: aud: expected "gateway", found "billing" request_id=why-not\n'
    eventually(lambda: expected in server.log.read_text())


@pytest.mark.wire("auth-ends")
def test_a_live_log_ends_with_the_token_it_was_opened_with(host: Sandbox, site: Site, server: Server) -> None:
    ann = site.sign_in("ann")
    made = server.request("POST", "/agent-runs", json={"prompt": "x", "metadata": {"scenario": "pauses"}}, headers=ann)
    short = site.sign_in("ann", exp=int(time.time()) - 24)  # six seconds are left, with the leeway
    stream = server.get(f"/agent-runs/{made.json()['id']}/logs/stream", short).text
    assert '"code":"reconnect"' in stream.split("event: ")[-1]
    assert "event: end" not in stream


@pytest.mark.wire("auth-jwt-keys")
def test_new_keys_of_the_issuer_are_taken_and_an_outage_is_survived(host: Sandbox) -> None:
    with issuing() as site, gateway(host, **site.settings(host)) as server:
        before = site.sign_in("ann")
        assert server.get("/users/me", before).status_code == 200
        site.issuer = Issuer("second")
        after = site.sign_in("ann")
        eventually(lambda: server.get("/users/me", after).status_code, lambda status: status == 200)
        assert server.get("/users/me", before).status_code == 401  # that key is gone
        asked = site.asked
        for number in range(20):
            made_up = Issuer(f"made-up-{number}", site.issuer.private).token("ann")
            assert server.get("/users/me", {"Authorization": f"Bearer {made_up}"}).status_code == 401
        assert site.asked <= asked + 2
        site.up = False
        assert server.get("/users/me", after).status_code == 200
        assert server.get("/agent-runs", after).status_code == 200
        with gateway(host, **site.settings(host)) as fresh:
            answer = fresh.get("/users/me", after)
            assert (answer.status_code, answer.json()["code"]) == (503, "auth_unavailable")
            site.up = True
            eventually(lambda: fresh.get("/users/me", after).status_code, lambda status: status == 200)


@pytest.mark.wire("auth-keys", "auth-kinds")
def test_a_key_works_until_its_line_is_taken_out(host: Sandbox, site: Site, tmp_path: Path) -> None:
    (ci, line), (other, kept) = (new_key(name, ["runs:read", "runs:write"]) for name in ("ci", "other"))
    file = tmp_path / "keys"
    file.write_text(f"# machines\n{line}\n{kept}\n")
    both = site.settings(host, auth="token,jwt,key", api_keys_file=str(file), stream_heartbeat_seconds=0.5)
    with gateway(host, **both) as server:
        machine, second = ({"Authorization": f"Bearer {key}"} for key in (ci, other))
        run = create(server, machine)
        waiting = server.request(
            "POST", "/agent-runs", json={"prompt": "x", "metadata": {"scenario": "pauses"}}, headers=machine
        ).json()["id"]
        for user in (site.sign_in("ann"), second):
            assert server.get(f"/agent-runs/{run}", user).status_code == 404
        assert server.get(f"/agent-runs/{run}").status_code == 200  # a token of the host: the host's word counts
        with server.client.stream("GET", f"{server.url}/agent-runs/{waiting}/logs/stream", headers=machine) as stream:
            pieces = stream.iter_text()
            assert "event: status" in next(pieces)
            file.write_text(f"{kept}\n")
            rest = "".join(pieces)
        assert '"code":"invalid_token"' in rest.split("event: failure")[1]
        assert server.get(f"/agent-runs/{run}", machine).status_code == 401
        assert server.get("/users/me", second).json()["id"] == "other"


@pytest.mark.parametrize(
    ("missing", "settings"),
    [
        ("API_TOKEN", {"api_token": ""}),
        ("SECRET_KEY", {"secret_key": ""}),
        ("JWT_ISSUER", {"jwt_issuer": ""}),
        ("JWT_AUDIENCE", {"jwt_audience": ""}),
        ("JWT_JWKS_URL", {"jwt_jwks_url": "", "jwt_issuer": "people"}),
        ("JWT_SCOPE_MAP", {"jwt_scope_map": "staff"}),
        ("JWT_KEY", {"jwt_key": SECRET}),
        ("JWT_KEY", {"jwt_jwks_url": "", "jwt_key": SECRET, "jwt_algorithms": "RS256"}),
        ("JWT_KEY", {"jwt_jwks_url": "", "jwt_key": Issuer().public_pem, "jwt_algorithms": "HS256"}),
        ("JWT_ALGORITHMS", {"jwt_algorithms": "HS256"}),
        ("API_KEYS", {"auth": "key"}),
        ("API_KEYS", {"auth": "key", "api_keys": "ci scopes=everything"}),
        ("API_KEYS_FILE", {"auth": "key", "api_keys_file": "/nowhere/keys"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_or_does_not_fit_is_said_at_the_start(
    host: Sandbox, site: Site, missing: str, settings: Any
) -> None:
    given = {"base_url": host.url, **site.settings(host), **settings}
    with launched(SERVER, given) as server:
        assert server.process.wait(60) == 2
        said = server.log.read_text()
    assert f"CODEGEN_{missing}" in said
    assert SECRET not in said
