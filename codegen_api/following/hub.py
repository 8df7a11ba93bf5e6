"""The hub: one follower per run, shared by all its viewers, kept a little longer than the last of them."""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cachetools import TTLCache

from codegen_api.brokers import Broker, News, RunCancelled, RunResumed, RunTouched
from codegen_api.errors import AnswerCut, GatewayError, ShuttingDown, UpstreamRateLimited
from codegen_api.following.follower import BELIEVED, Follower
from codegen_api.following.host_log import opens_at
from codegen_api.following.mirror import RESUME_DOUBT
from codegen_api.following.opening import Attendant, Opening, Waiting
from codegen_api.following.portions import BEYOND, Portions, may_be_too_much
from codegen_api.following.read_queue import ReadQueue
from codegen_api.following.readers import Readers
from codegen_api.following.rights import Right, Rights, loop_time, set_within
from codegen_api.following.subscriber import Patrol, Subscriber
from codegen_api.following.troubles import Troubles
from codegen_api.identity import Credential
from codegen_api.pace import Cadence
from codegen_api.positions import Position
from codegen_api.runs import Changed, Cursor, Run, RunRef, RunStatus
from codegen_api.telemetry import Observer
from codegen_api.upstreams import Upstream

MAX_QUEUED = 20.0
"""Seconds for which ``Hub.require_right`` waits in the queue."""


@dataclass(eq=False, slots=True)
class Hub:
    """Shares followers among viewers, and keeps them for ``linger`` seconds: long enough for a browser to come back."""

    upstream: Upstream
    broker: Broker
    rights: Rights
    turns: ReadQueue
    cadence: Callable[[], Cadence]
    linger: float
    portions: Portions
    observer: Observer
    on_description: Callable[[Run, float], None] = lambda *_: None
    """Called with each description of a followed run, and when (event loop time) the host was asked for it."""
    _troubles: Troubles = field(default_factory=Troubles)
    _openings: dict[tuple[str, RunRef, bool], Opening] = field(default_factory=dict)
    _resumes: TTLCache[RunRef, RunResumed] = field(init=False)
    _cancels: TTLCache[RunRef, RunCancelled] = field(init=False)
    _followers: dict[RunRef, Follower] = field(default_factory=dict)
    _closing: set[asyncio.Task[Any]] = field(default_factory=set)
    _viewers: set[Subscriber | Attendant] = field(default_factory=set)
    _empty: asyncio.Event = field(default_factory=asyncio.Event)  # set while there is no viewer
    _draining: bool = False

    def __post_init__(self) -> None:
        self._resumes = TTLCache(10_000, RESUME_DOUBT, timer=loop_time)
        self._cancels = TTLCache(10_000, RESUME_DOUBT, timer=loop_time)
        self._empty.set()
        self.rights.doubted = self._doubt_right
        self.broker.listen(self._on_news)

    @property
    def runs_followed(self) -> int:
        return len(self._followers)

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def subscribe(self, credential: Credential, right: Right, position: Position, patrol: Patrol) -> Subscriber:
        """Add a viewer of the run; closing the subscriber removes it.

        Raises:
            ShuttingDown: this process takes no new viewers.
        """
        if self._draining:
            raise ShuttingDown(retry_after=1)
        joined = loop_time()
        follower = self._follower(right, position.cursor)
        subscriber = Subscriber(follower, self.broker, credential, position, joined, patrol, self._unsubscribe)
        follower.readers.join(credential, right.confirmed, subscriber.poke)
        follower.look(joined - BELIEVED)
        self._add_viewer(subscriber)
        return subscriber

    def _unsubscribe(self, subscriber: Subscriber) -> None:
        follower = subscriber.follower
        self._remove_viewer(subscriber)
        follower.readers.leave(subscriber.credential, subscriber.poke)
        follower.readers.retire_after(self.linger, lambda: self._retire(follower))

    @contextmanager
    def room(self, credential: Credential, ref: RunRef) -> Iterator[bool]:
        """Whether the host may be asked for a right at once, in this context, without queueing."""
        if self.rights.asked_for(credential, ref):
            yield True  # by joining a request that is under way
            return
        with self.turns.room(credential) as room:
            yield room

    async def require_right(self, credential: Credential, ref: RunRef) -> Right:
        """The right to view the run, with the whole run: as ``Rights.require``, but queued when there is no room to
        ask at once.

        Raises:
            UpstreamRateLimited: the queue is too long.
        """
        held = self.rights.held(credential, ref)
        if held is not None and held.whole:
            return held
        with self.room(credential, ref) as room:
            if room:
                return await self.rights.require(credential, ref)
        delay = 0.0
        waiting = self.wait_for_right(credential, ref, Position(0), Patrol(max_age=MAX_QUEUED), whole=True)
        async with aclosing(waiting) as updates:
            async for update in updates:
                if isinstance(update, Right):
                    return update
                delay = self.turns.line(credential)
        raise UpstreamRateLimited(retry_after=max(delay, 5) * random.uniform(1, 1.5))  # noqa: S311 - spreads load only

    async def wait_for_right(
        self, credential: Credential, ref: RunRef, position: Position, patrol: Patrol, *, whole: bool
    ) -> AsyncGenerator[Waiting | Right, None]:
        """Queue for the right to view the run: yields updates for the waiting viewer, and at last the right. ``whole``:
        with the whole run, not only a page of its log.

        Raises:
            ShuttingDown: this process takes no new viewers.
            GatewayError: the host refuses to show them the run.
        """
        key = (credential.digest, ref, whole)
        with self.attend() as attendant:
            opening = self._openings.get(key)
            if opening is None:
                opening = self._openings[key] = Opening(
                    self._readers(ref), credential, lambda each: self._prove(each, ref, position.cursor, whole=whole)
                )
            opening.readers.join(credential, -math.inf, attendant.poked.set)
            try:
                async for update in opening.updates(position, patrol, attendant, self.turns.line(credential)):
                    yield update
            finally:
                opening.readers.leave(credential, attendant.poked.set)
                if not opening.readers.viewers:
                    del self._openings[key]
                    opening.readers.close()
                    opening.proving.cancel()
                    self._finish_before_close(opening.proving)

    @contextmanager
    def attend(self) -> Iterator[Attendant]:
        """Count somebody as a viewer without a run, to be told when to leave.

        Raises:
            ShuttingDown: this process takes no new viewers.
        """
        if self._draining:
            raise ShuttingDown(retry_after=1)
        attendant = Attendant()
        self._add_viewer(attendant)
        try:
            yield attendant
        finally:
            self._remove_viewer(attendant)

    async def report(self, ref: RunRef, news: RunResumed | RunCancelled) -> None:
        """Tell all instances that the host has just carried out an order for this run."""
        self._on_news(ref, news)
        await self.broker.tell(ref, news)

    def resumed_lately(self, ref: RunRef) -> bool:
        """Whether the host may still speak of the time before a resume through this gateway."""
        return ref in self._resumes

    def may_predate_resume(self, run: Run, asked: float) -> bool:
        """Whether this answer of the host may describe the time before a resume."""
        resumed = self._resumes.get(run.ref)
        if resumed is None or not self.upstream.lags or not run.status.ended:
            return False
        cancelled = self._cancels.get(run.ref, RunCancelled(-math.inf)).at
        return not (run.status is RunStatus.CANCELLED and asked >= cancelled > resumed.at)

    def touched(self, ref: RunRef) -> None:
        """Note that this run was altered through the gateway."""
        if ref in self._followers:
            self._followers[ref].touched()
        elif self.broker.shared:
            self._finish_before_close(asyncio.create_task(self.broker.tell(ref, RunTouched())))

    def _on_news(self, ref: RunRef, news: News) -> None:
        """Take in what happened to the run, here or at another instance."""
        follower = self._followers.get(ref)
        if isinstance(news, RunResumed):
            self._resumes[ref] = news
            if news.run is not None:
                self.on_description(news.run, news.at)
        elif isinstance(news, RunCancelled):
            self._cancels[ref] = news
        if follower is not None:
            follower.on_news(news)
            if isinstance(news, Changed):
                self.on_description(news.run, news.seen)

    async def drain(self, seconds: float) -> None:
        """Ask every viewer to reconnect elsewhere, spread over ``seconds``, and wait no longer for them to leave."""
        self._draining = True
        loop = asyncio.get_running_loop()
        viewers = list(self._viewers)
        for index, viewer in enumerate(viewers):
            loop.call_later(0.8 * seconds * index / len(viewers), viewer.leave)
        await set_within(seconds, self._empty)

    async def aclose(self) -> None:
        self._draining = True
        for opening in self._openings.values():
            opening.proving.cancel()
        for follower in list(self._followers.values()):
            self._retire(follower)
        while self._closing:
            await asyncio.wait(self._closing)

    async def _prove(self, credential: Credential, ref: RunRef, cursor: Cursor, *, whole: bool) -> Right:
        """Ask the host for the run, or for the page of its log where a viewer behind ``cursor`` begins."""
        asked, portion = loop_time(), self.portions.of((ref, False), fixed=True)
        start = opens_at(cursor, self.upstream.page_size)
        amount = portion.of(start, self.upstream.page_size)
        if whole or portion.doubted or amount <= 1:
            return self.rights.grant(credential, await self.upstream.get_run(credential, ref), asked)
        try:
            page = await self.upstream.read_log(credential, ref, start, amount)
        except AnswerCut:
            portion.failed(amount)
            raise
        except GatewayError as error:
            portion.doubted = may_be_too_much(error)
            raise
        portion.came(start, amount)
        return self.rights.grant_by(credential, ref, page, asked)

    def _doubt_right(self, digest: str, ref: RunRef) -> None:
        """Ask the host again about a credential with which another instance was refused."""
        follower = self._followers.get(ref)
        if follower is not None:
            follower.readers.doubt(digest)

    def _readers(self, ref: RunRef) -> Readers:
        async def glance(credential: Credential) -> None:
            await self.upstream.read_log(credential, ref, BEYOND, 1)

        return Readers(ref, self.rights, self.turns, self._troubles, glance, self.observer)

    def _add_viewer(self, viewer: Subscriber | Attendant) -> None:
        self._viewers.add(viewer)
        self._empty.clear()
        self.observer.serving(self.viewers, self.runs_followed)

    def _remove_viewer(self, viewer: Subscriber | Attendant) -> None:
        self._viewers.discard(viewer)
        if not self._viewers:
            self._empty.set()
        self.observer.serving(self.viewers, self.runs_followed)

    def _follower(self, right: Right, cursor: Cursor) -> Follower:
        follower = self._followers.get(right.run.ref)
        if follower is not None and follower.fault is not None:
            self._retire(follower)
            follower = None
        if follower is None:
            follower = Follower(
                right,
                self._readers(right.run.ref),
                upstream=self.upstream,
                broker=self.broker,
                cadence=self.cadence(),
                near=cursor,
                portion=self.portions.of((right.run.ref, False), fixed=True),
                on_announced=lambda changed: self.on_description(changed.run, changed.seen),
                runs=lambda: self.runs_followed,
            )
            for news in (self._resumes.get(follower.ref), self._cancels.get(follower.ref)):
                if news is not None:
                    follower.on_news(news)
            self._followers[follower.ref] = follower
        return follower

    def _retire(self, follower: Follower) -> None:
        del self._followers[follower.ref]
        self.observer.serving(self.viewers, self.runs_followed)
        follower.readers.close()
        follower.following.cancel()
        self._finish_before_close(follower.following)

    def _finish_before_close(self, task: asyncio.Task[Any]) -> None:
        """Have ``aclose`` wait for this task."""
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
