"""Adapters to run each contract over, and hosts to run them against."""

import os
from collections.abc import Callable, Generator, Iterator

import httpx
import pytest

from codegen_api.upstreams.codegen import CodegenUpstream
from tests.end_to_end import processes
from tests.upstreams.hosts.a2a import A2A
from tests.upstreams.hosts.openhands import OpenHands
from tests.upstreams.hosts.running import RealHost, is_here

collect_ignore = [f"test_{kind.name}_real.py" for kind in (A2A, OpenHands) if not is_here(kind)]

Connect = Callable[..., CodegenUpstream]

ADAPTERS: dict[str, Connect] = {
    "codegen-aiohttp": CodegenUpstream,
    "codegen-httpx": lambda url, **more: CodegenUpstream(url, transport=httpx.AsyncHTTPTransport(), **more),
}
"""The adapters under contract, each over every transport it can be given: called with the host's URL."""


@pytest.fixture(params=sorted(ADAPTERS))
def connect(request: pytest.FixtureRequest) -> Connect:
    return ADAPTERS[request.param]


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def sandbox_url() -> Iterator[str]:
    """A sandbox as a process of its own, without rate limits."""
    with processes.sandbox() as host:
        yield host.url


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a real host said last goes with the report of a test that has failed."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        hosts = [each for each in item.funcargs.values() if isinstance(each, RealHost)]
        report.sections += [(f"Last lines of the log of {host.name}", host.log_tail()) for host in hosts]
    return report
