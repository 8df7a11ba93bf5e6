"""One subscriber's way through a log that is held here."""

import asyncio
from typing import TYPE_CHECKING

from codegen_api.brokers import Batch, Forgotten, ReadPage
from codegen_api.brokers.memory.log import Log, NotHeld
from codegen_api.brokers.memory.pages import HeldPage
from codegen_api.runs import Changed, Cursor, RunRef
from codegen_api.taps import Tap

if TYPE_CHECKING:
    from codegen_api.brokers.memory import MemoryBroker


class Subscription(Tap[Batch]):
    """What is behind a position. Only a page that is not held any more needs a task, while it is read again."""

    __slots__ = ("_after", "_broker", "_described", "_log", "_read", "_reading", "_ref", "_revision", "_spare")

    def __init__(
        self, broker: "MemoryBroker", ref: RunRef, after: Cursor, revision: int | None, read: ReadPage
    ) -> None:
        super().__init__()
        self._broker = broker
        self._ref = ref
        self._after = after
        self._revision = revision
        self._read = read
        self._described: Changed | None = None
        self._spare: HeldPage | None = None
        self._log: Log | None = None
        self._reading: asyncio.Task[HeldPage | None] | None = None

    def take(self) -> Batch | None:
        log = self._log
        if self.over:
            return None
        if log is None:
            log = self._log = self._broker.use(self._ref)
            log.listen(self)
        if self._reading is not None:
            if not self._reading.done():
                return None
            reading, self._reading = self._reading, None
            self._spare = reading.result()
        try:
            batch = log.batch(self._after, self._revision, self._described, self._spare)
        except Forgotten:
            self._leave()
            raise
        except NotHeld as lacking:
            self._reading = asyncio.ensure_future(self._broker.read_again(log, lacking.position, self._read))
            self._reading.add_done_callback(lambda _: self.ring())
            return None
        if batch is None:
            return None
        self._after, self._revision, self._described = batch.cursor, batch.revision, batch.changed or self._described
        if self._spare is None:
            log.keep(batch)
        elif self._after >= self._spare.last:
            self._spare = None  # a slow viewer must not hold on to it
        return batch

    def news(self, known: dict[tuple[Cursor, int | None], Batch | None], now: float) -> None:
        """There is news of the log, at ``now``. ``known``: which batches come behind which positions in it."""
        sink, log = self.sink, self._log
        if log is None or self._reading is not None or self._spare is not None or self._described is not log.changed:
            sink.ring()
            return
        while True:
            position = (self._after, self._revision)
            if position not in known:
                try:
                    known[position] = log.batch(self._after, self._revision, self._described, None)
                except (Forgotten, NotHeld):
                    sink.ring()
                    return
            batch = known[position]
            if batch is None:
                if not sink.rests:
                    sink.ring()
                return
            if batch.changed is not None or not sink.offer(batch, now):
                sink.ring()
                return
            self._after, self._revision = batch.cursor, batch.revision

    def _leave(self) -> None:
        self.over = True
        if self._log is not None:
            self._log.unlisten(self)
            self._log = self._spare = None
            self._broker.leave(self._ref)

    async def aclose(self) -> None:
        self._leave()
        if self._reading is not None:
            reading, self._reading = self._reading, None
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
