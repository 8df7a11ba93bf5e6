"""Records of requests with a key, in Redis, so that an ``Idempotency-Key`` holds for all instances.

The instance that executes a request keeps it marked as under way. If that instance dies, the outcome at the host is
unknown: the next attempt gets this state, and looks for it. While Redis is away, each instance has its own records, and
finds what others created by the marks on the host's runs.
"""

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from codegen_api.idempotency.lookup import SILENT_GRACE
from codegen_api.idempotency.records import KEPT_SECONDS, MemoryRecords, RequestRecord, RequestState
from codegen_api.in_redis.chores import Chores
from codegen_api.redis_link import RedisAway, RedisLink, RedisNews, RedisScript
from codegen_api.runs import RunRef, from_json, to_json

ALIVE_SECONDS = 15
"""Seconds after which a request no longer counts as under way, unless its instance renews it."""

RENEW_SECONDS = 4.0

RESULT_SECONDS = 3600
"""Seconds for which the description of the resulting run is kept. Later it is read from the host again."""

RESULT_BYTES = 64 * 1024
"""Maximum bytes of a description that is kept."""

BEGIN = RedisScript(f"""
local there = redis.call('HGET', KEYS[1], 'record')
if there then return {{there, redis.call('GET', KEYS[3]) or '', redis.call('EXISTS', KEYS[2])}} end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'holder', ARGV[2])
redis.call('EXPIRE', KEYS[1], {KEPT_SECONDS:.0f})
redis.call('SET', KEYS[2], ARGV[2], 'EX', {ALIVE_SECONDS})
return {{'', '', 1}}
""")

CHANGE = RedisScript(f"""
if redis.call('HGET', KEYS[1], 'record') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'holder', ARGV[3])
redis.call('EXPIRE', KEYS[1], {KEPT_SECONDS:.0f})
if ARGV[4] == '1' then redis.call('SET', KEYS[2], ARGV[3], 'EX', {ALIVE_SECONDS}) else redis.call('DEL', KEYS[2]) end
if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5], 'EX', {RESULT_SECONDS}) else redis.call('DEL', KEYS[3]) end
return 1
""")

FORGET = RedisScript("""
if redis.call('HGET', KEYS[1], 'record') == ARGV[1] then redis.call('DEL', KEYS[1], KEYS[2], KEYS[3]) end
return 1
""")

RENEW = RedisScript(f"""
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', {ALIVE_SECONDS})
end
return 1
""")


class RedisRecords:
    """``Records`` for all instances. Requests that begin while Redis is away are in ``memory``."""

    def __init__(self, link: RedisLink, memory: MemoryRecords) -> None:
        self._link = link
        self._memory = memory
        self._me = secrets.token_hex(8)
        self._held: dict[str, RequestRecord] = {}
        """The requests under way in this instance."""
        self._chores = Chores()
        link.listeners.append(self._on_link_news)

    async def begin(self, name: str, record: RequestRecord) -> RequestRecord | None:
        if self._memory.has(name):
            return await self._memory.begin(name, record)
        try:
            return await self._begin(name, record)
        except RedisAway:
            return await self._memory.begin(name, record)

    async def change(self, name: str, then: RequestRecord, now: RequestRecord) -> bool:
        if self._memory.has(name):
            return await self._memory.change(name, then, now)
        try:
            changed = await self._change(name, then, now)
        except RedisAway:  # the change has happened all the same
            await self._memory.begin(name, now)
            changed = True
        if changed:
            self._hold(name, now)
        return changed

    async def forget(self, name: str, then: RequestRecord) -> None:
        await self._memory.forget(name, then)
        self._held.pop(name, None)
        with suppress(RedisAway):  # if it stays, later attempts look for it in vain
            await self._link.run_script(FORGET, self._keys(name), [_encode(then)])

    async def aclose(self) -> None:
        await self._chores.aclose()
        await self._memory.aclose()

    async def _begin(self, name: str, record: RequestRecord) -> RequestRecord | None:
        while True:
            there, result, alive = await self._link.run_script(BEGIN, self._keys(name), [_encode(record), self._me])
            if not there:
                self._hold(name, record)
                return None
            found = _decode(there, result)
            if found.state is not RequestState.UNDER_WAY or alive:
                return found
            # its instance has died, and the host may still act on the request
            unknown = replace(found, state=RequestState.UNKNOWN, at=time.time(), grace=SILENT_GRACE)
            if await self._change(name, found, unknown):
                return unknown

    async def _change(self, name: str, then: RequestRecord, now: RequestRecord) -> bool:
        under_way = now.state is RequestState.UNDER_WAY
        result = now.result if len(now.result) <= RESULT_BYTES else b""
        arguments: list[bytes | str | float] = [_encode(then), _encode(now), self._me, int(under_way), result]
        return bool(await self._link.run_script(CHANGE, self._keys(name), arguments))

    def _keys(self, name: str) -> list[str]:
        key = f"{self._link.prefix}request:{{{name}}}"
        return [key, f"{key}:alive", f"{key}:result"]

    # -- requests under way in this instance ---------------------------------------------------------------------------

    def _hold(self, name: str, record: RequestRecord) -> None:
        if record.state is not RequestState.UNDER_WAY:
            self._held.pop(name, None)
            return
        self._held[name] = record
        self._chores.start(self._renew)

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(RENEW_SECONDS)
            for name in list(self._held):
                with suppress(RedisAway):
                    await self._link.run_script(RENEW, self._keys(name), [self._me])

    def _on_link_news(self, news: RedisNews) -> None:
        if news is RedisNews.EMPTIED:
            self._chores.start(self._restore)

    async def _restore(self) -> None:
        """Write again what is under way here, as Redis has lost it."""
        for name, record in list(self._held.items()):
            with suppress(RedisAway):
                await self._link.run_script(BEGIN, self._keys(name), [_encode(record), self._me])


def _encode(record: RequestRecord) -> bytes:
    """A record without its result, as text. Equal records have equal texts."""
    run = None if record.run is None else [record.run.organization, record.run.id]
    state = record.state.value
    return to_json([record.fingerprint, state, record.since, record.at, record.grace, record.note, run])


def _decode(text: bytes, result: bytes) -> RequestRecord:
    values: Any = from_json(text)
    fingerprint, state, since, at, grace, note, run = values
    ref = None if run is None else RunRef(*run)
    return RequestRecord(fingerprint, RequestState(state), since, at, grace, note, ref, result)
