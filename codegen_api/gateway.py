"""The one door for dialects: every call of a client passes here, and every policy that is not about following does.

Policies: which organization is meant, whose a run is (``ownership``), what is asked of the host again after a fault
(reads, a little; writes, never), how far a filtered list is searched, who is let into a stream, and what a stream needs
to know of a resume. Nothing here reaches a run but by ``_admit``, which asks whether it is the caller's to reach.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import stamina
from cachetools import TTLCache

from codegen_api.brokers import Batch, Broker
from codegen_api.errors import (
    Forbidden,
    OrganizationRequired,
    Unsupported,
    UpstreamError,
    UpstreamFailure,
    UpstreamUnreachable,
)
from codegen_api.following import Hub, Patrol, Position, Right, Rights, Seats, Stream, Turns, Update, loop_time
from codegen_api.identity import ALL, READ, WRITE, Caller, Credential
from codegen_api.ownership import Ownership, heard
from codegen_api.pace import Cadence
from codegen_api.runs import Appended, Cursor, LogEntry, Page, Paging, Run, RunRef, RunStatus, Step
from codegen_api.searching import SEARCHED_PAGES, has_status, search
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

PLACES = 10**12
"""A ``skip`` from here on is a place in the host's list, not a number of runs: where a search for the caller's own runs
goes on.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """Runs of a list, with an account of it. Where it was ``searched`` for them, ``next_skip`` says where to go on;
    None at its end.
    """

    listing: Listing[Run]
    next_skip: int | None = None
    searched: bool = False


class Gateway:
    """What a deployment can do for its callers.

    ``organization`` is the one that is meant when nobody says which. At most ``max_streams`` live logs are open at a
    time, and ``max_streams_each`` for one principal. ``ownership`` says whose a run is where callers share a
    credential.
    """

    def __init__(
        self,
        upstream: Upstream,
        broker: Broker,
        *,
        organization: str | None = None,
        ownership: Ownership | None = None,
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
        self._ownership = ownership or Ownership()
        self._patrol = patrol
        self._seats = Seats(max_streams, max_streams_each)
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

    @property
    def page_size(self) -> int:
        """How many log entries can be read at once."""
        return self._upstream.page_size

    @property
    def can_cancel(self) -> bool:
        """Whether the host can stop a run."""
        return isinstance(self._upstream, Cancels)

    def step(self, entry: LogEntry) -> Step:
        """What a log entry means."""
        return self._upstream.step(entry)

    def answer(self, run: Run) -> str | None:
        """What the agent answered, as far as a description of the run says so."""
        return self._upstream.answer(run)

    async def identify(self, credential: Credential) -> User:
        """Whose credential this is, by the host's word."""
        return await _patiently(lambda: self._upstream.identify(credential))

    async def me(self, caller: Caller) -> User:
        """Who is calling: as the host knows them, or as whoever vouches for them does."""
        if not caller.shared:
            return await self.identify(caller.credential)
        who, scopes = caller.principal, sorted(caller.scopes)
        return User(who.user, {"id": who.user, "authority": who.authority, "scopes": scopes})

    async def organizations(self, caller: Caller, skip: int, limit: int) -> Listing[Organization]:
        """The organizations that the caller may enter."""
        only = self._confinement(caller)
        with heard(caller, of_a_run=False):
            if only is None:
                return await self._organizations(caller, skip, limit)
            position, found = 0, []
            for _ in range(SEARCHED_PAGES):
                listing = await self._organizations(caller, position, self._upstream.page_size)
                found += [each for each in listing.items if each.id == only]
                position += len(listing.items)
                if found or listing.at_end:
                    break
        items = tuple(found[skip : skip + limit])
        return Listing(items, Paging(len(found), None, limit, None), at_end=True)

    async def organization(self, caller: Caller, wanted: str | None) -> str:
        """The organization that is meant: the one named, the deployment's, or the caller's only one.

        Raises:
            OrganizationRequired: there are several to choose from, or none.
            Forbidden: the caller may not enter the one that they named.
        """
        only = self._confinement(caller)
        if wanted is not None:
            named = self._upstream.organization_id(wanted)
            if only not in (None, named):
                raise Forbidden("You may not enter this organization.")
            return named
        if only is not None or self._organization is not None:
            return only or str(self._organization)
        known = self._only_organization.get(caller.credential.digest)
        if known is None:
            choices = await self.organizations(caller, 0, self._upstream.page_size)
            if len(choices.items) != 1:
                raise OrganizationRequired(details=[choice.fields for choice in choices.items])
            known = self._only_organization[caller.credential.digest] = choices.items[0].id
        return known

    async def create(self, caller: Caller, organization: str, new: NewRun) -> Run:
        asked = loop_time()
        with heard(caller, of_a_run=False):
            run = await self._upstream.create_run(
                caller.credential, organization, replace(new, marks={**new.marks, **self._ownership.marks(caller)})
            )
        self._ownership.created(caller, run)
        self._rights.grant(caller.credential, run, asked)  # whoever starts a run is about to view it
        return run

    async def get(self, caller: Caller, organization: str, run_id: str) -> Run:
        asked = loop_time()
        ref = await self._admit(caller, organization, run_id, READ)
        with heard(caller):
            return (await self._rights.ask(caller.credential, ref, since=asked)).run

    async def list(
        self, caller: Caller, organization: str, skip: int, limit: int, only: RunFilter, status: str | None
    ) -> Found:
        """Runs, newest first; with ``status`` (the host's word or ours) only those.

        What the host cannot filter is searched for, up to a bound: a status, and the caller's own runs.
        """
        own = caller.shared and READ + ALL not in caller.scopes
        with heard(caller):
            if not own and status is None:
                return Found(await self._list(caller, organization, skip, limit, only))

            def wanted(run: Run) -> bool:
                return self._ownership.sees(caller, run) and (status is None or has_status(run, status))

            # runs of one's own are counted from the front of the list, others by their place in it
            place, passing = (skip, 0) if not own else (skip - PLACES, 0) if skip >= PLACES else (0, skip)
            found = await search(
                lambda place: self._list(caller, organization, place, self._upstream.page_size, only),
                wanted,
                place=place,
                passing=passing,
                limit=limit,
            )
        # a page of what matched has no number: nobody knows how many there are; and what others have is theirs
        listing = Listing(found.runs, Paging(None if own else found.total, None, limit, None), found.next_place is None)
        next_skip = None if found.next_place is None else found.next_place + (PLACES if own else 0)
        return Found(listing, next_skip, searched=True)

    async def resume(
        self, caller: Caller, organization: str, run_id: str, prompt: str, images: tuple[str, ...] | None
    ) -> Run:
        ref = await self._admit(caller, organization, run_id, WRITE)
        with heard(caller):
            try:
                before = await self._get(caller.credential, ref)
                if before.status is RunStatus.CANCELLED and isinstance(self._upstream, Cancels):
                    await self._upstream.uncancel_run(caller.credential, ref)
            except UpstreamFailure as error:
                error.may_have_acted = False  # the resume itself was not asked for
                raise
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
        ref = await self._admit(caller, organization, run_id, WRITE)
        if not isinstance(self._upstream, Cancels):
            raise Unsupported("The host cannot stop a run.")
        with heard(caller):
            try:
                await self._upstream.cancel_run(caller.credential, ref)
            finally:
                self.hub.touched(ref)
            return await self._get(caller.credential, ref)

    async def read_log(
        self, caller: Caller, organization: str, run_id: str, after: Cursor, limit: int, *, newest_first: bool
    ) -> Page:
        ref = await self._admit(caller, organization, run_id, READ)
        with heard(caller):
            return await _patiently(
                lambda: self._upstream.read_log(caller.credential, ref, after, limit, newest_first=newest_first)
            )

    async def view(self, caller: Caller, organization: str, run_id: str) -> Run:
        """The run as the host described it a moment ago: the caller may see it, and its log."""
        ref = await self._admit(caller, organization, run_id, READ)
        with heard(caller):
            return (await self._rights.require(caller.credential, ref)).run

    async def follow(self, caller: Caller, organization: str, run_id: str, position: Position) -> Stream | None:
        """The live log from ``position`` on; None when the caller knows its end already and it is still the end.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            GatewayError: the caller may not see the run, or nobody can say so just now.
        """
        self._seats.make_sure_of_room(caller.principal)
        asked = loop_time()
        ref = await self._admit(caller, organization, run_id, READ)
        with heard(caller):
            right = await self._rights.require(caller.credential, ref)
        held = right.run if right.asked < asked else None  # a description of the run from before this call
        return await Stream.begin(self._updates(caller, right, position.cursor), position, held, caller.confirm)

    async def aclose(self) -> None:
        """Stop everything that runs, and let go of every connection."""
        await self.hub.aclose()
        await self._rights.aclose()
        await self._broker.aclose()
        await self._upstream.aclose()

    async def _updates(self, caller: Caller, right: Right, cursor: Cursor) -> AsyncGenerator[Update, None]:
        opened, patrol = self._clock(), self._patrol()
        if caller.expires is not None:  # what they showed is good no longer than this
            patrol = replace(patrol, max_age=max(0.0, min(patrol.max_age, caller.expires - opened)))
        # no seat before this: who waits for the host, or leaves meanwhile, has no stream
        with heard(caller), self._seats.take(caller.principal):
            async with self.hub.subscribe(caller.credential, right, cursor, patrol) as subscriber:
                async for update in subscriber.updates():
                    if isinstance(update, Batch):
                        self._note_age(update, opened)
                    yield update

    def _note_age(self, batch: Batch, opened: float) -> None:
        """Tell how old the newest entry is; what was there before the viewer came is not late, it is old."""
        newest = next((event.entry for event in reversed(batch.entries) if isinstance(event, Appended)), None)
        created = None if newest is None else newest.created
        if created is not None and created >= opened:
            self._observer.delivered(max(0.0, self._clock() - created))

    async def _admit(self, caller: Caller, organization: str, run_id: str, scope: str) -> RunRef:
        """The run that is meant, if this caller may reach it. With a credential of their own the host says so."""
        ref = RunRef(organization, self._upstream.run_id(run_id))
        if caller.shared:
            deed = self._ownership.deed(ref)
            if deed is None:
                with heard(caller):
                    deed = self._ownership.learned(ref, (await self._rights.require(caller.credential, ref)).run)
            self._ownership.require(caller, deed, scope)
        return ref

    def _confinement(self, caller: Caller) -> str | None:
        """The only organization that the caller may enter; None when that is for the host to say."""
        if caller.organization is not None:
            return self._upstream.organization_id(caller.organization)
        return self._organization if caller.shared else None

    async def _get(self, credential: Credential, ref: RunRef) -> Run:
        return await _patiently(lambda: self._upstream.get_run(credential, ref))

    async def _organizations(self, caller: Caller, skip: int, limit: int) -> Listing[Organization]:
        return await _patiently(lambda: self._upstream.organizations(caller.credential, skip, limit))

    async def _list(self, caller: Caller, organization: str, skip: int, limit: int, only: RunFilter) -> Listing[Run]:
        return await _patiently(lambda: self._upstream.list_runs(caller.credential, organization, skip, limit, only))


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """Ask once more, and once again, when a read met a fault that may pass. Never for calls that do something."""
    caller = stamina.AsyncRetryingCaller(attempts=3, timeout=10.0, wait_initial=0.1, wait_max=1.0)
    return await caller((UpstreamError, UpstreamUnreachable), read)
