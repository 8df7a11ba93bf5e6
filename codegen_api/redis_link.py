"""The connection to Redis, which several instances share, and whether it can be used.

Whatever Redis does instead of answering, it is *away*: within seconds, for everything in this process that uses it.
While it is away, calls fail at once, without touching the network. A probe in the background says when it is back. It
writes, so that a replica that can only be read, and a Redis without memory, are away as well.
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
"""Seconds to leave Redis alone that answers probes, and refuses what it is asked for."""

CALLS = 16
"""Calls at a time; more wait for their turn. Nearly the number of connections, of which long calls have their own."""

LONG_CALLS = 8
"""Long calls at a time, which wait for something to happen at Redis."""

BUSY = 0.1
"""Seconds by which a timer is late if the event loop was busy, or this process had no processor."""

DRIFT = 1e-4
"""By how much two clocks may diverge, in seconds per second."""

PARAMETERS = ("db", "username", "password", "client_name")
"""What a URL may say behind a ``?``, besides ``ssl_...``. The rest is ours to choose."""

FAULTS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What is raised instead of an answer; asyncio's timeout is the built-in one."""


class RedisAway(Exception):
    """Redis cannot be used. The link has logged why."""


class RedisNews(enum.Enum):
    """What a link tells its listeners."""

    AWAY = enum.auto()
    BACK = enum.auto()
    EMPTIED = enum.auto()
    """All that was stored there is gone. If that happened while it was away, this comes right behind ``BACK``."""


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
"""Its key holds a random text for as long as nobody empties Redis."""


class RedisLink:
    """The connection to the Redis at ``url``: a pool of bounded size. All keys begin with ``prefix``.

    ``listeners`` are called with what happens, in the event loop; they must neither wait nor raise. If Redis says that
    it is part of a cluster, the client is one for clusters.

    Raises ``ValueError``, which quotes nothing of it, if the URL cannot be used.
    """

    def __init__(self, url: str, *, prefix: str = "codegen_api:") -> None:
        _require_usable(url)
        self.prefix = prefix
        self.listeners: list[Callable[[RedisNews], None]] = []
        self._url = url
        self._client: Redis | RedisCluster | None = None
        self._calls = asyncio.Semaphore(CALLS)
        self._long_calls = asyncio.Semaphore(LONG_CALLS)
        self._under_way: dict[asyncio.Timeout, asyncio.TimerHandle] = {}
        self._epoch: bytes | None = None
        self._offset, self._clock_error, self._measured = 0.0, float("inf"), 0.0
        self._pause, self._back_since, self._left_alone_until = PROBE_SECONDS, 0.0, 0.0
        self._logged = False
        self._probing: asyncio.Task[None] | None = None
        self._dropping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect, and keep looking after it. A Redis that cannot be reached is away until it can."""
        self._loop = asyncio.get_running_loop()
        await self._probe()
        self._probing = asyncio.create_task(self._keep_probing())

    async def aclose(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        client, self._client = self._client, None
        await asyncio.gather(*self._dropping, *([] if client is None else [self._drop(client)]))

    @property
    def usable(self) -> bool:
        """Whether calls are made at all."""
        return self._client is not None

    @property
    def client(self) -> Any:
        """The client, a ``Redis`` or a ``RedisCluster``, until Redis is away. Use ``run``, which sees to faults.

        Raises:
            RedisAway: there is none.
        """
        if self._client is None:
            raise RedisAway
        return self._client

    def subscriber(self) -> Redis:
        """A client with one connection of its own, for who subscribes to channels: any node of a cluster serves it."""
        return Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), driver_info=None, max_connections=1)

    async def run(self, command: Callable[[Any], Awaitable[Any]], *, waits: float = 0.0) -> Any:
        """The answer to what ``command`` asks the client. ``waits``: for so many seconds Redis itself may wait for
        something, as with ``BLOCK``.

        Raises:
            RedisAway: there is no answer. The call may have had its effect all the same.
        """
        client = self.client
        try:
            async with self._within(CALL_SECONDS + waits), self._long_calls if waits else self._calls:
                return await command(client)
        except FAULTS as error:
            self._lose(client, error)
            raise RedisAway from error

    async def run_script(
        self, script: RedisScript, keys: Sequence[str], arguments: Sequence[str | bytes | float] = ()
    ) -> Any:
        """The result of a script; raises as ``run``. ``keys`` are whole, with the prefix."""
        return await self.run(lambda client: script(client, keys, arguments))

    # -- its clock -----------------------------------------------------------------------------------------------------

    def redis_time(self, loop_time: float) -> float:
        """What the clock of Redis says (epoch seconds) when the event loop's says ``loop_time``, to within
        ``clock_error``. In a cluster each node has its own: this is that of one of them.
        """
        return loop_time + self._offset

    def loop_time(self, redis_time: float) -> float:
        """The reverse of ``redis_time``."""
        return redis_time - self._offset

    @property
    def clock_error(self) -> float:
        """By how much such a time may be wrong, in either direction: half a round trip, and some drift since then."""
        return self._clock_error + DRIFT * (self._loop.time() - self._measured)

    def _measure(self, began: float, said: float) -> None:
        now = self._loop.time()
        offset, error = said - (began + now) / 2, (now - began) / 2
        moved = abs(offset - self._offset) > error + self.clock_error  # somebody has set the clock
        if moved or error <= self.clock_error:
            self._offset, self._clock_error, self._measured = offset, error, now

    # -- whether it is there -------------------------------------------------------------------------------------------

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            if self.usable or self._loop.time() >= self._left_alone_until:
                await self._probe()

    async def _probe(self) -> None:
        client = self._client
        try:
            if client is None:
                async with self._within(CONNECT_SECONDS):
                    await self._connect()
            else:
                async with self._within(CALL_SECONDS):
                    await self._look(client)
        except FAULTS as error:
            if client is None:
                self._log_away(error)
            else:
                self._lose(client, error)

    async def _connect(self) -> None:
        client = await self._connected()
        try:
            await self._look(client, new=True)
        except BaseException:
            await self._drop(client)
            raise

    async def _look(self, client: Redis | RedisCluster, *, new: bool = False) -> None:
        """Check that this client can be used, and use it from now on."""
        began = self._loop.time()
        epoch, seconds, micros = await PROBE(client, [f"{self.prefix}epoch"], [secrets.token_hex(16)])
        if client is not self._client and not new:
            return  # a call found it away meanwhile
        self._measure(began, int(seconds) + int(micros) / 1e6)
        emptied, self._epoch = self._epoch not in (None, epoch), epoch
        if new:
            self._client, self._back_since = client, self._loop.time()
            if self._logged:
                logger.info("Redis is back")
            self._logged = False
            self._tell(RedisNews.BACK)
        if emptied:
            self._tell(RedisNews.EMPTIED)

    async def _connected(self) -> Redis | RedisCluster:
        """A client of the kind that this Redis needs."""
        # no time limits besides ours: they would only disagree. Saying the driver's name would need a right
        options: dict[str, Any] = {"driver_info": None, "max_connections": CALLS + LONG_CALLS + 1}
        single = Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), **options)
        try:
            clustered = await _is_clustered(single)
        except BaseException:
            await self._drop(single)
            raise
        if not clustered:
            return single
        await self._drop(single)
        cluster = RedisCluster.from_url(self._url, retry=Retry(NoBackoff(), 0), **options)
        try:
            return await cluster.initialize()
        except BaseException:
            await self._drop(cluster)
            raise

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """As ``asyncio.timeout``, and over when Redis is away. If the event loop was busy meanwhile, it lasts longer:
        the answer may be there, unread.
        """
        async with asyncio.timeout(None) as timeout:
            self._watch(timeout, seconds)
            try:
                yield
            finally:
                self._under_way.pop(timeout).cancel()

    def _watch(self, timeout: asyncio.Timeout, seconds: float) -> None:
        due = self._loop.time() + seconds

        def check() -> None:
            now = self._loop.time()
            if now > due + BUSY:
                self._watch(timeout, seconds)
            elif not timeout.expired():
                timeout.reschedule(now)

        self._under_way[timeout] = self._loop.call_at(due, check)

    def _lose(self, client: Redis | RedisCluster, error: BaseException) -> None:
        """This client cannot be used any more."""
        if self._client is not client:
            return
        self._client = None
        # a fault that the probe does not meet would come back with every call
        again = isinstance(error, ResponseError) and self._loop.time() < self._back_since + MAX_PROBE_SECONDS
        self._pause = min(2 * self._pause, MAX_PROBE_SECONDS) if again else PROBE_SECONDS
        self._left_alone_until = self._loop.time() + self._pause if again else 0.0
        self._log_away(error)
        for timeout in self._under_way:
            if not timeout.expired():  # it would wait for nothing
                timeout.reschedule(self._loop.time())
        # new connections, because after a failover the address leads to another server
        dropping = asyncio.create_task(self._drop_behind(client, set(self._under_way)))
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)
        self._tell(RedisNews.AWAY)

    def _log_away(self, error: BaseException) -> None:
        if not self._logged:
            self._logged = True
            logger.warning("Redis is away, and each instance works alone until it is back: %s", _cause(error))

    def _tell(self, news: RedisNews) -> None:
        for listener in self.listeners:
            listener(news)

    async def _drop_behind(self, client: Redis | RedisCluster, calls: set[asyncio.Timeout]) -> None:
        """Drop a client when these calls are over: one that is just connecting could not be closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):
                while calls & self._under_way.keys():  # noqa: ASYNC110 - for a moment, and seldom
                    await asyncio.sleep(0.01)
        await self._drop(client)

    async def _drop(self, client: Redis | RedisCluster) -> None:
        with suppress(*FAULTS):
            async with asyncio.timeout(CALL_SECONDS):
                await client.aclose()
                if isinstance(client, RedisCluster):  # which closes nothing after a fault
                    await client.nodes_manager.aclose()
                    await client.nodes_manager.aclose("startup_nodes")


def _require_usable(url: str) -> None:
    """
    Raises:
        ValueError: nothing can be reached by this URL, or it says what is not for it to say.
    """
    try:
        parts = urlsplit(url)
        names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
        readable = url.isprintable() and not parts.fragment and "@" not in parts.path + parts.query
        if readable and all(name in PARAMETERS or name.startswith("ssl_") for name in names):
            pool: Any = Redis.from_url(url).connection_pool
            pool.make_connection()  # which touches no network yet
            return
    except (ValueError, TypeError, RedisError):
        pass
    raise ValueError(
        "it is no URL such as redis://user:password@host:6379/0, or rediss:// for TLS; in a password, write / ? # @ :"
        f" and % as %2F and so on; it may have the parameters {', '.join(PARAMETERS)} and those that begin with ssl_"
    ) from None


async def _is_clustered(client: Redis) -> bool:
    """Whether this Redis is part of a cluster. ``HELLO`` needs no right, other than ``INFO``."""
    untyped: Any = client
    try:
        said = await untyped.execute_command("HELLO")
    except ResponseError as error:
        if "unknown command" in str(error).lower():  # a proxy for one server
            return False
        raise
    facts = dict(zip(said[::2], said[1::2], strict=True)) if isinstance(said, list) else said
    return facts.get(b"mode") == b"cluster"


def _cause(error: BaseException) -> str:
    text = str(error).partition(", with args")[0]  # behind it Redis quotes what it was sent
    return f"{type(error).__name__} {quoted(text)}" if text else f"no answer within {CALL_SECONDS:g} s"
