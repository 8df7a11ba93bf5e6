"""The one entry point for dialects: every client call passes here, and so does every policy but following's.

Policies: the effective organization (``accounts``), ownership of runs (``ownership``), retries after a fault (few for
reads, none for writes), sharing of identical reads, how far a filtered list is searched, admission to streams, and what
a stream has to know about a resume. ``_admit`` is the only way to a run: it checks that the caller may reach it.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from codegen_api.brokers import Broker, RunCancelled, RunResumed
from codegen_api.errors import RunEnded, RunFinal, Unsupported
from codegen_api.following import Attendant, Patrol, Position, ReadQueue, loop_time
from codegen_api.following.hub import Hub
from codegen_api.following.portions import Portions
from codegen_api.following.rights import CommonRights, Rights
from codegen_api.gateway.accounts import Accounts
from codegen_api.gateway.feeds import Feeds
from codegen_api.gateway.host_reads import Reads, preceding_write
from codegen_api.gateway.ownership import Ownership, on_behalf_of
from codegen_api.gateway.run_lists import FoundRuns, RunLists
from codegen_api.gateway.viewing import OpenStreams, Stream, StreamLimits, Viewing
from codegen_api.identity import READ, WRITE, Caller
from codegen_api.pace import Cadence
from codegen_api.runs import Cursor, LogEntry, LogPage, Run, RunRef, RunStatus, Step
from codegen_api.telemetry import Observation, Observer, Observers
from codegen_api.upstreams import (
    Approves,
    Bans,
    Cancels,
    Decision,
    NewRun,
    PendingRequest,
    RunFilter,
    TakesKeys,
    Upstream,
    require_few_bytes,
)

_FINISHED = (RunStatus.COMPLETED, RunStatus.FAILED)


class Gateway:
    """What a deployment can do for its callers.

    ``organization`` is the default. ``max_streams`` bounds the open live logs, ``max_streams_each`` those of one
    principal. ``ownership`` decides who owns a run where callers share a credential.
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
        open_streams: OpenStreams | None = None,
        common_rights: CommonRights | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = upstream
        self.upstream_name = upstream.name
        self.page_size = upstream.page_size
        """The maximum number of log entries per read."""
        self.keyed = upstream.keyed if isinstance(upstream, TakesKeys) else frozenset()
        """The orders (``create``, ``resume``) that may be sent again with the same key."""
        self.can_cancel = isinstance(upstream, Cancels)
        self._broker = broker
        self._ownership = ownership or Ownership()
        self._stream_limits = StreamLimits(max_streams, max_streams_each, open_streams)
        observer = observer or Observer()
        turns = turns or ReadQueue()
        upstream.observer = Observers(turns, observer)
        portions = Portions(upstream.page_size)
        self._take_turn = turns.take
        self._reads = Reads(upstream, portions, turns.take)
        self.accounts = Accounts(upstream, self._reads, organization)
        self._lists = RunLists(self._reads, self._ownership, upstream.page_size)
        self._rights = Rights(self._reads.run, common_rights)
        self._hub = Hub(upstream, broker, self._rights, turns, cadence, linger, portions, observer)
        self._viewing = Viewing(self._hub, self._ownership, self._stream_limits, patrol, observer, clock)
        every = cadence().slowest  # as often as the least read log
        self.feeds = Feeds(upstream, self._reads, self._lists, self._rights, turns, self._viewing, every, linger)

    @property
    def observation(self) -> Observation | None:
        """How the host last responded."""
        return self._upstream.observation

    def step(self, entry: LogEntry) -> Step:
        """The meaning of a log entry."""
        return self._upstream.step(entry)

    def answer(self, run: Run) -> str | None:
        """The agent's answer; None if the description of the run does not contain it."""
        return self._upstream.answer(run)

    async def create(self, caller: Caller, organization: str, new: NewRun) -> Run:
        """Start a run.

        Raises:
            Rejected: the metadata is too large.
        """
        require_few_bytes(new.metadata)
        asked = loop_time()
        new = replace(new, marks={**new.marks, **self._ownership.marks(caller)})
        with on_behalf_of(caller, of_a_run=False):
            async with self._write(caller):
                run = await self._upstream.create_run(caller.credential, organization, new)
        self._ownership.created(caller, run)
        self._rights.grant(caller.credential, run, asked)  # its creator will view it next
        self.feeds.created(caller, organization, run, asked)
        return run

    async def get(self, caller: Caller, organization: str, run_id: str) -> Run:
        asked, credential = loop_time(), caller.credential
        ref = await self._admit(caller, organization, run_id, READ)
        with on_behalf_of(caller):
            right = await self._reads.share(
                ("get", credential.digest, ref), lambda: self._rights.ask(credential, ref, since=asked)
            )
        return right.run

    async def list(
        self, caller: Caller, organization: str, skip: int, limit: int, only: RunFilter, status: str | None
    ) -> FoundRuns:
        """List runs, newest first; with ``status`` (the host's word or ours) only those.

        Filters that the host lacks, by status and by owner, are applied by searching its list, up to a bound. A shared
        caller who filters by their own user number means their own runs: the host knows no such user.
        """
        with on_behalf_of(caller):
            return await self._lists.list(caller, organization, skip, limit, only, status)

    async def resume(
        self,
        caller: Caller,
        organization: str,
        run_id: str,
        prompt: str,
        images: tuple[str, ...] | None,
        *,
        length: Cursor | None = None,
        key: str | None = None,
    ) -> Run:
        """Continue a run. ``length`` is a known lower bound of its log's length, ``key`` as in ``NewRun``.

        Raises:
            RunFinal: it has ended for good.
        """
        ref = await self._admit(caller, organization, run_id, WRITE)
        with on_behalf_of(caller):
            with preceding_write():
                before = await self._reads.run(caller.credential, ref)
                if before.final:
                    raise RunFinal
                if before.status is RunStatus.CANCELLED and isinstance(self._upstream, Bans):
                    await self._upstream.uncancel_run(caller.credential, ref)
            async with self._write(caller, ref):
                run = await self._upstream.resume_run(caller.credential, ref, prompt, images, key=key)
        await self._hub.report(run.ref, RunResumed(loop_time(), run, length))
        return run

    def resumed_lately(self, ref: RunRef) -> bool:
        """Whether the host may still speak of the time before a resume through this gateway."""
        return self._upstream.lags and self._hub.resumed_lately(ref)

    async def cancel(self, caller: Caller, organization: str, run_id: str, *, anyway: bool = False) -> Run:
        """Stop a run. ``anyway``: tell the host even if it says that the run has ended, either because it may not have
        noticed a resume yet or for the other effects of a cancel.

        Raises:
            RunEnded: it has ended, and its outcome is not rewritten.
            Unsupported: this host cannot stop runs.
        """
        ref = await self._admit(caller, organization, run_id, WRITE)
        if not isinstance(self._upstream, Cancels):
            raise Unsupported("The host cannot stop a run.")
        certain = not (anyway or self._hub.resumed_lately(ref))
        with on_behalf_of(caller):
            with preceding_write():
                if certain and (await self._reads.run(caller.credential, ref)).status in _FINISHED:
                    raise RunEnded
            async with self._write(caller, ref):
                await self._upstream.cancel_run(caller.credential, ref)
                await self._hub.report(ref, RunCancelled(loop_time()))
            run = await self._reads.run(caller.credential, ref)
        if certain and run.status in _FINISHED:
            raise RunEnded  # it ended by itself meanwhile
        return run

    async def uncancel(self, caller: Caller, organization: str, run_id: str) -> None:
        """Lift a cancel. The run stays stopped until it is resumed, which lifts the cancel as well.

        Raises:
            Unsupported: this host has nothing to lift.
        """
        ref = await self._admit(caller, organization, run_id, WRITE)
        if not isinstance(self._upstream, Bans):
            raise Unsupported("The host cannot lift a stop; resume the run to go on with it.")
        with on_behalf_of(caller):
            async with self._write(caller, ref):
                await self._upstream.uncancel_run(caller.credential, ref)

    async def pending(self, caller: Caller, organization: str, run_id: str) -> tuple[PendingRequest, ...]:
        """What a waiting run waits for, oldest first.

        Raises:
            Unsupported: this host does not say.
        """
        ref = await self._admit(caller, organization, run_id, READ)
        approves = self._approves()
        with on_behalf_of(caller):
            return await self._reads.one(caller.credential, lambda: approves.pending(caller.credential, ref))

    async def decide(self, caller: Caller, organization: str, run_id: str, request_id: str, decision: Decision) -> Run:
        """Answer a pending request, so that the run goes on.

        Raises:
            NotFound: the request is not pending (any more).
            Rejected: the decision does not suit the request.
            Unsupported: this host takes no decisions.
        """
        ref = await self._admit(caller, organization, run_id, WRITE)
        approves = self._approves()
        with on_behalf_of(caller):
            async with self._write(caller, ref):
                await approves.decide(caller.credential, ref, request_id, decision)
            return await self._reads.run(caller.credential, ref)

    async def read_log(
        self, caller: Caller, organization: str, run_id: str, after: Cursor, limit: int, *, newest_first: bool
    ) -> LogPage:
        ref, credential = await self._admit(caller, organization, run_id, READ), caller.credential
        with on_behalf_of(caller):
            return await self._reads.share(
                ("log", credential.digest, ref, after, limit, newest_first),
                lambda: self._reads.log(credential, ref, after, limit, newest_first=newest_first),
            )

    async def view(self, caller: Caller, organization: str, run_id: str) -> Run:
        """A recent description of the run, as proof that the caller may see it and its log.

        Raises:
            UpstreamRateLimited: too many callers are waiting for the same check.
        """
        ref = await self._admit(caller, organization, run_id, READ)
        with on_behalf_of(caller):
            return (await self._hub.require_right(caller.credential, ref)).run

    async def follow(self, caller: Caller, organization: str, run_id: str, position: Position) -> Stream | None:
        """The live log from ``position`` on; None if the caller already knows its end and that still holds.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            GatewayError: the caller may not see the run, or that cannot be checked now.
        """
        self._stream_limits.check_room(caller.principal)
        asked, credential = loop_time(), caller.credential
        ref = RunRef(organization, self._upstream.run_id(run_id))
        owner_unknown = caller.shared and self._ownership.owner_record(ref) is None
        if not owner_unknown:
            await self._admit(caller, organization, run_id, READ)
        right = None if owner_unknown else await self._rights.find(credential, ref)
        if right is None:
            with on_behalf_of(caller), self._hub.room(credential, ref) as room:
                if room:
                    await self._admit(caller, organization, run_id, READ)
                    right = await self._rights.require(credential, ref)
        older = right.run if right is not None and right.asked < asked else None  # described before this call
        stream = Stream(self._viewing, caller, ref, right, position)
        return stream if await stream.begin(position, older) else None

    def patrol(self, caller: Caller) -> Patrol:
        return self._viewing.patrol(caller)

    @asynccontextmanager
    async def attend(self, caller: Caller) -> AsyncIterator[Attendant]:
        """Occupy a viewer's place without a run, while the caller waits for one to follow.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            ShuttingDown: this process takes no new viewers.
        """
        async with self._stream_limits.take(caller.principal):
            with self._hub.attend() as attendant:
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
        """Ask all viewers to reconnect elsewhere, spread over ``seconds``, and wait no longer for them to leave."""
        await self._hub.drain(seconds)

    async def aclose(self) -> None:
        await self.feeds.aclose()
        await self._hub.aclose()
        await self._reads.aclose()
        await self._rights.aclose()
        await self._broker.aclose()
        await self._upstream.aclose()

    @asynccontextmanager
    async def _write(self, caller: Caller, ref: RunRef | None = None) -> AsyncIterator[None]:
        """Wait for the host's limit before a write. After it, whatever its outcome, wake a follower of the run and
        invalidate shared reads: one that began before the write must not answer a request that came after it.
        """
        try:
            await self._take_turn(caller.credential, order=True)
            yield
        finally:
            self._reads.written()
            if ref is not None:
                self._hub.touched(ref)

    async def _admit(self, caller: Caller, organization: str, run_id: str, scope: str) -> RunRef:
        """The run, if the caller may reach it: the host decides for their own credential, ownership for shared ones."""
        ref = RunRef(organization, self._upstream.run_id(run_id))
        if caller.shared:
            owner_record = self._ownership.owner_record(ref)
            if owner_record is None:
                with on_behalf_of(caller):
                    right = await self._rights.require(caller.credential, ref)
                    owner_record = self._ownership.remember(ref, right.run)
            self._ownership.require(caller, owner_record, scope)
        return ref

    def _approves(self) -> Approves:
        if not isinstance(self._upstream, Approves):
            raise Unsupported("The host does not say what a run waits for.")
        return self._upstream
