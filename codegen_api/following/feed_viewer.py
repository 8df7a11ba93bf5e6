"""One viewer's view of a feed: which runs it has, and which descriptions the viewer has of them.

It promises the runs as they are now: a client that applies the updates in order has each run of the feed with its
latest description, however often it reconnects, and to whichever process. A viewer never gets an older description than
they have: one who returns with a description that was never seen here waits for the next list.
"""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from codegen_api.errors import InvalidCursor, Unavailable, UpstreamFailure
from codegen_api.following.feed import Described, Feed
from codegen_api.following.opening import MOMENT, Attendant
from codegen_api.following.readers import RECOVERED, Notice
from codegen_api.following.rights import LIFETIME, TICK, loop_time, set_within
from codegen_api.following.subscriber import Patrol, Quiet
from codegen_api.runs import Json, Run, RunRef
from codegen_api.upstreams import Listing

MOST_RUNS = 100
"""Maximum number of runs in one viewer's feed."""

_MARK = re.compile("[A-Za-z0-9_-]{8}", re.ASCII)
_POSITION = re.compile(f"0|(?:{_MARK.pattern}){{1,{MOST_RUNS}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FeedPosition:
    """The runs that a viewer has, with their descriptions: the ``Described.mark`` of each."""

    marks: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "FeedPosition":
        """
        Raises:
            InvalidCursor: it is no position in a feed.
        """
        if _POSITION.fullmatch(text.strip()) is None:
            raise InvalidCursor
        return cls(tuple(_MARK.findall(text)))

    def __str__(self) -> str:
        return "".join(self.marks) or "0"


@dataclass(frozen=True, slots=True)
class Listed:
    """The first update: the host's ids of all runs in the feed, newest first. The viewer forgets all others."""

    ids: tuple[Json, ...]
    position: FeedPosition


@dataclass(frozen=True, slots=True)
class Shown:
    """A run that is new in the feed, or whose description has changed."""

    described: Described
    position: FeedPosition


@dataclass(frozen=True, slots=True)
class Removed:
    """A run is not in the feed any more."""

    id: Json
    position: FeedPosition


@dataclass(frozen=True, slots=True)
class FeedLeaving:
    """The gateway ends this stream: reconnect with ``position``."""

    position: FeedPosition


FeedUpdate: TypeAlias = Listed | Shown | Removed | Notice | Quiet | FeedLeaving


Search: TypeAlias = Callable[[Listing[Run]], Awaitable[tuple[Sequence[Run], bool, float]]]


@dataclass(frozen=True, slots=True)
class Choice:
    """The runs of a viewer's feed: those ``named``, or else the newest ``limit``; of these, the ``visible`` ones.

    ``search`` is given the front of the host's list, which may have too few visible runs. It returns the newest visible
    ones, whether there may be more, and when the host was asked for others. None: all are in the front.
    """

    named: tuple[RunRef, ...] | None
    limit: int
    visible: Callable[[Run], bool]
    search: Search | None


@dataclass(eq=False, slots=True)
class FeedViewer:
    """One viewer of ``feed``, who ``joined`` (event loop time) with the runs that they ``had``. ``delay``: the expected
    wait in seconds until the host may be asked for more.
    """

    feed: Feed
    choice: Choice
    had: FeedPosition
    patrol: Patrol
    attendant: Attendant
    joined: float
    delay: float
    _has: dict[RunRef, tuple[str, Json]] = field(default_factory=dict)  # the mark of the description, and the host's id
    _window: dict[RunRef, None] = field(default_factory=dict)
    _front: dict[RunRef, None] | None = None  # the one that the window was made from
    _searched: int | None = None  # the generation of the list
    _more: bool = False  # the search has left some behind
    _version: int | None = None

    def __post_init__(self) -> None:
        self._window = dict.fromkeys(self.choice.named or ())

    def wanted(self) -> Collection[RunRef]:
        return self._window if self.choice.named is not None or self.choice.search is not None else ()

    async def updates(self) -> AsyncGenerator[FeedUpdate, None]:
        """Updates for this viewer, as they happen.

        Raises:
            GatewayError: the host refuses to show the list, or reading it failed for good.
        """
        feed, readers, joined, patrol = self.feed, self.feed.readers, self.joined, self.patrol
        silent_since, trouble = joined, readers.trouble
        last_notice = trouble if trouble is not None and trouble.code == RECOVERED else None  # old news
        waits = listed = False
        while True:
            self.attendant.poked.clear()
            fault = readers.refusal(feed.credential) or feed.fault
            if fault is not None:
                raise fault
            now = loop_time()
            if self.attendant.leaving.is_set() or now >= joined + patrol.max_age - TICK:
                yield FeedLeaving(self._position if listed else self.had)
                return
            known, trouble = feed.asked >= joined - LIFETIME, readers.trouble
            news = None if trouble is last_notice else trouble
            if (news or waits) if known else ((news or not waits) and now >= joined + MOMENT - TICK):
                last_notice, waits, silent_since = trouble, not known, now
                yield news or (Notice(RECOVERED) if known else Notice("rate_limited", round(self.delay, 1)))
                continue
            if known and not (listed and self._is_current):
                await self._look()
                if not listed and not self._may_be_ahead and self._has_looked(now):
                    listed, silent_since = True, now
                    yield self._begin()
                for update in self._changes() if listed else ():
                    yield update
                    silent_since = loop_time()
            late = known and not listed and self._may_be_ahead and silent_since == joined  # let the stream begin
            if late or now >= silent_since + patrol.heartbeat - TICK:
                silent_since = loop_time()
                yield Quiet()
            until = min(silent_since + patrol.heartbeat, joined + patrol.max_age)
            until = until if listed or now >= joined + MOMENT - TICK else min(until, joined + MOMENT)
            await set_within(max(0.0, until - loop_time()), self.attendant.poked)

    @property
    def _is_searched(self) -> bool:
        return self.choice.search is None or self._searched == self.feed.generation

    @property
    def _is_current(self) -> bool:
        """Whether nothing has changed since the last look."""
        return self._version == self.feed.version and self._front is self.feed.front and self._is_searched

    @property
    def _position(self) -> FeedPosition:
        return FeedPosition(tuple(mark for mark, _ in self._has.values()))

    @property
    def _may_be_ahead(self) -> bool:
        """Whether the viewer has a description not seen here, which may be newer than the list."""
        return self.feed.asked < self.joined and not all(map(self.feed.knows, self.had.marks))

    def _has_looked(self, now: float) -> bool:
        """Whether all named runs were looked for, or that has taken too long."""
        return now >= self.joined + MOMENT - TICK or self.feed.looked_for(self.choice.named or ())

    def _begin(self) -> Listed:
        runs = [(ref, described) for ref in self._window if (described := self._described(ref)) is not None]
        kept = frozenset(self.had.marks)
        self._has = {ref: (each.mark, _id_of(each.run)) for ref, each in runs if each.mark in kept}
        return Listed(tuple(_id_of(each.run) for _, each in runs), self._position)

    def _changes(self) -> Iterator[FeedUpdate]:
        """Changes since the viewer's last update. They may be slow, so each run is looked up when its turn comes."""
        changed = None if self._version is None else self.feed.changed(self._version)
        self._version = self.feed.version
        for ref in [ref for ref in self._has if ref not in self._window or self.feed.gone(ref)]:
            _, name = self._has.pop(ref)
            yield Removed(name, self._position)
        for ref in [ref for ref in self._window if changed is None or ref in changed or ref not in self._has]:
            described = self._described(ref)
            if described is not None and self._has.get(ref, ("", None))[0] != described.mark:
                self._has[ref] = described.mark, _id_of(described.run)
                yield Shown(described, self._position)

    def _described(self, ref: RunRef) -> Described | None:
        """The run as it is now; None if this viewer may not be shown it."""
        described = None if self.feed.gone(ref) else self.feed.described(ref)
        if described is None or ref in self._has or self.choice.named is None:
            return described
        if described.shown < self.joined - LIFETIME:
            self.feed.look_soon(ref)
            return None
        return described if self.choice.visible(described.run) else None

    async def _look(self) -> None:
        """Update the window to the runs that are the newest now."""
        if self.choice.named is not None:
            self._front = self.feed.front
            return
        feed, search = self.feed, self.choice.search
        if search is not None and not self._is_searched:
            await self._search(search)
        elif self._front is feed.front and not any(map(feed.gone, self._window)):
            return
        before = len(self._window)
        self._merge()
        if search is not None and self._more and len(self._window) < min(before, self.choice.limit):
            await self._search(search)  # there is room for older ones
            self._merge()

    async def _search(self, search: Search) -> None:
        feed, generation = self.feed, self.feed.generation
        try:
            runs, self._more, asked = await search(feed.listing)
        except (Unavailable, UpstreamFailure):
            if self._searched is None:
                raise
            return  # tried again at the next look
        feed.found((run for run in runs if run.ref not in feed.front), asked)
        self._window, self._searched = dict.fromkeys(run.ref for run in runs), generation

    def _merge(self) -> None:
        """Put what is new in the front of the list before the old runs of the window, up to the limit."""
        feed, limit = self.feed, self.choice.limit
        whole = self.choice.search is None or feed.listing.at_end
        old = [ref for ref in self._window if feed.lists(ref) or not (whole or feed.gone(ref))]
        known = frozenset(old)
        merged = _merged(old, [ref for ref in feed.front if ref in known or self._may_see(ref)])
        self._more = self._more or len(merged) > limit
        self._window, self._front = dict.fromkeys(merged[:limit]), feed.front

    def _may_see(self, ref: RunRef) -> bool:
        described = self.feed.described(ref)
        return described is not None and self.choice.visible(described.run)


def _id_of(run: Run) -> Json:
    return run.fields.get("id", run.ref.id)


def _merged(old: Sequence[RunRef], new: Sequence[RunRef]) -> list[RunRef]:
    """``new``, with the runs of ``old`` that it lacks, each before the one that it preceded."""
    present, before, lacking = frozenset(new), dict[RunRef, list[RunRef]](), list[RunRef]()
    for ref in old:
        if ref in present:
            before[ref], lacking = lacking, []
        else:
            lacking.append(ref)
    return [each for ref in new for each in (*before.get(ref, ()), ref)] + lacking
