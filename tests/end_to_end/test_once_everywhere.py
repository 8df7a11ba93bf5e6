"""Idempotency-Key over several gateways with one Redis: the sandbox has one run more, whatever breaks."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.end_to_end.processes import Sandbox, Server, eventually, gateway, kill
from tests.end_to_end.relay import relay
from tests.end_to_end.test_once import create, insist, started
from tests.redis_servers import RedisServer, redis_server

SECRET = "one secret for all the instances"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def three(host: Sandbox, redis: RedisServer) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        yield [stack.enter_context(gateway(host, redis_url=redis.url, secret_key=SECRET)) for _ in range(3)]


def test_two_hundred_creates_at_once_through_three_gateways_make_one_run(host: Sandbox, three: list[Server]) -> None:
    name = str(uuid4())
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: create(three[number % 3], name), range(200)))
    seen = Counter((answer.status_code, answer.headers.get("Idempotent-Replayed")) for answer in answers)
    assert seen[201, None] == 1
    assert set(seen) <= {(201, None), (201, "true"), (409, None)}
    (run,) = started(host, name)
    assert {answer.json()["id"] for answer in answers if answer.status_code == 201} == {run}
    for server in three:
        last = create(server, name)
        assert (last.status_code, last.json()["id"], last.headers["Idempotent-Replayed"]) == (201, run, "true")
        assert server.health("redis") == "connected"


def test_a_gateway_that_is_killed_in_the_middle_of_a_create_does_not_block_its_key(
    host: Sandbox, three: list[Server], redis: RedisServer
) -> None:
    name = str(uuid4())
    with (
        relay(host.url) as way,
        gateway(host, base_url=way.url, redis_url=redis.url, secret_key=SECRET) as killed,
        ThreadPoolExecutor(1) as asking,
    ):
        killed.get("/users/me")
        way.late = 30
        asking.submit(create, killed, name)
        eventually(lambda: started(host, name))
        assert create(three[0], name).status_code == 409  # under way elsewhere
        began = time.monotonic()
        kill(killed.pid)
        answer = insist(three[0], name)
        assert time.monotonic() < began + 40
        assert (answer.status_code, answer.headers["Idempotent-Replayed"]) == (201, "true")
        assert started(host, name) == [answer.json()["id"]]
        way.late = 0


def test_a_ticket_of_one_gateway_is_good_at_all_others(host: Sandbox, three: list[Server]) -> None:
    run = host.seed(status="COMPLETE", count=2)
    made = three[0].request("POST", f"/agent-runs/{run}/logs/stream-ticket")
    assert made.status_code == 201, made.text
    for server in three:
        answer = server.get(made.json()["url"], headers={})
        assert answer.status_code == 200
        assert "event: end" in answer.text
