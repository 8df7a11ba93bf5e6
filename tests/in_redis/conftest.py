from collections.abc import Iterator

import pytest

from tests.redis_servers import RedisServer, patience, redis_server

__all__ = ["patience"]


@pytest.fixture(params=[False, True], ids=["single", "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(clustered=request.param) as server:
        yield server
