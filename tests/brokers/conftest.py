"""A Redis for all tests that do not disturb it."""

from collections.abc import Iterator

import pytest

from tests.redis_servers import RedisServer, patience, redis_server

__all__ = ["patience"]


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server
