"""The follower: reads one run's log from the host, page by page, and publishes what it reads.

It promises that what it publishes is the log, whole and in order; that an end is announced only after the log was read
to its end *after* the run was first seen to have ended; and that it asks the host only on behalf of a present viewer.

A run that has ended is looked at again when a new viewer comes: it may have been resumed.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import AsyncExitStack

from codegen_api.brokers import PAGE, Broker, Lead, Looked, LookWanted, Superseded
from codegen_api.errors import GatewayError, Unavailable, UpstreamFailure
from codegen_api.following.host_log import LogReader, Replaced, Stale, given_from, may_have_ended, without_nulls
from codegen_api.following.mirror import Mirror
from codegen_api.following.portions import Portion
from codegen_api.following.readers import Readers
from codegen_api.following.rights import TICK, Right, loop_time
from codegen_api.pace import SLOW, Cadence
from codegen_api.positions import AMENDABLE
from codegen_api.runs import Changed, Cursor, LogEntry, LogPage, Run, RunStatus
from codegen_api.telemetry import log_fault, trace
from codegen_api.upstreams import Upstream

DESCRIBED_WITHIN = 60.0
"""Seconds for which an end waits for the host to describe the whole run."""

BELIEVED = 5.0
"""Seconds for which an end is believed before the host is asked again."""

COMPARING = 30.0
"""Seconds for which an end waits until all given entries are compared with the host's."""

COALESCED = 0.05
"""Seconds to wait for more after a hint from the host: changes seldom come alone."""

AGAIN = 3.0
"""Seconds per page before all given entries are read again: revisions may differ without a visible change."""


class Follower(Mirror):
    """Reads one run for all its viewers, in this instance and in others, while it leads. ``near``: the position of the
    first viewer. ``runs``: how many runs are followed here.
    """

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
        on_announced: Callable[[Changed], None],
        runs: Callable[[], int],
    ) -> None:
        super().__init__(right, readers, broker, near=near, lags=upstream.lags)
        self._upstream = upstream
        self._cadence = cadence
        self._on_announced = on_announced
        self._runs = runs
        self._first = right.page
        self._reader = LogReader(
            upstream, readers, portion, lambda: self.run, fast=cadence.fast, last=right.asked, interval=cadence.fast
        )
        self._reread = False  # viewers elsewhere need the end of the log read again
        self._compare_at = float("-inf")  # earliest time to compare all given entries again
        self._refreshed: tuple[Cursor, ...] = ()  # of the last look
        self._whole_at = right.asked  # when all of the run was asked for
        self._whole_for = right.run.raw_status if right.whole else None  # and what status led to that
        fresh = loop_time() - right.asked < BELIEVED
        # a page mixes entries from before the end with the end: it must be read once more
        self._end_seen = right.asked if right.whole and fresh and right.run.status.ended else None
        self.following = asyncio.ensure_future(self._follow())

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        trace.set(self.readers.trace)
        beside = {asyncio.ensure_future(self._renew_rights())}
        if self._broker.shared:
            beside.add(asyncio.ensure_future(self._report_when_due()))
            self.readers.listeners.add(self._report_due.set)
        try:
            async with AsyncExitStack() as stack:
                lead = await self._mirror_until(stack.enter_async_context(self._broker.lead(self.ref)))
                while True:
                    await self._read_as_leader(lead)
                    await self._mirror_until(lead.regained())
        except Exception as error:  # task boundary: a fault here must end the streams, not leave them hanging
            self._break_down("following a run", error)
        finally:
            self.readers.listeners.discard(self._report_due.set)
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def _read_as_leader(self, lead: Lead) -> None:
        self._lead = lead
        self.readers.reading(here=True)
        listening = asyncio.ensure_future(self._reader.listen(lambda: self.tail, self.touched))
        try:
            await self._adopt()
            self._adopted = True
            while lead.held:
                delay = await self._look()
                if self._broker.shared:
                    await self._report()
                await self._rest(delay)
        except Superseded:
            pass
        finally:
            self._lead = None
            self.readers.reading(here=False)
            listening.cancel()
            await asyncio.wait({listening})

    async def _report_when_due(self) -> None:
        """Report to mirrors what changes between looks, such as trouble of the host."""
        while True:
            await self._report_due.wait()
            self._report_due.clear()
            if self._lead is not None and self._lead.held and self._adopted:
                self._refreshed = ()
                await self._report()

    async def _report(self) -> None:
        announced = None if self._announced is None else self._announced.run
        trouble = self.readers.trouble
        await self._broker.tell(
            self.ref,
            Looked(
                self._confirmed,
                self._born,
                self.caught_up,
                self._revision,
                None if announced == self.run else self.run,
                self.described,
                self._refreshed,
                None if trouble is None else (trouble.code, trouble.retry_in),
                self._given,
            ),
        )

    async def _renew_rights(self) -> None:
        try:
            await self.readers.renew(lambda credential: self._upstream.get_run(credential, self.ref))
        except Exception as error:  # task boundary: no viewer may go on with a right that is not renewed
            self._break_down("renewing rights", error)

    def _break_down(self, doing: str, error: Exception) -> None:
        log_fault(doing, error)
        self.fault = error if isinstance(error, GatewayError) else GatewayError()
        self.readers.notify()

    async def read_again(self, number: int) -> tuple[LogEntry, ...]:
        """Read a page that the broker does not hold any more, as the host has it now."""
        if self._lead is None and self._note_given(number * PAGE):
            await self._broker.tell(self.ref, LookWanted(float("-inf"), given=self._given))
        entries = await self._reader.page(number, self.tail)
        if len(entries) < max(1, min(PAGE, self.tail - number * PAGE)):
            await asyncio.sleep(1.0)  # shorter than before: a stale answer, or another log, which a look will find
        return entries

    async def _adopt(self) -> None:
        """Continue from where an earlier follower stopped, here or in another instance."""
        self._reread = self._lead is not None and self._lead.anew
        if self._located:
            if self._reread:  # compare and announce an end again, for viewers who may lack what changed
                self._end_seen = self._settled = self._compared = None
            self._advance()
            return  # this mirror is up to date
        # that may be outdated: nobody has looked since
        tail = await self._broker.tail(self.ref)
        await self._broker.doubt(self.ref)
        self._advance()
        if tail is None:
            return
        self._located = True
        self._known.adopt(tail)
        if tail.changed is not None:
            if tail.changed.length is not None and tail.changed.seen < self.resumption.at:
                self.resumption.began(tail.cursor)  # that end is the old one, however much the log has grown since
            self._take_over(tail.changed)
            self._compared = None if self._reread else self._compared

    async def _look(self) -> float | None:
        """Read from the oldest entry that may have changed to the end; seconds to the next look (None: when asked)."""
        if (
            self._announced is not None
            and self._announced.length is not None
            and self.resumption.at > self._announced.seen
        ):
            await self._announce(None, self.resumption.at)  # the announced end is past
        grown_from, described, end_seen = self.tail, self.run, self._end_seen
        self._looked = loop_time()  # those who join meanwhile need no other look
        wishes, self._wishes = self._wishes, {}
        opening = not self._located
        try:
            for cursor in () if opening or not wishes or await self._broker.tail(self.ref) is None else wishes:
                await self._take_in(*await self._reader.news(max(0, cursor - AMENDABLE)))
            page, began = await (self._locate() if opening else self._read(await self._reading_start()))
            await self._take_in(page, began)
            if opening and (near_tail := await self._reader.near_tail(page)) is not None:
                page, began = near_tail
                self._known.begin(page.after)
                await self._take_in(page, began)
            start, sent, ended, over = page.after, began, may_have_ended(page.run), page.run.status.ended
            revision = page.revision  # the log may change while the rest is read
            while not self._is_complete(page, final=ended and end_seen is not None):
                hurry = self._end_seen is None or loop_time() - self._looked > COMPARING
                page, sent = await self._read(max(page.last, self._known.settling()) if hurry else page.last)
                ended, over = ended and may_have_ended(page.run), over and page.run.status.ended
                await self._take_in(page, sent)
            if self._revision is None:
                self._revision = revision
            elif self._revision != revision and self.tail == grown_from and (over or loop_time() >= self._compare_at):
                await self._reread_given()  # something has changed, perhaps not at the end
                if self.tail != grown_from:
                    raise Stale
                self._revision = revision
        except Stale:
            return self._cadence.next(news=True)
        except Replaced:
            await self._start_over()
            return 0
        finally:
            for wish in wishes.values():
                self._fulfil(wish)
        self._refreshed, self._reread = tuple(wishes), False
        self._known.agreed()
        if not self.caught_up:
            self.caught_up = True
            self.readers.notify()
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
        """Announce the run as it is now, ended or not; returns as ``_look``."""
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
            # soon after a resume the host's word that the run rests may be outdated
            resting = self.run.status in (RunStatus.PAUSED, RunStatus.WAITING) and not self.resumption.in_doubt
            # where a look may lead to comparing all given entries, look no more often than necessary
            room = math.inf if news or resting or self.edited else self.readers.room
            return self._cadence.next(news=news, resting=resting, room=room, runs=self._runs())
        patient = self._end_seen is None or loop_time() - self._end_seen < DESCRIBED_WITHIN
        if self._whole_due(run) and patient:
            return self._cadence.next(news=True)  # the host does not describe the run now; go on reading its log
        # A viewer who is given the length leaves, and misses what comes after it. The last entries of a run may appear
        # later than its status, so an end that is first seen is not announced yet. It is after a later look that read
        # the log to its end (``drained``), or one that found the log as long as when an end was announced before. An
        # answer to a request from before a resume proves no end.
        if (drained or self._settled == self.tail) and began >= self.resumption.at:
            self._settled, self._end_seen = self.tail, None
            await self._announce(self.tail, began)
            return None
        return 0

    def _whole_due(self, run: Run) -> bool:
        """Whether to ask for the run itself: log pages lack some of its fields, and sometimes even its status."""
        if run.raw_status is None and not self._end_seen:
            return loop_time() - self._whole_at >= SLOW
        return run.raw_status != self._whole_for or (self._end_seen is not None and self._whole_at < self._end_seen)

    async def _read_whole(self, raw_status: str | None) -> None:
        answer = await self._reader.get_aside()
        if answer is None:
            if not self.run.status.ended:
                return  # still due; the log does not wait for it
            try:
                answer = await self._reader.get()
            except (Unavailable, UpstreamFailure):
                return  # still due; the end waits for it, for a while
        run, sent = answer
        if self.resumption.allows(run, sent, self.tail):
            self.run, self.described = self.run.updated(run), sent
            self._whole_at, self._whole_for = sent, raw_status

    async def _locate(self) -> tuple[LogPage, float]:
        """The page at which the log is opened."""
        first, self._first = self._first, None
        page, sent = await self._reader.open(self._near, None if first is None else (first, self._asked))
        self._located = True
        self._known.begin(page.after)
        return page, sent

    def _is_complete(self, page: LogPage, *, final: bool) -> bool:
        """Whether the log has been read to its end: only an empty page proves a ``final`` end. Otherwise the host's own
        count suffices, which may be wrong, as the log will be read again.
        """
        return not page.entries or (not final and page.last == page.paging.total and page.last >= self.tail)

    async def _reading_start(self) -> Cursor:
        """The position to read from to see late changes: once, when the run has ended, changes of all given entries."""
        if self._end_seen is None and self.caught_up and not self._reread:
            return self._known.unsettled()
        tail = await self._broker.tail(self.ref)
        if self._end_seen is None or tail is None:
            return self._known.settling()
        # entries far from the end are not read again otherwise, and after the end no viewer is left to hear of changes:
        # so all given entries are read once more now, except those read since the run ended
        given = given_from(tail, self._given, self._upstream.page_size)
        if self._compared is not None and self._compared <= given:
            return self._known.settling()
        return min(given, self._known.settling())

    async def _reread_given(self) -> None:
        """Read all given entries again, to find what has changed."""
        tail = await self._broker.tail(self.ref)
        after = self.tail if tail is None else given_from(tail, self._given, self._upstream.page_size)
        while after < self.tail:
            self._compare_at = max(self._compare_at, loop_time()) + AGAIN
            page, sent = await self._reader.again(after)
            await self._take_in(page, sent)  # raises if the page is empty
            after = page.last

    async def _take_in(self, page: LogPage, asked: float) -> None:
        self._require_lead()
        self._known.compare(page, in_doubt=self.resumption.in_doubt)
        await self._broker.publish(page, asked=asked)
        self._known.take_in(page)
        self._advance()

    async def _start_over(self) -> None:
        self._require_lead()
        self._reset()
        await self._broker.forget(self.ref)

    def _require_lead(self) -> None:
        """Raise unless this follower leads: an answer from before may be older than what another leader has read."""
        if self._lead is None or not self._lead.held:
            raise Superseded

    async def _announce(self, length: Cursor | None, seen: float) -> None:
        self._announced = Changed(self.run, length, seen, self._revision)
        await self._broker.publish(self._announced)
        self._on_announced(self._announced)

    async def _rest(self, delay: float | None) -> None:
        """Wait until it is time to read again: ``delay`` has passed, or a call has woken this."""
        self._reader.interval = max(delay or 0.0, self._cadence.fast)
        self._cadence.notified = self._reader.notified
        loop = asyncio.get_running_loop()
        until = math.inf if delay is None else loop.time() + delay
        # asyncio.timeout, which cancels the task, costs ten times as much as this timer
        due = None if delay is None else loop.call_at(until, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if due is not None:
                due.cancel()
        if self._reader.notified and loop.time() < until - TICK:
            await asyncio.sleep(max(COALESCED, self._looked + self._cadence.fast - loop.time()))
        self._wake.clear()

    async def _read(self, after: Cursor) -> tuple[LogPage, float]:
        """A stretch of the log, and when the host was asked for it; settled entries are read with less urgency."""
        settled = after < self._known.settling() and self._end_seen is not None and self.caught_up
        return await (self._reader.again(after) if settled else self._reader.news(after))
