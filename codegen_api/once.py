"""Once, however often it is asked for: what an Idempotency-Key promises.

The first request under a key does it, and its result is kept for whoever asks again. A refusal, which surely did
nothing, frees the key. When it broke off and the host may have acted, a repeat first looks for what the host did. What
seems to be the first request here may be a repeat all the same, of one that another process had.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from codegen_api.aside import encoded
from codegen_api.errors import (
    GatewayError,
    IdempotencyKeyReused,
    InProgress,
    InvalidIdempotencyKey,
    OutcomeUnknown,
    UpstreamError,
    UpstreamFailure,
    UpstreamUnreachable,
)
from codegen_api.identity import Principal
from codegen_api.outcomes import Outcome, Outcomes, State
from codegen_api.runs import Json, Run, RunRef, RunStatus, from_json, to_json

CUT_GRACE = 5.0
"""Seconds for which a host whose connection broke may still act on what it heard."""

SILENT_GRACE = 60.0
"""The same for a host that did not answer in time."""

SECOND_LOOK = 1.0
"""Seconds after which is looked once more for what a host did that answered, and said nothing of use."""

_FORM = re.compile(r"[ -~]{1,255}", re.ASCII)


class Action(Protocol):
    """Something to be done once."""

    async def done_elsewhere(self) -> Run | None:
        """What the host did about it when another process asked for it, or this one before it was started anew; None
        if nothing is to be seen.

        Raises:
            IdempotencyKeyReused: that was something else.
        """
        ...

    async def read(self, ref: RunRef) -> Run:
        """What came of it, as it is now."""
        ...

    async def prepare(self) -> str:
        """Before the host is asked for it: a note for ``look``."""
        ...

    async def act(self) -> Run:
        """Ask the host for it."""
        ...

    async def look(self, note: str, since: float) -> Run | None:
        """What the host did about it after ``since`` (seconds since the epoch); None if nothing is to be seen."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it, now or before."""

    run: Run
    replayed: bool = False


class Once:
    """Does things once for each principal, route and key."""

    def __init__(self, outcomes: Outcomes, *, clock: Callable[[], float] = time.time) -> None:
        self._outcomes = outcomes
        self._clock = clock

    async def do(self, principal: Principal, route: str, key: str, body: Mapping[str, Json], action: Action) -> Done:
        """Do it, or say what came of it. ``body`` is all that makes it another request.

        Raises:
            InvalidIdempotencyKey: the key cannot be one.
            IdempotencyKeyReused: it was used for something else.
            InProgress: it is being done.
            OutcomeUnknown: it was tried, and the host may still be about to do it.
            GatewayError: what went wrong with it.
        """
        if not _FORM.fullmatch(key):
            raise InvalidIdempotencyKey
        name = await fingerprint([principal.authority, principal.user, route, key])
        now = self._clock()
        ours = Outcome(await fingerprint(body), State.UNDER_WAY, now, now)
        there = await self._outcomes.begin(name, ours)
        if there is None:
            return await self._first(name, ours, action)
        if there.fingerprint != ours.fingerprint:
            raise IdempotencyKeyReused
        if there.state is State.DONE and there.run is not None:
            return Done(_decoded(there.result) if there.result else await action.read(there.run), replayed=True)
        ours = replace(there, state=State.UNDER_WAY, at=now)
        if there.state is State.UNDER_WAY or not await self._outcomes.change(name, there, ours):
            raise InProgress(retry_after=1)
        return await self._again(name, there, ours, action)

    async def _first(self, name: str, ours: Outcome, action: Action) -> Done:
        try:
            if (run := await action.done_elsewhere()) is not None:
                await self._done(name, ours, run)
                return Done(run, replayed=True)
            noted = replace(ours, note=await action.prepare())
            await self._outcomes.change(name, ours, noted)
        except BaseException:  # whatever it was, nothing was asked for yet
            await self._outcomes.forget(name, ours)
            raise
        return Done(await self._act(name, noted, action))

    async def _again(self, name: str, there: Outcome, ours: Outcome, action: Action) -> Done:
        """It is unknown what came of it, and it is for us to find out."""
        try:
            run = await action.look(there.note, there.since)
            if run is None and not there.grace:
                await asyncio.sleep(SECOND_LOOK)
                run = await action.look(there.note, there.since)
            if run is None and self._clock() < there.at + there.grace:
                raise OutcomeUnknown(retry_after=2)
        except BaseException:  # whatever it was, we know no more than before
            await self._outcomes.change(name, ours, there)
            raise
        if run is None:
            return Done(await self._act(name, ours, action))
        await self._done(name, ours, run)
        return Done(run, replayed=True)

    async def _act(self, name: str, ours: Outcome, action: Action) -> Run:
        try:
            run = await action.act()
        except BaseException as error:  # whatever it was, the caller included who had to go: what came of it is kept
            if isinstance(error, GatewayError) and not (isinstance(error, UpstreamFailure) and error.may_have_acted):
                await self._outcomes.forget(name, ours)
            else:
                unknown = replace(ours, state=State.UNKNOWN, at=self._clock(), grace=grace(error))
                await self._outcomes.change(name, ours, unknown)
            raise
        await self._done(name, ours, run)
        return run

    async def _done(self, name: str, ours: Outcome, run: Run) -> None:
        done = replace(ours, state=State.DONE, at=self._clock(), run=run.ref, result=_encoded(run))
        await self._outcomes.change(name, ours, done)


def grace(error: BaseException) -> float:
    """Seconds for which the host may still act on what ended in this error."""
    if isinstance(error, UpstreamError):
        return 0.0
    return CUT_GRACE if isinstance(error, UpstreamUnreachable) else SILENT_GRACE


async def fingerprint(value: Json) -> str:
    """What tells one request from another."""
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
    organization, run_id, status, raw_status, fields, marks = kept
    return Run(RunRef(organization, run_id), RunStatus(status), raw_status, fields, marks)
