"""The follower: reads one run's log from the host, page by page, and publishes what it reads.

It promises that what it publishes is the log, whole and in order; that an end is announced only after the log was read
to its end *behind* the first sight of it; and that it asks the host only on behalf of somebody who is viewing.

A run that has ended is looked at again when somebody new comes: it may have been resumed.
"""

import asyncio
import uuid

from codegen_api.brokers import PAGE, Broker
from codegen_api.errors import GatewayError, Unavailable, UpstreamFailure
from codegen_api.following.log_reader import LogReader
from codegen_api.following.log_tail import (
    Known,
    Replaced,
    Stale,
    may_have_ended,
    opens_at,
    without_nulls,
)
from codegen_api.following.portions import Portion
from codegen_api.following.readers import Readers
from codegen_api.following.resumption import Resumption
from codegen_api.following.rights import Right, loop_time
from codegen_api.pace import SLOW, Cadence
from codegen_api.positions import AMENDABLE, COMPARED, SETTLING
from codegen_api.runs import Changed, Cursor, LogEntry, LogPage, Run, RunRef, RunStatus
from codegen_api.telemetry import Trace, log_fault, trace
from codegen_api.upstreams import Upstream

DESCRIBED_WITHIN = 60.0
"""Seconds for which an end waits for the host to describe the whole run."""

BELIEVED = 5.0
"""Seconds for which an end is believed before the host is asked again."""

COMPARING = 30.0
"""Seconds for which an end waits until what was given is compared with what the host has now."""


class Follower:
    """Reads one run for all its viewers, who are known to ``readers``. ``near``: the position of the first of them."""

    def __init__(
        self,
        right: Right,
        readers: Readers,
        *,
        upstream: Upstream,
        broker: Broker,
        cadence: Cadence,
        near: Cursor,
        portion: Portion,
    ) -> None:
        self.ref: RunRef = right.run.ref
        self.readers = readers
        self.run = right.run
        self.described = right.asked
        """When (the event loop's time) the host was asked for what ``run`` says of the status."""
        self.caught_up = False
        """Whether the end of the log has been seen, so that ``tail`` is its length."""
        self.generation = 0
        """Counts the logs that the host has had under this name."""
        self.fault: GatewayError | None = None
        """What broke the reading down for good."""
        self.resumption = Resumption()

        self._upstream = upstream
        self._broker = broker
        self._cadence = cadence
        self._near = near
        self._first = right.page
        self._reader = LogReader(
            upstream, readers, portion, lambda: self.run, fast=cadence.fast, last=right.asked, interval=cadence.fast
        )
        self._progress = asyncio.Event()
        self._wake = asyncio.Event()

        # what is known of the log
        self._located = False
        self._known = Known()
        self._adopted = False
        self._looked = float("-inf")
        self._confirmed = float("-inf")  # when the last look began that went through
        self._born = loop_time()
        self._strange: dict[Cursor, asyncio.Future[None]] = {}  # somebody there has copies that were not seen here
        self._compared: Cursor | None = None  # what is behind this position was read since the run has ended
        # what is known of the run
        self._asked = right.asked
        self._whole_at = right.asked  # when all of it was asked for
        self._whole_for = right.run.raw_status if right.whole else None  # and what status led to that
        fresh = loop_time() - right.asked < BELIEVED
        # a page shows what was before the end as well as the end: it is to be read once more
        self._end_seen = right.asked if right.whole and fresh and right.run.status.ended else None
        self._settled: Cursor | None = None  # where the log ended when its end was last announced
        self._announced: Changed | None = None

    @property
    def tail(self) -> Cursor:
        """The position of the last entry that was seen."""
        return self._known.tail

    def look(self, since: float) -> None:
        """Look again if the log had ended, unless that was seen at ``since`` or later."""
        ended = self._announced is not None and self._announced.length is not None
        if ended and self._looked < since:
            self._wake.set()

    def touched(self) -> None:
        """Read now: somebody has altered the run through this gateway, or waits for what was let go."""
        self._wake.set()

    def resumed(self, at: float, run: Run | None, length: Cursor | None = None) -> None:
        """The host answered a resume at ``at``: what it said of the status before that says nothing any more. The log
        is known to have been of this ``length`` then, or longer.
        """
        # what was seen here may be from before somebody else's resume
        self.resumption.resumed(at, max(self.tail, length or 0) if self.caught_up else length)
        self._end_seen = self._settled = self._compared = None
        if run is not None and not run.status.ended and at > self._asked:
            self.run, self.described = self.run.updated(run), at
        self._wake.set()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Read and publish, until cancelled."""
        trace.set(Trace(request_id=f"follower-{uuid.uuid4().hex}"))
        renewing = asyncio.ensure_future(self._renew_rights())
        try:
            async with self._broker.lead(self.ref):
                await self._adopt()
                self._adopted = True
                while True:
                    delay = await self._look()
                    await self._rest(delay)
        except Exception as error:  # task boundary: a fault here must end the streams, not leave them hanging
            self._break_down("following a run", error)
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renew_rights(self) -> None:
        try:
            await self.readers.renew(lambda credential: self._upstream.get_run(credential, self.ref))
        except Exception as error:  # task boundary: nobody may go on viewing by a right that is asked for no more
            self._break_down("renewing rights", error)

    def _break_down(self, doing: str, error: Exception) -> None:
        log_fault(doing, error)
        self.fault = error if isinstance(error, GatewayError) else GatewayError()
        self.readers.tell()

    async def reached(self, cursor: Cursor, since: float) -> None:
        """Until the log is known up to ``cursor``, or was found to be shorter by a look from ``since`` or later."""
        while not self._adopted or (self.tail < cursor and not (self.caught_up and self._confirmed >= since)):
            if self.caught_up and self._looked < since:
                self._wake.set()
            await self._progress.wait()

    async def refreshed(self, cursor: Cursor, since: float) -> None:
        """Until the last entries up to there were read at ``since`` or later: others may have seen them change."""
        if self._born < since:
            read = self._strange.setdefault(cursor, asyncio.Future())
            self._wake.set()
            await asyncio.wait({read})

    async def read(self) -> None:
        """Until a page has been read."""
        await self._progress.wait()

    async def read_again(self, number: int) -> tuple[LogEntry, ...]:
        """That page of the log as the host has it now, for those to whom it is not held any more."""
        entries = await self._reader.page(number, self.tail)
        if len(entries) < max(1, min(PAGE, self.tail - number * PAGE)):
            await asyncio.sleep(1.0)  # less than it did: a stale answer, or another log, which will be seen
        return entries

    async def aclose(self) -> None:
        """Let nobody wait for a page that will not come."""
        self.readers.close()

    async def _adopt(self) -> None:
        """Go on from what an earlier follower left. It is what was: nobody has looked since."""
        tail = await self._broker.tail(self.ref)
        await self._broker.doubt(self.ref)
        self._advance()
        if tail is None:
            return
        self._located = True
        self._known.adopt(tail)
        if tail.changed is not None:
            self._announced = tail.changed
            self._compared = None if tail.changed.length is None else 0  # once is enough
            if tail.changed.length is not None and tail.changed.seen < self.resumption.at:
                self.resumption.began(tail.cursor)  # that end is the old one, whatever the log has grown by since
            newer = self._asked >= tail.changed.seen
            self.run = tail.changed.run.updated(self.run) if newer else self.run.updated(tail.changed.run)
            self.described = max(self.described, tail.changed.seen)

    async def _look(self) -> float | None:
        """Read from the oldest entry that may have changed to the end; seconds to the next look (None: when asked)."""
        if (
            self._announced is not None
            and self._announced.length is not None
            and self.resumption.at > self._announced.seen
        ):
            await self._announce(None, self.resumption.at)  # the end that was announced is past
        grown_from, described, end_seen = self.tail, self.run, self._end_seen
        self._looked = loop_time()  # whoever comes meanwhile need not ask for another look
        strange, self._strange = self._strange, {}
        opening = not self._located
        try:
            for cursor in () if opening or not strange or await self._broker.tail(self.ref) is None else strange:
                await self._take_in((await self._reader.news(max(0, cursor - AMENDABLE)))[0])
            page, began = await (self._locate() if opening else self._read(await self._again_from()))
            await self._take_in(page)
            if opening and (near_tail := await self._near_tail(page)) is not None:
                page, began = near_tail
                await self._take_in(page)
            start, sent, ended, over = page.after, began, may_have_ended(page.run), page.run.status.ended
            while not self._is_all(page, final=ended and end_seen is not None):
                hurry = self._end_seen is None or loop_time() - self._looked > COMPARING
                page, sent = await self._read(max(page.last, self._known.settling()) if hurry else page.last)
                ended, over = ended and may_have_ended(page.run), over and page.run.status.ended
                await self._take_in(page)
        except Stale:
            return self._cadence.next(news=True)
        except Replaced:
            await self._start_over()
            return 0
        finally:
            for each in strange.values():
                each.set_result(None)
        self._known.agreed()
        if not self.caught_up:
            self.caught_up = True
            self.readers.tell()
        self._looked = self._confirmed = began
        if over or (ended and end_seen is not None):
            self._compared = 0 if opening else start if self._compared is None else min(start, self._compared)
        self._advance()
        self.resumption.seen(self.tail)
        return await self._describe(
            page.run,
            sent,
            began,
            news=self.tail > grown_from,
            drained=ended and end_seen is not None and start <= self._known.settling(),
            described=described,
        )

    async def _describe(
        self, run: Run, sent: float, began: float, *, news: bool, drained: bool, described: Run
    ) -> float | None:
        """Announce the run as it is now: over, or not."""
        if not self.resumption.allows(run, sent, self.tail):
            return self._cadence.next(news=True)
        self.run = self.run.updated(without_nulls(run))
        if run.raw_status is not None:
            self.described = sent
        if self.run.status.ended and self._end_seen is None and self._settled != self.tail:
            self._end_seen = loop_time()
        news = news or self.run != described
        if self._whole_due(run):
            await self._read_whole(run.raw_status)
        if not self.run.status.ended:
            self._end_seen = self._settled = self._compared = None
            if self._announced is None or self._announced.run != self.run or self._announced.length is not None:
                await self._announce(None, began)
            # after a resume it may rest no more, whatever the host says
            resting = self.run.status in (RunStatus.PAUSED, RunStatus.WAITING) and not self.resumption.in_doubt
            return self._cadence.next(news=news, resting=resting)
        patient = self._end_seen is None or loop_time() - self._end_seen < DESCRIBED_WITHIN
        if self._whole_due(run) and patient:
            return self._cadence.next(news=True)  # the host does not say; the log goes on without it
        # Whoever hears of the length leaves, and what comes behind it is lost to them. The last entries of a run may
        # appear later than its status, so the first sight of an end announces nothing: only a look that began after it
        # and came to the end of the log does (``drained``), or one that found the log as long as it was at an end that
        # was announced before. An answer to what was asked before a resume says nothing of the end.
        if (drained or self._settled == self.tail) and began >= self.resumption.at:
            self._settled, self._end_seen = self.tail, None
            await self._announce(self.tail, began)
            return None
        return 0

    def _whole_due(self, run: Run) -> bool:
        """Whether to ask for the run itself: log pages lack some of its fields, and now and then even its status."""
        if run.raw_status is None and not self._end_seen:
            return loop_time() - self._whole_at >= SLOW
        return run.raw_status != self._whole_for or (self._end_seen is not None and self._whole_at < self._end_seen)

    async def _read_whole(self, raw_status: str | None) -> None:
        answer = await self._reader.get_aside()
        if answer is None:
            if not self.run.status.ended:
                return  # it stays due, and the log does not wait for it
            try:
                answer = await self._reader.get()
            except (Unavailable, UpstreamFailure):
                return  # but the end does, for a while
        run, sent = answer
        if self.resumption.allows(run, sent, self.tail):
            self.run, self.described = self.run.updated(run), sent
            self._whole_at, self._whole_for = sent, raw_status

    async def _locate(self) -> tuple[LogPage, float]:
        """The page at which the log is opened: near the first viewer.

        The host's own count of the entries is a hint here: where it misleads, the log is read from the start.
        """
        size = self._upstream.page_size
        start = opens_at(self._near, size)
        first, self._first = self._first, None
        page, sent = (first, self._asked) if first is not None else await self._read(start)
        while not page.entries and page.after > 0:
            start = min(max(0, (page.paging.total or 0) - 1), page.after - 1) // size * size
            page, sent = await self._read(start)
        self._located = True
        self._known.begin(page.after)
        return page, sent

    async def _near_tail(self, page: LogPage) -> tuple[LogPage, float] | None:
        """The page near the tail, where reading goes on, when that is far ahead of the one at which the log was opened:
        what lies between is read when somebody needs it.
        """
        size = self._upstream.page_size
        ahead = max(0, (page.paging.total or 0) - SETTLING) // size * size
        if page.at_end or ahead <= page.last:
            return None
        near_tail, sent = await self._read(ahead)
        if not near_tail.entries:
            return None
        self._known.begin(ahead)
        return near_tail, sent

    def _is_all(self, page: LogPage, *, final: bool) -> bool:
        """Whether the log has been read to its end. The host's own count of the entries, which may be wrong, will do
        where it is read again anyway. What is ``final`` is shown by an empty page.
        """
        return not page.entries or (not final and page.last == page.paging.total and page.last >= self.tail)

    async def _again_from(self) -> Cursor:
        """Behind which position to read so that late changes are seen: all of them, once, when the run has ended."""
        if self._end_seen is None and self.caught_up:
            return self._known.unsettled()
        tail = await self._broker.tail(self.ref)
        if self._end_seen is None or tail is None:
            return self._known.settling()
        # far from its end nobody looks at a log again, and after the end of the run nobody is left to be told: so all
        # that was given is read once more now, but for what was read since the run had ended
        given = max(tail.known, self.tail - COMPARED)
        if self._compared is not None and self._compared <= given:
            return self._known.settling()
        return min(given // self._upstream.page_size * self._upstream.page_size, self._known.settling())

    async def _take_in(self, page: LogPage) -> None:
        self._known.compare(page, in_doubt=self.resumption.in_doubt)
        await self._broker.publish(page)
        self._known.take_in(page)
        self._advance()

    async def _start_over(self) -> None:
        # first of all, so that nobody takes what follows for the old log
        self.generation += 1
        self._located = self.caught_up = False
        self._near = 0
        self._known.begin(0)
        self._end_seen = self._settled = self._compared = self._announced = None
        await self._broker.forget(self.ref)

    async def _announce(self, length: Cursor | None, seen: float) -> None:
        self._announced = Changed(self.run, length, seen)
        await self._broker.publish(self._announced)

    async def _rest(self, delay: float | None) -> None:
        """Until it is time to read again, by the pace or because of a call."""
        self._reader.interval = max(delay or 0.0, self._cadence.fast)
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _read(self, after: Cursor) -> tuple[LogPage, float]:
        """A stretch of the log, and when the host was asked for it; what is settled can wait."""
        settled = after < self._known.settling() and self._end_seen is not None and self.caught_up
        return await (self._reader.again(after) if settled else self._reader.news(after))

    def _advance(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
