"""What takes long, done beside the event loop, by one thread: several would keep the loop waiting for each of them."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from codegen_api.runs import Json, to_json

P = ParamSpec("P")
T = TypeVar("T")

LARGE = 1024 * 1024
"""Bytes of JSON that are read or written in some ten milliseconds."""

_thread = ThreadPoolExecutor(1, "aside")


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` gives, when the thread has had the time for it."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: work(*args, **kwargs))


async def encoded(value: Json) -> bytes:
    """As ``to_json``.

    Raises:
        ValueError: the value cannot be written at all.
    """
    return await aside(to_json, value) if is_large(value) else to_json(value)


def is_large(value: Json) -> bool:
    """Whether there is so much text in it that to read or write it takes long."""
    size = 0
    waiting = [value]
    while waiting and size <= LARGE:
        part = waiting.pop()
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, Mapping):
            size += 8 * len(part)
            waiting += part.values()
        elif isinstance(part, list | tuple):
            size += 8 * len(part)
            waiting += part
    return size > LARGE
