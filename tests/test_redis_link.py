"""The link to Redis: whatever happens to a real one, it is away within seconds, and back when it can be used again."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from codegen_api import redis_link
from codegen_api.redis_link import CALLS, LONG_CALLS, RedisAway, RedisLink, RedisNews, RedisScript
from tests.dialects.rich import RichHost
from tests.dialects.site import gateway_app
from tests.redis_servers import RedisServer, free_port, redis_server

WITHIN = 8.0
SOON = 4.0
"""How soon somebody has to notice."""

PASSWORD = "p/w?#@:%-of-redis-7"
QUOTED = "p%2Fw%3F%23%40%3A%25-of-redis-7"


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """For tests that leave it as it is."""
    with redis_server() as server:
        yield server


@pytest.fixture(params=[False, True], ids=["single", "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(clustered=request.param) as server:
        yield server


@asynccontextmanager
async def linked(url: str, **options: Any) -> AsyncIterator[tuple[RedisLink, list[RedisNews]]]:
    link = RedisLink(url, **options)
    news: list[RedisNews] = []
    link.listeners.append(news.append)
    await link.start()
    try:
        yield link, news
    finally:
        await link.aclose()


async def until(condition: Callable[[], bool], within: float = WITHIN) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - whatever it is about
            await asyncio.sleep(0.01)


async def put(link: RedisLink, value: str) -> Any:
    return await link.run(lambda redis: redis.set(f"{link.prefix}test", value))


async def get(link: RedisLink) -> Any:
    return await link.run(lambda redis: redis.get(f"{link.prefix}test"))


async def fails_at_once(call: Callable[[], Awaitable[Any]]) -> None:
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(RedisAway):
            await call()
    assert time.monotonic() < began + 0.1


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "codegen_api"]


async def test_it_is_used_as_any_client_is(server: RedisServer) -> None:
    async with linked(server.url, prefix="other:") as (link, news):
        assert link.usable
        assert news == [RedisNews.BACK]
        assert type(link.client).__name__ == ("RedisCluster" if server.clustered else "Redis")
        await put(link, "one")
        assert await get(link) == b"one"
        assert await server_keys(server) == {b"other:test", b"other:epoch"}


async def server_keys(server: RedisServer) -> set[bytes]:
    found: list[bytes] = await asyncio.to_thread(server.ask, "KEYS", "*")
    return set(found)


async def test_a_script_is_sent_once_and_again_to_a_redis_that_has_forgotten_it(server: RedisServer) -> None:
    script = RedisScript("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    async with linked(server.url) as (link, news):
        for expected in (2, 4, 6):
            assert await link.run_script(script, [f"{link.prefix}count"], [2]) == expected
        server.ask("SCRIPT", "FLUSH")
        assert await link.run_script(script, [f"{link.prefix}count"], [2]) == 8
        assert news == [RedisNews.BACK]


async def test_more_calls_than_there_are_connections_wait_for_one_another(server: RedisServer) -> None:
    async with linked(server.url) as (link, news):
        reading = [
            asyncio.create_task(link.run(lambda redis: redis.xread({f"{link.prefix}none": 0}, block=60_000), waits=60))
            for _ in range(LONG_CALLS)
        ]
        await asyncio.gather(*(put(link, "many") for _ in range(200)))
        assert not any(each.done() for each in reading)
        await link.run(lambda redis: redis.xadd(f"{link.prefix}none", {"now": "here"}))
        assert [len(heard) for heard in await asyncio.gather(*reading)] == [1] * LONG_CALLS
        connections = int(server.ask("INFO", "clients").partition(b"connected_clients:")[2].split()[0])
        assert connections <= CALLS + LONG_CALLS + 2
        assert news == [RedisNews.BACK]


async def test_whoever_gives_up_a_call_disturbs_nobody(shared: RedisServer) -> None:
    async with linked(shared.url) as (link, news):
        for _ in range(50):
            call = asyncio.create_task(put(link, "given up"))
            await asyncio.sleep(0)
            call.cancel()
        for number in range(50):
            await put(link, str(number))
            assert await get(link) == str(number).encode()
        assert news == [RedisNews.BACK]


async def test_a_redis_that_is_killed_is_away_and_back_when_it_has_restarted(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with linked(server.url) as (link, news):
        server.kill()
        await until(lambda: not link.usable, SOON)
        await fails_at_once(lambda: get(link))
        server.start()
        await until(lambda: link.usable, SOON)
        assert news == [RedisNews.BACK, RedisNews.AWAY, RedisNews.BACK, RedisNews.EMPTIED]
        await put(link, "again")
        away, back = lines(caplog)
        assert away.startswith("Redis is away, and each instance works alone until it is back: ")
        assert str(server.port) in away or "closed" in away
        assert back == "Redis is back"


async def test_a_redis_that_does_not_answer_is_away_for_those_who_wait_too(server: RedisServer) -> None:
    async with linked(server.url) as (link, news):
        reading = asyncio.create_task(
            link.run(lambda redis: redis.xread({f"{link.prefix}none": 0}, block=60_000), waits=60)
        )
        await put(link, "before")
        server.stop()
        began = time.monotonic()
        with pytest.raises(RedisAway):
            await get(link)
        with pytest.raises(RedisAway):
            await reading
        assert time.monotonic() < began + SOON
        await fails_at_once(lambda: get(link))
        server.go_on()
        await until(lambda: link.usable)
        assert await get(link) == b"before"
        assert news == [RedisNews.BACK, RedisNews.AWAY, RedisNews.BACK]


async def test_a_redis_that_sleeps_is_noticed_without_a_call(shared: RedisServer) -> None:
    async with linked(shared.url) as (link, _):
        sleeping = asyncio.create_task(asyncio.to_thread(shared.ask, "DEBUG", "SLEEP", "3"))
        await until(lambda: not link.usable, SOON)
        await sleeping
        await until(lambda: link.usable, SOON)


async def test_an_emptied_redis_is_noticed_while_it_is_used(server: RedisServer) -> None:
    async with linked(server.url) as (one, news), linked(server.url) as (_, other_news):
        await put(one, "gone soon")
        server.empty()
        await until(lambda: RedisNews.EMPTIED in news and RedisNews.EMPTIED in other_news, SOON)
        await asyncio.sleep(2)
        assert news == other_news == [RedisNews.BACK, RedisNews.EMPTIED]  # once


async def test_a_full_redis_is_away_until_there_is_room(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with linked(server.url) as (link, _):
        server.ask("CONFIG", "SET", "maxmemory", "1")
        await until(lambda: not link.usable, SOON)
        assert "OOM command not allowed" in lines(caplog)[0] or "used memory" in lines(caplog)[0]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: link.usable, SOON)


async def test_a_replica_that_can_only_be_read_is_away(shared: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with linked(shared.url) as (link, _):
        shared.ask("REPLICAOF", "127.0.0.1", "1")
        try:
            await until(lambda: not link.usable, SOON)
            assert "read only replica" in lines(caplog)[0]
        finally:
            shared.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: link.usable, SOON)


async def test_a_redis_that_wants_a_password_is_away_and_the_password_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server() as server:
        server.ask("CONFIG", "SET", "requirepass", PASSWORD)
        server.admin["password"] = PASSWORD
        async with linked(server.url) as (link, _):
            assert not link.usable
        assert "AuthenticationError" in lines(caplog)[0]
        async with linked(server.url_of("", "wrong-password-1")) as (link, _):
            assert not link.usable
        assert "AuthenticationError" in lines(caplog)[1]
        async with linked(server.url_of("", QUOTED)) as (link, _):
            await put(link, "let in")
            server.ask("CONFIG", "SET", "requirepass", "another-password-2")
            server.admin["password"] = "another-password-2"
            server.ask("CLIENT", "KILL", "TYPE", "normal")
            await until(lambda: not link.usable, SOON)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert not [secret for secret in (PASSWORD, QUOTED, "wrong-password-1", "another-password-2") if secret in text]


async def test_a_right_that_is_missing_is_said_seldom(
    shared: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(redis_link, "PROBE_SECONDS", 0.25)
    shared.ask("ACL", "SETUSER", "narrow", "on", ">narrow-password", "~codegen_api:*", *["+eval", "+evalsha", "+set"])
    shared.ask("ACL", "SETUSER", "narrow", "+get", "+time")
    async with linked(shared.url_of("narrow", "narrow-password")) as (link, _):
        for _ in range(3):
            await until(lambda: link.usable)
            with pytest.raises(RedisAway):
                await link.run(lambda redis: redis.incr(f"{link.prefix}count"))
        began = time.monotonic()
        await until(lambda: link.usable, 12)
        assert time.monotonic() > began + 1
    assert "'incrby' command" in lines(caplog)[0]
    assert len(lines(caplog)) == 6


async def test_a_start_without_redis_waits_for_nothing_and_finds_it_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with redis_server() as server:
        server.kill()
        async with linked(server.url) as (link, news):
            await fails_at_once(lambda: get(link))
            with pytest.raises(RedisAway):
                link.client  # noqa: B018 - it is a property
            server.start()
            await until(lambda: link.usable, SOON)
            assert news == [RedisNews.BACK]
    assert [line.partition(":")[0] for line in lines(caplog)] == [
        "Redis is away, and each instance works alone until it is back",
        "Redis is back",
    ]


async def test_an_address_where_nobody_answers_holds_up_the_start_for_seconds_only() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        began = time.monotonic()
        async with linked(f"redis://127.0.0.1:{deaf.getsockname()[1]}") as (link, _):
            assert not link.usable
        assert time.monotonic() < began + SOON


async def test_its_clock_is_known_to_half_a_round_trip(shared: RedisServer) -> None:
    async with linked(shared.url) as (link, _):
        loop = asyncio.get_running_loop()
        for _ in range(20):
            began = loop.time()
            seconds, micros = await link.run(lambda redis: redis.time())
            said = seconds + micros / 1e6
            assert link.redis_time(began) - link.clock_error <= said <= link.redis_time(loop.time()) + link.clock_error
            assert link.loop_time(link.redis_time(began)) == pytest.approx(began)
        assert link.clock_error < 0.05


async def test_rediss_encrypts_the_way_and_knows_whom_it_talks_to(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    pem, key, ca = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(pem)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    port = free_port()
    files = ["--tls-cert-file", str(pem), "--tls-key-file", str(key), "--tls-ca-cert-file", str(ca)]
    with redis_server("--tls-port", str(port), *files, "--tls-auth-clients", "no") as server:
        async with linked(f"rediss://127.0.0.1:{port}?ssl_ca_certs={ca}") as (link, _):
            await put(link, "sealed")
            assert server.ask("GET", f"{link.prefix}test") == b"sealed"
        async with linked(f"rediss://127.0.0.1:{port}") as (link, _):  # it may be anybody
            assert not link.usable


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379",
        "127.0.0.1:6379",
        "redis://user:sesame/more@host",
        "redis://user:sesame?more@host",
        "redis://:1#sesame@host",
        "redis://host:port",
        "redis://host/0?socket_timeout=5",
        "redis://host/0?sesame=1",
        "rediss://host/0?ssl_sesame=1",
        "redis://host/0\n",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="it is no URL such as redis://") as refused:
        RedisLink(url)
    assert "sesame" not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_health_says_whether_redis_can_be_used() -> None:
    with redis_server() as server:
        app = gateway_app(RichHost(), redis_url=server.url, secret_key="0123456789abcdef" * 2)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client,
        ):

            async def said() -> tuple[str, str]:
                body = (await client.get("/health")).json()
                return body["status"], body["redis"]

            async def says(status: str, redis: str) -> None:
                async with asyncio.timeout(WITHIN):
                    while await said() != (status, redis):  # noqa: ASYNC110 - it is asked
                        await asyncio.sleep(0.05)

            await says("healthy", "connected")
            server.kill()
            await says("degraded", "unavailable (fallback to memory)")
            server.start()
            await says("healthy", "connected")


async def test_an_event_loop_that_was_busy_does_not_take_redis_for_away(shared: RedisServer) -> None:
    async with linked(shared.url) as (link, news):
        for _ in range(3):
            asking = asyncio.create_task(get(link))
            await asyncio.sleep(0)
            time.sleep(1.5)  # noqa: ASYNC251 - nothing else happens meanwhile
            await asking
        assert news == [RedisNews.BACK]


async def test_calls_that_run_out_of_time_together_all_find_redis_away() -> None:
    with redis_server() as server:
        link = RedisLink(server.url)
        await link.start()
        told: list[RedisNews] = []
        link.listeners.append(told.append)
        server.stop()
        try:
            calls = [asyncio.create_task(link.run(lambda client: client.get("x"))) for _ in range(40)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            server.go_on()
        assert {type(outcome) for outcome in outcomes} == {RedisAway}
        assert told == [RedisNews.AWAY]
        await link.aclose()
