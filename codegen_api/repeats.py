"""Creates and resumes that may be repeated: how to tell afterwards whether the host has done them."""

import hashlib
import hmac
import json
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from codegen_api.errors import IdempotencyKeyReused, OutcomeUnknown
from codegen_api.gateway import Gateway
from codegen_api.identity import ALL, READ, WRITE, Caller
from codegen_api.once import Done, Once, fingerprint
from codegen_api.outcomes import Outcomes
from codegen_api.runs import Json, LogEntry, Page, Run, RunRef
from codegen_api.searching import SEARCHED_PAGES
from codegen_api.upstreams import NewRun, RunFilter

REQUEST = "request"
"""The mark by which a run is found again whose create broke off, or was asked for elsewhere."""

BODY = "request_body"
"""The mark that tells what was asked for under the same key."""

ELSEWHERE = 3600.0
"""Seconds for which a run is found again that another process was asked for, or this one before it was started anew.
Whoever repeats a request does so within minutes.
"""

ELSEWHERE_PAGES = 3
"""How many of the host's pages are read for that at most."""

PURPOSE = b"codegen_api idempotency key, form 1"
"""What the key for marks is derived for; keys for other purposes come from the same secret with another label."""

CLOCKS = 600.0
"""Seconds by which the host's clock may be behind ours."""

PAGE = 100
PROMPT = 200
"""So much of a prompt is compared with what the log says: hosts may cut what is longer."""


class Repeats:
    """The gateway's creates and resumes, each done once for its key. Without a key they are done as they come.

    A create leaves the mark of its key on the run, so that a repeat finds it whichever process it reaches. Nobody at
    the host can make such a mark for somebody else: that takes the caller's token, or where callers share one, one of
    the deployment's ``keys``, of which the first makes marks and all are known.
    """

    def __init__(
        self,
        gateway: Gateway,
        outcomes: Outcomes,
        keys: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._gateway = gateway
        self._outcomes = outcomes
        self._keys = keys or [secrets.token_hex()]
        self._clock = clock
        self._once = Once(outcomes, clock=clock)

    async def create(self, caller: Caller, organization: str, new: NewRun, key: str | None) -> Done:
        """As ``Gateway.create`` and ``Once.do``."""
        if key is None:
            return Done(await self._gateway.create(caller, organization, new))
        body: Mapping[str, Json] = {
            "prompt": new.prompt,
            "metadata": new.metadata,
            "images": new.images,
            "repo_id": new.repo_id,
            "model": new.model,
            "agent_type": new.agent_type,
        }
        asked_for = await fingerprint(body)
        marks = [
            {REQUEST: self._mark(secret, caller, organization, key), BODY: asked_for}
            for secret in (self._keys if caller.shared else [caller.credential.token])
        ]
        action = _Create(self._gateway, caller, organization, new, marks, self._clock)
        return await self._once.do(caller.principal, f"create {organization}", key, body, action)

    async def resume(
        self,
        caller: Caller,
        organization: str,
        run_id: str,
        prompt: str,
        images: tuple[str, ...] | None,
        key: str | None,
    ) -> Done:
        """As ``Gateway.resume`` and ``Once.do``."""
        if key is None:
            return Done(await self._gateway.resume(caller, organization, run_id, prompt, images))
        body: Mapping[str, Json] = {"prompt": prompt, "images": images}
        action = _Resume(self._gateway, caller, organization, run_id, prompt, images)
        return await self._once.do(caller.principal, f"resume {organization} {run_id}", key, body, action)

    async def aclose(self) -> None:
        await self._outcomes.aclose()

    @staticmethod
    def _mark(secret: str, caller: Caller, organization: str, key: str) -> str:
        said = json.dumps([caller.principal.authority, caller.principal.user, organization, key]).encode()
        return hmac.digest(hmac.digest(secret.encode(), PURPOSE, hashlib.sha256), said, hashlib.sha256).hex()


@dataclass(frozen=True, slots=True)
class _Create:
    gateway: Gateway
    caller: Caller
    organization: str
    new: NewRun
    marks: Sequence[Mapping[str, str]]  # by each of the secrets: the first are put on the run
    clock: Callable[[], float]

    async def done_elsewhere(self) -> Run | None:
        since = self.clock() - ELSEWHERE
        try:
            run = await self._find(since, ELSEWHERE_PAGES)
        except OutcomeUnknown:  # it is not among the newest, so it is not from a moment ago
            return None
        if run is None or not since - CLOCKS <= _created(run) < math.inf:  # keys are not good for ever
            return None
        if (run.marks or {}).get(BODY) != self.marks[0][BODY]:
            raise IdempotencyKeyReused
        return run

    async def read(self, ref: RunRef) -> Run:
        return await self.gateway.get(looking(self.caller), ref.organization, ref.id)

    async def prepare(self) -> str:
        return ""

    async def act(self) -> Run:
        return await self.gateway.create(self.caller, self.organization, replace(self.new, marks=self.marks[0]))

    async def look(self, note: str, since: float) -> Run | None:
        return await self._find(since, SEARCHED_PAGES)

    async def _find(self, since: float, pages: int) -> Run | None:
        values = {marks[REQUEST] for marks in self.marks}
        return await find_marked(self.gateway, self.caller, self.organization, REQUEST, values, since, pages=pages)


@dataclass(frozen=True, slots=True)
class _Resume:
    gateway: Gateway
    caller: Caller
    organization: str
    run_id: str
    prompt: str
    images: tuple[str, ...] | None

    async def done_elsewhere(self) -> Run | None:
        return None  # the same words may be said twice, and bear no mark

    async def read(self, ref: RunRef) -> Run:
        return await self.gateway.get(looking(self.caller), ref.organization, ref.id)

    async def prepare(self) -> str:
        """The newest entry there is: what comes behind it is looked through."""
        newest = await self._newest(0, 1)
        return _name(newest.entries[0]) if newest.entries else ""

    async def act(self) -> Run:
        return await self.gateway.resume(self.caller, self.organization, self.run_id, self.prompt, self.images)

    async def look(self, note: str, since: float) -> Run | None:
        skip = 0
        for _ in range(SEARCHED_PAGES):
            page = await self._newest(skip, PAGE)
            for entry in page.entries:
                if entry.absent:
                    raise OutcomeUnknown("The host cannot show all of the log.", retry_after=60)
                if _name(entry) == note:
                    return None
                if says(entry, self.prompt):
                    return await self.gateway.get(looking(self.caller), self.organization, self.run_id)
            if page.at_end:
                return None
            skip += page.length
        raise OutcomeUnknown("The log has grown too long to find out whether the run was resumed.", retry_after=60)

    async def _newest(self, skip: int, limit: int) -> Page:
        return await self.gateway.read_log(
            looking(self.caller), self.organization, self.run_id, skip, limit, newest_first=True
        )


async def find_marked(
    gateway: Gateway,
    caller: Caller,
    organization: str,
    name: str,
    values: Collection[str],
    since: float,
    *,
    pages: int = SEARCHED_PAGES,
) -> Run | None:
    """The run whose mark of this ``name`` is one of ``values``, if it was created after ``since`` (epoch seconds).

    The list is newest first, so what is older than that ends the search.

    Raises:
        OutcomeUnknown: it is not on the first ``pages``, and there are more; or it may be one that cannot be had.
    """
    skip, unseen = 0, False
    while pages > 0:
        found = await gateway.list(looking(caller), organization, skip, PAGE, RunFilter(), None)
        pages -= SEARCHED_PAGES if found.searched else 1
        unseen = unseen or found.unseen
        for run in found.listing.items:
            if (run.marks or {}).get(name) in values:
                return run
            if _created(run) < since - CLOCKS and not unseen:
                return None
        if unseen:
            break
        if found.listing.at_end:
            return None
        skip = found.next_skip or skip + found.listing.length
    raise OutcomeUnknown("There are too many newer runs to find out whether this one was started.", retry_after=60)


def says(entry: LogEntry, prompt: str) -> bool:
    """Whether this entry is the user's message with that prompt."""
    return entry.said is not None and prompt.strip()[:PROMPT] in entry.said


def looking(caller: Caller) -> Caller:
    """Who looks for what the caller did: they need no right to read what they may write."""
    reading = {READ, READ + ALL} if WRITE + ALL in caller.scopes else {READ}
    return replace(caller, scopes=caller.scopes | reading)


def _name(entry: LogEntry) -> str:
    """An entry's name in its log: when it was made, because the rest may be amended."""
    return entry.created_at or hashlib.sha256(entry.json).hexdigest()


def _created(run: Run) -> float:
    """When the run was made, in seconds since the epoch; without a word on it, it may be new."""
    try:
        moment = datetime.fromisoformat(str(run.fields.get("created_at")))
        return moment.timestamp() if moment.tzinfo else math.inf
    except (ValueError, OverflowError):
        return math.inf
