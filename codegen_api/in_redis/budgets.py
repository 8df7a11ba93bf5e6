"""The host's budget for each credential, kept in Redis for all instances together.

The rules are those of ``pace.Budget``, which each instance uses while Redis is away. They are written a second time,
in Lua, because reading and writing the state must be one atomic step for all instances.
"""

import asyncio
import math
import random
import secrets
from collections.abc import Callable
from contextlib import suppress

from codegen_api.following.shared_budgets import Usage
from codegen_api.in_redis.chores import Chores
from codegen_api.pace import (
    BURST,
    CLOCK_MARGIN,
    MAX_BELIEVED,
    MIN_WAIT,
    READ_SHARE,
    RECOVERY,
    RESERVE,
    WINDOW,
    BudgetStanding,
)
from codegen_api.redis_link import RedisAway, RedisLink, RedisNews, RedisScript

HEARTBEAT_SECONDS = 2.0
"""Seconds between two heartbeats of an instance."""

SILENT_SECONDS = 15.0
"""Seconds without a heartbeat after which an instance no longer counts."""

LONGEST_REQUEST = 90.0
"""Seconds after which a request without an answer is forgotten, because its instance must have died."""

INFINITE = 1e9

MOST_SEEDS = 20_000
"""Maximum reads written down again after a loss; if there should be more, none are."""

REPORT = RedisScript(f"""
local state, all, reads, me = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local limit, cost, answered, read = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local my_under, my_reading, waiting = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local late, wanted = ARGV[9] == '1', ARGV[10] == '1'
local told_left, told_seconds = tonumber(ARGV[11]), tonumber(ARGV[12])
local known_before = ARGV[17] == '1'
local refused, retry_after, accepted, chance = ARGV[13] == '1', tonumber(ARGV[14]), ARGV[15] == '1', tonumber(ARGV[16])
local window, infinite = {WINDOW}, {INFINITE:.0f}
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local known, raw = {{}}, redis.call('HGETALL', state)
for i = 1, #raw, 2 do known[raw[i]] = raw[i + 1] end
local function number(name, otherwise) return tonumber(known[name] or otherwise) end
local even, began, closed = number('even', -infinite), number('began', -infinite), number('closed', -infinite)
local learned, learned_at, failures = number('learned', limit), number('learned_at', -infinite), number('failures', 0)
local left_said, left_until = number('left', infinite), number('left_until', -infinite)

-- other instances; a dead one is forgotten when all its requests must have ended
local under, reading, queued = my_under, my_reading, waiting
for name, value in pairs(known) do
  if string.sub(name, 1, 2) == 'i:' and name ~= 'i:' .. me then
    local u, r, w, at = string.match(value, '^(%d+) (%d+) (%d+) ([%d.]+)$')
    if tonumber(at) < now - {LONGEST_REQUEST} then
      redis.call('HDEL', state, name)
    else
      under, reading, queued = under + tonumber(u), reading + tonumber(r), queued + tonumber(w)
    end
  end
end

local function add(list, count)
  for _ = 1, count do redis.call('RPUSH', list, string.format('%.0f', now * 1000)) end
end
add(all, answered)
add(reads, read)
local function count(list)
  while true do
    local first = redis.call('LINDEX', list, 0)
    if not first or tonumber(first) / 1000 > now - window - {CLOCK_MARGIN} then return redis.call('LLEN', list) end
    redis.call('LPOP', list)
  end
end
local in_all, in_reads = count(all), count(reads)

-- the state was lost: assume that reads were spread evenly over the last minute, so that none begins at once
if known_before and #raw == 0 then
  local reading_part = math.floor(limit * {READ_SHARE})
  even, began = now + window * {BURST / READ_SHARE}, now
  if reading_part <= {MOST_SEEDS} then
    for i = reading_part, 1, -1 do
      local at = string.format('%.0f', (now - window + window * i / reading_part) * 1000)
      redis.call('LPUSH', all, at)
      redis.call('LPUSH', reads, at)
    end
    in_all, in_reads = count(all), count(reads)
  end
end

local function estimate() return math.min(limit, learned + limit * (now - learned_at) / {RECOVERY}) end
left_said = left_said - answered
if told_left >= 0 then
  left_said, left_until = told_left, now + math.min(told_seconds, {MAX_BELIEVED}) + {CLOCK_MARGIN}
end
if accepted then learned, learned_at, failures = estimate(), now, 0 end
if refused and not (now < closed and retry_after < 0) then
  if now >= closed then learned = math.max(limit / 10, learned * 0.75) end
  learned_at = now
  local delay = math.min(10 * 2 ^ failures, 60)
  failures = math.min(failures + 1, 16)
  if retry_after >= 0 then delay = math.max(retry_after, {MIN_WAIT}) end
  closed = math.max(closed, now + delay * (1 + 0.25 * chance))
end

local allowed = estimate()
local function cap(part) return math.max(cost, math.floor(allowed * part)) end
local gap = window * cost / cap({READ_SHARE})
local burst = cap({BURST}) * gap / cost
local function left()
  return math.min(cap({1 - RESERVE}) - in_all - under, cap({READ_SHARE}) - in_reads - reading)
end
local function room(list, length, beside, most)
  local excess = length + beside - most + 1
  if excess <= 0 then return 0 end
  if excess > length then return infinite end
  return tonumber(redis.call('LINDEX', list, excess - 1)) / 1000 + window + {CLOCK_MARGIN} - now
end
local function share(since)
  local list = all
  if cap({READ_SHARE}) - in_reads - reading <= left() then list = reads end
  local first = redis.call('LINDEX', list, 0)
  if not first or since <= -infinite then return 0 end
  return (tonumber(first) / 1000 + window - since) / (math.max(left(), 0) / cost + 1)
end
local function scarcity()
  local remains = left_until - now
  local reserve = allowed * {RESERVE} * math.min(1, math.max(remains, 0) / window)
  if left_said - under > reserve or remains <= -window then return 0 end
  if remains > 0 then return remains end
  if under > 0 then return infinite end
  return 0
end

local wait = 0
if wanted then
  local most = cap({1 - RESERVE})
  if late and now >= began + window then most = math.max(cost, math.floor(limit * {1 - RESERVE})) end
  local pace = even - burst
  if left() < math.max(cost * queued, cap({BURST})) then pace = math.max(pace, began + share(began)) end
  if late then pace = began + gap / 2 end
  wait = math.max(0, closed - now, room(all, in_all, under + cost - 1, most),
    room(reads, in_reads, reading + cost - 1, cap({READ_SHARE})), scarcity(), pace - now)
  if wait <= 0.001 then
    wait = 0
    my_under, my_reading, waiting = my_under + cost, my_reading + cost, math.max(0, waiting - 1)
    under, reading = under + cost, reading + cost
    began = now
    even = math.min(math.max(even, now), now + burst) + math.max(gap, share(now))
  end
end

local function text(value) return string.format('%.6f', value) end
redis.call('HSET', state, 'even', text(even), 'began', text(began), 'closed', text(closed),
  'learned', text(learned), 'learned_at', text(learned_at), 'failures', failures,
  'left', text(left_said), 'left_until', text(left_until),
  'i:' .. me, string.format('%d %d %d %.6f', my_under, my_reading, waiting, now))
redis.call('EXPIRE', state, {2 * RECOVERY:.0f})
redis.call('EXPIRE', all, {2 * WINDOW:.0f})
redis.call('EXPIRE', reads, {2 * WINDOW:.0f})
local scarce = scarcity()
if scarce >= infinite then scarce = 0 end
return {{text(wait), in_all + under, in_reads + reading, text(allowed), text(math.max(0, closed - now, scarce))}}
""")

HEARTBEAT = RedisScript(f"""
local time = redis.call('TIME')
local now = tonumber(time[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - {SILENT_SECONDS:.0f})
redis.call('EXPIRE', KEYS[1], {2 * SILENT_SECONDS:.0f})
return redis.call('ZCARD', KEYS[1])
""")
"""Give a heartbeat, and return the number of live instances."""


class RedisBudgets:
    """``CommonBudgets`` in Redis. ``at_least`` is the number of instances known without it."""

    def __init__(self, link: RedisLink, *, at_least: int) -> None:
        self.listeners: list[Callable[[], None]] = []
        self._link = link
        self._key = f"{link.prefix}instances"
        self._me = secrets.token_hex(8)
        self._at_least = self.instances = at_least
        self._chores = Chores()
        link.listeners.append(self._on_link_news)

    @property
    def usable(self) -> bool:
        return self._link.usable

    async def tell(self, digest: str, usage: Usage, *, limit: float, cost: int) -> BudgetStanding | None:
        left, seconds = usage.told or (-1, 0.0)
        arguments = [
            *(self._me, limit, cost, usage.answered, usage.read, usage.under_way, usage.reading, usage.waiting),
            *(int(usage.late), int(usage.wanted), left, seconds, int(usage.refused)),
            *(-1 if usage.retry_after is None else usage.retry_after, int(usage.accepted)),
            *(random.random(), int(usage.known)),  # noqa: S311 - spreads load only
        ]
        key = f"{self._link.prefix}budget:{{{digest}}}"
        try:
            answer = await self._link.run_script(REPORT, [key, f"{key}:all", f"{key}:reads"], arguments)
        except RedisAway:
            return None
        wait, asked, reads, allowed, closed = (float(each) for each in answer)
        return BudgetStanding(wait if wait < INFINITE else math.inf, int(asked), int(reads), allowed, closed)

    async def aclose(self) -> None:
        await self._chores.aclose()
        with suppress(RedisAway):
            await self._link.run(lambda redis: redis.zrem(self._key, self._me))

    def _on_link_news(self, news: RedisNews) -> None:
        self._chores.start(self._give_heartbeats)
        for listener in self.listeners:
            listener()

    async def _give_heartbeats(self) -> None:
        """Give heartbeats, and count the instances. While Redis is away, the last count stands."""
        while True:
            with suppress(RedisAway):
                alive = int(await self._link.run_script(HEARTBEAT, [self._key], [self._me]))
                self.instances = max(self._at_least, alive)
            await asyncio.sleep(HEARTBEAT_SECONDS)
