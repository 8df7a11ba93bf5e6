"""Feeds of runs: one reader of the host's list per credential and organization, for all who watch it, and which runs
each of them may see.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

from codegen_api.following import Attendant, FeedPosition, FeedUpdate, ReadQueue, loop_time
from codegen_api.following.feed import Feed, Held, held_descriptions
from codegen_api.following.feed_viewer import Choice, FeedViewer
from codegen_api.following.readers import Readers
from codegen_api.following.rights import Rights
from codegen_api.following.troubles import Troubles
from codegen_api.gateway.host_reads import Reads
from codegen_api.gateway.ownership import on_behalf_of
from codegen_api.gateway.run_lists import RunLists
from codegen_api.gateway.viewing import Viewing
from codegen_api.identity import ALL, READ, Caller, Credential
from codegen_api.runs import Run, RunRef
from codegen_api.singleflight import Singleflight
from codegen_api.upstreams import Listing, RunFilter, Upstream

FRONT = 100
"""Number of runs read from the front of the host's list."""

JOINING = 1.0
"""Seconds for which a new feed without viewers is kept for those who asked for it."""

ANYTHING = RunFilter()

_Key = tuple[str, str]


@dataclass(eq=False, slots=True)
class Feeds:
    """Connects callers to feeds. A list is read ``every`` so many seconds, until ``linger`` seconds after its last
    viewer has left.
    """

    upstream: Upstream
    reads: Reads
    lists: RunLists
    rights: Rights
    turns: ReadQueue
    viewing: Viewing
    every: float
    linger: float
    _held: Held = field(default_factory=held_descriptions)
    _troubles: Troubles = field(init=False)
    _feeds: dict[str, dict[str, Feed]] = field(default_factory=dict)  # by organization, and the credential's digest
    _firsts: Singleflight[_Key, None] = field(default_factory=Singleflight)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._troubles = Troubles(name=lambda ref: f"the list of runs in organization {ref.organization}")
        self.reads.on_description = lambda run, asked: self._on_description(run, asked, whole=True)
        self.viewing.hub.on_description = lambda run, asked: self._on_description(run, asked, whole=False)

    async def check(self, caller: Caller, organization: str) -> None:
        """
        Raises:
            GatewayError: the host does not show its list to this caller.
        """
        with on_behalf_of(caller, of_a_run=False):
            await self.reads.runs(caller.credential, organization, 0, 1, ANYTHING)

    def named(self, organization: str, ids: Sequence[str]) -> tuple[RunRef, ...]:
        """The runs with these ids.

        Raises:
            Rejected: one of them cannot be the id of a run.
        """
        return tuple(RunRef(organization, self.upstream.run_id(each)) for each in ids)

    async def updates(
        self, caller: Caller, organization: str, named: tuple[RunRef, ...] | None, limit: int, position: FeedPosition
    ) -> AsyncGenerator[FeedUpdate, None]:
        """Updates about the runs ``named``, or else about the caller's newest ``limit``. Close it after use.

        Raises:
            AtCapacity, RateLimited: too many streams are open here, or for this caller.
            ShuttingDown: this process takes no new viewers.
            GatewayError: the host does not show its list to this caller, or that cannot be checked now.
        """
        async with aclosing(self._updates(caller, organization, named, limit, position)) as updates:
            async for update in updates:
                caller.confirm()
                yield update

    def created(self, caller: Caller, organization: str, run: Run, asked: float) -> None:
        """Add a run that the host, ``asked`` at that time (event loop time), has just started for the caller."""
        feed = self._feeds.get(organization, {}).get(caller.credential.digest)
        if feed is not None:
            feed.created(run, asked)

    async def aclose(self) -> None:
        await self._firsts.aclose()
        for feed in [feed for feeds in self._feeds.values() for feed in feeds.values()]:
            self._retire(feed)
        while self._closing:
            await asyncio.wait(self._closing)

    async def _updates(
        self, caller: Caller, organization: str, named: tuple[RunRef, ...] | None, limit: int, position: FeedPosition
    ) -> AsyncGenerator[FeedUpdate, None]:
        joined, patrol = loop_time(), self.viewing.patrol(caller)
        async with AsyncExitStack() as stack:
            stack.enter_context(on_behalf_of(caller, of_a_run=False))
            await stack.enter_async_context(self.viewing.limits.take(caller.principal))
            attendant = stack.enter_context(self.viewing.hub.attend())
            feed = await stack.enter_async_context(self._joined(caller.credential, organization, attendant))
            choice, line = self._choice(caller, organization, named, limit), self.turns.line(caller.credential)
            viewer = FeedViewer(feed, choice, position, patrol, attendant, joined, line)
            feed.wanted.add(viewer.wanted)
            stack.callback(feed.wanted.discard, viewer.wanted)
            feed.wake()
            updates = await stack.enter_async_context(aclosing(viewer.updates()))
            async for update in updates:
                yield update

    def _choice(self, caller: Caller, organization: str, named: tuple[RunRef, ...] | None, limit: int) -> Choice:
        if not caller.shared:
            return Choice(named, limit, lambda _: True, None)
        sees_all = READ + ALL in caller.scopes
        marks = self.viewing.ownership.marks_of(caller)

        def visible(run: Run) -> bool:
            # the mark alone is no proof, but rules out most runs of others at no cost
            mark = self.viewing.ownership.owner_of(run)
            return (sees_all or mark in marks) and self.viewing.ownership.may_list(caller, run)

        async def search(front: Listing[Run]) -> tuple[Sequence[Run], bool, float]:
            found = await self.lists.list(caller, organization, 0, limit, ANYTHING, None, front)
            return found.listing.items, found.next_skip is not None, found.asked

        return Choice(named, limit, visible, None if sees_all else search)

    @asynccontextmanager
    async def _joined(self, credential: Credential, organization: str, attendant: Attendant) -> AsyncIterator[Feed]:
        """The feed, kept reading while the context lasts, and a little longer."""
        feed = self._of(credential, organization)
        if feed is None:
            # a caller waits for the list, or for the refusal: it is read at once if there is room, or else queued
            key = (credential.digest, organization)
            with self.turns.room(credential) as room:
                if room or key in self._firsts:
                    await self._firsts.share(key, lambda: self._begin(credential, organization))
            feed = self._of(credential, organization) or self._start(credential, organization, None)
        feed.readers.join(credential, feed.asked, attendant.poked.set)
        try:
            yield feed
        finally:
            feed.readers.leave(credential, attendant.poked.set)
            feed.readers.retire_after(self.linger, lambda: self._retire(feed))

    def _of(self, credential: Credential, organization: str) -> Feed | None:
        feed = self._feeds.get(organization, {}).get(credential.digest)
        if feed is not None and feed.fault is not None:
            self._retire(feed)
            return None
        return feed

    def _start(self, credential: Credential, organization: str, first: tuple[float, Listing[Run]] | None) -> Feed:
        def read(credential: Credential) -> Awaitable[Listing[Run]]:
            return self._read(credential, organization)

        async def glance(credential: Credential) -> None:
            await self.upstream.list_runs(credential, organization, 0, 1, ANYTHING)

        ref, get, hub = RunRef(organization, credential.digest), self.upstream.get_run, self.viewing.hub
        readers = Readers(ref, self.rights, self.turns, self._troubles, glance)
        feed = Feed(organization, credential, readers, self._held, read, get, hub.may_predate_resume, self.every, first)
        self._feeds.setdefault(organization, {})[credential.digest] = feed
        return feed

    async def _begin(self, credential: Credential, organization: str) -> None:
        """Read the list, and start its feed in the same step: a caller who comes before those who waited for the list
        run again must find the feed, or would read the list once more.
        """
        asked = loop_time()
        feed = self._start(credential, organization, (asked, await self._read(credential, organization)))
        feed.readers.retire_after(max(self.linger, JOINING), lambda: self._retire(feed))

    async def _read(self, credential: Credential, organization: str) -> Listing[Run]:
        return await self.reads.runs(credential, organization, 0, FRONT, ANYTHING)

    def _retire(self, feed: Feed) -> None:
        feeds = self._feeds[feed.organization]
        del feeds[feed.credential.digest]
        if not feeds:
            del self._feeds[feed.organization]
        feed.readers.close()
        feed.following.cancel()
        self._closing.add(feed.following)
        feed.following.add_done_callback(self._closing.discard)

    def _on_description(self, run: Run, asked: float, *, whole: bool) -> None:
        for feed in self._feeds.get(run.ref.organization, {}).values():
            feed.on_description(run, asked, whole=whole)
