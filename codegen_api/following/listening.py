"""Being told by the host that a run has changed, where it can: the log is then read at once, and seldom otherwise."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from codegen_api.errors import GatewayError
from codegen_api.following.readers import Readers
from codegen_api.following.rights import loop_time
from codegen_api.pace import TOLD, Patience
from codegen_api.runs import Cursor, RunRef
from codegen_api.telemetry import log_fault
from codegen_api.upstreams import Streams, Upstream

COALESCED = 0.05
"""Seconds for which more is waited for when the host tells of something: it seldom comes alone."""


class Listening:
    """Listens on behalf of a viewer, and calls ``changed`` when there may be news. ``tail``: how far the log is known.

    What is heard is no more than a hint: all else is read as ever, with the credentials of all viewers in turn.
    """

    def __init__(
        self,
        upstream: Upstream,
        ref: RunRef,
        readers: Readers,
        *,
        tail: Callable[[], Cursor],
        changed: Callable[[], None],
    ) -> None:
        self.active = False
        """Whether the host would tell now."""
        self._upstream = upstream
        self._ref = ref
        self._readers = readers
        self._tail = tail
        self._changed = changed

    async def listen(self) -> None:
        """Listen for ever. A host that cannot be listened to is read as others are; why is told by reading it."""
        patience = Patience()
        while isinstance(self._upstream, Streams):
            credential, began = self._readers.anybody(), loop_time()
            if credential is not None:
                try:
                    async with aclosing(self._upstream.changes(credential, self._ref, self._tail())) as changes:
                        async for _ in changes:
                            self.active = True
                            self._changed()
                            if not self._readers.views(credential):
                                break  # listen on behalf of somebody else
                except GatewayError:
                    pass
                except Exception as error:  # task boundary: the log is still read without it
                    log_fault("listening to the host", error)
                if self.active:
                    self.active = False
                    self._changed()  # it may have ended because of what happened
                if loop_time() - began >= TOLD:
                    patience.reset()
            await asyncio.sleep(patience.next())
