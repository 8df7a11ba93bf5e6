"""Creates and resumes that take effect once, however often they are requested.

The first request with a key is carried out, and its result is kept for repeats. A refusal, which certainly had no
effect, frees the key. If a request broke off and the host may have acted, a repeat first looks at the host for the
effect. A request that looks like the first may be a repeat of one that another process received.

``keys`` decides which requests are repeats, ``records`` keeps what is known of them, and ``lookup`` searches the host,
also for turns of conversations, whose records are in the store.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace

from cachetools import TTLCache

from codegen_api.errors import IdempotencyKeyReused, InProgress, OutcomeUnknown
from codegen_api.following import loop_time
from codegen_api.gateway import Gateway
from codegen_api.gateway.run_lists import SEARCHED_PAGES
from codegen_api.idempotency.keys import REPEATED_WITHIN, Key, Series, checked_key, series_of
from codegen_api.idempotency.lookup import (
    CLOCK_SKEW,
    SECOND_LOOK,
    SILENT_GRACE,
    as_reader,
    entry_name,
    find_marked,
    find_said,
    grace,
    in_doubt,
)
from codegen_api.idempotency.records import Records, RequestRecord, RequestState, decoded_run, encoded_run
from codegen_api.identity import Caller
from codegen_api.runs import Json, Run, RunRef
from codegen_api.upstreams import NewRun
from codegen_api.worker_thread import encoded

REQUEST_MARK = "request"
"""The mark by which a run is found if its create broke off, or was requested at another process."""

BODY_MARK = "request_body"
"""The mark with a digest of the request. For clients that only count attempts, time and user are part of the digest."""

SLOT_SECONDS = 60
"""Length in seconds of the time slot in such a mark."""

MAX_EQUAL = 100
"""Maximum number of equal requests remembered; the newest are kept."""

POLL_SECONDS = 0.25
"""Seconds between two checks whether an attempt in progress is over."""

ELSEWHERE = 3600.0
"""Seconds for which runs requested at other processes or before a restart are found. Clients repeat within minutes."""

ELSEWHERE_PAGES = 3
"""Maximum pages of the host's list searched for them."""

PURPOSE = b"codegen_api idempotency key, form 1"
"""Label for deriving the key of marks; other purposes derive theirs from the same secret under other labels."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a request, now or of an earlier attempt (``replayed``)."""

    run: Run
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Operation:
    """One create or resume, recorded under ``name``. ``act`` carries it out.

    ``before`` looks for the effect of attempts at other processes, or before a restart; if there is none, it returns a
    note for ``look``, which looks for the effect since a time (epoch seconds). ``keyed``: the host itself acts once.
    """

    name: str
    fingerprint: str
    series: Series
    before: Callable[[], Awaitable[Run | str]]
    act: Callable[[], Awaitable[Run]]
    look: Callable[[str, float], Awaitable[Run | None]]
    keyed: bool


class Idempotency:
    """Creates and resumes, carried out once per principal, route and key. Without a key they are passed straight on.

    A create leaves a mark derived from its key on the run, by which a repeat at any process finds it. Users of the host
    cannot forge each other's marks: these are keyed with the caller's token, or, where callers share one, with the
    first of the deployment's ``keys`` (all of which are recognized).
    """

    def __init__(
        self, gateway: Gateway, records: Records, keys: Sequence[str] = (), *, clock: Callable[[], float] = time.time
    ) -> None:
        self._gateway = gateway
        self._records = records
        self._keys = keys or [secrets.token_hex()]
        self._clock = clock
        self._equal: TTLCache[str, deque[Series]] = TTLCache(10_000, 3 * REPEATED_WITHIN, timer=loop_time)

    async def create(self, caller: Caller, organization: str, new: NewRun, key: Key | None) -> Outcome:
        """As ``Gateway.create``.

        Raises:
            InvalidIdempotencyKey: the key is malformed.
            IdempotencyKeyReused: it was used for a different request.
            InProgress: the request is being carried out.
            OutcomeUnknown: it was attempted, and the host may still act on it.
            GatewayError: the request failed.
        """
        if key is None:
            return Outcome(await self._gateway.create(caller, organization, new))
        body = {each.name: getattr(new, each.name) for each in fields(new) if each.name not in ("marks", "key")}
        fingerprint, route = await _digest(body), f"create {organization}"
        name, series = await self._series(caller, route, key, fingerprint)
        request, equal = self._marks(caller, organization, series, fingerprint)
        mark, values = (BODY_MARK, equal) if series.counted and series.elsewhere else (REQUEST_MARK, request)

        async def find(since: float, pages: int) -> Run | None:
            suits = series.may_have_made
            return await find_marked(self._gateway, caller, organization, mark, values, since, pages=pages, suits=suits)

        async def before() -> Run | str:
            since = self._clock() - ELSEWHERE
            try:
                run = await find(since, ELSEWHERE_PAGES) if series.elsewhere else None
            except OutcomeUnknown:  # it is not among the newest runs, so no recent attempt has made it
                return ""
            if run is None or run.created is None or run.created < since - CLOCK_SKEW:  # too old: keys expire
                return ""
            if (run.marks or {}).get(BODY_MARK) not in equal:
                raise IdempotencyKeyReused
            return run

        marks = {REQUEST_MARK: request[0], BODY_MARK: equal[0]}
        marked = replace(new, marks=marks, key=await _digest([route, request[0]]))
        operation = _Operation(
            name,
            fingerprint,
            series,
            before,
            lambda: self._gateway.create(caller, organization, marked),
            lambda _, since: find(since, SEARCHED_PAGES),
            "create" in self._gateway.keyed,
        )
        return await self._do(caller, operation)

    async def resume(
        self,
        caller: Caller,
        organization: str,
        run_id: str,
        prompt: str,
        images: tuple[str, ...] | None,
        key: Key | None,
    ) -> Outcome:
        """As ``Gateway.resume``; raises as ``create``."""
        if key is None:
            return Outcome(await self._gateway.resume(caller, organization, run_id, prompt, images))
        fingerprint, route = await _digest({"prompt": prompt, "images": images}), f"resume {organization} {run_id}"
        name, series = await self._series(caller, route, key, fingerprint)
        reader = as_reader(caller)
        request, _ = self._marks(caller, organization, series, fingerprint)
        order_key = await _digest([route, request[0]])

        async def newest() -> str:  # later, the log is searched behind this entry
            page = await self._gateway.read_log(reader, organization, run_id, 0, 1, newest_first=True)
            return entry_name(page.entries[0]) if page.entries else ""

        async def look(note: str, _: float) -> Run | None:
            if not await find_said(self._gateway, caller, RunRef(organization, run_id), prompt, behind=note):
                return None
            return await self._gateway.get(reader, organization, run_id)

        operation = _Operation(
            name,
            fingerprint,
            series,
            # attempts at other processes cannot be found: resumes have no mark, and users may repeat the same words
            newest,
            lambda: self._gateway.resume(caller, organization, run_id, prompt, images, key=order_key),
            look,
            "resume" in self._gateway.keyed,
        )
        return await self._do(caller, operation)

    async def series(self, caller: Caller, route: str, key: Key, body: Json) -> tuple[Series, str]:
        """The series that a request belongs to, and the digest of its ``body``, for requests that are not recorded
        here. The caller writes the outcome into the series.

        Raises:
            InvalidIdempotencyKey: the key is malformed.
        """
        fingerprint = await _digest(body)
        _, series = await self._series(caller, route, key, fingerprint)
        return series, fingerprint

    async def aclose(self) -> None:
        await self._records.aclose()

    async def _series(self, caller: Caller, route: str, key: Key, fingerprint: str) -> tuple[str, Series]:
        """The name of a request's record, which reveals nothing, and its series."""
        of = [caller.principal.authority, caller.principal.user, route]
        if isinstance(key, str):
            series = Series(checked_key(key))
        else:
            name = await _digest([*of, fingerprint])
            self._equal[name] = equal = self._equal.get(name) or deque(maxlen=MAX_EQUAL)
            series = series_of(key, equal, self._clock())
        return await _digest([*of, series.key]), series

    def _marks(
        self, caller: Caller, organization: str, series: Series, fingerprint: str
    ) -> tuple[Sequence[str], Sequence[str]]:
        """The values that ``REQUEST_MARK`` and ``BODY_MARK`` may have on a run; the first of each is written."""
        who = [caller.principal.authority, caller.principal.user, organization]
        mark_keys = [
            hmac.digest(secret.encode(), PURPOSE, hashlib.sha256)
            for secret in (self._keys if caller.shared else [caller.credential.token])
        ]

        def marks(content: str) -> list[str]:
            message = json.dumps([*who, content]).encode()
            return [hmac.digest(key, message, hashlib.sha256).hex() for key in mark_keys]

        if not series.counted:
            return marks(series.key), [fingerprint]
        now = int(self._clock()) // SLOT_SECONDS
        slots = range(now, now - int(REPEATED_WITHIN) // SLOT_SECONDS - 1, -1)
        return marks(series.key), [mark for slot in slots for mark in marks(f"{fingerprint} {slot}")]

    async def _do(self, caller: Caller, operation: _Operation) -> Outcome:
        """The result of an earlier attempt, if there was one; otherwise act now."""
        now = self._clock()
        record = RequestRecord(operation.fingerprint, RequestState.UNDER_WAY, now, now)
        # clients that only count attempts give up after a few, and have no key for a later repeat
        wait = SILENT_GRACE if operation.series.counted else 0.0
        while earlier := await self._records.begin(operation.name, record):
            if earlier.state is not RequestState.UNDER_WAY or wait <= 0:
                break
            await asyncio.sleep(POLL_SECONDS)
            wait -= POLL_SECONDS
        if earlier is None:
            return await self._find_or_act(None, record, operation)
        if earlier.fingerprint != operation.fingerprint:
            raise IdempotencyKeyReused
        if (ref := earlier.run) is not None:
            operation.series.state = earlier.state
            if earlier.result:
                return Outcome(decoded_run(earlier.result), replayed=True)
            return Outcome(await self._gateway.get(as_reader(caller), ref.organization, ref.id), replayed=True)
        record = replace(earlier, state=RequestState.UNDER_WAY, at=now)
        if earlier.state is RequestState.UNDER_WAY or not await self._replace(operation, earlier, record):
            raise InProgress(retry_after=1)
        return await self._find_or_act(earlier, record, operation)

    async def _find_or_act(
        self, earlier: RequestRecord | None, record: RequestRecord, operation: _Operation
    ) -> Outcome:
        try:
            found = await (operation.before() if earlier is None else self._look(earlier, operation))
            if isinstance(found, Run):
                return await self._done(record, operation, found, replayed=True)
            noted = replace(record, note=found)
            await self._replace(operation, record, noted)
        except BaseException:  # nothing was requested from the host, so the record goes back to what it was
            await self._replace(operation, record, earlier)
            raise
        try:
            run = await operation.act()
        # cancellation included: the client may be gone, but the record has to say what is known
        except BaseException as error:
            unknown = replace(noted, state=RequestState.UNKNOWN, at=self._clock(), grace=grace(error))
            await self._replace(operation, noted, unknown if in_doubt(error) else None)
            raise
        return await self._done(noted, operation, run)

    async def _look(self, earlier: RequestRecord, operation: _Operation) -> Run | str:
        """The effect that the host shows; if none, the note for the next look."""
        if operation.keyed:
            return earlier.note  # the host recognizes the repeat itself
        run = await operation.look(earlier.note, earlier.since)
        if run is None and not earlier.grace:
            await asyncio.sleep(SECOND_LOOK)
            run = await operation.look(earlier.note, earlier.since)
        if run is None and self._clock() < earlier.at + earlier.grace:
            raise OutcomeUnknown(retry_after=2)
        return earlier.note if run is None else run

    async def _replace(self, operation: _Operation, old: RequestRecord, new: RequestRecord | None) -> bool:
        operation.series.state = None if new is None else new.state
        if new is not None:
            return await self._records.change(operation.name, old, new)
        await self._records.forget(operation.name, old)
        return True

    async def _done(self, record: RequestRecord, operation: _Operation, run: Run, *, replayed: bool = False) -> Outcome:
        operation.series.run = run.ref  # set first, so that concurrent attempts see it
        done = replace(record, state=RequestState.DONE, at=self._clock(), run=run.ref, result=encoded_run(run))
        await self._replace(operation, record, done)
        return Outcome(run, replayed)


async def _digest(value: Json) -> str:
    return hashlib.sha256(await encoded(value)).hexdigest()
