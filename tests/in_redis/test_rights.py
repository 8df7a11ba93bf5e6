"""Rights over instances: what the host has said to one need not be asked by others, and a refusal is heard by all."""

import asyncio
import logging

import pytest

from codegen_api.errors import NotFound
from codegen_api.following.rights import Rights
from codegen_api.identity import Credential
from codegen_api.in_redis import InRedis
from codegen_api.runs import RunRef
from tests.fakehost import FakeHost
from tests.in_redis.linking import instances, until, usable
from tests.redis_servers import RedisServer

ALICE, BOB = Credential.of("alice", b"key"), Credential.of("bob", b"key")
REF, OTHER = RunRef("9", "1"), RunRef("9", "2")


def rights(host: FakeHost, made: list[InRedis]) -> list[Rights]:
    return [Rights(host.get_run, each.rights) for each in made]


def hosting() -> FakeHost:
    host = FakeHost()
    host.add("1", status="ACTIVE", marks={"owner": "a text that only the host and we know"})
    host.add("2")
    return host


async def test_three_instances_ask_the_host_as_often_as_one(server: RedisServer) -> None:
    host = hosting()
    async with instances(server.url, 3) as made:
        one, two, three = rights(host, made)
        first = await one.require(ALICE, REF)
        await until(lambda: bool(server.ask("KEYS", "*right*")))
        for other in (two, three):
            found = await other.require(ALICE, REF)
            assert found.run == first.run
            assert found.whole
            assert found.asked <= first.asked  # rather too early than too late
            assert found.asked == pytest.approx(first.asked, abs=0.5)
            assert other.held(ALICE, REF) is None  # it would be good for longer than it is
        assert host.calls["get"] == 1
        await two.require(BOB, REF)
        await three.require(ALICE, OTHER)
        assert host.calls["get"] == 3
        for key in server.ask("KEYS", "*right*"):
            assert 0 < server.ask("TTL", key) <= 60
            assert b"alice" not in key


async def test_a_refusal_is_heard_by_all_instances_at_once(server: RedisServer) -> None:
    host = hosting()
    async with instances(server.url, 3) as made:
        one, two, three = rights(host, made)
        doubted: list[tuple[str, RunRef]] = []
        three.doubted = lambda digest, ref: doubted.append((digest, ref))
        for each in (one, two, three):
            await each.ask(ALICE, REF)
            await each.ask(BOB, REF)
        one.revoke(ALICE, REF)
        await until(lambda: two.held(ALICE, REF) is None and three.held(ALICE, REF) is None, 3)
        assert doubted == [(ALICE.digest, REF)]
        assert two.held(BOB, REF) is not None
        calls = host.calls["get"]
        host.runs.pop("1")
        with pytest.raises(NotFound):
            await two.require(ALICE, REF)
        assert host.calls["get"] == calls + 1


async def test_while_redis_is_away_each_instance_asks_for_itself(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    host = hosting()
    caplog.set_level(logging.WARNING)
    async with instances(server.url, 2) as made:
        one, two = rights(host, made)
        await one.require(ALICE, REF)
        server.kill()
        await usable(made, so=False)
        await two.require(ALICE, REF)
        two.revoke(ALICE, REF)
        assert host.calls["get"] == 2
        server.start()
        await usable(made)
        await two.require(BOB, REF)
        await until(lambda: bool(server.ask("KEYS", "*right*")))
        await one.require(BOB, REF)
        assert host.calls["get"] == 3
        heard = asyncio.Event()
        one.doubted = lambda *_: heard.set()
        two.revoke(BOB, REF)
        async with asyncio.timeout(10):
            await heard.wait()
    assert "a text that only" not in caplog.text
