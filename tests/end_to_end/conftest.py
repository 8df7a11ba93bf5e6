"""One host and one gateway for all tests that do not disturb each other."""

from collections.abc import Iterator

import pytest

from tests.end_to_end import processes
from tests.end_to_end.processes import Sandbox, Server

BRISK = {"upstream_requests_per_minute": 600, "follower_linger_seconds": 0.3}
"""A gateway that reads a busy run every 0.125 s."""
PAGE = "https://chat.example"
TALKING = {
    **BRISK,
    "dialects": "native,agent_protocol",
    "stream_heartbeat_seconds": 0.3,
    "cors_origins": PAGE,
}
"""One that speaks the Agent Protocol, too, also to pages at ``PAGE``, and says often that it is there."""


@pytest.fixture(scope="session")
def host() -> Iterator[Sandbox]:
    with processes.sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def swift() -> Iterator[Sandbox]:
    """A host that is eight times as fast as usual."""
    with processes.sandbox("--speed", "8") as host:
        yield host


@pytest.fixture(scope="session")
def server(host: Sandbox) -> Iterator[Server]:
    """A gateway as it is by default."""
    with processes.gateway(host) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def brisk(host: Sandbox) -> Iterator[Server]:
    with processes.gateway(host, **BRISK) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def talking(host: Sandbox) -> Iterator[Server]:
    with processes.gateway(host, **TALKING) as gateway:
        yield gateway
