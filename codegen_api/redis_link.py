"""The connection to Redis, which several instances share, and whether it can be used.

If Redis does not answer, for whatever reason, it is *away*: within seconds, for everything in this process that uses
it. While it is away, calls fail at once, without touching the network. A probe in the background finds out when it is
back. The probe writes, so a read-only replica and a Redis without free memory count as away, too.
"""

import asyncio
import enum
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from codegen_api.telemetry import logger, quoted

CALL_SECONDS = 1.0
"""Redis is away if a call takes longer."""

CONNECT_SECONDS = 2.0
"""Seconds for everything up to the first answer of a new connection."""

PROBE_SECONDS = 1.0
"""Seconds between two probes."""

MAX_PROBE_SECONDS = 30.0
"""Maximum seconds until the next probe if Redis answers probes, but refuses calls."""

CALLS = 16
"""Concurrent calls; more wait for their turn. Long calls have connections of their own."""

LONG_CALLS = 8
"""Concurrent long calls, which wait for something to happen at Redis."""

BUSY = 0.1
"""Seconds by which a timer is late if the event loop was busy, or the process was not scheduled."""

DRIFT = 1e-4
"""By how much two clocks may diverge, in seconds per second."""

PARAMETERS = ("db", "username", "password", "client_name")
"""Parameters that a URL may have, besides ``ssl_...``. The link chooses all others."""

FAULTS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What is raised instead of an answer; asyncio's timeout is the built-in one."""


class RedisAway(Exception):
    """Redis cannot be used. The link has logged why."""


class RedisNews(enum.Enum):
    """News that a link gives its listeners."""

    AWAY = enum.auto()
    BACK = enum.auto()
    EMPTIED = enum.auto()
    """All data there is gone. If that happened while Redis was away, this follows ``BACK`` at once."""


class RedisScript:
    """A Lua script. All of its keys must be in one slot of a cluster, so they share a hash tag."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Any, keys: Sequence[str], arguments: Sequence[str | bytes | float]) -> Any:
        try:
            return await client.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:  # Redis has restarted, or this is the first call
            return await client.eval(self._text, len(keys), *keys, *arguments)


PROBE = RedisScript("""
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local now = redis.call('TIME')
return {redis.call('GET', KEYS[1]), now[1], now[2]}
""")
"""Its key holds the same random text until Redis is emptied."""


class RedisLink:
    """The connection to the Redis at ``url``: a pool of bounded size. All keys begin with ``prefix``.

    ``listeners`` are called with news, in the event loop; they must neither wait nor raise. If Redis says that it is
    part of a cluster, the client is one for clusters.

    Raises ``ValueError``, which quotes nothing of the URL, if that cannot be used.
    """

    def __init__(self, url: str, *, prefix: str = "codegen_api:") -> None:
        _require_usable(url)
        self.prefix = prefix
        self.listeners: list[Callable[[RedisNews], None]] = []
        self._url = url
        self._client: Redis | RedisCluster | None = None
        self._calls = asyncio.Semaphore(CALLS)
        self._long_calls = asyncio.Semaphore(LONG_CALLS)
        self._timeouts: dict[asyncio.Timeout, asyncio.TimerHandle] = {}
        self._epoch: bytes | None = None
        self._offset, self._clock_error, self._measured = 0.0, float("inf"), 0.0
        self._pause, self._back_since, self._next_probe = PROBE_SECONDS, 0.0, 0.0
        self._away_logged = False
        self._probing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect, and start to probe. A Redis that cannot be reached is away until it can be."""
        self._loop = asyncio.get_running_loop()
        await self._probe()
        self._probing = asyncio.create_task(self._keep_probing())

    async def aclose(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        client, self._client = self._client, None
        await asyncio.gather(*self._closing, *([] if client is None else [self._close(client)]))

    @property
    def usable(self) -> bool:
        """Whether Redis is not away."""
        return self._client is not None

    @property
    def client(self) -> Any:
        """The client, a ``Redis`` or a ``RedisCluster``, until Redis is away. Use ``run``, which handles faults.

        Raises:
            RedisAway: there is none.
        """
        if self._client is None:
            raise RedisAway
        return self._client

    def subscriber(self) -> Redis:
        """A client with one connection of its own, to subscribe to channels. Any node of a cluster serves it."""
        return Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), driver_info=None, max_connections=1)

    async def run(self, command: Callable[[Any], Awaitable[Any]], *, waits: float = 0.0) -> Any:
        """The result of ``command``, which is called with the client. ``waits``: seconds that Redis itself may wait, as
        with ``BLOCK``.

        Raises:
            RedisAway: there is no answer. The call may have had its effect all the same.
        """
        client = self.client
        try:
            async with self._within(CALL_SECONDS + waits), self._long_calls if waits else self._calls:
                return await command(client)
        except FAULTS as error:
            self._give_up(client, error)
            raise RedisAway from error

    async def run_script(
        self, script: RedisScript, keys: Sequence[str], arguments: Sequence[str | bytes | float] = ()
    ) -> Any:
        """The result of a script; raises as ``run``. ``keys`` include the prefix."""
        return await self.run(lambda client: script(client, keys, arguments))

    # -- its clock -----------------------------------------------------------------------------------------------------

    def redis_time(self, loop_time: float) -> float:
        """The time of Redis (epoch seconds) at this time of the event loop, to within ``clock_error``. In a cluster
        each node has its own clock; this is the time of one of them.
        """
        return loop_time + self._offset

    def loop_time(self, redis_time: float) -> float:
        """The reverse of ``redis_time``."""
        return redis_time - self._offset

    @property
    def clock_error(self) -> float:
        """Seconds by which such a time may be wrong in either direction: half a round trip, and the drift since."""
        return self._clock_error + DRIFT * (self._loop.time() - self._measured)

    def _measure(self, began: float, redis_now: float) -> None:
        now = self._loop.time()
        offset, error = redis_now - (began + now) / 2, (now - began) / 2
        clock_was_set = abs(offset - self._offset) > error + self.clock_error
        if clock_was_set or error <= self.clock_error:
            self._offset, self._clock_error, self._measured = offset, error, now

    # -- whether it is there -------------------------------------------------------------------------------------------

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            if self.usable or self._loop.time() >= self._next_probe:
                await self._probe()

    async def _probe(self) -> None:
        client = self._client
        try:
            if client is None:
                async with self._within(CONNECT_SECONDS):
                    await self._connect()
            else:
                async with self._within(CALL_SECONDS):
                    await self._check(client)
        except FAULTS as error:
            if client is None:
                self._log_away(error)
            else:
                self._give_up(client, error)

    async def _connect(self) -> None:
        client = await self._new_client()
        try:
            await self._check(client, new=True)
        except BaseException:
            await self._close(client)
            raise

    async def _check(self, client: Redis | RedisCluster, *, new: bool = False) -> None:
        """Check that this client can be used, and use it from now on."""
        began = self._loop.time()
        epoch, seconds, micros = await PROBE(client, [f"{self.prefix}epoch"], [secrets.token_hex(16)])
        if client is not self._client and not new:
            return  # a call gave it up meanwhile
        self._measure(began, int(seconds) + int(micros) / 1e6)
        emptied, self._epoch = self._epoch not in (None, epoch), epoch
        if new:
            self._client, self._back_since = client, self._loop.time()
            if self._away_logged:
                logger.info("Redis is back")
            self._away_logged = False
            self._notify(RedisNews.BACK)
        if emptied:
            self._notify(RedisNews.EMPTIED)

    async def _new_client(self) -> Redis | RedisCluster:
        """A connected client of the kind that this Redis needs."""
        # no timeouts besides ours, which they could contradict; no driver's name, as sending it needs a permission
        options: dict[str, Any] = {"driver_info": None, "max_connections": CALLS + LONG_CALLS + 1}
        single = Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), **options)
        try:
            clustered = await _is_clustered(single)
        except BaseException:
            await self._close(single)
            raise
        if not clustered:
            return single
        await self._close(single)
        cluster = RedisCluster.from_url(self._url, retry=Retry(NoBackoff(), 0), **options)
        try:
            return await cluster.initialize()
        except BaseException:
            await self._close(cluster)
            raise

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """Like ``asyncio.timeout``, but ends when Redis is away, and lasts longer if the event loop was busy meanwhile:
        the answer may be there, unread.
        """
        async with asyncio.timeout(None) as timeout:
            self._watch(timeout, seconds)
            try:
                yield
            finally:
                self._timeouts.pop(timeout).cancel()

    def _watch(self, timeout: asyncio.Timeout, seconds: float) -> None:
        due = self._loop.time() + seconds

        def check() -> None:
            now = self._loop.time()
            if now > due + BUSY:
                self._watch(timeout, seconds)
            elif not timeout.expired():
                timeout.reschedule(now)

        self._timeouts[timeout] = self._loop.call_at(due, check)

    def _give_up(self, client: Redis | RedisCluster, error: BaseException) -> None:
        """Redis is away: stop using this client, and end its calls."""
        if self._client is not client:
            return
        self._client = None
        # if only calls meet this fault, and not the probe, each return would end at the next call: pause longer
        again = isinstance(error, ResponseError) and self._loop.time() < self._back_since + MAX_PROBE_SECONDS
        self._pause = min(2 * self._pause, MAX_PROBE_SECONDS) if again else PROBE_SECONDS
        self._next_probe = self._loop.time() + self._pause if again else 0.0
        self._log_away(error)
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(self._loop.time())
        # new connections, because after a failover the address leads to another server
        closing = asyncio.create_task(self._close_after(client, set(self._timeouts)))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._notify(RedisNews.AWAY)

    def _log_away(self, error: BaseException) -> None:
        if not self._away_logged:
            self._away_logged = True
            logger.warning("Redis is away, and each instance works alone until it is back: %s", _cause(error))

    def _notify(self, news: RedisNews) -> None:
        for listener in self.listeners:
            listener(news)

    async def _close_after(self, client: Redis | RedisCluster, calls: set[asyncio.Timeout]) -> None:
        """Close a client when these calls are over: a connection that is being made could not be closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):
                while calls & self._timeouts.keys():  # noqa: ASYNC110 - for a moment, and seldom
                    await asyncio.sleep(0.01)
        await self._close(client)

    async def _close(self, client: Redis | RedisCluster) -> None:
        with suppress(*FAULTS):
            async with asyncio.timeout(CALL_SECONDS):
                await client.aclose()
                if isinstance(client, RedisCluster):  # its aclose() does nothing after a fault
                    await client.nodes_manager.aclose()
                    await client.nodes_manager.aclose("startup_nodes")


def _require_usable(url: str) -> None:
    """
    Raises:
        ValueError: the URL is malformed, or has parameters that it must not have.
    """
    try:
        parts = urlsplit(url)
        names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
        readable = url.isprintable() and not parts.fragment and "@" not in parts.path + parts.query
        if readable and all(name in PARAMETERS or name.startswith("ssl_") for name in names):
            pool: Any = Redis.from_url(url).connection_pool
            pool.make_connection()  # does not touch the network yet
            return
    except (ValueError, TypeError, RedisError):
        pass
    raise ValueError(
        "it is no URL such as redis://user:password@host:6379/0, or rediss:// for TLS; in a password, write / ? # @ :"
        f" and % as %2F and so on; it may have the parameters {', '.join(PARAMETERS)} and those that begin with ssl_"
    ) from None


async def _is_clustered(client: Redis) -> bool:
    """Whether this Redis is part of a cluster. Unlike ``INFO``, ``HELLO`` needs no permission."""
    untyped: Any = client
    try:
        answer = await untyped.execute_command("HELLO")
    except ResponseError as error:
        if "unknown command" in str(error).lower():  # a proxy for one server
            return False
        raise
    facts = dict(zip(answer[::2], answer[1::2], strict=True)) if isinstance(answer, list) else answer
    return facts.get(b"mode") == b"cluster"


def _cause(error: BaseException) -> str:
    text = str(error).partition(", with args")[0]  # Redis quotes the arguments of the call behind this
    return f"{type(error).__name__} {quoted(text)}" if text else f"no answer within {CALL_SECONDS:g} s"
