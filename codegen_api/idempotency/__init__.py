"""Creates and resumes that are done once, however often they are asked for.

The first request under a key does it, and its result is kept for whoever asks again. A refusal, which surely did
nothing, frees the key. When it broke off and the host may have acted, a repeat first looks for what the host did. What
seems to be the first request here may be a repeat all the same, of one that another process had.

``keys`` say which requests are repeats, ``records`` are what is known of them, and ``lookup`` looks at the host: also
for the turns of conversations, of which the store has records of its own.
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
from typing import Any

from cachetools import TTLCache

from codegen_api.aside import encoded
from codegen_api.errors import IdempotencyKeyReused, InProgress, OutcomeUnknown
from codegen_api.following import loop_time
from codegen_api.gateway import Gateway
from codegen_api.idempotency.keys import REPEATED_WITHIN, Key, Series, checked_key, series_of
from codegen_api.idempotency.lookup import (
    CLOCKS,
    SECOND_LOOK,
    SILENT_GRACE,
    find_marked,
    find_said,
    grace,
    in_doubt,
    looking,
    name_of,
)
from codegen_api.idempotency.records import Records, RequestRecord, RequestState
from codegen_api.identity import Caller
from codegen_api.run_search import SEARCHED_PAGES
from codegen_api.runs import Json, Run, RunRef, RunStatus, from_json, to_json
from codegen_api.upstreams import NewRun

REQUEST = "request"
"""The mark by which a run is found again whose create broke off, or was asked for elsewhere."""

BODY = "request_body"
"""The mark that tells what was asked for; where clients only count, also when and by whom."""

MOMENT = 60
"""Seconds in which equal requests of such a client leave the same of these."""

MOST_EQUAL = 100
"""So many of them are remembered, the newest."""

LOOK_EVERY = 0.25
"""Seconds between two looks whether an attempt that is under way is over."""

ELSEWHERE = 3600.0
"""Seconds for which a run is found again that another process was asked for, or this one before it was started anew.
Whoever repeats a request does so within minutes.
"""

ELSEWHERE_PAGES = 3
"""How many of the host's pages are read for that at most."""

PURPOSE = b"codegen_api idempotency key, form 1"
"""What the key for marks is derived for; keys for other purposes come from the same secret with another label."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request, now or before."""

    run: Run
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class _Order:
    """One create or resume, of which there is a record under this ``name``. It is done with ``act``.

    ``before`` that: what the host did about it when another process was asked, or this one before it was started anew;
    if nothing is to be seen, a note for ``look``, which says what the host did about it since then (epoch seconds).
    """

    name: str
    asked_for: str
    series: Series
    before: Callable[[], Awaitable[Run | str]]
    act: Callable[[], Awaitable[Run]]
    look: Callable[[str, float], Awaitable[Run | None]]


class Idempotency:
    """The gateway's creates and resumes, each done once for its principal, route and key; without a key they are done
    as they come.

    A create leaves the mark of its key on the run, so that a repeat finds it whichever process it reaches. Nobody at
    the host can make such a mark for somebody else: that takes the caller's token, or where callers share one, one of
    the deployment's ``keys``, of which the first makes marks and all are known.
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
            InvalidIdempotencyKey: the key cannot be one.
            IdempotencyKeyReused: it was used for something else.
            InProgress: it is being done.
            OutcomeUnknown: it was tried, and the host may still be about to do it.
            GatewayError: what went wrong with it.
        """
        if key is None:
            return Outcome(await self._gateway.create(caller, organization, new))
        body = {each.name: getattr(new, each.name) for each in fields(new) if each.name != "marks"}
        asked_for, route = await _digest(body), f"create {organization}"
        name, series = await self._series(caller, route, key, asked_for)
        request, equal = self._marks(caller, organization, series, asked_for)
        mark, values = (BODY, equal) if series.counted and series.elsewhere else (REQUEST, request)

        async def find(since: float, pages: int) -> Run | None:
            suits = series.may_have_made
            return await find_marked(self._gateway, caller, organization, mark, values, since, pages=pages, suits=suits)

        async def before() -> Run | str:
            since = self._clock() - ELSEWHERE
            try:
                run = await find(since, ELSEWHERE_PAGES) if series.elsewhere else None
            except OutcomeUnknown:  # it is not among the newest, so it is not from a moment ago
                return ""
            if run is None or run.created is None or run.created < since - CLOCKS:  # keys are not good for ever
                return ""
            if (run.marks or {}).get(BODY) not in equal:
                raise IdempotencyKeyReused
            return run

        marked = replace(new, marks={REQUEST: request[0], BODY: equal[0]})
        order = _Order(
            name,
            asked_for,
            series,
            before,
            lambda: self._gateway.create(caller, organization, marked),
            lambda _, since: find(since, SEARCHED_PAGES),
        )
        return await self._do(caller, order)

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
        asked_for, route = await _digest({"prompt": prompt, "images": images}), f"resume {organization} {run_id}"
        name, series = await self._series(caller, route, key, asked_for)
        reader = looking(caller)

        async def newest() -> str:  # what comes behind it is looked through
            page = await self._gateway.read_log(reader, organization, run_id, 0, 1, newest_first=True)
            return name_of(page.entries[0]) if page.entries else ""

        async def look(note: str, _: float) -> Run | None:
            if not await find_said(self._gateway, caller, RunRef(organization, run_id), prompt, behind=note):
                return None
            return await self._gateway.get(reader, organization, run_id)

        order = _Order(
            name,
            asked_for,
            series,
            newest,  # nothing of other processes: the same words may be said twice, and bear no mark
            lambda: self._gateway.resume(caller, organization, run_id, prompt, images),
            look,
        )
        return await self._do(caller, order)

    async def aclose(self) -> None:
        await self._records.aclose()

    async def _series(self, caller: Caller, route: str, key: Key, asked_for: str) -> tuple[str, Series]:
        """That to which a request belongs, and before it the name of its record, which tells nothing."""
        of = [caller.principal.authority, caller.principal.user, route]
        if isinstance(key, str):
            series = Series(checked_key(key))
        else:
            name = await _digest([*of, asked_for])
            self._equal[name] = equal = self._equal.get(name) or deque(maxlen=MOST_EQUAL)
            series = series_of(key, equal, self._clock())
        return await _digest([*of, series.key]), series

    def _marks(
        self, caller: Caller, organization: str, series: Series, asked_for: str
    ) -> tuple[Sequence[str], Sequence[str]]:
        """What a run may bear as ``REQUEST`` and as ``BODY``; the first of each is put on it."""
        who = [caller.principal.authority, caller.principal.user, organization]
        made_with = [
            hmac.digest(secret.encode(), PURPOSE, hashlib.sha256)
            for secret in (self._keys if caller.shared else [caller.credential.token])
        ]

        def marks(said: str) -> list[str]:
            text = json.dumps([*who, said]).encode()
            return [hmac.digest(key, text, hashlib.sha256).hex() for key in made_with]

        if not series.counted:
            return marks(series.key), [asked_for]
        now = int(self._clock()) // MOMENT
        moments = range(now, now - int(REPEATED_WITHIN) // MOMENT - 1, -1)
        return marks(series.key), [mark for moment in moments for mark in marks(f"{asked_for} {moment}")]

    async def _do(self, caller: Caller, order: _Order) -> Outcome:
        """What came of it before, if anything was begun; else now."""
        now = self._clock()
        ours = RequestRecord(order.asked_for, RequestState.UNDER_WAY, now, now)
        wait = SILENT_GRACE if order.series.counted else 0.0  # who only counts tries a few times, and knows of no key
        while there := await self._records.begin(order.name, ours):
            if there.state is not RequestState.UNDER_WAY or wait <= 0:
                break
            await asyncio.sleep(LOOK_EVERY)
            wait -= LOOK_EVERY
        if there is None:
            return await self._find_or_act(None, ours, order)
        if there.fingerprint != order.asked_for:
            raise IdempotencyKeyReused
        if (ref := there.run) is not None:
            order.series.state = there.state
            read = self._gateway.get
            run = _decoded(there.result) if there.result else await read(looking(caller), ref.organization, ref.id)
            return Outcome(run, replayed=True)
        ours = replace(there, state=RequestState.UNDER_WAY, at=now)
        if there.state is RequestState.UNDER_WAY or not await self._put(order, there, ours):
            raise InProgress(retry_after=1)
        return await self._find_or_act(there, ours, order)

    async def _find_or_act(self, there: RequestRecord | None, ours: RequestRecord, order: _Order) -> Outcome:
        try:
            found = await (order.before() if there is None else self._look(there, order))
            if isinstance(found, Run):
                return await self._done(ours, order, found, replayed=True)
            noted = replace(ours, note=found)
            await self._put(order, ours, noted)
        except BaseException:  # whatever it was, we know no more than before, and have asked the host for nothing
            await self._put(order, ours, there)
            raise
        try:
            run = await order.act()
        except BaseException as error:  # whatever it was, the caller included who had to go: what came of it is kept
            unknown = replace(noted, state=RequestState.UNKNOWN, at=self._clock(), grace=grace(error))
            await self._put(order, noted, unknown if in_doubt(error) else None)
            raise
        return await self._done(noted, order, run)

    async def _look(self, there: RequestRecord, order: _Order) -> Run | str:
        """What the host did about it; if nothing, the note for the next look."""
        run = await order.look(there.note, there.since)
        if run is None and not there.grace:
            await asyncio.sleep(SECOND_LOOK)
            run = await order.look(there.note, there.since)
        if run is None and self._clock() < there.at + there.grace:
            raise OutcomeUnknown(retry_after=2)
        return there.note if run is None else run

    async def _put(self, order: _Order, then: RequestRecord, now: RequestRecord | None) -> bool:
        order.series.state = None if now is None else now.state
        if now is not None:
            return await self._records.change(order.name, then, now)
        await self._records.forget(order.name, then)
        return True

    async def _done(self, ours: RequestRecord, order: _Order, run: Run, *, replayed: bool = False) -> Outcome:
        order.series.run = run.ref  # before anybody else looks
        done = replace(ours, state=RequestState.DONE, at=self._clock(), run=run.ref, result=_encoded(run))
        await self._put(order, ours, done)
        return Outcome(run, replayed)


async def _digest(value: Json) -> str:
    return hashlib.sha256(await encoded(value)).hexdigest()


def _encoded(run: Run) -> bytes:
    """A run as it is kept; nothing of one that cannot be written."""
    marks = None if run.marks is None else dict(run.marks)
    try:
        return to_json([run.ref.organization, run.ref.id, run.status.value, run.raw_status, dict(run.fields), marks])
    except ValueError:  # nested too deeply
        return b""


def _decoded(result: bytes) -> Run:
    kept: Any = from_json(result)
    organization, run_id, status, raw_status, fields_, marks = kept
    return Run(RunRef(organization, run_id), RunStatus(status), raw_status, fields_, marks)
