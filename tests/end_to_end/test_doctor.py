"""The doctor, at the end of a way through a real nginx that is set up wrongly, in each of the ways that it knows, and
rightly. The shipped ``nginx.conf`` is changed for that.
"""

import asyncio
import datetime
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from codegen_api.validate import main
from codegen_api.validate.diagnosis import REMEDIES, Diagnosis
from codegen_api.validate.examination import examine
from codegen_api.validate.options import Options
from tests.commands import completed
from tests.end_to_end.processes import ROOT, WAIT, Sandbox, Server, entry, eventually, gateway, held_port, launched
from tests.end_to_end.test_nginx import SETTINGS, command

PAGE = "https://chat.example"
NAME = "agents.example.com"
TOKEN = "sandbox-alice"
DOOR = {**SETTINGS, "stream_heartbeat_seconds": 0.3, "cors_origins": PAGE, "trusted_hosts": f"127.0.0.1,{NAME}"}

LINE = "proxy_buffering off;"
"""A line of the server, beside which others are put."""
LOCATION = "location / {\n            proxy_pass http://gateway;\n        }"
AFTER_LISTEN = ";\n        client_max_body_size 32m;"
TLS = " ssl http2;\n        ssl_certificate {0}/{1}.pem;\n        ssl_certificate_key {0}/{1}.key"

Changes = Mapping[str, str]


def beside(lines: str) -> Changes:
    return {LINE: f"{LINE} {lines}"}


def instead(lines: str) -> Changes:
    return {LOCATION: lines}


HELD_BACK = {LINE: "proxy_ignore_headers X-Accel-Buffering;", "proxy_http_version 1.1;": ""}
"""As nginx is by default, and without believing the gateway. With HTTP/1.1 it sends each chunk on."""
GZIP = {"gzip off;": "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 0;"}
LOST = """
    proxy_set_header Last-Event-ID ""; proxy_set_header Idempotency-Key ""; proxy_set_header X-Organization-ID "";
    proxy_set_header X-Request-ID $request_id;
"""
LOST_BACK = "".join(
    f"proxy_hide_header {name}; " for name in ("X-Request-ID", "WWW-Authenticate", "Cache-Control", "Link")
)
WRONG: dict[str, tuple[Changes, set[str]]] = {
    "held back": (HELD_BACK, {"held-back", "http10"}),
    "held back by a compressor": ({**GZIP, LINE: "proxy_ignore_headers X-Accel-Buffering;"}, {"held-back"}),
    "compressed": (GZIP, {"compressed"}),
    "HTTP/1.0": ({"proxy_http_version 1.1;": ""}, {"http10"}),
    "short headers": ({"large_client_header_buffers 4 40k;": ""}, {"long-headers"}),
    "short URLs": ({"header_buffers 4 40k;": "header_buffers 4 4k;"}, {"long-headers", "long-urls"}),
    "small bodies": ({"client_max_body_size 32m;": ""}, {"large-bodies"}),
    "no Authorization": (beside('proxy_set_header Authorization "";'), {"lost-request-headers"}),
    "its own Authorization": (beside('proxy_set_header Authorization "Bearer its-own";'), {"lost-request-headers"}),
    "no other headers": (beside(LOST), {"lost-request-headers"}),
    "no headers back": (beside(LOST_BACK), {"lost-answer-headers"}),
    "no CORS": (beside("proxy_hide_header Access-Control-Allow-Origin;"), {"cors-lost"}),
    "CORS twice": (beside("add_header Access-Control-Allow-Origin * always;"), {"cors-doubled"}),
    "preflights of its own": (
        instead("location / { if ($request_method = OPTIONS) { return 204; } proxy_pass http://gateway; }"),
        {"cors-preflight"},
    ),
    "a cache": (
        {
            **instead(
                "location / { proxy_pass http://gateway; }"
                "location = /health { proxy_pass http://gateway; proxy_buffering on; proxy_cache one;"
                " proxy_cache_valid 200 1m; proxy_ignore_headers Cache-Control Vary; }"
            ),
            "    server_tokens off;": "    server_tokens off; proxy_cache_path /tmp/cache keys_zone=one:1m;",
        },
        {"cached"},
    ),
    "another name": ({"Host $http_host": "Host gateway"}, {"host"}),
    "nobody behind it": (instead("location / { proxy_pass http://127.0.0.1:1; }"), {"no-upstream"}),
    "a login": (beside('auth_basic "Who?"; auth_basic_user_file /dev/null;'), {"login"}),
    "a login elsewhere": (instead("location / { return 302 https://login.example/?to=$uri; }"), {"login"}),
    "a page": (instead("location / { default_type text/html; return 200 '<html>Welcome</html>'; }"), {"no-gateway"}),
    "no location": (instead("location /elsewhere/ { proxy_pass http://gateway; }"), {"no-gateway"}),
    "a page for live logs": (beside("rewrite /stream$ /nowhere; location = /nowhere { return 404; }"), {"no-gateway"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def door(host: Sandbox) -> Iterator[Server]:
    with gateway(host, **DOOR) as server:
        yield server


@pytest.fixture(scope="module")
def calm(host: Sandbox) -> Iterator[Server]:
    """A gateway below a path, whose live logs may be silent for half a minute, and end before that."""
    calmness = {"stream_heartbeat_seconds": 30, "stream_max_age_seconds": 6, "root_path": "/codegen"}
    with gateway(host, **{**DOOR, **calmness}) as server:
        yield server


@pytest.fixture(autouse=True)
def _run_at_work(host: Sandbox) -> None:
    host.seed(entries=[entry("one for the doctor to see"), entry("another for the doctor to see")])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certificates and keys, and ``ca.pem``, which issued all but the one of a stranger."""
    directory, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = {
        "good": authority.issue_cert("127.0.0.1"),
        "late": authority.issue_cert("127.0.0.1", not_before=long_ago, not_after=long_ago + datetime.timedelta(1)),
        "other": authority.issue_cert("elsewhere.example"),
        "stranger": trustme.CA().issue_cert("127.0.0.1"),
    }
    for name, certificate in made.items():
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(directory / f"{name}.pem"), append=True)
        certificate.private_key_pem.write_to_path(str(directory / f"{name}.key"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    return directory


@pytest.fixture
def trusting(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    return certificates


@contextmanager
def nginx(server: Server, changes: Changes) -> Iterator[Server]:
    """nginx in front of this gateway, whether or not anything comes through; its ``url`` is without TLS."""
    with (
        tempfile.TemporaryDirectory() as directory,
        held_port() as port,
        launched(command(directory, port, [server, server], changes), {}, talks=False) as proxy,
    ):

        def listens() -> bool:
            assert proxy.process.poll() is None, proxy.log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens)
        yield Server(f"http://127.0.0.1:{port}", proxy.process, proxy.log, proxy.client)


async def diagnosis(url: str, **more: Any) -> Diagnosis:
    async with asyncio.timeout(WAIT):
        return await examine(Options(**{"url": url, "token": TOKEN, "origin": PAGE, **more}))


def names(found: Diagnosis) -> set[str]:
    """The names of the findings, of each of which there is one."""
    told = [each.name for each in found.found if found.to_text("").count(str(each)) == 1]
    assert len(told) == len(set(told)), found.found
    return set(told)


# -- rightly ----------------------------------------------------------------------------------------------------------


async def test_the_doctor_is_silent_on_the_shipped_configuration_and_says_what_it_did_not_wait_for(
    door: Server,
) -> None:
    with nginx(door, {}) as front:
        found = await diagnosis(front.url)
    assert found.found == []
    assert found.status == 0
    assert len(found.unseen) == 1
    assert "whole answers" in found.unseen[0]


async def test_the_doctor_is_silent_on_a_gateway_without_a_proxy(door: Server) -> None:
    assert (await diagnosis(door.url)).found == []


async def test_the_doctor_is_silent_on_tls_with_http2(door: Server, trusting: Path) -> None:
    with nginx(door, {AFTER_LISTEN: TLS.format(trusting, "good") + AFTER_LISTEN}) as front:
        assert (await diagnosis(front.url.replace("http:", "https:"))).found == []


async def test_the_doctor_is_silent_on_a_path_that_the_gateway_knows_and_on_the_end_that_it_sets(calm: Server) -> None:
    with nginx(calm, {"location / {": "location /codegen/ {"}) as front:
        found = await diagnosis(f"{front.url}/codegen", patience=WAIT)
    assert found.found == []
    assert found.watched is not None
    assert found.watched < 10
    assert found.unseen == ["time limits of silence: this log was not silent for 30 s"]


async def test_the_doctor_goes_by_what_it_can_ask_where_health_is_kept_from_those_outside(door: Server) -> None:
    with nginx(door, {"location = /metrics {": "location ~ ^/(metrics|health)$ {"}) as front:
        found = await diagnosis(front.url)
    assert found.found == []
    assert any("/health is answered 404" in each for each in found.unseen)


# -- wrongly ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", WRONG)
async def test_the_doctor_names_what_nginx_does_wrong(door: Server, wrong: str) -> None:
    changes, expected = WRONG[wrong]
    with nginx(door, changes) as front:
        found = await diagnosis(front.url)
    assert names(found) == expected, found
    assert found.status == 1


async def test_each_lost_header_is_named(door: Server) -> None:
    with nginx(door, {LINE: f"{LINE} {LOST} {LOST_BACK}"}) as front:
        there, back = (await diagnosis(front.url)).found
    assert set(re.findall(r"[A-Z][\w-]+-\w+", there.seen)) == {
        "Last-Event-ID", "Idempotency-Key", "X-Organization-ID", "X-Request-ID"
    }  # fmt: skip
    assert set(re.findall(r"[A-Z][\w-]+-\w+|Link", back.seen)) == {
        "X-Request-ID", "WWW-Authenticate", "Cache-Control", "Link"
    }  # fmt: skip


async def test_a_log_that_comes_all_at_once_is_held_back(calm: Server) -> None:
    with nginx(calm, HELD_BACK) as front:
        found = await diagnosis(f"{front.url}/codegen")
    assert names(found) == {"held-back", "http10"}
    assert "nothing of it came in the first 5 s" in found.found[-1].seen.replace("6 s", "5 s")


async def test_a_log_of_which_only_the_beginning_comes_is_held_back(calm: Server) -> None:
    """The gateway seems to say that it gives a sign of life ten times a second."""
    less = "sub_filter_types application/json; sub_filter ':30.0' ':0.1';"
    with nginx(calm, beside(less)) as front:
        found = await diagnosis(f"{front.url}/codegen")
    assert names(found) == {"held-back"}
    assert "after its beginning" in found.found[0].seen


async def test_a_limit_of_silence_below_the_heartbeat_is_found_by_the_cut(calm: Server) -> None:
    with nginx(calm, {"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}) as front:
        found = await diagnosis(f"{front.url}/codegen")
    assert names(found) == {"idle"}
    assert re.search(r"after 1\.\d s; the gateway is silent for 30 s at most", found.found[0].seen)


async def test_a_limit_of_whole_answers_is_found_by_who_has_patience(door: Server) -> None:
    """nginx has one only when it is told to read its configuration again."""
    limit = {"worker_processes auto;": "worker_processes 1; worker_shutdown_timeout 2s;"}
    with nginx(door, limit) as front:
        found = asyncio.create_task(diagnosis(front.url, patience=WAIT))
        await asyncio.to_thread(eventually, lambda: door.health("viewers"), lambda count: count == 1)
        os.kill(front.pid, signal.SIGHUP)
        assert names(await found) == {"total"}


@pytest.mark.parametrize(("scheme", "pair", "expected"), [
    ("https", "late", {"certificate-dates"}),
    ("https", "stranger", {"certificate-issuer"}),
    ("https", "other", {"certificate-name"}),
    ("http", "good", {"redirect"}),
])  # fmt: skip
async def test_what_is_wrong_with_tls_is_named(
    door: Server, trusting: Path, scheme: str, pair: str, expected: set[str]
) -> None:
    with nginx(door, {AFTER_LISTEN: TLS.format(trusting, pair) + AFTER_LISTEN}) as front:
        found = await diagnosis(front.url.replace("http:", f"{scheme}:"))
    assert names(found) == expected


async def test_tls_without_http2_is_named(door: Server, trusting: Path) -> None:
    with nginx(door, {AFTER_LISTEN: TLS.format(trusting, "good").replace(" http2", "") + AFTER_LISTEN}) as front:
        assert names(await diagnosis(front.url.replace("http:", "https:"))) == {"no-http2"}


async def test_tls_where_there_is_none_is_named(door: Server) -> None:
    with nginx(door, {}) as front:
        assert names(await diagnosis(front.url.replace("http:", "https:"))) == {"no-tls"}


async def test_after_a_redirect_to_https_the_rest_is_looked_at_there(door: Server, trusting: Path) -> None:
    secure = TLS.format(trusting, "good") + "; error_page 497 =301 https://$http_host$request_uri"
    with nginx(door, {AFTER_LISTEN: secure + AFTER_LISTEN, **GZIP}) as front:
        found = await diagnosis(front.url)
    assert names(found) == {"redirect", "compressed"}


@pytest.mark.parametrize("location", ["proxy_pass http://gateway/;", "proxy_pass http://gateway;"], ids=["off", "on"])
async def test_a_path_that_the_gateway_was_not_told_of_is_named(door: Server, location: str) -> None:
    streams = "location ~ /(logs|agent-runs)/stream$"
    changes = {LOCATION: f"location /codegen/ {{ {location} }}", streams: "location = /nowhere"}
    with nginx(door, changes) as front:
        assert names(await diagnosis(f"{front.url}/codegen")) == {"prefix"}


async def test_a_path_that_users_do_not_have_is_named(calm: Server) -> None:
    assert names(await diagnosis(calm.url)) == {"prefix"}


async def test_a_page_that_the_gateway_does_not_let_in_is_named(door: Server) -> None:
    with nginx(door, {}) as front:
        assert names(await diagnosis(front.url, origin="https://elsewhere.example")) == {"cors-origin"}


@pytest.mark.parametrize("seconds", [-60, 60])
async def test_a_clock_that_is_wrong_is_named(door: Server, seconds: float) -> None:
    options = Options(url=door.url, token=TOKEN, origin=PAGE)
    found = await examine(options, lambda: datetime.datetime.now(datetime.UTC).timestamp() + seconds)
    assert names(found) == {"clock"}
    assert ("behind" if seconds > 0 else "ahead of") in found.found[0].seen


async def test_a_token_that_is_not_good_is_named(door: Server) -> None:
    found = await diagnosis(door.url, token="nobody-whom-the-doctor-knows")
    assert names(found) == {"token"}


async def test_a_host_that_fails_is_told_from_a_way_that_does(host: Sandbox, door: Server) -> None:
    host.fault("500", token="sandbox-bob")
    try:
        found = await diagnosis(door.url, token="sandbox-bob")
    finally:
        host.heal()
    assert names(found) == {"trouble"}


# -- without a gateway ------------------------------------------------------------------------------------------------


async def test_a_port_on_which_nobody_listens_is_named() -> None:
    with held_port() as port:
        found = await diagnosis(f"http://127.0.0.1:{port}")
    assert names(found) == {"no-connection"}
    assert "refused" in found.found[0].seen


@pytest.fixture
def _resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    """One name is known, as that of this machine."""
    resolve = socket.getaddrinfo

    def known(name: str | bytes, *arguments: Any, **more: Any) -> Any:
        if name in (NAME, NAME.encode()):
            return resolve("127.0.0.1", *arguments, **more)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", known)


@pytest.mark.usefixtures("_resolving")
async def test_a_name_without_an_address_is_named() -> None:
    assert names(await diagnosis("http://agents.exampel.com")) == {"no-address"}


@pytest.mark.usefixtures("_resolving")
async def test_a_public_name_without_tls_is_named(door: Server) -> None:
    assert names(await diagnosis(door.url.replace("127.0.0.1", NAME))) == {"no-encryption"}


@pytest.mark.parametrize("answer", [
    {"status": "healthy"},
    {"uptime_seconds": 1, "timestamp": "yesterday", "links": []},
    {"uptime_seconds": 1, "timestamp": "2026-01-02T03:04:05.678Z", "links": {}},
    ["odd"],
])  # fmt: skip
async def test_an_odd_answer_over_http10_ends_in_a_finding(answer: dict[str, object] | list[str]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # a connection without a request comes first
            await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        found = await diagnosis(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert found.status == 1
    assert ("http10" in {each.name for each in found.found}) is ("timestamp" in answer)


# -- runs -------------------------------------------------------------------------------------------------------------


async def test_no_run_is_started_unless_asked_for(host: Sandbox, door: Server) -> None:
    host.forget_requests()
    with nginx(door, beside(LOST)) as front:
        await diagnosis(front.url)
        assert host.requests("create") == 0
        assert host.requests("resume") == 0
        assert (await diagnosis(front.url, create=True)).watched is not None
    assert host.requests("create") == 1


async def test_the_run_that_was_named_is_watched_and_one_that_has_ended_is_not(host: Sandbox, door: Server) -> None:
    run = host.seed(entries=[entry("the one that was named")])
    assert (await diagnosis(door.url, run=str(run))).status == 0
    await asyncio.to_thread(host.patch, run, status="COMPLETE")
    found = await diagnosis(door.url, run=str(run))
    assert (found.found, found.status) == ([], 3)
    assert found.unseen[0].startswith(f"live logs of run {run}: it has ended. Name another with --run, or")


async def test_where_no_run_is_at_work_the_feed_is_watched(host: Sandbox, door: Server) -> None:
    bob = {"token": "sandbox-bob", "organization": "402"}
    host.seed(organization_id=402, status="COMPLETE", entries=[entry("nobody works on this one")])
    found = await diagnosis(door.url, **bob)
    assert (found.found, found.status) == ([], 0)
    assert found.watched is not None


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_remedies_and_no_token(door: Server, tmp_path: Path) -> None:
    with nginx(door, GZIP) as front:
        environment = {**os.environ, "CODEGEN_TOKEN": TOKEN}
        command = [sys.executable, str(ROOT / "run_server.py"), "doctor", front.url]
        said = completed(command, cwd=tmp_path, env=environment, timeout=WAIT)
    assert (said.returncode, said.stderr) == (1, "")
    assert "gzip off;" in said.stdout
    assert "1 finding" in said.stdout
    assert "Not looked at: CORS" in said.stdout
    assert TOKEN not in said.stdout


def test_the_validator_has_the_doctor_too(door: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with nginx(door, GZIP) as front:
        assert main(["--through", front.url, "--token", TOKEN, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["url"], report["ok"]) == (front.url, False)
    (finding,) = report["findings"]
    assert finding["name"] == "compressed"
    assert finding["remedies"].keys() == {"nginx", "caddy", "envoy", "balancer"}


def test_each_remedy_is_for_something_that_a_test_here_has_seen() -> None:
    here = Path(__file__).read_text()
    assert [name for name in REMEDIES if f'"{name}"' not in here] == []
