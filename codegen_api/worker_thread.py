"""Runs long computations in one thread beside the event loop. Several would compete with the loop for the GIL."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from codegen_api.runs import Json, to_json

P = ParamSpec("P")
T = TypeVar("T")

LARGE = 1024 * 1024
"""Bytes of JSON that take about ten milliseconds to parse or write."""

_thread = ThreadPoolExecutor(1, "worker_thread")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``work`` in the worker thread."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: work(*args, **kwargs))


async def encoded(value: Json) -> bytes:
    """As ``to_json``, but in the worker thread if the value is large.

    Raises:
        ValueError: the value cannot be encoded.
    """
    return await in_thread(to_json, value) if is_large(value) else to_json(value)


def is_large(value: Json) -> bool:
    """Whether a value is so large that parsing or encoding it takes long."""
    size = 0
    pending = [value]
    while pending and size <= LARGE:
        part = pending.pop()
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, Mapping):
            size += 8 * len(part)
            pending += part.values()
        elif isinstance(part, list | tuple):
            size += 8 * len(part)
            pending += part
    return size > LARGE
