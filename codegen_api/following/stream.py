"""A stream: the updates of a live log for one viewer, from where they are on, or the word that there is nothing new."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from codegen_api.brokers import Batch
from codegen_api.following.rights import loop_time
from codegen_api.following.subscriber import Current, Ended, Update, close_running
from codegen_api.positions import Position
from codegen_api.runs import Appended, Changed, Cursor, Run

OVER_SECONDS = 2.0
"""How long somebody who was told the end waits for the word that it is still the end, before a stream begins
instead.
"""


class Stream:
    """The updates for one viewer: ``first`` those that have come, then ``coming``, then the rest. To be closed after
    use. ``confirm`` is called before each of them, and raises when the viewer may have no more.
    """

    def __init__(
        self,
        first: list[Update],
        coming: asyncio.Task[Update] | None,
        updates: AsyncGenerator[Update, None],
        confirm: Callable[[], None],
    ) -> None:
        self._first = first
        self._coming = coming
        self._updates = updates
        self._confirm = confirm

    @classmethod
    async def begin(
        cls,
        updates: AsyncGenerator[Update, None],
        position: Position,
        held: Run | None,
        confirm: Callable[[], None],
    ) -> "Stream | None":
        """The stream of ``updates``; None when the viewer at ``position`` knows the end already and it is still the
        end. ``held`` is a description of the run from before they asked, if there was one.
        """
        coming: asyncio.Task[Update] | None = None
        try:
            first = [await anext(updates)]
            deadline = loop_time() + OVER_SECONDS
            while position.over and not _is_news(first[-1], position.cursor, held):
                if isinstance(first[-1], Ended):
                    await updates.aclose()
                    return None
                coming = asyncio.ensure_future(anext(updates))
                await asyncio.wait({coming}, timeout=max(0.0, deadline - loop_time()))
                if not coming.done():
                    break
                first.append(coming.result())
                coming = None
        except BaseException:  # whatever it was, the caller included who left: there will be no stream to close
            await close_running(updates, coming)
            raise
        return cls(first, coming, updates, confirm)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Update:
        if self._first:
            update = self._first.pop(0)
        else:
            coming, self._coming = self._coming, None
            update = await (coming or anext(self._updates))
        self._confirm()
        return update

    async def aclose(self) -> None:
        """Leave the log."""
        await close_running(self._updates, self._coming)


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
