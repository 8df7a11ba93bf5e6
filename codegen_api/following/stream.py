"""A stream: the updates of a live log for one viewer, from where they are on, or the word that there is nothing new."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from codegen_api.brokers import Batch
from codegen_api.errors import GatewayError
from codegen_api.following.subscriber import Current, Ended, Update
from codegen_api.positions import Position
from codegen_api.runs import Appended, Changed, Cursor, Run
from codegen_api.taps import Pulled, Tap

OVER_SECONDS = 2.0
"""How long somebody who was told the end waits for the word that it is still the end, before a stream begins
instead.
"""


class Stream(Tap[Update]):
    """The updates for one viewer: ``first`` those that have come, then the rest. ``confirm`` is called before each of
    them, and raises when the viewer may have no more.
    """

    __slots__ = ("_confirm", "_first", "_updates")

    def __init__(self, first: list[Update], updates: Tap[Update], confirm: Callable[[], None]) -> None:
        super().__init__()
        self._first = first
        self._updates = updates
        self._confirm = confirm
        updates.sink = self

    @classmethod
    async def begin(
        cls,
        updates: AsyncGenerator[Update | Tap[Update], None],
        position: Position,
        held: Run | None,
        confirm: Callable[[], None],
    ) -> "Stream | None":
        """The stream of ``updates``; None when the viewer at ``position`` knows the end already and it is still the
        end. ``held`` is a description of the run from before they asked, if there was one.
        """
        coming: Pulled[Update] = Pulled(updates)
        try:
            first = [await anext(coming)]
            with suppress(TimeoutError):
                async with asyncio.timeout(OVER_SECONDS):
                    while position.over and not _is_news(first[-1], position.cursor, held):
                        if isinstance(first[-1], Ended):
                            await coming.aclose()
                            return None
                        first.append(await anext(coming))
        except BaseException:  # whatever it was, the caller included who left: there will be no stream to close
            await coming.aclose()
            raise
        return cls(first, coming, confirm)

    def take(self) -> Update | None:
        if self._first:
            update: Update | None = self._first.pop(0)
        else:
            update = self._updates.take()
            self.over = self._updates.over
        if update is not None:
            self._confirm()
        return update

    def offer(self, item: Update, now: float) -> bool:
        try:
            self._confirm()
        except GatewayError:
            return False  # they are told when they take it
        return not self._first and self.sink.offer(item, now)

    async def aclose(self) -> None:
        """Leave the log."""
        self.over = True
        self._first.clear()
        await self._updates.aclose()


def _is_news(update: Update, cursor: Cursor, held: Run | None) -> bool:
    """Whether a viewer who was told that the log ended at ``cursor`` has to hear this.

    ``held`` is a description of the run that may be from before that end.
    """
    if isinstance(update, Batch):
        return any(isinstance(event, Appended) for event in update.entries)
    if isinstance(update, Ended):
        return update.length != cursor
    if isinstance(update, Current):
        return False
    if isinstance(update, Changed):
        return not update.run.status.ended and update.run is not held
    return True
