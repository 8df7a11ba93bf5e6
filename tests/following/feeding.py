"""A viewer of a feed for tests: takes the updates and keeps the runs that they amount to."""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from codegen_api.following import (
    FeedLeaving,
    FeedPosition,
    FeedUpdate,
    Listed,
    Notice,
    Quiet,
    Removed,
    Shown,
    loop_time,
)
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller
from tests.fakehost import caller


@dataclass
class Onlooker:
    """What somebody has of a feed. What they are told twice, or told to forget without having it, fails at once."""

    who: Caller = field(default_factory=caller)
    limit: int = 50
    ids: tuple[str, ...] | None = None
    runs: dict[Any, dict[str, Any]] = field(default_factory=dict)
    order: list[Any] = field(default_factory=list)
    told: list[tuple[Any, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    quiet: int = 0
    left: bool = False
    position: FeedPosition = field(default_factory=FeedPosition)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, update: FeedUpdate) -> None:
        match update:
            case Listed(ids=ids):
                self.order = list(ids)
                self.runs = {name: run for name, run in self.runs.items() if name in ids}
            case Shown(described=described):
                name, fields = described.run.fields["id"], dict(described.run.fields)
                assert self.runs.get(name) != fields, "that was known"
                if name not in self.order:
                    self.order.insert(0, name)
                self.runs[name] = fields
                self.told.append((name, str(fields["status"])))
                self.times.append(loop_time())
            case Removed(id=name):
                del self.runs[name]
                self.order.remove(name)
            case Notice(code=code):
                self.notices.append(code)
            case Quiet():
                self.quiet += 1
                return
            case FeedLeaving(position=position):
                assert position == self.position
                self.left = True
        if isinstance(update, Listed | Shown | Removed):
            self.position = FeedPosition.parse(str(update.position))  # as clients send it
            assert self.position == update.position
        self.news.set()

    async def watch(self, gateway: Gateway, until: float | None = None, *, updates: int | None = None) -> None:
        """Watch once, until the stream ends, for ``until`` seconds, or until so many updates have come."""
        named = None if self.ids is None else gateway.feeds.named("9", self.ids)
        stream = gateway.feeds.updates(self.who, "9", named, self.limit, self.position)
        self.left = False
        with suppress(TimeoutError):
            async with asyncio.timeout(until), aclosing(stream):
                async for update in stream:
                    self.take(update)
                    updates = None if updates is None else updates - (not isinstance(update, Quiet))
                    if updates == 0:
                        return

    async def sees(self, wanted: Any, within: float = 60.0) -> None:
        """Until the statuses of the runs are these."""
        async with asyncio.timeout(within):
            while {name: run["status"] for name, run in self.runs.items()} != wanted:
                self.news.clear()
                await self.news.wait()
