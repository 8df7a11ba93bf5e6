"""What is done about the store now and then, for ever."""

import asyncio
from collections.abc import Callable

from codegen_api.errors import StoreUnavailable
from codegen_api.stores import Store
from codegen_api.telemetry import log_fault, logger

TIDY_EVERY = 3600.0

WATCH_EVERY = 1.0
"""Seconds between two looks whether the store was found to fail: then it is checked."""
CHECKED_AFTER = 10
"""After so many looks it is checked anyway."""


async def keep_checking(store: Store) -> None:
    """Check the store, and often while it fails."""
    while True:
        for _ in range(CHECKED_AFTER):
            await asyncio.sleep(WATCH_EVERY)
            if store.observation is not None and not store.observation.reachable:
                break
        try:
            await store.check()
        except StoreUnavailable:  # which is observed and logged where it is found
            pass
        except Exception as error:  # task boundary: the next look may tell
            log_fault("looking whether the store is there", error)


async def keep_tidy(store: Store, seconds: float, clock: Callable[[], float]) -> None:
    """Remove conversations that nobody has touched for so many ``seconds``."""
    while True:
        try:
            removed = await store.expire(clock() - seconds)
            if removed:
                logger.info("%d conversations were removed, untouched for long", removed)
        except Exception as error:  # task boundary: the next time it may work
            log_fault("removing old conversations", error)
        await asyncio.sleep(TIDY_EVERY)
