"""How many live logs each principal has open in all instances, in Redis.

Each instance says how many there are in it, and again and again: what is not renewed lapses, so an instance that dies
holds nothing for long. While Redis is away each instance counts its own.
"""

import asyncio
import secrets
from contextlib import suppress

from codegen_api.identity import Principal
from codegen_api.in_redis.names import Names
from codegen_api.redis_link import RedisAway, RedisLink, RedisNews, RedisScript

LAPSE_SECONDS = 60
"""Seconds after which what an instance has said no longer counts."""

RENEW_SECONDS = 20.0

HOLD = RedisScript(f"""
local time = redis.call('TIME')
local now, me, count, each = tonumber(time[1]), ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local others, raw = 0, redis.call('HGETALL', KEYS[1])
for i = 1, #raw, 2 do
  local held, until_ = string.match(raw[i + 1], '^(%d+) (%d+)$')
  if tonumber(until_) <= now then
    redis.call('HDEL', KEYS[1], raw[i])
  elseif raw[i] ~= me then
    others = others + tonumber(held)
  end
end
if each >= 0 and others + count > each then return 0 end
if count > 0 then
  redis.call('HSET', KEYS[1], me, string.format('%d %d', count, now + {LAPSE_SECONDS}))
  redis.call('EXPIRE', KEYS[1], {LAPSE_SECONDS})
else
  redis.call('HDEL', KEYS[1], me)
end
return 1
""")


class RedisOpenStreams:
    """``OpenStreams`` in Redis."""

    def __init__(self, link: RedisLink, names: Names) -> None:
        self._link = link
        self._names = names
        self._me = secrets.token_hex(8)
        self._counts: dict[Principal, int] = {}
        self._unsaid: set[Principal] = set()
        self._telling: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        link.listeners.append(self._hear)

    async def take(self, principal: Principal, count: int, each: int) -> bool:
        self._counts[principal] = max(count, self._counts.get(principal, 0))
        self._keep_renewing()
        try:
            return bool(await self._hold(principal, count, each))
        except RedisAway:
            return True

    def left(self, principal: Principal, count: int) -> None:
        if count:
            self._counts[principal] = count
        else:
            self._counts.pop(principal, None)
        self._say(principal)

    async def aclose(self) -> None:
        for task in (self._renewing, self._telling):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        for principal in [*self._counts, *self._unsaid]:
            with suppress(RedisAway):
                await self._hold(principal, 0, -1)

    async def _hold(self, principal: Principal, count: int, each: int) -> int:
        key = self._names.of("streams", repr(principal))
        held: int = await self._link.run_script(HOLD, [key], [self._me, count, each])
        return held

    def _say(self, *principals: Principal) -> None:
        self._unsaid.update(principals)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._unsaid:
            principal = self._unsaid.pop()
            with suppress(RedisAway):
                await self._hold(principal, self._counts.get(principal, 0), -1)

    def _keep_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while self._counts:
            await asyncio.sleep(RENEW_SECONDS)
            self._say(*self._counts)

    def _hear(self, news: RedisNews) -> None:
        if news is not RedisNews.AWAY and self._counts:
            self._say(*self._counts)
