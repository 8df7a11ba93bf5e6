"""Rights that the host has confirmed, in Redis, so that several instances ask no more often than one would.

A right is kept with the description of its run while it is good, for a minute, under a name made from the credential's
digest and the run. When the host refuses, the right is deleted, and a note in a stream tells all instances, which then
ask the host themselves. While Redis is away, each instance asks for itself.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cachetools import TTLCache

from codegen_api.following import Right, loop_time
from codegen_api.following.rights import LIFETIME
from codegen_api.idempotency.records import decoded_run, encoded_run
from codegen_api.in_redis.chores import Chores
from codegen_api.in_redis.names import Names
from codegen_api.redis_link import RedisAway, RedisLink, RedisNews
from codegen_api.runs import RunRef, from_json, to_json

MAX_BYTES = 64 * 1024
"""Maximum bytes of a run's description; rights to larger ones are not kept."""

NOTES = 1000
"""Approximate number of refusal notes kept."""

NOTE_SECONDS = 120
"""Seconds for which the stream of notes is kept after the last one."""

BLOCK_SECONDS = 5.0

REWRITE_SECONDS = LIFETIME / 3
"""Seconds after which a right that keeps being confirmed is written again."""


class RedisRights:
    """``CommonRights`` in Redis."""

    def __init__(self, link: RedisLink, names: Names) -> None:
        self.revoked: Callable[[str, RunRef], None] = lambda *_: None
        self._link = link
        self._names = names
        self._notes = f"{link.prefix}refused"
        self._last: bytes | str = "0-0"
        self._kept: TTLCache[tuple[str, RunRef], bool] = TTLCache(100_000, REWRITE_SECONDS, timer=loop_time)
        self._writing: set[asyncio.Task[None]] = set()
        self._chores = Chores()
        link.listeners.append(self._on_link_news)

    async def find(self, digest: str, ref: RunRef) -> Right | None:
        try:
            found = await self._link.run(lambda redis: redis.get(self._name(digest, ref)))
        except RedisAway:
            return None
        if found is None:
            return None
        first, _, run = found.partition(b"\n")
        times: Any = from_json(first)
        asked, confirmed = (self._link.loop_time(each) - self._link.clock_error for each in times[:2])
        right = Right(decoded_run(run), asked, confirmed, times[2])
        return right if loop_time() < confirmed + LIFETIME else None

    def keep(self, digest: str, ref: RunRef, right: Right) -> None:
        known = self._kept.get((digest, ref))
        if not self._link.usable or known or known is right.whole:
            return
        self._kept[digest, ref] = right.whole
        run = encoded_run(right.run)
        if 0 < len(run) <= MAX_BYTES:
            # an error of the clock must not make a right good for longer, at either end
            times = [self._link.redis_time(each) - self._link.clock_error for each in (right.asked, right.confirmed)]
            text = to_json([*times, right.whole]) + b"\n" + run
            good_for = max(1, int(right.confirmed + LIFETIME - loop_time()))
            self._run_soon(lambda redis: redis.set(self._name(digest, ref), text, ex=good_for))

    def revoke(self, digest: str, ref: RunRef) -> None:
        self._kept.pop((digest, ref), None)
        fields = {"credential": digest, "organization": ref.organization, "run": ref.id}
        self._run_soon(
            lambda redis: redis.delete(self._name(digest, ref)),
            lambda redis: redis.xadd(self._notes, fields, maxlen=NOTES, approximate=True),
            lambda redis: redis.expire(self._notes, NOTE_SECONDS),
        )

    async def aclose(self) -> None:
        await self._chores.aclose()
        for task in list(self._writing):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _name(self, digest: str, ref: RunRef) -> str:
        return self._names.of("right", digest, ref.organization, ref.id)

    def _run_soon(self, *commands: Callable[[Any], Any]) -> None:
        """Run these commands in the background, one after another; several wait for writes in progress first."""
        before = set(self._writing) if len(commands) > 1 else set()

        async def run() -> None:
            if before:
                await asyncio.wait(before)
            with suppress(RedisAway):
                for command in commands:
                    await self._link.run(command)

        if self._link.usable:
            task = asyncio.create_task(run())
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    def _on_link_news(self, news: RedisNews) -> None:
        if news is RedisNews.EMPTIED:
            self._last = "0-0"
            self._kept.clear()
        if news is RedisNews.BACK:
            self._chores.start(self._read_notes)

    async def _read_notes(self) -> None:
        """Read the notes of other instances' refusals until Redis is away."""
        milliseconds = int(BLOCK_SECONDS * 1000)
        with suppress(RedisAway):
            while True:
                streams = await self._link.run(
                    lambda redis: redis.xread({self._notes: self._last}, count=100, block=milliseconds),
                    waits=BLOCK_SECONDS,
                )
                for _, notes in streams:
                    for self._last, fields in notes:
                        ref = RunRef(fields[b"organization"].decode(), fields[b"run"].decode())
                        self.revoked(fields[b"credential"].decode(), ref)
