"""Requests per user and minute, counted in Redis for all instances; while it is away, each instance counts its own.

The window slides as in ``auth.quota``. The library that counts there has a storage in Redis, too, with connections,
time limits and faults of its own; this is what it does, over our link.
"""

from math import floor

from codegen_api.auth.quota import WINDOW, Quota, QuotaState
from codegen_api.identity import Principal
from codegen_api.in_redis.names import Names
from codegen_api.redis_link import RedisAway, RedisLink, RedisScript

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


class RedisQuota:
    """``per_minute`` requests for each principal, through whatever instance they come."""

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
