"""What this instance knows of one run, whether its own follower reads it or, as the leader, that of another instance.

It promises viewers the same in either case. What the leader publishes reaches the broker by itself; its other reports
are taken in here, and requests to it are repeated until they are met. For a while after a resume through this gateway,
the host may still describe the old end.
"""

import asyncio
import math
from collections.abc import Awaitable
from contextlib import suppress
from typing import NamedTuple, TypeVar

from codegen_api.brokers import Broker, Lead, Looked, LookWanted, NewLog, News, RunCancelled, RunResumed, RunTouched
from codegen_api.errors import GatewayError
from codegen_api.following.host_log import Known
from codegen_api.following.readers import RECOVERED, Notice, Readers
from codegen_api.following.rights import Right, loop_time
from codegen_api.runs import Changed, Cursor, LogPage, Run, RunRef, RunStatus

T = TypeVar("T")

ASKED_AGAIN = 1.0
"""Seconds after which an unanswered request to the leader is repeated."""


RESUME_DOUBT = 30.0
"""Seconds after a resume in which the host may still report the end before it."""


class Resumption:
    """The last resume of a run, and the last cancel. All times are the event loop's.

    ``lags``: for some time the host may still answer as before a resume.
    """

    def __init__(self, *, lags: bool = True) -> None:
        self._lags = lags
        self.at = -math.inf
        """When the host answered the resume."""
        self._cancelled_at = -math.inf
        self._length: Cursor | None = None  # of the log before it; None if unknown
        self._active = False  # the host has since described the run as active

    @property
    def in_doubt(self) -> bool:
        """Whether the host may still answer as before the resume."""
        return self._lags and loop_time() - self.at < RESUME_DOUBT

    def resumed(self, at: float, length: Cursor | None) -> None:
        """The host answered a resume; ``length`` is a lower bound of the log's length before it."""
        self.at, self._length, self._active = at, length, False

    def cancelled(self, at: float) -> None:
        self._cancelled_at = at

    def began(self, length: Cursor) -> None:
        """The log had at least this length when the resume came."""
        self._length = max(length, self._length or 0)

    def seen(self, tail: Cursor) -> None:
        """The log has been read up to ``tail``, which stands for its length before the resume if that is unknown."""
        if self._length is None:
            self._length = tail

    def allows(self, run: Run, sent: float, tail: Cursor) -> bool:
        """Whether to believe the status in an answer to a request ``sent`` at that time.

        The host may answer from a copy that is behind. So while in doubt, an end is believed only for a reason: it is a
        cancel that we know of, or the log has grown beyond the prompt of the resume. The prompt alone is no reason, as
        the log may show it beside the old status, unless the run was seen active in between.
        """
        if sent < self.at:
            return False
        if not run.status.ended:
            self._active = self._active or run.raw_status is not None
            return True
        if not self.in_doubt:
            return True
        if run.status is RunStatus.CANCELLED and sent >= self._cancelled_at > self.at:
            return True  # new or old, it is true
        grown = 0 if self._length is None else tail - self._length
        return grown > 1 or (grown == 1 and self._active)


class _Wish(NamedTuple):
    """A request to read entries again at ``since`` or later."""

    since: float
    done: asyncio.Future[None]


class Mirror:
    """One run as this instance knows it. ``near``: the position of the first viewer."""

    def __init__(self, right: Right, readers: Readers, broker: Broker, *, near: Cursor, lags: bool) -> None:
        self.ref: RunRef = right.run.ref
        self.readers = readers
        self.run = right.run
        self.described = right.asked
        """When (event loop time) the host was asked for the status in ``run``."""
        self.caught_up = False
        """Whether the end of the log has been seen, so that ``tail`` is its length."""
        self.generation = 0
        """Counts the logs that the host has had under this name."""
        self.fault: GatewayError | None = None
        """The error that ended the reading for good."""
        self.resumption = Resumption(lags=lags)

        self._broker = broker
        self._near = near
        self._lead: Lead | None = None  # while this instance reads
        self._progress = asyncio.Event()
        self._wake = asyncio.Event()
        self._report_due = asyncio.Event()
        self._last_trouble: tuple[str, float | None] | None = None

        # what is known of the log
        self._located = False
        self._known = Known()
        self._adopted = False
        self._looked = -math.inf
        self._confirmed = -math.inf  # when the last complete look began
        self._born = loop_time()
        self._wishes: dict[Cursor, _Wish] = {}  # a viewer at that position has copies not seen here
        self._given: Cursor | None = None  # entries behind this position were given to viewers elsewhere
        self._compared: Cursor | None = None  # entries behind this position were read since the run ended
        self._revision: str | None = None  # the one that all given entries were compared with
        # what is known of the run
        self._asked = right.asked
        self._end_seen: float | None = None
        self._settled: Cursor | None = None  # where the log ended when its end was last announced
        self._announced: Changed | None = None

    @property
    def tail(self) -> Cursor:
        """The position of the last entry that was seen."""
        return self._known.tail

    @property
    def edited(self) -> bool:
        """Whether the host may alter the log anywhere: it gives revisions."""
        return self._revision is not None

    # -- requests to the reader ---------------------------------------------------------------------------------------

    def look(self, since: float) -> None:
        """Look again if the log had ended, unless that was seen at ``since`` or later."""
        ended = self._announced is not None and self._announced.length is not None
        if ended and self._looked < since:
            self._wake.set()

    def touched(self) -> None:
        self._wake.set()

    def _resumed(self, news: RunResumed) -> None:
        """Discard what the host said of the status before this resume."""
        # the length seen here may be from before a resume elsewhere
        length = max(self.tail, news.length or 0) if self.caught_up else news.length
        self.resumption.resumed(news.at, length)
        self._end_seen = self._settled = self._compared = None
        if news.run is not None and not news.run.status.ended and news.at > self._asked:
            self.run, self.described = self.run.updated(news.run), news.at
        if self._lead is not None or not self._adopted:
            self._wake.set()  # a leader elsewhere gets the same news

    async def wait_until_known(self, cursor: Cursor, since: float) -> None:
        """Wait until the log is known up to ``cursor``, or was found shorter by a look at ``since`` or later."""
        while not self._adopted or (self.tail < cursor and not (self.caught_up and self._confirmed >= since)):
            if self.caught_up and self._looked < since:
                self._wake.set()
            await self._progress.wait()

    async def wait_until_reread(self, cursor: Cursor, since: float) -> None:
        """Wait until the last entries up to ``cursor`` were read at ``since`` or later: they may have changed."""
        if self._born < since:
            wish = self._wishes.get(cursor)
            done = asyncio.get_running_loop().create_future() if wish is None else wish.done
            self._wishes[cursor] = _Wish(since, done)
            self._wake.set()
            await asyncio.wait({done})

    async def wait_for_progress(self) -> None:
        """Wait until a page has been read."""
        await self._progress.wait()

    async def _mirror_until(self, gaining: Awaitable[T]) -> T:
        """Be a mirror until the lead is gained."""
        asking = asyncio.ensure_future(self._ask_leader())
        try:
            return await gaining
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            if not asking.cancelled():
                asking.result()

    async def _ask_leader(self) -> None:
        """Have the leader look whenever a viewer here wants it to."""
        while True:
            if self._adopted:
                await self._wake.wait()
            self._wake.clear()
            since = loop_time()
            while not self._adopted or self._looked < since or self._wishes:
                await self._broker.tell(self.ref, LookWanted(since, tuple(self._wishes)))
                with suppress(TimeoutError):
                    async with asyncio.timeout(ASKED_AGAIN):
                        while not self._adopted or self._looked < since or self._wishes:
                            await self._progress.wait()

    # -- news ---------------------------------------------------------------------------------------------------------

    def on_news(self, news: News) -> None:
        """Take in what happened to the run, or what another instance has published or reported."""
        leads = self._lead is not None and self._lead.held
        match news:
            case RunResumed():
                self._resumed(news)
            case RunCancelled():
                self.resumption.cancelled(news.at)
            case RunTouched():
                if self._lead is not None:
                    self._wake.set()  # also if the lead is lost, so that the follower notices
            case LookWanted():
                self._note_given(news.given)
                if leads:
                    self._on_wish(news)
            case _ if not leads:  # also if the lead was lost in the middle of a look, which then fails
                self._on_log(news)
                self._advance()

    def _on_wish(self, wanted: LookWanted) -> None:
        for cursor in wanted.refreshed:
            self._wishes.setdefault(cursor, _Wish(wanted.since, asyncio.get_running_loop().create_future()))
        if wanted.refreshed or self._looked < wanted.since:
            self._wake.set()
        else:
            self._report_due.set()  # the last report seems to have been lost on the way

    def _on_log(self, news: LogPage | Changed | Looked | NewLog) -> None:
        match news:
            case LogPage():
                if not self._located or news.after > self.tail:
                    self._known.begin(news.after)
                self._located = True
                self._known.take_in(news)
            case Changed():
                self._take_over(news)
                self._settled, self._end_seen = news.length, None
            case Looked():
                self._on_look(news)
            case _:
                self._reset()

    def _on_look(self, look: Looked) -> None:
        self._looked = self._confirmed = look.at
        self._born, self._revision, self._adopted = look.born, look.revision, True
        run = look.run or (None if self._announced is None else self._announced.run)
        if run is not None and (look.at >= self._asked or not self._wishes):
            self.run, self.described = run, max(self.described, look.described)
        for cursor in look.refreshed:
            if cursor in self._wishes and look.at >= self._wishes[cursor].since:
                self._fulfil(self._wishes.pop(cursor))
        self.caught_up = look.caught_up
        self.readers.notify()
        is_news = look.trouble != self._last_trouble
        if look.trouble is not None and is_news and (self.readers.trouble is not None or look.trouble[0] != RECOVERED):
            self.readers.set_trouble(Notice(*look.trouble))
        self._last_trouble = look.trouble
        self._note_given(look.given)

    def _take_over(self, changed: Changed) -> None:
        """Take over the last description of an earlier leader."""
        self._announced, self._revision = changed, changed.revision
        self._compared = None if changed.length is None else 0  # that leader has compared an ended log
        newer = self._asked >= changed.seen
        if newer and self.run.status is not changed.run.status:
            self._wake.set()
        self.run = changed.run.updated(self.run) if newer else self.run.updated(changed.run)
        self.described = max(self.described, changed.seen)

    def _reset(self) -> None:
        """Begin again: the host has another log under this name."""
        # first, so that nobody takes what follows for the old log
        self.generation += 1
        self._located = self.caught_up = False
        self._near = 0
        self._known.begin(0)
        self._given = None
        self._end_seen = self._settled = self._compared = self._announced = self._revision = None

    def _note_given(self, given: Cursor | None) -> bool:
        """Note that entries behind this position were given to a viewer; whether that is news."""
        if given is None or (self._given is not None and self._given <= given):
            return False
        self._given = given
        return True

    @staticmethod
    def _fulfil(wish: _Wish) -> None:
        if not wish.done.done():
            wish.done.set_result(None)

    def _advance(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
