"""Creates and resumes that may be repeated: how to tell afterwards whether the host has done them."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from codegen_api.errors import OutcomeUnknown
from codegen_api.gateway import Gateway
from codegen_api.identity import ALL, READ, WRITE, Caller
from codegen_api.once import Done, Once
from codegen_api.outcomes import Outcomes
from codegen_api.runs import Json, LogEntry, Run
from codegen_api.searching import SEARCHED_PAGES
from codegen_api.upstreams import NewRun, RunFilter

REQUEST = "request"
"""The mark by which a run is found again whose create broke off."""

CLOCKS = 600.0
"""Seconds by which the host's clock may be behind ours."""

PAGE = 100
PROMPT = 200
"""So much of a prompt is compared with what the log says: hosts may cut what is longer."""


class Repeats:
    """The gateway's creates and resumes, each done once for its key. Without a key they are done as they come."""

    def __init__(self, gateway: Gateway, outcomes: Outcomes) -> None:
        self._gateway = gateway
        self._outcomes = outcomes
        self._once = Once(outcomes)
        self._key = secrets.token_bytes(32)  # marks are looked for by the process that made them

    async def create(self, caller: Caller, organization: str, new: NewRun, key: str | None) -> Done:
        """As ``Gateway.create`` and ``Once.do``."""
        if key is None:
            return Done(await self._gateway.create(caller, organization, new))
        said = json.dumps([caller.principal.authority, caller.principal.user, organization, key]).encode()
        mark = hmac.digest(self._key, said, hashlib.sha256).hex()
        body: Mapping[str, Json] = {
            "prompt": new.prompt,
            "metadata": new.metadata,
            "images": new.images,
            "repo_id": new.repo_id,
            "model": new.model,
            "agent_type": new.agent_type,
        }
        action = _Create(self._gateway, caller, organization, replace(new, marks={REQUEST: mark}))
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


@dataclass(frozen=True, slots=True)
class _Create:
    gateway: Gateway
    caller: Caller
    organization: str
    new: NewRun

    async def prepare(self) -> str:
        return ""

    async def act(self) -> Run:
        return await self.gateway.create(self.caller, self.organization, self.new)

    async def look(self, note: str, since: float) -> Run | None:
        return await find_marked(self.gateway, self.caller, self.organization, self.new.marks, since)


@dataclass(frozen=True, slots=True)
class _Resume:
    gateway: Gateway
    caller: Caller
    organization: str
    run_id: str
    prompt: str
    images: tuple[str, ...] | None

    async def prepare(self) -> str:
        """The newest entry there is: what comes behind it is looked through."""
        newest = await self._newest(0, 1)
        return _name(newest[0]) if newest else ""

    async def act(self) -> Run:
        return await self.gateway.resume(self.caller, self.organization, self.run_id, self.prompt, self.images)

    async def look(self, note: str, since: float) -> Run | None:
        for page in range(SEARCHED_PAGES):
            newest = await self._newest(page * PAGE, PAGE)
            for entry in newest:
                if _name(entry) == note:
                    return None
                if says(entry, self.prompt):
                    return await self.gateway.get(looking(self.caller), self.organization, self.run_id)
            if len(newest) < PAGE:
                return None
        raise OutcomeUnknown("The log has grown too long to find out whether the run was resumed.", retry_after=60)

    async def _newest(self, skip: int, limit: int) -> tuple[LogEntry, ...]:
        page = await self.gateway.read_log(
            looking(self.caller), self.organization, self.run_id, skip, limit, newest_first=True
        )
        return page.entries


async def find_marked(
    gateway: Gateway, caller: Caller, organization: str, marks: Mapping[str, str], since: float
) -> Run | None:
    """The run that bears ``marks`` and was created after ``since`` (seconds since the epoch).

    The list is newest first, so what is older than that ends the search.

    Raises:
        OutcomeUnknown: there are too many newer ones to tell.
    """
    skip = 0
    for _ in range(SEARCHED_PAGES):
        found = await gateway.list(looking(caller), organization, skip, PAGE, RunFilter(), None)
        for run in found.listing.items:
            if marks.items() <= (run.marks or {}).items():
                return run
            if _created(run) < since - CLOCKS:
                return None
        if found.listing.at_end:
            return None
        skip = found.next_skip or skip + len(found.listing.items)
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
        return moment.timestamp() if moment.tzinfo else float("inf")
    except (ValueError, OverflowError):
        return float("inf")
