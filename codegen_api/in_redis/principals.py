"""Counts in Redis what each principal uses in all instances. While Redis is away, each instance counts alone."""

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
"""Seconds after which an instance's report expires."""

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

    Each instance reports its own number and keeps renewing it: a report that is not renewed expires, so a dead instance
    does not hold streams for long.
    """

    def __init__(self, link: RedisLink, names: Names) -> None:
        self._link = link
        self._names = names
        self._me = secrets.token_hex(8)
        self._counts: dict[Principal, int] = {}
        self._unreported: set[Principal] = set()
        self._chores = Chores()
        link.listeners.append(self._on_link_news)

    async def take(self, principal: Principal, count: int, each: int) -> bool:
        self._counts[principal] = max(count, self._counts.get(principal, 0))
        self._chores.start(self._renew)
        try:
            return await self._hold(principal, count, each)
        except RedisAway:
            return True

    def left(self, principal: Principal, count: int) -> None:
        if count:
            self._counts[principal] = count
        else:
            self._counts.pop(principal, None)
        self._report_soon(principal)

    async def aclose(self) -> None:
        await self._chores.aclose()
        for principal in [*self._counts, *self._unreported]:
            with suppress(RedisAway):
                await self._hold(principal, 0, -1)

    async def _hold(self, principal: Principal, count: int, each: int) -> bool:
        key = self._names.of("streams", repr(principal))
        return bool(await self._link.run_script(HOLD, [key], [self._me, count, each]))

    def _report_soon(self, *principals: Principal) -> None:
        self._unreported.update(principals)
        self._chores.start(self._report)

    async def _report(self) -> None:
        while self._unreported:
            principal = self._unreported.pop()
            with suppress(RedisAway):
                await self._hold(principal, self._counts.get(principal, 0), -1)

    async def _renew(self) -> None:
        while self._counts:
            await asyncio.sleep(RENEW_SECONDS)
            self._report_soon(*self._counts)

    def _on_link_news(self, news: RedisNews) -> None:
        if news is not RedisNews.AWAY and self._counts:
            self._report_soon(*self._counts)


class RedisQuota:
    """Allows each principal ``per_minute`` requests in all instances together.

    The window slides as in ``auth.quota``. The library used there can count in Redis too, but with its own connections,
    time limits and faults; this does the same over our link.
    """

    def __init__(self, link: RedisLink, names: Names, per_minute: int) -> None:
        self._link = link
        self._names = names
        self._per_minute = per_minute
        self._local = Quota(per_minute)

    async def take(self, principal: Principal) -> QuotaState:
        """Count a request of ``principal``. Refused requests do not count."""
        try:
            answer = await self._link.run_script(TAKE, [self._names.of("quota", repr(principal))], [self._per_minute])
        except RedisAway:
            return await self._local.take(principal)
        granted, previous, current, rest = bool(answer[0]), int(answer[1]), int(answer[2]), float(answer[3])
        weighted = previous * rest / WINDOW + current
        # seconds until one request less counts
        more_in = [rest % (WINDOW / previous)] if previous else []
        more_in += [rest] if current else []
        seconds = min(int(min(more_in, default=0.0)) + 1, WINDOW)
        return QuotaState(granted, self._per_minute, max(0, self._per_minute - floor(weighted)), seconds)
