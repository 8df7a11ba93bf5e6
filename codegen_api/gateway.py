"""The one entry point for dialects: every client call passes here, and so does every policy but following's.

Policies: the effective organization (``accounts``), ownership of runs (``ownership``), retries after a fault (few for
reads, none for writes), sharing of identical reads, how far a filtered list is searched, admission to streams, and what
a stream has to know about a resume. A run is only ever reached through ``_admit``, which checks that this caller may.
"""

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from codegen_api.accounts import Accounts
from codegen_api.brokers import Batch, Broker
from codegen_api.errors import RunEnded, Unsupported
from codegen_api.following import (
    Attendant,
    Hub,
    Patrol,
    Portions,
    Position,
    ReadQueue,
    Right,
    Rights,
    Stream,
    StreamLimits,
    Update,
    loop_time,
)
from codegen_api.host_reads import Reads, preceding_write
from codegen_api.identity import ALL, READ, WRITE, Caller
from codegen_api.own_runs import OwnRuns
from codegen_api.ownership import Ownership, on_behalf_of
from codegen_api.pace import Cadence
from codegen_api.run_search import FoundRuns, has_status, search
from codegen_api.runs import Appended, Cursor, LogEntry, LogPage, Paging, Run, RunRef, RunStatus, Step
from codegen_api.singleflight import Singleflight
from codegen_api.telemetry import NullObserver, Observation, Observer, Observers
from codegen_api.upstreams import (
    Cancels,
    Listing,
    NewRun,
    RunFilter,
    Upstream,
    require_few_bytes,
)

_FINISHED = (RunStatus.COMPLETED, RunStatus.FAILED)


class Gateway:
    """What a deployment can do for its callers.

    ``organization`` is the default. ``max_streams`` bounds the open live logs, ``max_streams_each`` those of one
    principal. ``ownership`` decides whose a run is where callers share a credential.
    """

    def __init__(
        self,
        upstream: Upstream,
        broker: Broker,
        *,
        organization: str | None = None,
        ownership: Ownership | None = None,
        turns: ReadQueue | None = None,
        patrol: Callable[[], Patrol] = Patrol,
        cadence: Callable[[], Cadence] = Cadence,
        linger: float = 5.0,
        max_streams: int = 10_000,
        max_streams_each: int = 100,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = upstream
        self._broker = broker
        self._ownership = ownership or Ownership()
        self._patrol = patrol
        self._stream_limits = StreamLimits(max_streams, max_streams_each)
        self._observer = observer or NullObserver()
        self._clock = clock
        turns = turns or ReadQueue()
        upstream.observer = Observers(turns, self._observer)
        portions = Portions(upstream.page_size, timer=loop_time)
        self._take = turns.take
        self._reads = Reads(upstream, portions, turns.take)
        self.accounts = Accounts(upstream, self._reads, organization)
        self._own_runs = OwnRuns(self._reads, self._ownership, upstream.page_size)
        self._rights = Rights(self._reads.run)
        self._hub = Hub(
            upstream,
            broker,
            self._rights,
            turns,
            cadence=cadence,
            linger=linger,
            portions=portions,
            observer=self._observer,
        )
        self._writes = 0
        self._gets: Singleflight[tuple[int, str, RunRef], Right] = Singleflight()
        self._log_reads: Singleflight[tuple[int, str, RunRef, Cursor, int, bool], LogPage] = Singleflight()

    @property
    def upstream_name(self) -> str:
        return self._upstream.name

    @property
    def observation(self) -> Observation | None:
        """How the host last responded."""
        return self._upstream.observation

    @property
    def page_size(self) -> int:
        """The maximum number of log entries per read."""
        return self._upstream.page_size

    @property
    def can_cancel(self) -> bool:
        """Whether the host can stop a run."""
        return isinstance(self._upstream, Cancels)

    def step(self, entry: LogEntry) -> Step:
        """The meaning of a log entry."""
        return self._upstream.step(entry)

    def answer(self, run: Run) -> str | None:
        """The agent's answer, as far as the description of the run contains it."""
        return self._upstream.answer(run)

    async def create(self, caller: Caller, organization: str, new: NewRun) -> Run:
        """Start a run.

        Raises:
            Rejected: the metadata is too large.
        """
        require_few_bytes(new.metadata)
        asked = loop_time()
        with on_behalf_of(caller, of_a_run=False), self._writing():
            await self._take(caller.credential, order=True)
            run = await self._upstream.create_run(
                caller.credential, organization, replace(new, marks={**new.marks, **self._ownership.marks(caller)})
            )
        self._ownership.created(caller, run)
        self._rights.grant(caller.credential, run, asked)  # its creator will view it next
        return run

    async def get(self, caller: Caller, organization: str, run_id: str) -> Run:
        asked, writes, credential = loop_time(), self._writes, caller.credential
        ref = await self._admit(caller, organization, run_id, READ)
        with on_behalf_of(caller):
            right = await self._gets.share(
                (writes, credential.digest, ref), lambda: self._rights.ask(credential, ref, since=asked)
            )
        return right.run

    async def list(
        self, caller: Caller, organization: str, skip: int, limit: int, only: RunFilter, status: str | None
    ) -> FoundRuns:
        """List runs, newest first; with ``status`` (the host's word or ours) only those.

        Filters that the host lacks, by status and by owner, are applied by searching its list, up to a bound. A shared
        caller who filters by their own user number means their own runs: the host knows no such user.
        """
        if caller.shared and only.user_id == caller.principal.number:
            caller, only = replace(caller, scopes=frozenset({READ})), replace(only, user_id=None)
        own = caller.shared and READ + ALL not in caller.scopes
        with on_behalf_of(caller):
            if own:
                return await self._own_runs.list(caller, organization, skip, limit, only, status, writes=self._writes)
            if status is None:
                listing = await self._reads.runs(caller.credential, organization, skip, limit, only)
                return FoundRuns(listing, listing.next(skip), unseen=bool(listing.gaps))
            found = await search(
                lambda place: self._reads.runs(caller.credential, organization, place, self.page_size, only),
                lambda run: has_status(run, status),
                place=skip,
                limit=limit,
            )
        # the number of matches is unknown, so pages have no number
        listing = Listing(found.runs, Paging(found.total, None, limit, None), found.next_place is None)
        return FoundRuns(listing, found.next_place, searched=True, unseen=found.unseen)

    async def resume(
        self,
        caller: Caller,
        organization: str,
        run_id: str,
        prompt: str,
        images: tuple[str, ...] | None,
        *,
        length: Cursor | None = None,
    ) -> Run:
        """Continue a run. ``length`` is a known lower bound of its log's length."""
        ref = await self._admit(caller, organization, run_id, WRITE)
        with on_behalf_of(caller):
            with preceding_write():
                before = await self._reads.run(caller.credential, ref)
                if before.status is RunStatus.CANCELLED and isinstance(self._upstream, Cancels):
                    await self._upstream.uncancel_run(caller.credential, ref)
            with self._writing(ref):
                await self._take(caller.credential, order=True)
                run = await self._upstream.resume_run(caller.credential, ref, prompt, images)
        self._hub.resumed(run.ref, run, length)
        return run

    async def cancel(self, caller: Caller, organization: str, run_id: str, *, anyway: bool = False) -> Run:
        """Stop a run. ``anyway``: tell the host whatever it says about the run, either because it may not have noticed
        a resume yet or for the other effects of a cancel.

        Raises:
            RunEnded: it has ended, and its outcome is not rewritten.
            Unsupported: this host cannot stop runs.
        """
        ref = await self._admit(caller, organization, run_id, WRITE)
        cancels = self._cancels()
        certain = not (anyway or self._hub.resumed_lately(ref))
        with on_behalf_of(caller):
            with preceding_write():
                if certain and (await self._reads.run(caller.credential, ref)).status in _FINISHED:
                    raise RunEnded
            with self._writing(ref):
                await self._take(caller.credential, order=True)
                await cancels.cancel_run(caller.credential, ref)
                self._hub.cancelled(ref)
            run = await self._reads.run(caller.credential, ref)
        if certain and run.status in _FINISHED:
            raise RunEnded  # it ended by itself meanwhile
        return run

    async def uncancel(self, caller: Caller, organization: str, run_id: str) -> None:
        """Lift a cancel. The run stays stopped until it is resumed, which lifts the cancel as well.

        Raises:
            Unsupported: this host cannot stop runs.
        """
        ref = await self._admit(caller, organization, run_id, WRITE)
        cancels = self._cancels()
        with on_behalf_of(caller), self._writing(ref):
            await self._take(caller.credential, order=True)
            await cancels.uncancel_run(caller.credential, ref)

    async def read_log(
        self, caller: Caller, organization: str, run_id: str, after: Cursor, limit: int, *, newest_first: bool
    ) -> LogPage:
        writes, credential = self._writes, caller.credential
        ref = await self._admit(caller, organization, run_id, READ)
        with on_behalf_of(caller):
            return await self._log_reads.share(
                (writes, credential.digest, ref, after, limit, newest_first),
                lambda: self._reads.log(credential, ref, after, limit, newest_first=newest_first),
            )

    async def view(self, caller: Caller, organization: str, run_id: str) -> Run:
        """A recent description of the run, as proof that the caller may see it and its log.

        Raises:
            UpstreamRateLimited: too many callers are waiting for the same check.
        """
        ref = await self._admit(caller, organization, run_id, READ)
        with on_behalf_of(caller):
            return (await self._hub.shown(caller.credential, ref)).run

    async def follow(self, caller: Caller, organization: str, run_id: str, position: Position) -> Stream | None:
        """The live log from ``position`` on; None if the caller already knows its end and that still holds.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            GatewayError: the caller may not see the run, or that cannot be checked now.
        """
        self._stream_limits.make_sure_of_room(caller.principal)
        asked, credential = loop_time(), caller.credential
        ref = RunRef(organization, self._upstream.run_id(run_id))
        unknown = caller.shared and self._ownership.owner_record(ref) is None
        if not unknown:
            await self._admit(caller, organization, run_id, READ)
        right = None if unknown else self._rights.held(credential, ref)
        if right is None:
            with on_behalf_of(caller), self._hub.room(credential, ref) as room:
                if room:
                    await self._admit(caller, organization, run_id, READ)
                    right = await self._rights.require(credential, ref)
        held = right.run if right is not None and right.asked < asked else None  # older than this call
        updates = self._updates(caller, ref, right, position)
        return await Stream.begin(updates, position, held, caller.confirm)

    def patrol(self, caller: Caller) -> Patrol:
        """Maximum age and heartbeat interval for a stream of this caller."""
        patrol = self._patrol()
        if caller.expires is None:
            return patrol
        # the stream must not outlive the credentials
        return replace(patrol, max_age=max(0.0, min(patrol.max_age, caller.expires - self._clock())))

    @contextmanager
    def attend(self, caller: Caller) -> Iterator[Attendant]:
        """Occupy a viewer's place without a run, while the caller waits for one to follow.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            ShuttingDown: this process takes no new viewers.
        """
        with self._stream_limits.take(caller.principal), self._hub.attend() as attendant:
            yield attendant

    @property
    def runs_followed(self) -> int:
        return self._hub.runs_followed

    @property
    def viewers(self) -> int:
        return self._hub.viewers

    def touched(self, ref: RunRef) -> None:
        """The run's log may have grown: its follower reads again."""
        self._hub.touched(ref)

    async def drain(self, seconds: float) -> None:
        """Ask all viewers to reconnect elsewhere, spread over ``seconds``; returns when all have left, or then."""
        await self._hub.drain(seconds)

    async def aclose(self) -> None:
        """Cancel everything that runs and close every connection."""
        await self._hub.aclose()
        await self._gets.aclose()
        await self._log_reads.aclose()
        await self._own_runs.aclose()
        await self._rights.aclose()
        await self._broker.aclose()
        await self._upstream.aclose()

    @contextmanager
    def _writing(self, ref: RunRef | None = None) -> Iterator[None]:
        """Invalidate shared reads after a write, whatever its outcome: a read that began before it must not answer a
        request that came after it. A follower of the run reads again.
        """
        try:
            yield
        finally:
            self._writes += 1
            if ref is not None:
                self._hub.touched(ref)

    async def _updates(
        self, caller: Caller, ref: RunRef, right: Right | None, position: Position
    ) -> AsyncGenerator[Update, None]:
        opened, patrol, began = self._clock(), self.patrol(caller), loop_time()
        # the place is taken only here: a caller still being checked, or who left meanwhile, has no stream
        with on_behalf_of(caller), self._stream_limits.take(caller.principal):
            if right is None:
                whole = caller.shared and self._ownership.owner_record(ref) is None
                async with aclosing(self._hub.let_in(caller.credential, ref, position, patrol, whole=whole)) as coming:
                    async for news in coming:
                        if not isinstance(news, Right):
                            yield news
                            continue
                        right = news
                        if whole:
                            self._ownership.require(caller, self._ownership.remember(ref, right.run), READ)
                if right is None:
                    return  # the stream ended with a request to reconnect
                patrol = replace(patrol, max_age=max(0.0, patrol.max_age - (loop_time() - began)))
            async with self._hub.subscribe(caller.credential, right, position, patrol) as subscriber:
                async for update in subscriber.updates():
                    if isinstance(update, Batch):
                        self._report_age(update, opened)
                    yield update

    def _report_age(self, batch: Batch, opened: float) -> None:
        """Report the age of the newest entry, unless it existed before the viewer came: that one is old, not late."""
        newest = next((event.entry for event in reversed(batch.entries) if isinstance(event, Appended)), None)
        created = None if newest is None else newest.created
        if created is not None and created >= opened:
            self._observer.delivered(max(0.0, self._clock() - created))

    async def _admit(self, caller: Caller, organization: str, run_id: str, scope: str) -> RunRef:
        """The run, if this caller may reach it: the host decides for their own credential, ownership for a
        shared one.
        """
        ref = RunRef(organization, self._upstream.run_id(run_id))
        if caller.shared:
            owner_record = self._ownership.owner_record(ref)
            if owner_record is None:
                with on_behalf_of(caller):
                    owner_record = self._ownership.remember(
                        ref, (await self._rights.require(caller.credential, ref)).run
                    )
            self._ownership.require(caller, owner_record, scope)
        return ref

    def _cancels(self) -> Cancels:
        if not isinstance(self._upstream, Cancels):
            raise Unsupported("The host cannot stop a run.")
        return self._upstream
