"""The keys of a run at Redis, and the scripts that change several of them atomically. All have one hash tag, so that a
cluster keeps them together.

A stream has the log: entry N is appended with the id ``N-0``, so that Redis itself refuses to append it twice; what
follows, a changed entry or a description of the run, has an id ``N-k``. The *lease* names the leader, with a number
that only grows (a fencing token). Only the leader can write. The *head* has the ``base``, a random name of this stream;
the ``epoch``, one of the host's log; the last description, and the leader's last ``Looked``.
"""

import hashlib

from codegen_api.redis_link import RedisScript
from codegen_api.runs import RunRef, to_json

FORMAT = 1
"""The version of the stored format. A gateway with another format uses other keys."""


class RunKeys:
    """The keys of one run, all with the same hash tag."""

    def __init__(self, prefix: str, ref: RunRef) -> None:
        name = hashlib.sha256(to_json([ref.organization, ref.id])).hexdigest()[:32]
        self._run = f"{prefix}run.{FORMAT}:{{{name}}}:"
        self.lease, self.head, self.stream, self.resumed, self.cancelled, self.news = (
            f"{self._run}{each}" for each in ("lease", "head", "stream", "resumed", "cancelled", "news")
        )

    def page(self, base: str, number: int) -> str:
        """The key of a page of that stream that was read again."""
        return f"{self._run}page:{base}:{number}"

    def reading(self, number: int) -> str:
        """The key of the lock for reading that page again."""
        return f"{self._run}reading:{number}"


def orders_channel(prefix: str) -> str:
    """The channel for resumes, cancels and changes of all runs."""
    return f"{prefix}orders.{FORMAT}"


CONTEND = RedisScript("""
local lease = redis.call('GET', KEYS[1])
if ARGV[3] == '1' then
  if not lease then
    lease = redis.call('HINCRBY', KEYS[2], 'fence', 1) .. ':' .. ARGV[1]
    redis.call('HDEL', KEYS[2], 'looked')
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
    redis.call('SET', KEYS[1], lease, 'PX', ARGV[2])
  elseif string.sub(lease, -#ARGV[1]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
local head = redis.call('HMGET', KEYS[2], 'base', 'epoch', 'changed', 'looked')
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
return {
  lease or '', redis.call('PTTL', KEYS[1]), head[1] or '', head[2] or '', head[3] or '', head[4] or '',
  last[1] and last[1][1] or '0-0', redis.call('GET', KEYS[4]) or '', redis.call('GET', KEYS[5]) or ''
}
""")
"""Try to take or renew the lease, if wanted, and return the state of the relay."""

WRITE = RedisScript("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return '' end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[6] ~= '' then
  redis.call('DEL', KEYS[3])
  redis.call('HDEL', KEYS[2], 'changed', 'looked')
  redis.call('HSET', KEYS[2], 'base', ARGV[6], 'epoch', ARGV[7])
end
if #KEYS > 3 or ARGV[6] ~= '' then redis.call('HINCRBY', KEYS[2], 'rereads', 1) end
for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
local found = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
local before = found[1] and found[1][1] or '0-0'
local number, count = string.match(before, '(%d+)-(%d+)')
number, count = tonumber(number), tonumber(count)
local last, told, size = before, {}, 0
for i = 10, #ARGV, 2 do
  local at = tonumber(string.sub(ARGV[i], 2))
  local id
  if string.sub(ARGV[i], 1, 1) == 'a' then
    id = string.format('%.0f-0', at)
  elseif at > number then
    id = string.format('%.0f-1', at)
  else
    id = string.format('%.0f-%.0f', number, count + 1)
  end
  local done = redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], id, 'd', ARGV[i + 1])
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'equal or smaller') then return done end
  else
    last = id
    number, count = string.match(id, '(%d+)-(%d+)')
    number, count = tonumber(number), tonumber(count)
    told[#told + 1] = id .. ' ' .. #ARGV[i + 1] .. '\\n' .. ARGV[i + 1]
    size = size + #ARGV[i + 1]
  end
end
if ARGV[9] ~= '' then redis.call('HSET', KEYS[2], 'changed', ARGV[9]) end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
local base = redis.call('HGET', KEYS[2], 'base') or ''
local now = redis.call('TIME')
if size <= tonumber(ARGV[8]) then
  local at = now[1] .. '.' .. string.format('%06d', now[2])
  local head = 'items ' .. base .. ' ' .. before .. ' ' .. last .. ' ' .. at .. '\\n'
  redis.call('PUBLISH', ARGV[5], head .. table.concat(told))
else
  redis.call('PUBLISH', ARGV[5], 'more ' .. base .. ' ' .. before .. ' ' .. last .. '\\n')
end
return last
""")
"""Append to the stream, or to a new one if a base is given, and publish it."""

RENEW = RedisScript("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[2], 'looked', ARGV[5])
  local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
  local id = last[1] and last[1][1] or '0-0'
  local base = redis.call('HGET', KEYS[2], 'base') or ''
  redis.call('PUBLISH', ARGV[4], 'looked ' .. base .. ' ' .. id .. ' ' .. id .. '\\n' .. ARGV[5])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return 1
""")
"""Renew the lease, and publish the leader's ``Looked``."""

RELEASE = RedisScript("""
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[2], 'free\\n')
end
""")

ORDER = RedisScript("""
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
""")
"""Publish that the run was resumed or cancelled, and keep it for later followers."""

PUBLISH = RedisScript("redis.call('PUBLISH', ARGV[1], ARGV[2])")
"""The key only selects the node of a cluster; all nodes pass the message on."""

FIND_PAGE = RedisScript("""
local page = redis.call('GET', KEYS[1])
if page then return {page, 0, ''} end
local locked = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
return {'', locked and 1 or 0, redis.call('HGET', KEYS[3], 'rereads') or ''}
""")
"""Return a page that another instance has read again, or else try to lock it for reading."""

KEEP_PAGE = RedisScript("""
if ARGV[3] ~= '' and (redis.call('HGET', KEYS[3], 'rereads') or '') == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
""")
"""Keep a page for other instances, unless one of its entries may have changed meanwhile, and unlock it."""
