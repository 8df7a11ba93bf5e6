"""One log at the host: what a follower knows of it, and how it reads it.

From the length and the last entries it decides what has to be read again, and whether an answer is about this log at
all: it may be older than the answer before it, or the host may have put another log under the same name. The log is
read with the credentials of its viewers, in pieces as large as the host gives, when it is this log's turn.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from codegen_api.brokers import PAGE, Tail
from codegen_api.errors import GatewayError
from codegen_api.following.portions import Portion, piece
from codegen_api.following.readers import Readers
from codegen_api.following.rights import loop_time
from codegen_api.identity import Credential
from codegen_api.pace import NOTIFIED, Need, Patience
from codegen_api.positions import AMENDABLE, COMPARED, SETTLING
from codegen_api.runs import UNCOUNTED, Cursor, LogEntry, LogPage, Run
from codegen_api.telemetry import log_fault
from codegen_api.upstreams import Streams, Upstream

GONE_LOOKS = 3
"""How many looks in a row must miss the tail before the log counts as replaced, and not as a stale answer."""

CATCHING_UP = 4.0
"""How much less urgent it is to read an old page again than to look for news."""


class Replaced(Exception):
    """The host has another log under this name."""


class Stale(Exception):
    """An answer is older than one that came before it."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is remembered of an entry near the tail."""

    id: str | None
    created_at: str | None
    open: bool

    @classmethod
    def of(cls, entry: LogEntry) -> "_Mark":
        return cls(entry.id, entry.created_at, entry.open)

    def tells_apart(self, entry: LogEntry) -> bool:
        """Whether this cannot be the same entry, by the host's own id or else by its time, if both have them."""
        if self.id is not None and entry.id is not None:
            return self.id != entry.id
        return self.created_at is not None and entry.created_at is not None and self.created_at != entry.created_at


class Known:
    """The log as it was last seen; ``tail`` is the position of its last entry."""

    def __init__(self) -> None:
        self.tail: Cursor = 0
        self._marks: deque[_Mark] = deque(maxlen=SETTLING)
        self._missed = 0

    def adopt(self, tail: Tail) -> None:
        self.tail = tail.cursor
        self._marks.extend(map(_Mark.of, tail.recent))

    def begin(self, tail: Cursor) -> None:
        """Forget all entries: the log is known only to be at least this long."""
        self.tail, self._missed = tail, 0
        self._marks.clear()

    def unsettled(self) -> Cursor:
        """The position to read from to see late outputs, and the last entry again."""
        recent = list(self._marks)[-AMENDABLE:]
        for back, mark in enumerate(recent):
            if mark.open:
                return self.tail - len(recent) + back
        return max(0, self.tail - 1)

    def settling(self) -> Cursor:
        """The position to read from to see late changes of older entries as well."""
        return max(0, self.tail - SETTLING)

    def compare(self, page: LogPage, *, in_doubt: bool) -> None:
        """Compare a page with what is known. ``in_doubt``: stale answers are likely just now.

        Raises:
            Stale: the page does not match, which may pass.
            Replaced: pages have not matched for so long that this must be another log.
        """
        first = self.tail - len(self._marks)  # position before the first mark
        differs = any(
            first < position <= self.tail and self._marks[position - first - 1].tells_apart(entry)
            for position, entry in enumerate(page.entries, page.after + 1)
        )
        gone = not page.entries and page.last < self.tail
        if not differs and not gone:
            return
        self._missed += 1
        if self._missed >= (2 if differs else GONE_LOOKS) and not (gone and in_doubt):
            raise Replaced
        raise Stale

    def agreed(self) -> None:
        """All pages of a look matched."""
        self._missed = 0

    def take_in(self, page: LogPage) -> None:
        """Remember the entries of a page, which begins at or before the tail."""
        for position, entry in enumerate(page.entries, page.after + 1):
            mark = _Mark.of(entry)
            if position > self.tail:
                self._marks.append(mark)
                self.tail = position
            elif position > self.tail - len(self._marks):
                self._marks[position - self.tail - 1] = mark


def opens_at(near: Cursor, size: int) -> Cursor:
    """The start of the page, of ``size`` entries, at which a log is opened for a viewer at ``near``."""
    return max(0, near - AMENDABLE) // size * size


def given_from(tail: Tail, elsewhere: Cursor | None, size: int) -> Cursor:
    """The start of the first page, of ``size`` entries, that was given here, or ``elsewhere`` behind that position, and
    can still be compared.
    """
    known = tail.known if elsewhere is None else min(tail.known, elsewhere)
    return max(known, tail.cursor - COMPARED) // size * size


def without_nulls(run: Run) -> Run:
    """A run as a log page describes it, without nulls: there they stand for fields that the page lacks."""
    if None not in run.fields.values():
        return run
    return replace(run, fields={name: value for name, value in run.fields.items() if value is not None})


def may_have_ended(run: Run) -> bool:
    """Whether this description is compatible with an end: it shows one, or no status."""
    return run.status.ended or run.raw_status is None


@dataclass(slots=True)
class LogReader:
    """Reads for the follower of a run, and says how urgent that is. ``known`` returns the last description of the run.

    A look for news counts as waiting since the ``last`` one, with an ``interval``. Reading old pages counts as waiting
    only since it was asked for, with a longer interval, so that viewers who catch up with one log, page after page, do
    not make the news of other logs late.
    """

    upstream: Upstream
    readers: Readers
    portion: Portion
    known: Callable[[], Run]
    fast: float
    last: float
    interval: float
    notified: bool = False
    """Whether the host is being listened to and would tell of news now."""

    async def get(self) -> tuple[Run, float]:
        """The whole run, and when the host was asked for it."""
        return await self.readers.ask(self._get, Need(self.last, self.interval), once=True)

    async def get_aside(self) -> tuple[Run, float] | None:
        """As ``get``, if there is room for it beside the reads of the log."""
        return await self.readers.aside(self._get)

    async def news(self, after: Cursor) -> tuple[LogPage, float]:
        """A stretch of the log behind a position, and when the host was asked for it."""
        found = await self._read(after, self.upstream.page_size, Need(self.last, self.interval))
        self.last = loop_time()
        return found

    async def open(self, near: Cursor, first: tuple[LogPage, float] | None) -> tuple[LogPage, float]:
        """The page at which a log is opened for a viewer at ``near``, which may have been read before (``first``).

        The host's own count of the entries is a hint here: where it misleads, the log is read from the start.
        """
        size = self.upstream.page_size
        start = opens_at(near, size)
        page, sent = first or await self.news(start)
        while not page.entries and page.after > 0:
            start = min(max(0, (page.paging.total or 0) - 1), page.after - 1) // size * size
            page, sent = await self.news(start)
        return page, sent

    async def near_tail(self, page: LogPage) -> tuple[LogPage, float] | None:
        """The page near the tail, to go on from, if that is far ahead of the page at which the log was opened. Pages in
        between are read when a viewer needs them.
        """
        size = self.upstream.page_size
        ahead = max(0, (page.paging.total or 0) - SETTLING) // size * size
        if page.at_end or ahead <= page.last:
            return None
        near_tail = await self.news(ahead)
        return near_tail if near_tail[0].entries else None

    async def again(self, after: Cursor, limit: int | None = None) -> tuple[LogPage, float]:
        """As ``news``, for entries that can wait."""
        need = Need(loop_time(), CATCHING_UP * self.fast)
        return await self._read(after, limit or self.upstream.page_size, need)

    async def page(self, number: int, tail: Cursor) -> tuple[LogEntry, ...]:
        """A page of a log that is known up to ``tail``, as the host has it now."""
        after = number * PAGE
        entries: tuple[LogEntry, ...] = ()
        while len(entries) < PAGE and after + len(entries) < tail:
            found, _ = await self.again(after + len(entries), PAGE - len(entries))
            if not found.entries:
                break
            entries += found.entries
        return entries

    async def listen(self, tail: Callable[[], Cursor], changed: Callable[[], None]) -> None:
        """Listen for ever, on behalf of a viewer, and call ``changed`` when there may be news behind the ``tail``.

        Each event is only a hint: the log is still read with the credentials of all viewers in turn. If listening
        fails, reading goes on as with other hosts, and will meet the same trouble.
        """
        patience = Patience()
        while isinstance(self.upstream, Streams):
            credential, began = self.readers.any_credential(), loop_time()
            if credential is not None:
                try:
                    async with aclosing(self.upstream.changes(credential, self.known().ref, tail())) as changes:
                        async for _ in changes:
                            self.notified = True
                            changed()
                            if not self.readers.views(credential):
                                break  # listen on behalf of somebody else
                except GatewayError:
                    pass
                except Exception as error:  # task boundary: the log is still read without it
                    log_fault("listening to the host", error)
                if self.notified:
                    self.notified = False
                    changed()  # an event may be the reason why listening ended
                if loop_time() - began >= NOTIFIED:
                    patience.reset()
            await asyncio.sleep(patience.next())

    async def _get(self, credential: Credential) -> tuple[Run, float]:
        sent = loop_time()
        return await self.upstream.get_run(credential, self.known().ref), sent

    async def _read(self, after: Cursor, limit: int, need: Need) -> tuple[LogPage, float]:
        async def read(start: int, amount: int) -> tuple[tuple[LogPage, float], int]:
            async def ask(credential: Credential, limit: int) -> tuple[tuple[LogPage, float], int]:
                sent = loop_time()
                return (await self.upstream.read_log(credential, self.known().ref, start, limit), sent), limit

            return await self.readers.ask_for(ask, need, amount)

        found = await piece(read, after, limit, self.portion)
        if found is not None:
            return found
        unsaid = replace(self.known(), raw_status=None)
        return LogPage(unsaid, after, (self.upstream.placeholder(self.known().ref),), False, UNCOUNTED), loop_time()
