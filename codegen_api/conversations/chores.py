"""Background tasks that look after the store, forever."""

import asyncio
from collections.abc import Callable

from codegen_api.errors import StoreUnavailable
from codegen_api.stores import Store
from codegen_api.telemetry import log_fault, logger

TIDY_EVERY = 3600.0

WATCH_EVERY = 1.0
"""Seconds between two looks at whether the store has failed: then it is checked at once."""
CHECKED_AFTER = 10
"""After this many looks the store is checked anyway."""


async def keep_checking(store: Store) -> None:
    """Check the store regularly, and more often while it fails."""
    while True:
        for _ in range(CHECKED_AFTER):
            await asyncio.sleep(WATCH_EVERY)
            if store.observation is not None and not store.observation.reachable:
                break
        try:
            await store.check()
        except StoreUnavailable:  # observed and logged where it is raised
            pass
        except Exception as error:  # task boundary: the next check may work
            log_fault("checking the store", error)


async def keep_tidy(store: Store, seconds: float, clock: Callable[[], float]) -> None:
    """Remove conversations that have not been touched for ``seconds``."""
    while True:
        try:
            removed = await store.expire(clock() - seconds)
            if removed:
                logger.info("%d conversations were removed as too old", removed)
        except Exception as error:  # task boundary: the next time it may work
            log_fault("removing old conversations", error)
        await asyncio.sleep(TIDY_EVERY)
