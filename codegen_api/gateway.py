"""The one door for dialects: every call of a client passes here, and every policy that is not about following does.

Policies: which organization is meant, what is asked of the host again after a fault (reads, a little; writes, never),
how far a filtered list is searched, who is let into a stream, and what a stream needs to know of a resume.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import stamina
from cachetools import TTLCache

from codegen_api.brokers import Batch, Broker
from codegen_api.errors import (
    AtCapacity,
    OrganizationRequired,
    RateLimited,
    Unsupported,
    UpstreamError,
    UpstreamUnreachable,
)
from codegen_api.following import Ended, Hub, Patrol, Rights, Turns, Update, close_running, loop_time
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.pace import Cadence
from codegen_api.runs import Appended, Changed, Cursor, Page, Paging, Run, RunRef, RunStatus
from codegen_api.telemetry import Observation, Observer, Observers, Quiet
from codegen_api.upstreams import (
    Cancels,
    Listing,
    NewRun,
    Organization,
    RunFilter,
    Upstream,
    User,
)

T = TypeVar("T")

OVER_SECONDS = 2.0
"""How long somebody who was told the end waits for the word that it is still the end, before a stream begins
instead.
"""

SEARCHED_PAGES = 10
"""How many of the host's pages a filtered list reads at most before it answers with what it has."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a viewer is in a log; ``over``: it was told that the log ended there."""

    cursor: Cursor
    over: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Runs that matched, the host's own account of the (unfiltered) list, and where to go on; None at its end."""

    listing: Listing[Run]
    next_skip: int | None


class Stream:
    """The updates for one viewer: ``first`` those that have come, then ``coming``, then the rest. To be closed after
    use.
    """

    def __init__(
        self, first: list[Update], coming: asyncio.Task[Update] | None, updates: AsyncGenerator[Update, None]
    ) -> None:
        self._first = first
        self._coming = coming
        self._updates = updates

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Update:
        if self._first:
            return self._first.pop(0)
        coming, self._coming = self._coming, None
        return await (coming or anext(self._updates))

    async def aclose(self) -> None:
        """Leave the log."""
        await close_running(self._updates, self._coming)


class Gateway:
    """What a deployment can do for its callers.

    ``organization`` is the one that is meant when nobody says which. At most ``max_streams`` live logs are open at a
    time, and ``max_streams_each`` for one principal.
    """

    def __init__(
        self,
        upstream: Upstream,
        broker: Broker,
        *,
        organization: str | None = None,
        turns: Turns | None = None,
        patrol: Callable[[], Patrol] = Patrol,
        cadence: Callable[[], Cadence] = Cadence,
        linger: float = 5.0,
        old_pages_bytes: int = 32 * 1024 * 1024,
        max_streams: int = 10_000,
        max_streams_each: int = 100,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = upstream
        self._broker = broker
        self._organization = organization
        self._patrol = patrol
        self._max_streams = max_streams
        self._max_streams_each = max_streams_each
        self._streams: Counter[Principal] = Counter()
        self._rights = Rights(self._get)
        self._observer = observer or Quiet()
        self._clock = clock
        turns = turns or Turns()
        upstream.observer = Observers(turns, self._observer)
        self.hub = Hub(
            upstream,
            broker,
            self._rights,
            turns,
            cadence=cadence,
            linger=linger,
            old_pages_bytes=old_pages_bytes,
            observer=self._observer,
        )
        self._only_organization: TTLCache[str, str] = TTLCache(10_000, 60, timer=loop_time)

    @property
    def upstream_name(self) -> str:
        return self._upstream.name

    @property
    def observation(self) -> Observation | None:
        """What was last seen of the host."""
        return self._upstream.observation

    async def identify(self, credential: Credential) -> User:
        """Whose credential this is, by the host's word."""
        return await _patiently(lambda: self._upstream.identify(credential))

    async def organizations(self, caller: Caller, skip: int, limit: int) -> Listing[Organization]:
        return await _patiently(lambda: self._upstream.organizations(caller.credential, skip, limit))

    async def organization(self, caller: Caller, wanted: str | None) -> str:
        """The organization that is meant: the one named, the deployment's, or the caller's only one.

        Raises:
            OrganizationRequired: there are several to choose from, or none.
        """
        if wanted is not None:
            return self._upstream.organization_id(wanted)
        if self._organization is not None:
            return self._organization
        only = self._only_organization.get(caller.credential.digest)
        if only is None:
            choices = await self.organizations(caller, 0, self._upstream.page_size)
            if len(choices.items) != 1:
                raise OrganizationRequired(details=[choice.fields for choice in choices.items])
            only = self._only_organization[caller.credential.digest] = choices.items[0].id
        return only

    async def create(self, caller: Caller, organization: str, new: NewRun) -> Run:
        asked = loop_time()
        run = await self._upstream.create_run(caller.credential, organization, new)
        self._rights.grant(caller.credential, run, asked)  # whoever starts a run is about to view it
        return run

    async def get(self, caller: Caller, organization: str, run_id: str) -> Run:
        return (await self._rights.ask(caller.credential, self._ref(organization, run_id))).run

    async def list(
        self, caller: Caller, organization: str, skip: int, limit: int, only: RunFilter, status: str | None
    ) -> Found:
        """Runs, newest first; with ``status`` (the host's word or ours) only those, searched for up to a bound."""
        if status is None:
            return Found(await self._list(caller, organization, skip, limit, only), None)
        matching: list[Run] = []
        total: int | None = None
        position, at_end = skip, False
        for _ in range(SEARCHED_PAGES):
            listing = await self._list(caller, organization, position, self._upstream.page_size, only)
            total = listing.paging.total
            for run in listing.items:
                position += 1
                if _has_status(run, status):
                    matching.append(run)
                    if len(matching) == limit:
                        break
            at_end = listing.at_end and (not listing.items or run is listing.items[-1])
            if at_end or len(matching) == limit:
                break
        # a page of what matched has no number: nobody knows how many there are
        found = Listing(tuple(matching), Paging(total, None, limit, None), at_end)
        return Found(found, None if at_end else position)

    async def resume(
        self, caller: Caller, organization: str, run_id: str, prompt: str, images: tuple[str, ...] | None
    ) -> Run:
        ref = self._ref(organization, run_id)
        before = await self._get(caller.credential, ref)
        if before.status is RunStatus.CANCELLED and isinstance(self._upstream, Cancels):
            await self._upstream.uncancel_run(caller.credential, ref)
        try:
            run = await self._upstream.resume_run(caller.credential, ref, prompt, images)
        finally:
            self.hub.touched(ref)  # whatever was answered, the log may have grown
        self.hub.resumed(run.ref, run)
        return run

    async def cancel(self, caller: Caller, organization: str, run_id: str) -> Run:
        """Stop a run.

        Raises:
            Unsupported: this host cannot.
        """
        ref = self._ref(organization, run_id)
        if not isinstance(self._upstream, Cancels):
            raise Unsupported("The host cannot stop a run.")
        try:
            await self._upstream.cancel_run(caller.credential, ref)
        finally:
            self.hub.touched(ref)
        return await self._get(caller.credential, ref)

    async def read_log(
        self, caller: Caller, organization: str, run_id: str, after: Cursor, limit: int, *, newest_first: bool
    ) -> Page:
        ref = self._ref(organization, run_id)
        return await _patiently(
            lambda: self._upstream.read_log(caller.credential, ref, after, limit, newest_first=newest_first)
        )

    async def follow(self, caller: Caller, organization: str, run_id: str, position: Position) -> Stream | None:
        """The live log from ``position`` on; None when the caller knows its end already and it is still the end.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            GatewayError: the caller may not see the run, or nobody can say so just now.
        """
        ref, begun = self._ref(organization, run_id), loop_time()
        held: Run | None = None  # a description of the run from before this call
        opened = self._clock()

        async def updates() -> AsyncGenerator[Update, None]:
            nonlocal held
            self._make_sure_of_room(caller.principal)
            right = await self._rights.require(caller.credential, ref)
            held = right.run if right.asked < begun else None
            with self._seat(caller.principal):  # not before: who waits for the host, or leaves meanwhile, has no stream
                async with self.hub.subscribe(caller.credential, right, position.cursor, self._patrol()) as subscriber:
                    async for update in subscriber.updates():
                        if isinstance(update, Batch):
                            self._note_age(update, opened)
                        yield update

        live = updates()
        coming: asyncio.Task[Update] | None = None
        try:
            first = [await anext(live)]
            deadline = loop_time() + OVER_SECONDS
            while position.over and not _is_news(first[-1], position.cursor, held):
                if isinstance(first[-1], Ended):
                    await live.aclose()
                    return None
                coming = asyncio.ensure_future(anext(live))
                await asyncio.wait({coming}, timeout=max(0.0, deadline - loop_time()))
                if not coming.done():
                    break
                first.append(coming.result())
                coming = None
        except BaseException:  # whatever it was, the caller included who left: there will be no stream to close
            await close_running(live, coming)
            raise
        return Stream(first, coming, live)

    async def aclose(self) -> None:
        """Stop everything that runs, and let go of every connection."""
        await self.hub.aclose()
        await self._rights.aclose()
        await self._broker.aclose()
        await self._upstream.aclose()

    def _make_sure_of_room(self, principal: Principal) -> None:
        if self._streams[principal] >= self._max_streams_each:
            raise RateLimited(retry_after=5)
        if self._streams.total() >= self._max_streams:
            raise AtCapacity(retry_after=5)

    @contextmanager
    def _seat(self, principal: Principal) -> Iterator[None]:
        """A place for one more stream."""
        self._make_sure_of_room(principal)
        self._streams[principal] += 1
        try:
            yield
        finally:
            self._streams[principal] -= 1
            if not self._streams[principal]:
                del self._streams[principal]

    def _note_age(self, batch: Batch, opened: float) -> None:
        """Tell how old the newest entry is; what was there before the viewer came is not late, it is old."""
        newest = next((event.entry for event in reversed(batch.entries) if isinstance(event, Appended)), None)
        created = None if newest is None else newest.created
        if created is not None and created >= opened:
            self._observer.delivered(max(0.0, self._clock() - created))

    def _ref(self, organization: str, run_id: str) -> RunRef:
        return RunRef(organization, self._upstream.run_id(run_id))

    async def _get(self, credential: Credential, ref: RunRef) -> Run:
        return await _patiently(lambda: self._upstream.get_run(credential, ref))

    async def _list(self, caller: Caller, organization: str, skip: int, limit: int, only: RunFilter) -> Listing[Run]:
        return await _patiently(lambda: self._upstream.list_runs(caller.credential, organization, skip, limit, only))


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """Ask once more, and once again, when a read met a fault that may pass. Never for calls that do something."""
    caller = stamina.AsyncRetryingCaller(attempts=3, timeout=10.0, wait_initial=0.1, wait_max=1.0)
    return await caller((UpstreamError, UpstreamUnreachable), read)


def _has_status(run: Run, wanted: str) -> bool:
    return wanted.lower() == run.status or (run.raw_status is not None and wanted.upper() == run.raw_status.upper())


def _is_news(update: Update, cursor: Cursor, held: Run | None) -> bool:
    """Whether a viewer who was told that the log ended at ``cursor`` has to hear this.

    ``held`` is a description of the run that may be from before that end.
    """
    if isinstance(update, Batch):
        return any(isinstance(event, Appended) for event in update.entries)
    if isinstance(update, Ended):
        return update.length != cursor
    if isinstance(update, Changed):
        return not update.run.status.ended and update.run is not held
    return True
