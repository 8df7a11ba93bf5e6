"""The one Pub/Sub connection of this process, on which it receives what other instances publish."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from codegen_api.redis_link import FAULTS, RedisAway, RedisLink, RedisNews
from codegen_api.telemetry import log_fault, warn_once_a_minute

CALL_TIMEOUT = 2.0
"""Seconds within which Redis must accept a command, or confirm a subscription."""

PING = 1.5
"""Seconds of silence after which we send a ping."""

SILENT = 4.0
"""Seconds of silence after which the connection counts as dead."""

PAUSE = 0.2
"""Seconds before reconnecting, doubled after each connection that was of no use."""

LONGEST_PAUSE = 5.0


class PubSub:
    """Subscriptions to channels, renewed whenever Redis is back.

    ``on_message`` is awaited with the channel and each message. ``on_subscribed`` is called when a subscription begins,
    also after a reconnect: earlier messages may have been missed. ``on_disconnected``: no more messages come.
    """

    def __init__(
        self,
        link: RedisLink,
        on_message: Callable[[str, bytes], Awaitable[None]],
        on_subscribed: Callable[[str], None],
        on_disconnected: Callable[[], None],
    ) -> None:
        self._link = link
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_disconnected = on_disconnected
        self._channels: dict[str, asyncio.Event] = {}
        self._connection: Any = None
        self._session: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._back = asyncio.Event()
        self._pause = PAUSE
        self._useful = False  # whether a subscription was confirmed on the last connection
        link.listeners.append(self._on_link_news)

    async def subscribe(self, channel: str) -> None:
        """Subscribe, and wait for Redis to confirm.

        Raises:
            RedisAway: not confirmed. This keeps trying until ``unsubscribe``.
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
            async with asyncio.timeout(CALL_TIMEOUT):
                await confirmed.wait()
        except TimeoutError as error:
            raise RedisAway from error

    async def unsubscribe(self, channel: str) -> None:
        if self._channels.pop(channel, None) is not None:
            await self._send("unsubscribe", channel)

    async def aclose(self) -> None:
        self._link.listeners.remove(self._on_link_news)
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    def _on_link_news(self, news: RedisNews) -> None:
        if news is RedisNews.AWAY and self._session is not None:
            self._session.cancel()
        elif news is RedisNews.BACK:
            self._back.set()

    async def _send(self, command: str, channel: str) -> None:
        if self._connection is not None:
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    await getattr(self._connection, command)(channel)
            except FAULTS:
                if self._session is not None:
                    self._session.cancel()

    async def _run(self) -> None:
        try:
            while True:
                self._useful = False
                self._session = asyncio.ensure_future(self._listen())
                await asyncio.wait({self._session})
                if not self._session.cancelled():
                    self._session.result()
                for confirmed in self._channels.values():
                    confirmed.clear()
                self._on_disconnected()
                if not self._link.usable:
                    self._back.clear()
                    await self._back.wait()
                self._pause = PAUSE if self._useful else min(2 * self._pause, LONGEST_PAUSE)
                await asyncio.sleep(self._pause)
        finally:
            if self._session is not None:
                self._session.cancel()
                await asyncio.wait({self._session})

    async def _listen(self) -> None:
        """Receive messages until the connection fails."""
        if not self._link.usable:
            return
        loop, client = asyncio.get_running_loop(), self._link.subscriber()
        pubsub: Any = client.pubsub()
        self._connection = pubsub
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                await pubsub.subscribe(*self._channels)
            heard_at = loop.time()
            while loop.time() - heard_at <= SILENT:
                message = await pubsub.get_message(timeout=PING)
                if message is not None:
                    await self._dispatch(message)
                    heard_at = loop.time()
                else:
                    async with asyncio.timeout(CALL_TIMEOUT):
                        await pubsub.ping()
        except FAULTS as error:
            if self._link.usable:
                warn_once_a_minute("cannot receive from other instances through Redis: %s", type(error).__name__)
        except Exception as error:  # task boundary: a bad message must not end the connection for others
            log_fault("receiving what other instances publish", error)
        finally:
            self._connection = None
            with suppress(*FAULTS):
                await pubsub.aclose()
                await client.aclose()

    async def _dispatch(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode() if isinstance(message["channel"], bytes) else ""
        match message["type"]:
            case "subscribe" if channel in self._channels:
                self._useful = True
                self._channels[channel].set()
                self._on_subscribed(channel)
            case "message":
                await self._on_message(channel, message["data"])
