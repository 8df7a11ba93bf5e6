"""State that instances share in Redis: each module implements a port of another package.

``InRedis`` holds all of it. Without Redis there is none, and each process works for itself.
"""

from codegen_api.idempotency.records import MemoryRecords
from codegen_api.in_redis.budgets import RedisBudgets
from codegen_api.in_redis.names import Names
from codegen_api.in_redis.principals import RedisOpenStreams, RedisQuota
from codegen_api.in_redis.records import RedisRecords
from codegen_api.in_redis.rights import RedisRights
from codegen_api.redis_link import RedisLink

__all__ = ["InRedis"]


class InRedis:
    """Everything in Redis except logs, over one ``link``. ``workers`` is the number of processes of this program, which
    are known instances even while Redis is away; ``key`` hides what the names in Redis stand for.
    """

    def __init__(self, link: RedisLink, key: bytes, *, workers: int) -> None:
        self.link = link
        self._names = Names(link.prefix, key)
        self.budgets = RedisBudgets(link, at_least=workers)
        self.open_streams = RedisOpenStreams(link, self._names)
        self.rights = RedisRights(link, self._names)

    def records(self, memory: MemoryRecords) -> RedisRecords:
        """Records of requests with a key; ``memory`` is used while Redis is away."""
        return RedisRecords(self.link, memory)

    def quota(self, per_minute: int) -> RedisQuota:
        return RedisQuota(self.link, self._names, per_minute)

    async def aclose(self) -> None:
        await self.open_streams.aclose()
        await self.rights.aclose()
        await self.budgets.aclose()
        await self.link.aclose()
