"""A client that watches a stream of some dialect, in this process, and a gateway for it with a database of its own."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

from tests.dialects.rich import RichHost
from tests.dialects.site import AUTHORIZED, Connection, Site, serving
from tests.stores.things import new_database

S = TypeVar("S")


@asynccontextmanager
async def speaking_only(dialect: str, host: Any = None, **more: Any) -> AsyncIterator[Site]:
    """A gateway that speaks one dialect, with a database of its own."""
    with TemporaryDirectory() as directory:
        store = await new_database(directory)
        given = {"dialects": (dialect,), "store": store, "upstream_requests_per_minute": 1_000_000, **more}
        async with serving(RichHost() if host is None else host, **given) as site:
            yield site


class Watcher(ABC, Generic[S]):
    """A client that watches a stream."""

    def __init__(self, site: Site, method: str, path: str, body: Any = None, **headers: str) -> None:
        given = {**AUTHORIZED, "Content-Type": "application/json", **headers}
        self.connection = Connection(site.app, path, given, method, b"" if body is None else json.dumps(body).encode())

    @property
    def text(self) -> str:
        return self.connection.body.decode() if self.connection.messages else ""

    @property
    @abstractmethod
    def seen(self) -> S:
        """What it makes of the text that has come."""

    async def until(self, there: Callable[[S], Any]) -> S:
        """What is seen, once something is there in it."""
        while not there(self.seen):
            assert not self.connection.task.done(), self.text
            await self.connection.received(len(self.connection.messages) + 1)
        return self.seen

    async def end(self) -> S:
        """All that is seen, when it is complete."""
        await self.connection.task
        assert self.connection.complete, self.text
        return self.seen

    async def cut(self) -> S:
        """All that is seen, when it has broken off before its end was told."""
        ended, _ = await asyncio.wait({self.connection.task}, timeout=20)  # awaiting it would end it
        assert ended, self.text
        assert self.connection.transport.aborted
        assert not self.connection.complete
        return self.seen

    async def leave(self) -> None:
        await self.connection.left()
