"""The feed: the newest runs of one organization as the host lists them for one credential, read once for all viewers.

It promises the descriptions as they are now, not every change in between, and never an older one after a newer. The
list is read less often than any log that is followed, and yields to all of them. What the gateway learns otherwise of a
run is taken in at once, if the host has lately shown that run to this credential. Runs that a viewer wants and the list
lacks are asked for one by one, where the host's limit leaves room.
"""

import asyncio
import base64
import hashlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, replace
from itertools import islice

from cachetools import LRUCache

from codegen_api.errors import GatewayError, InvalidToken, Rejected, Unavailable, UpstreamError, UpstreamFailure
from codegen_api.following.host_log import without_nulls
from codegen_api.following.readers import Readers
from codegen_api.following.rights import LIFETIME, RIGHT_BYTES, TICK, loop_time
from codegen_api.identity import Credential, asker
from codegen_api.pace import FAST, Need
from codegen_api.runs import UNCOUNTED, Run, RunRef, to_json
from codegen_api.telemetry import log_fault, trace
from codegen_api.upstreams import Listing

HELD_BYTES = 32 * 1024 * 1024
"""Bytes of all descriptions held for feeds. The least recently used go first, and come back with the next list."""

MARK_BYTES = 6
"""Bytes of a mark, enough that no two descriptions in one feed get the same one by chance."""

MARKS = 2000
"""Number of marks that one feed recognizes when viewers return with them."""

RECENT = 60.0
"""Seconds for which a run that was created through the gateway need not be in the host's list."""

JOURNAL = 500
"""Number of changes remembered, so that viewers look only at those that they have not seen."""

AGAIN = 5.0
"""Seconds after which a run that could not be read is asked for again."""

SELDOM = 10
"""A run that has ended, or is not there, is asked for again after this many intervals."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Described:
    """A run as it is now. ``mark`` identifies the run with this description, the same in every process. ``seen``: when
    the host was asked for it; ``shown``: when it last showed the run to the feed's credential (event loop time).
    """

    run: Run
    mark: str
    size: int
    seen: float
    shown: float

    @classmethod
    def of(cls, run: Run, seen: float, shown: float) -> "Described":
        """
        Raises:
            ValueError: the description is nested too deeply to be written.
        """
        said = to_json(
            [
                [run.ref.organization, run.ref.id, run.status, run.raw_status, run.reason, run.final],
                dict(sorted(run.fields.items())),
            ]
        )
        mark = base64.urlsafe_b64encode(hashlib.blake2b(said, digest_size=MARK_BYTES).digest()).decode()
        return cls(run, mark, RIGHT_BYTES + 4 * len(said), seen, shown)


NOTHING: Listing[Run] = Listing((), UNCOUNTED, at_end=False)

Held = LRUCache[tuple[str, RunRef], Described]


def held_descriptions(at_most: int = HELD_BYTES) -> Held:
    """Where all feeds keep their descriptions."""
    return LRUCache(at_most, getsizeof=lambda described: min(described.size, at_most))


@dataclass(eq=False, slots=True)
class Feed:
    """Reads the list for its viewers, every ``interval`` seconds. ``read`` and ``get`` ask the host for the newest runs
    and for one. ``may_predate_resume``: as ``Hub.may_predate_resume``. ``first``: the list, if it was read already, and
    when the host was asked for it.
    """

    organization: str
    credential: Credential
    readers: Readers
    held: Held
    read: Callable[[Credential], Awaitable[Listing[Run]]]
    get: Callable[[Credential, RunRef], Awaitable[Run]]
    may_predate_resume: Callable[[Run, float], bool]
    interval: float
    first: InitVar[tuple[float, Listing[Run]] | None]
    wanted: set[Callable[[], Collection[RunRef]]] = field(default_factory=set)
    """Each returns the runs that a viewer wants even if the list lacks them."""
    asked: float = -math.inf
    """When (event loop time) the host was asked for ``listing``; minus infinity while it refuses to show the list."""
    listing: Listing[Run] = NOTHING
    front: dict[RunRef, None] = field(default_factory=dict)
    """The runs in the list, newest first. The same object as long as nothing has changed."""
    generation: int = 0
    """Counts the lists that differ from the one before by more than new runs in front. A search must then be repeated:
    there may be runs in between, or some were removed, so that it has passed over others.
    """
    version: int = 0
    """Counts the changes of runs."""
    fault: GatewayError | None = None
    """The error that ended the reading for good."""
    following: asyncio.Task[None] = field(init=False)
    _journal: deque[RunRef] = field(default_factory=lambda: deque(maxlen=JOURNAL))
    _marks: LRUCache[str, bool] = field(default_factory=lambda: LRUCache(MARKS))
    _created: dict[RunRef, float] = field(default_factory=dict)
    _gone: set[RunRef] = field(default_factory=set)
    _due: dict[RunRef, float] = field(default_factory=dict)  # when to ask for runs that are not in the list
    _again_at: float = -math.inf
    _not_before: float = -math.inf
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self, first: tuple[float, Listing[Run]] | None) -> None:
        if first is not None:
            self._take_in(*first)
        self.following = asyncio.ensure_future(self._follow())

    # -- what is known ------------------------------------------------------------------------------------------------

    def described(self, ref: RunRef) -> Described | None:
        """The run as it is now; None if it is not held here (any more)."""
        return self.held.get((self.credential.digest, ref))

    def knows(self, mark: str) -> bool:
        """Whether this mark stands for a description that is or was lately seen here."""
        return mark in self._marks

    def changed(self, since: int) -> Collection[RunRef] | None:
        """The runs that may have changed since that ``version``; None if any may have."""
        count = self.version - since
        if count > len(self._journal):
            return None
        return dict.fromkeys(islice(self._journal, len(self._journal) - count, None))

    def gone(self, ref: RunRef) -> bool:
        """Whether the host does not show this run any more."""
        return ref in self._gone

    def lists(self, ref: RunRef) -> bool:
        """Whether this run is in the list, or may be missing there only because it is new or the list has gaps."""
        return ref in self.front or bool(self.listing.gaps) or self._created.get(ref, -math.inf) > loop_time() - RECENT

    def looked_for(self, refs: Iterable[RunRef]) -> bool:
        """Whether each of these runs is known, or was asked for at least once."""
        return all(ref in self.front or ref in self._due or self.described(ref) is not None for ref in refs)

    # -- what others report --------------------------------------------------------------------------------------------

    def on_description(self, run: Run, seen: float, *, whole: bool) -> None:
        """Take in a description that the gateway has read with any credential. ``whole``: it is one answer of the host,
        not merged by the run's follower from several.
        """
        known = self.described(run.ref)
        if known is None:
            return
        if known.shown < loop_time() - LIFETIME:
            self.look_soon(run.ref)  # this credential may not see it any more
        elif self._describe(run, seen, shown=None, whole=whole, sure=not whole):
            self.readers.notify()

    def created(self, run: Run, asked: float) -> None:
        """Add a run that the host has started for this credential."""
        self._forget_created()
        self._created[run.ref] = loop_time()
        self.front = {run.ref: None, **self.front}
        self._describe(run, asked, shown=asked, whole=True)
        self.readers.notify()

    def found(self, runs: Iterable[Run], asked: float) -> None:
        """Take in runs that the host has listed for this credential, farther down its list."""
        for run in runs:
            self._describe(run, asked, shown=asked, whole=False)

    def look_soon(self, ref: RunRef) -> None:
        """Ask for this run when there is room."""
        self._due.pop(ref, None)
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        trace.set(self.readers.trace)
        asker.set(None)  # the reads are for all viewers
        need = Need(loop_time(), FAST)  # viewers wait for the first list
        try:
            while True:
                if self.asked > -math.inf:
                    need = await self._rest(self.asked + self.interval)
                self._take_in(*await self.readers.ask(self._list, need))
                self.readers.notify()
        except Exception as error:  # task boundary: a fault here must end the streams, not leave them hanging
            log_fault("reading a list of runs", error)
            self.fault = error if isinstance(error, GatewayError) else GatewayError()
            self.readers.notify()

    async def _list(self, credential: Credential) -> tuple[float, Listing[Run]]:
        asked = loop_time()
        try:
            return asked, await self.read(credential)
        except (Unavailable, UpstreamFailure):
            raise
        except Rejected as error:  # the host has accepted the same request before
            raise UpstreamError(error.message) from error
        except GatewayError:
            self.asked = -math.inf  # viewers are shown nothing until the host lists the runs again
            raise

    def _take_in(self, asked: float, listing: Listing[Run]) -> None:
        before, self.asked = self.front, asked
        gaps = bool(self.listing.gaps or listing.gaps)
        self.listing = listing
        for run in listing.items:
            self._describe(run, asked, shown=asked, whole=False)
            self._due.pop(run.ref, None)
            self._gone.discard(run.ref)
        front = dict.fromkeys(ref for ref, at in self._created.items() if at >= asked)
        front |= dict.fromkeys(run.ref for run in listing.items)
        if self._created or gaps or list(front) != list(before):
            self.front = front
        self._forget_created()
        if not listing.at_end and _is_other(list(before), self.front):
            self.generation += 1

    def _forget_created(self) -> None:
        self._created = {ref: at for ref, at in self._created.items() if at > loop_time() - RECENT}

    def _note(self, ref: RunRef) -> None:
        self.version += 1
        self._journal.append(ref)

    def _describe(self, run: Run, seen: float, *, shown: float | None, whole: bool, sure: bool = False) -> bool:
        """Take in a description; whether it is news."""
        known = self.described(run.ref)
        if known is not None:
            known.shown = known.shown if shown is None else max(known.shown, shown)
            if seen < known.seen or (not sure and self.may_predate_resume(run, seen)):
                return False
            run = known.run.updated(run if whole else without_nulls(run))
            if run is known.run:
                known.seen = seen
                return False
        try:
            news = Described.of(run, seen, seen if shown is None else shown)
        except ValueError:
            return False  # it cannot be written as JSON
        self.held[self.credential.digest, run.ref] = news
        self._marks[news.mark] = True
        self._note(run.ref)
        return True

    async def _rest(self, until: float) -> Need:
        """Wait until the list is due again, asking for runs that it lacks meanwhile; returns the need to read it."""
        while (now := loop_time()) < until - TICK:
            self._wake.clear()
            ref, due = self._next()
            if ref is not None and due <= now + TICK:
                await self._look_at(ref)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(min(until, due) - now):
                    await self._wake.wait()
        # as if it had just been read: it yields to the logs, however late all are
        return Need(now, self.interval)

    def _next(self) -> tuple[RunRef | None, float]:
        """The run to ask for next that is not in the list, and when: at once if it is new here, the others one per
        interval.
        """
        wanted = {ref for refs in self.wanted for ref in refs()} - self.front.keys()
        self._due = {ref: due for ref, due in self._due.items() if ref in wanted}
        self._gone &= wanted
        ref = min(wanted, key=lambda each: self._due.get(each, -math.inf), default=None)
        if ref is None:
            return None, math.inf
        due = self._due.get(ref)
        return ref, self._not_before if due is None else max(due, self._again_at, self._not_before)

    async def _look_at(self, ref: RunRef) -> None:
        asked = loop_time()
        if ref in self._due:
            self._again_at = asked + self.interval
        answer = await self.readers.aside(lambda credential: self._one(credential, ref))
        if answer is None:
            self._not_before = loop_time() + AGAIN
            return
        (run,) = answer
        if run is None:
            self._gone.add(ref)
            self.held.pop((self.credential.digest, ref), None)
        else:
            self._gone.discard(ref)
            self._describe(run if run.ref == ref else replace(run, ref=ref), asked, shown=asked, whole=True)
        seldom = SELDOM if run is None or run.status.ended else 1
        self._due[ref] = asked + seldom * self.interval
        self._note(ref)  # also if it is as it was: it may be shown again
        self.readers.notify()

    async def _one(self, credential: Credential, ref: RunRef) -> tuple[Run | None]:
        """The run; None if the host does not show it, which is no refusal of the credential."""
        try:
            return (await self.get(credential, ref),)
        except (InvalidToken, Unavailable, UpstreamFailure):
            raise
        except GatewayError:
            return (None,)


def _is_other(before: Sequence[RunRef], now: Collection[RunRef]) -> bool:
    """Whether a list is not just the one ``before`` with new runs in front, which push old ones out at its end."""
    last = max((place for place, ref in enumerate(before) if ref in now), default=-1)
    return any(ref not in now for ref in before[: last + 1]) or (last < 0 < len(before))
