"""The Codegen adapter between proxies, certificates and the rest of its environment."""

import asyncio
import base64
import contextlib
import ssl
from pathlib import Path

import pytest
import trustme

from codegen_api import errors
from codegen_api.outbound.proxies import displayed_proxy
from codegen_api.upstreams.codegen import CodegenUpstream

from .asking import CREDENTIAL, REF, RUN, TOKEN, asked, get_run
from .rawhost import ANSWERED, Conversation, RawHost, answer, raw_host, saying

HOST = "http://host.example:8080"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The private authority, as operators name it."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *machines: str) -> None:
    """A file of other credentials for these machines."""
    path = tmp_path / "netrc"
    path.write_text("".join(f"machine {machine} login mallory password wrong\n" for machine in machines))
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


def through_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, form: str = "{url}", host: str = HOST) -> RawHost:
    """Ask ``host`` while the environment names a proxy, which answers itself; what the proxy saw."""

    async def play() -> RawHost:
        async with raw_host(saying(answer(RUN))) as proxy:
            monkeypatch.setenv(variable, form.format(url=proxy.url, address=proxy.url.removeprefix("http://")))
            await asked(CodegenUpstream(host), get_run)
            return proxy

    return asyncio.run(play())


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
@pytest.mark.parametrize("form", ["{url}", "{address}", "HTTP://{address}/"])
def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, variable: str, form: str) -> None:
    (request,) = through_proxy(monkeypatch, variable, form).requests
    assert request.line == f"GET {HOST}/v1/organizations/323/agent/run/41894 HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert "proxy-authorization" not in request.headers


def test_a_proxy_may_need_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    (request,) = through_proxy(monkeypatch, "HTTP_PROXY", "http://user:pass%21@{address}").requests
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["proxy-authorization"] == "Basic " + base64.b64encode(b"user:pass!").decode()


def test_a_netrc_file_neither_replaces_nor_breaks_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc(tmp_path, monkeypatch, "host.example", "127.0.0.1")
    (request,) = through_proxy(monkeypatch, "HTTP_PROXY").requests
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert "proxy-authorization" not in request.headers

    async def without_proxy() -> RawHost:
        async with raw_host(saying(answer(RUN))) as host:
            await asked(CodegenUpstream(host.url), get_run)
            return host

    monkeypatch.delenv("HTTP_PROXY")
    (request,) = asyncio.run(without_proxy()).requests
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    "excepted",
    ["127.0.0.1", "*", "elsewhere,127.0.0.1:{port}", "10.0.0.0/8, 127.0.0.0/8", "localhost 127.0.0.1/32", "127.*"],
)
def test_hosts_that_need_no_proxy_are_asked_directly(monkeypatch: pytest.MonkeyPatch, excepted: str) -> None:
    async def play() -> tuple[RawHost, RawHost]:
        async with raw_host(saying(answer(RUN))) as host, raw_host(saying()) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", excepted.format(port=host.url.rpartition(":")[2]))
            await asked(CodegenUpstream(host.url), get_run)
            return host, proxy

    host, proxy = asyncio.run(play())
    assert (len(host.requests), proxy.connections) == (1, 0)
    assert host.requests[0].line == "GET /v1/organizations/323/agent/run/41894 HTTP/1.1"


@pytest.mark.parametrize(
    ("address", "excepted"),
    [
        ("http://10.1.2.3:8080", "10.0.0.0/8"),
        ("http://10.1.2.3", "10.9.9.9/8"),
        ("http://10.1.2.3", "10.1.2.3:80"),
        ("http://[fd00::1]/", "fd00::/8"),
        ("http://[fd00::1]:99/", "[fd00::/8]"),
        ("http://[::1]:8/", "::1"),
        ("http://[::1]:8/", "[::1]"),
        ("http://[::1]:8/", "[::1]:8"),
        ("http://[::1]:8/", "0:0:0:0:0:0:0:1"),
        ("http://a.example.com", "*.example.com"),
        ("http://b.a.example.com", "*.example.com"),
        ("http://a.example.com", ".example.com"),
        ("http://a.example.com", "example.com"),
        ("http://example.com", ".example.com"),
        ("http://example.com", "example.com:80"),
        ("https://example.com", "x, Example.COM.:443 y"),
        ("http://EXAMPLE.com.", "example.com"),
        ("http://m\u00fcller.de", "xn--mller-kva.de"),
        ("http://m\u00fcller.de", "m\u00fcller.de"),
    ],
)
def test_a_name_an_address_or_a_network_can_be_excepted_from_the_proxy(
    address: str, excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://user:hunter2@proxy.example:3128")
    assert displayed_proxy(address) == "http://proxy.example:3128"
    monkeypatch.setenv("NO_PROXY", f"elsewhere.example,{excepted}")
    assert displayed_proxy(address) is None


@pytest.mark.parametrize(
    ("address", "excepted"),
    [
        ("http://11.1.2.3", "10.0.0.0/8"),
        ("http://10.1.2.3", "10.0.0.0/33"),
        ("http://10.1.2.3", "2.3"),
        ("http://10.1.2.3", "::/0"),
        ("http://[::1]", "0.0.0.0/0"),
        ("http://[::1]:8/", "[::1]:9"),
        ("http://nonexample.com", "example.com"),
        ("http://nonexample.com", ".example.com"),
        ("http://example.com", "*.example.com"),
        ("http://example.com", "example.com:81"),
        ("https://example.com", "example.com:80"),
        ("http://host", "10.0.0.0/8"),
        ("http://host", ""),
        ("http://host", ",., :,[],/8,a:b,[a"),
    ],
)
def test_what_is_not_excepted_goes_through_the_proxy(
    address: str, excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", excepted)
    assert displayed_proxy(address) == "http://proxy.example:3128"


@pytest.mark.parametrize("address", ["", "nothing", "ftp://a.b", "http://[", "http://host"])
@pytest.mark.parametrize("proxy", ["", "socks5://user:hunter2@127.0.0.1", "http://a:b", "http://"])
def test_a_way_that_cannot_be_gone_is_not_shown(address: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "FTP_PROXY"):
        monkeypatch.setenv(variable, proxy)
    assert displayed_proxy(address) is None


def test_the_log_says_which_proxy_stands_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@127.0.0.1:1")
    with pytest.raises(errors.UpstreamUnreachable) as caught:
        asyncio.run(asked(CodegenUpstream(HOST), get_run))
    assert caught.value.reason == (
        f"GET {HOST}/v1/organizations/{{id}}/agent/run/{{id}} through http://127.0.0.1:1:"
        " no connection: Connection refused (errno 111)"
    )


def test_a_proxy_for_https_is_not_used_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async def play() -> RawHost:
        async with raw_host(saying(answer(RUN))) as host:
            await asked(CodegenUpstream(host.url), get_run)
            return host

    assert len(asyncio.run(play()).requests) == 1


def test_a_proxy_of_another_kind_is_refused_without_quoting_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://user:hunter2@127.0.0.1:1080")
    with pytest.raises(ValueError, match="proxy") as caught:
        CodegenUpstream(HOST)
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("trusted")
def test_a_private_authority_is_trusted_when_the_environment_names_it(certificate: ssl.SSLContext) -> None:
    async def play() -> tuple[RawHost, object]:
        async with raw_host(saying(answer(RUN)), certificate) as host:
            return host, await asked(CodegenUpstream(host.url), lambda each: each.get_run(CREDENTIAL, REF))

    host, run = asyncio.run(play())
    assert host.url.startswith("https://")
    assert run is not None
    assert host.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_an_unknown_authority_makes_a_host_unreachable_and_gets_no_token(certificate: ssl.SSLContext) -> None:
    async def play() -> RawHost:
        async with raw_host(saying(answer(RUN)), certificate) as host:
            with pytest.raises(errors.UpstreamUnreachable) as caught:
                await asked(CodegenUpstream(host.url), get_run)
            assert "the certificate is not valid (unable to get local issuer certificate)" in str(caught.value.reason)
            return host

    # The failed handshake is the host's own error, of which asyncio would tell on standard error.
    assert asyncio.run(play()).requests == []


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(65536):
            sink.write(piece)
            await sink.drain()
        sink.write_eof()


async def tunnel(conversation: Conversation) -> None:
    """Join the caller and the host whom it names."""
    address, _, port = conversation.request.line.split()[1].partition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    try:
        await conversation.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(copy(conversation.reader, writer), copy(reader, conversation.writer))
    finally:
        writer.close()


@pytest.mark.usefixtures("trusted")
def test_a_proxy_sees_nothing_of_what_goes_through_its_tunnel(
    certificate: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> tuple[RawHost, RawHost]:
        async with raw_host(saying(answer(RUN)), certificate) as host, raw_host(tunnel) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            async with asyncio.timeout(ANSWERED):
                await asked(CodegenUpstream(host.url), get_run)
            return host, proxy

    netrc(tmp_path, monkeypatch, "127.0.0.1")
    host, proxy = asyncio.run(play())
    assert host.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    (request,) = proxy.requests
    assert request.line.startswith("CONNECT 127.0.0.1:")
    assert "authorization" not in request.headers
    assert "proxy-authorization" not in request.headers


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway"])
def test_a_proxy_that_opens_no_tunnel_makes_a_host_unreachable(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    async def play() -> None:
        async with raw_host(saying(answer(b"<html>", status=status))) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            await asked(CodegenUpstream("https://host.example"), get_run)

    with pytest.raises(errors.UpstreamUnreachable) as caught:
        asyncio.run(play())
    assert str(caught.value.reason).endswith(f"no connection: the proxy answered with status {status[:3]}")


def test_a_proxy_that_is_not_there_makes_a_host_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with pytest.raises(errors.UpstreamUnreachable):
        asyncio.run(asked(CodegenUpstream(HOST), get_run))
