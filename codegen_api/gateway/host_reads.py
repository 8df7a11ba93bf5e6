"""Reads from the host for a waiting caller: in smaller pieces where it returns less, and with a few retries."""

from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

from codegen_api.errors import AnswerCut, AnswerTooLong, UpstreamError, UpstreamFailure, UpstreamUnreachable
from codegen_api.following import loop_time
from codegen_api.following.portions import Portions, listing_of, may_be_too_much, page_of, proven
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, LogPage, Run, RunRef
from codegen_api.singleflight import Singleflight
from codegen_api.upstreams import Listing, RunFilter, Upstream

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Reads:
    """Reads from one host. ``portions`` knows how much it returns at once; ``take`` waits for its rate limit."""

    upstream: Upstream
    portions: Portions
    take: Callable[[Credential], Awaitable[None]]
    on_description: Callable[[Run, float], None] = lambda *_: None
    """Called with each run that was read, and when (event loop time) the host was asked for it."""
    _writes: int = 0
    _flights: Singleflight[tuple[int, Hashable], object] = field(default_factory=Singleflight)

    async def run(self, credential: Credential, ref: RunRef) -> Run:
        asked = loop_time()
        run = await self.one(credential, lambda: self.upstream.get_run(credential, ref))
        self.on_description(run, asked)
        return run

    async def runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        def read(start: int, amount: int) -> Awaitable[Listing[Run]]:
            return self.upstream.list_runs(credential, organization, start, amount, only)

        return await self.listing(credential, ("runs", organization), read, skip, limit)

    async def log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool
    ) -> LogPage:
        def read(start: int, amount: int, tries: int) -> Awaitable[LogPage]:
            return self.one(
                credential,
                lambda: self.upstream.read_log(credential, ref, start, amount, newest_first=newest_first),
                in_pieces=tries,
            )

        # counted from the end, an offset means another entry as soon as the log grows
        portion = self.portions.of((ref, newest_first), fixed=not newest_first)
        portion.size = min(portion.size, self.portions.of((ref, not newest_first), fixed=newest_first).size)
        return await page_of(proven(read), after, limit, portion, lambda: self.upstream.placeholder(ref))

    async def listing(
        self,
        credential: Credential,
        key: tuple[str, str],
        read: Callable[[int, int], Awaitable[Listing[T]]],
        skip: int,
        limit: int,
    ) -> Listing[T]:
        """A stretch of a list. ``key`` names the list, ``read`` reads an amount of its items from a place on."""

        def reading(start: int, amount: int, tries: int) -> Awaitable[Listing[T]]:
            return self.one(credential, lambda: read(start, amount), in_pieces=tries)

        return await listing_of(proven(reading), skip, limit, self.portions.of(key))

    async def share(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """The answer to ``read``, shared by all who ask with the same ``key`` at the same time."""
        return cast("T", await self._flights.share((self._writes, key), read))

    def written(self) -> None:
        """Note a write: reads that began before it must not be shared with callers who ask after it."""
        self._writes += 1

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def one(self, credential: Credential, read: Callable[[], Awaitable[T]], *, in_pieces: int = 0) -> T:
        """The answer to ``read``, with retries as in ``with_retries``, within the host's rate limit."""

        async def when_permitted() -> T:
            await self.take(credential)
            return await read()

        return await with_retries(when_permitted, in_pieces=in_pieces)


async def with_retries(read: Callable[[], Awaitable[T]], *, in_pieces: int = 0) -> T:
    """Call ``read`` up to three times while it fails in ways that may pass.

    Only for reads. A write may have been carried out although its answer was lost, and the host has no idempotency key
    by which it would recognize a repeat: a retry could start a second run, which costs money.

    ``in_pieces``: the number of failures that suggest too large an answer after which the caller should ask for less.
    """
    try:
        return await read()
    except Exception as error:  # may_pass decides which are retried
        failure: Exception | None = error
    # only now, because what follows costs more than a whole read, and nearly every read succeeds at once
    tries = 0

    def may_pass(error: Exception) -> bool:
        nonlocal tries
        tries += 1
        if not isinstance(error, UpstreamError | UpstreamUnreachable) or error.retry_after is not None:
            return False
        if in_pieces and may_be_too_much(error):
            return tries < in_pieces and not isinstance(error, AnswerCut)
        return not isinstance(error, AnswerTooLong)

    async def repeat() -> T:
        nonlocal failure
        if failure is not None:
            first, failure = failure, None
            raise first
        return await read()

    import stamina  # noqa: PLC0415 - on demand, for the same reason

    caller = stamina.AsyncRetryingCaller(attempts=3, timeout=10.0, wait_initial=0.1, wait_max=1.0)
    return await caller(may_pass, repeat)


@contextmanager
def preceding_write() -> Iterator[None]:
    """Mark failures of reads that precede a write: the write was surely not attempted."""
    try:
        yield
    except UpstreamFailure as error:
        error.may_have_acted = False
        raise
