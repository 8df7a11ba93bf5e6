"""The one connection of this process on which it hears what others publish."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from codegen_api.redis_link import FAULTS, RedisAway, RedisLink, RedisNews
from codegen_api.telemetry import log_fault, warn_once_a_minute

JOINING = 2.0
"""Seconds within which Redis confirms that we will hear what is published."""

PING = 1.5
"""Seconds without a word after which a sign of life is asked for."""

SILENT = 4.0
"""Seconds without one after which the connection is taken for dead."""

PAUSE = 0.2
"""Seconds before the next connection is tried, and twice as many each time that nothing came of it."""

LONGEST_PAUSE = 5.0


class Hearing:
    """Channels that are listened to, for as long as there is Redis, and again when it is back.

    ``heard`` is awaited with what comes; ``joined`` is called when what is published on a channel from now on will be
    heard, at first and again and again: what was published before may have been missed. ``left``: it is heard no more.
    """

    def __init__(
        self,
        link: RedisLink,
        heard: Callable[[str, bytes], Awaitable[None]],
        joined: Callable[[str], None],
        left: Callable[[], None],
    ) -> None:
        self._link = link
        self._heard = heard
        self._joined = joined
        self._left = left
        self._channels: dict[str, asyncio.Event] = {}
        self._pubsub: Any = None
        self._session: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._back = asyncio.Event()
        self._pause = PAUSE
        self._well = False  # the last connection was of use
        link.listeners.append(self._news)

    async def join(self, channel: str) -> None:
        """Be sure to hear what is published there from now on.

        Raises:
            RedisAway: nothing can be heard now. It goes on trying until it is left.
        """
        is_new = channel not in self._channels
        confirmed = self._channels.setdefault(channel, asyncio.Event())
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())
        if not self._link.usable:
            raise RedisAway
        if is_new:
            await self._send("subscribe", channel)
        try:
            async with asyncio.timeout(JOINING):
                await confirmed.wait()
        except TimeoutError as error:
            raise RedisAway from error

    async def leave(self, channel: str) -> None:
        if self._channels.pop(channel, None) is not None:
            await self._send("unsubscribe", channel)

    async def aclose(self) -> None:
        self._link.listeners.remove(self._news)
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    def _news(self, news: RedisNews) -> None:
        if news is RedisNews.AWAY and self._session is not None:
            self._session.cancel()
        elif news is RedisNews.BACK:
            self._back.set()

    async def _send(self, command: str, channel: str) -> None:
        if self._pubsub is not None:
            try:
                async with asyncio.timeout(JOINING):
                    await getattr(self._pubsub, command)(channel)
            except FAULTS:
                if self._session is not None:
                    self._session.cancel()

    async def _run(self) -> None:
        try:
            while True:
                self._well = False
                self._session = asyncio.ensure_future(self._listen())
                await asyncio.wait({self._session})
                if not self._session.cancelled():
                    self._session.result()
                for confirmed in self._channels.values():
                    confirmed.clear()
                self._left()
                if not self._link.usable:
                    self._back.clear()
                    await self._back.wait()
                self._pause = PAUSE if self._well else min(2 * self._pause, LONGEST_PAUSE)
                await asyncio.sleep(self._pause)
        finally:
            if self._session is not None:
                self._session.cancel()
                await asyncio.wait({self._session})

    async def _listen(self) -> None:
        """Listen until that fails."""
        if not self._link.usable:
            return
        loop, client = asyncio.get_running_loop(), self._link.subscriber()
        pubsub: Any = client.pubsub()
        self._pubsub = pubsub
        try:
            async with asyncio.timeout(JOINING):
                await pubsub.subscribe(*self._channels)
            heard_at = loop.time()
            while loop.time() - heard_at <= SILENT:
                message = await pubsub.get_message(timeout=PING)
                if message is not None:
                    await self._take(message)
                    heard_at = loop.time()
                else:
                    async with asyncio.timeout(JOINING):
                        await pubsub.ping()
        except FAULTS as error:
            if self._link.usable:
                warn_once_a_minute("other instances cannot be heard at Redis: %s", type(error).__name__)
        except Exception as error:  # task boundary: whatever somebody publishes there, others are to be heard
            log_fault("hearing what other instances publish", error)
        finally:
            self._pubsub = None
            with suppress(*FAULTS):
                await pubsub.aclose()
                await client.aclose()

    async def _take(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode() if isinstance(message["channel"], bytes) else ""
        match message["type"]:
            case "subscribe" if channel in self._channels:
                self._well = True
                self._channels[channel].set()
                self._joined(channel)
            case "message":
                await self._heard(channel, message["data"])
