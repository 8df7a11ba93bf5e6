"""What is kept in these tests, and how they run."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from codegen_api.stores import Agent, Conversation, Item, Store, Turn
from codegen_api.stores.sql import SqlStore

T = TypeVar("T")

Test = Callable[[Callable[[Store], Awaitable[None]]], None]
"""Runs what it is given with a new store."""

ME, YOU = "user:me", "user:you"


def run(main: Coroutine[Any, Any, T], seconds: float = 60) -> T:
    """Run ``main`` in real time: a database does not wait for virtual time."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(bounded())


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def new_database(directory: str) -> SqlStore:
    """With its tables, which are copied: to make them takes longer than most tests that need them."""
    path = Path(directory, "database")
    url = f"sqlite:///{path}"
    if not _is_copied(path):
        async with opened(url):
            pass
        _copy(path)
    return SqlStore(url)


_EMPTY: list[bytes] = []


def _is_copied(path: Path) -> bool:
    if _EMPTY:
        path.write_bytes(_EMPTY[0])
    return bool(_EMPTY)


def _copy(path: Path) -> None:
    _EMPTY.append(path.read_bytes())


def agent(id_: str = "a", **more: Any) -> Agent:
    return Agent(id_, **{"name": "Ann", "created": 1.0, "updated": 1.0, **more})


def conversation(id_: str = "c", **more: Any) -> Conversation:
    return Conversation(id_, **{"created": 1.0, "updated": 1.0, **more})


def turn(id_: str = "t", conversation: str = "c", **more: Any) -> Turn:
    return Turn(id_, conversation, **{"created": 2.0, "updated": 2.0, **more})


def item(*namespace: str, key: str = "k", value: Any = None, at: float = 1.0) -> Item:
    return Item(namespace, key, value or {}, at, at)


def ids(found: Any) -> list[str]:
    return [thing.id for thing in getattr(found, "items", found)]
