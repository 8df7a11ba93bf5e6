"""What each principal uses in all instances, counted in Redis. While it is away, each instance counts its own."""

import asyncio
import secrets
from contextlib import suppress
from math import floor

from codegen_api.auth.quota import WINDOW, Quota, QuotaState
from codegen_api.identity import Principal
from codegen_api.in_redis.chores import Chores
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

TAKE = RedisScript(f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local limit, minute = tonumber(ARGV[1]), math.floor(now / {WINDOW})
local this, last = string.format('%d', minute), string.format('%d', minute - 1)
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field ~= this and field ~= last then redis.call('HDEL', KEYS[1], field) end
end
local current = tonumber(redis.call('HGET', KEYS[1], this) or 0)
local previous = tonumber(redis.call('HGET', KEYS[1], last) or 0)
local rest = {WINDOW} - now % {WINDOW}
local granted = 0
if math.floor(previous * rest / {WINDOW} + current) + 1 <= limit then
  granted, current = 1, redis.call('HINCRBY', KEYS[1], this, 1)
  redis.call('EXPIRE', KEYS[1], {2 * WINDOW})
end
return {{granted, previous, current, string.format('%.6f', rest)}}
""")


class RedisOpenStreams:
    """``OpenStreams`` in Redis: how many live logs each principal has open in all instances.

    Each instance says how many there are in it, and again and again: what is not renewed lapses, so an instance that
    dies holds nothing for long.
    """

    def __init__(self, link: RedisLink, names: Names) -> None:
        self._link = link
        self._names = names
        self._me = secrets.token_hex(8)
        self._counts: dict[Principal, int] = {}
        self._unsaid: set[Principal] = set()
        self._chores = Chores()
        link.listeners.append(self._hear)

    async def take(self, principal: Principal, count: int, each: int) -> bool:
        self._counts[principal] = max(count, self._counts.get(principal, 0))
        self._chores.see_to(self._renew)
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
        await self._chores.aclose()
        for principal in [*self._counts, *self._unsaid]:
            with suppress(RedisAway):
                await self._hold(principal, 0, -1)

    async def _hold(self, principal: Principal, count: int, each: int) -> int:
        key = self._names.of("streams", repr(principal))
        held: int = await self._link.run_script(HOLD, [key], [self._me, count, each])
        return held

    def _say(self, *principals: Principal) -> None:
        self._unsaid.update(principals)
        self._chores.see_to(self._tell)

    async def _tell(self) -> None:
        while self._unsaid:
            principal = self._unsaid.pop()
            with suppress(RedisAway):
                await self._hold(principal, self._counts.get(principal, 0), -1)

    async def _renew(self) -> None:
        while self._counts:
            await asyncio.sleep(RENEW_SECONDS)
            self._say(*self._counts)

    def _hear(self, news: RedisNews) -> None:
        if news is not RedisNews.AWAY and self._counts:
            self._say(*self._counts)


class RedisQuota:
    """``per_minute`` requests for each principal, through whatever instance they come.

    The window slides as in ``auth.quota``. The library that counts there has a storage in Redis, too, with connections,
    time limits and faults of its own; this is what it does, over our link.
    """

    def __init__(self, link: RedisLink, names: Names, per_minute: int) -> None:
        self._link = link
        self._names = names
        self._per_minute = per_minute
        self._own = Quota(per_minute)

    async def take(self, principal: Principal) -> QuotaState:
        """Count a request of ``principal``; refused ones do not count."""
        try:
            said = await self._link.run_script(TAKE, [self._names.of("quota", repr(principal))], [self._per_minute])
        except RedisAway:
            return await self._own.take(principal)
        granted, previous, current, rest = bool(said[0]), int(said[1]), int(said[2]), float(said[3])
        weighted = previous * rest / WINDOW + current
        # the moments at which one request less counts
        more_in = [rest % (WINDOW / previous)] if previous else []
        more_in += [rest] if current else []
        seconds = min(int(min(more_in, default=0.0)) + 1, WINDOW)
        return QuotaState(granted, self._per_minute, max(0, self._per_minute - floor(weighted)), seconds)
