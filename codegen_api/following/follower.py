"""The follower: reads one run's log from the host, page by page, and publishes what it reads.

It promises that what it publishes is the log, whole and in order; that an end is announced only after the log was read
to its end *behind* the first sight of it; and that it asks the host only on behalf of somebody who is viewing.

A run that has ended is looked at again when somebody new comes: it may have been resumed.
"""

import asyncio
import uuid
from dataclasses import replace

from codegen_api.brokers import PAGE, Broker
from codegen_api.errors import GatewayError, Unavailable, UpstreamFailure
from codegen_api.following.log_tail import (
    Known,
    Replaced,
    Stale,
    may_have_ended,
    opens_at,
    without_nulls,
)
from codegen_api.following.pieces import Portion, piece
from codegen_api.following.readers import Readers
from codegen_api.following.rights import Right, loop_time
from codegen_api.identity import Credential
from codegen_api.pace import SLOW, Cadence, Need
from codegen_api.positions import AMENDABLE, COMPARED, SETTLING
from codegen_api.runs import UNCOUNTED, Changed, Cursor, LogEntry, LogPage, Run, RunRef, RunStatus
from codegen_api.telemetry import Trace, log_fault, trace
from codegen_api.upstreams import Upstream

CATCHING_UP = 4.0
"""How much less urgent it is to read an old page again than to look for news."""

DESCRIBED_WITHIN = 60.0
"""Seconds for which an end waits for the host to describe the whole run."""

BELIEVED = 5.0
"""Seconds for which an end is believed before the host is asked again."""

COMPARING = 30.0
"""Seconds for which an end waits until what was given is compared with what the host has now."""

RESUME_DOUBT = 30.0
"""Seconds after a resume in which the host may still report the end before it."""


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
        self.resumed_at = float("-inf")
        """When (the event loop's time) the host last answered a resume through this gateway."""

        self._upstream = upstream
        self._broker = broker
        self._cadence = cadence
        self._near = near
        self._portion = portion
        self._first = right.page
        self._interval = cadence.fast
        self._last_read = right.asked
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
        self._resumed_tail: Cursor | None = None
        self._active_since_resume = False
        self._cancelled_at = float("-inf")  # when the host last answered a cancel through this gateway

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
        self.resumed_at = at
        # what was seen here may be from before somebody else's resume
        self._resumed_tail = max(self.tail, length or 0) if self.caught_up else length
        self._active_since_resume = False
        self._end_seen = self._settled = self._compared = None
        if run is not None and not run.status.ended and at > self._asked:
            self.run, self.described = self.run.updated(run), at
        self._wake.set()

    def cancelled(self, at: float) -> None:
        """The host answered a cancel at ``at``: asked since, it is believed when it says that the run is cancelled."""
        self._cancelled_at = at

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
        if self.caught_up:
            self._wake.set()
        await self._progress.wait()

    async def read_again(self, number: int) -> tuple[LogEntry, ...]:
        """That page of the log as the host has it now."""
        after = number * PAGE
        entries: tuple[LogEntry, ...] = ()
        while len(entries) < PAGE and after + len(entries) < self.tail:
            page, _ = await self._read(after + len(entries), PAGE - len(entries), self._less_urgent())
            if not page.entries:
                break
            entries += page.entries
        if len(entries) < max(1, min(PAGE, self.tail - after)):
            await asyncio.sleep(1.0)  # less than it did: a stale answer, or another log, which will be seen
        return entries

    async def aclose(self) -> None:
        """Let nobody wait for a page that will not come."""
        self.readers.close()

    async def _adopt(self) -> None:
        """Go on from the window that an earlier follower left. It shows what was: nobody has looked since."""
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
            if tail.changed.length is not None and tail.changed.seen < self.resumed_at:
                # that end is the old one, whatever the log has grown by since
                self._resumed_tail = max(tail.cursor, self._resumed_tail or 0)
            newer = self._asked >= tail.changed.seen
            self.run = tail.changed.run.updated(self.run) if newer else self.run.updated(tail.changed.run)
            self.described = max(self.described, tail.changed.seen)

    async def _look(self) -> float | None:
        """Read from the oldest entry that may have changed to the end; seconds to the next look (None: when asked)."""
        if (
            self._announced is not None
            and self._announced.length is not None
            and self.resumed_at > self._announced.seen
        ):
            await self._announce(None, self.resumed_at)  # the end that was announced is past
        grown_from, described, end_seen = self.tail, self.run, self._end_seen
        self._looked = loop_time()  # whoever comes meanwhile need not ask for another look
        strange, self._strange = self._strange, {}
        opening = not self._located
        try:
            for cursor in () if opening or await self._broker.tail(self.ref) is None else strange:
                await self._take_in((await self._read(max(0, cursor - AMENDABLE)))[0])
            page, began = await (self._locate() if opening else self._read_again(await self._again_from()))
            await self._take_in(page)
            if opening and (near_tail := await self._near_tail(page)) is not None:
                page, began = near_tail
                await self._take_in(page)
            start, sent, ended, over = page.after, began, may_have_ended(page.run), page.run.status.ended
            while not self._is_all(page, final=ended and end_seen is not None):
                hurry = self._end_seen is None or loop_time() - self._looked > COMPARING
                page, sent = await self._read_again(max(page.last, self._known.settling()) if hurry else page.last)
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
        if self._resumed_tail is None:
            self._resumed_tail = self.tail
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
        if not self._credible(run, sent):
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
            doubted = loop_time() - self.resumed_at < RESUME_DOUBT  # then it may rest no more
            resting = self.run.status in (RunStatus.PAUSED, RunStatus.WAITING) and not doubted
            return self._cadence.next(news=news, resting=resting)
        patient = self._end_seen is None or loop_time() - self._end_seen < DESCRIBED_WITHIN
        if self._whole_due(run) and patient:
            return self._cadence.next(news=True)  # the host does not say; the log goes on without it
        if (drained or self._settled == self.tail) and began >= self.resumed_at:
            self._settled, self._end_seen = self.tail, None
            await self._announce(self.tail, began)
            return None
        return 0

    def _credible(self, run: Run, sent: float) -> bool:
        """Whether what this answer says of the status can be believed, so soon after a resume."""
        if sent < self.resumed_at:
            return False
        if not run.status.ended:
            self._active_since_resume = self._active_since_resume or run.raw_status is not None
            return True
        if loop_time() - self.resumed_at >= RESUME_DOUBT:
            return True
        if run.status is RunStatus.CANCELLED and sent >= self._cancelled_at > self.resumed_at:
            return True  # be it news or old, it is so
        # the prompt itself is one entry: a stale status may stand beside it
        grown = self.tail - (self.tail if self._resumed_tail is None else self._resumed_tail)
        return grown > 1 or (grown == 1 and self._active_since_resume)

    def _whole_due(self, run: Run) -> bool:
        """Whether to ask for the run itself: log pages lack some of its fields, and now and then even its status."""
        if run.raw_status is None and not self._end_seen:
            return loop_time() - self._whole_at >= SLOW
        return run.raw_status != self._whole_for or (self._end_seen is not None and self._whole_at < self._end_seen)

    async def _read_whole(self, raw_status: str | None) -> None:
        async def get(credential: Credential) -> tuple[Run, float]:
            sent = loop_time()
            return await self._upstream.get_run(credential, self.ref), sent

        answer = await self.readers.aside(get)
        if answer is None:
            if not self.run.status.ended:
                return  # it stays due, and the log does not wait for it
            try:
                answer = await self.readers.ask(get, Need(self._last_read, self._interval), once=True)
            except (Unavailable, UpstreamFailure):
                return  # but the end does, for a while
        run, sent = answer
        if self._credible(run, sent):
            self.run, self.described = self.run.updated(run), sent
            self._whole_at, self._whole_for = sent, raw_status

    async def _locate(self) -> tuple[LogPage, float]:
        """The page at which the window opens: near the first viewer.

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
        """The page near the tail, where the window goes on, when that is far ahead of the one at which it opens: what
        lies between is read when somebody needs it.
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
        given = max(tail.known, self.tail - COMPARED)
        if self._compared is not None and self._compared <= given:
            return self._known.settling()
        return min(given // self._upstream.page_size * self._upstream.page_size, self._known.settling())

    async def _take_in(self, page: LogPage) -> None:
        self._known.compare(page, in_doubt=loop_time() - self.resumed_at < RESUME_DOUBT)
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
        self._interval = max(delay or 0.0, self._cadence.fast)
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _read(self, after: Cursor, limit: int | None = None, need: Need | None = None) -> tuple[LogPage, float]:
        """A page of the log, and when the host was asked for it."""

        async def read(start: int, amount: int) -> tuple[tuple[LogPage, float], int]:
            async def ask(credential: Credential, limit: int) -> tuple[tuple[LogPage, float], int]:
                sent = loop_time()
                return (await self._upstream.read_log(credential, self.ref, start, limit), sent), limit

            return await self.readers.ask_for(ask, need or Need(self._last_read, self._interval), amount)

        found = await piece(read, after, limit or self._upstream.page_size, self._portion)
        if need is None:
            self._last_read = loop_time()
        if found is not None:
            return found
        unsaid = replace(self.run, raw_status=None)
        return LogPage(unsaid, after, (self._upstream.placeholder(self.ref),), False, UNCOUNTED), loop_time()

    async def _read_again(self, after: Cursor) -> tuple[LogPage, float]:
        """The same; what is settled can wait."""
        settled = after < self._known.settling() and self._end_seen is not None and self.caught_up
        return await self._read(after, need=self._less_urgent() if settled else None)

    def _less_urgent(self) -> Need:
        return Need(loop_time(), CATCHING_UP * self._cadence.fast)

    def _advance(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
