"""The logs of sessions: pages of them, how their sessions stand, and when there is more."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogPage, Paging, RunRef, RunStatus, WaitReason
from codegen_api.upstreams.opencode.entries import (
    HistoryEvent,
    Standing,
    broken_off,
    entries_of,
    history_of,
    may_wait,
    outlook,
    page_run,
    result_in,
)
from codegen_api.upstreams.opencode.history import MOST, Fetch, end, stretch, with_outlook
from codegen_api.upstreams.over_http import (
    ConnectArguments,
    Object,
    OneOrganization,
    as_object,
    as_objects,
    marked,
    nothing,
    unmarked,
)

PATIENCE = {"prompt.admitted": 60.0, "prompted": 10.0}
"""Seconds after which a prompt that nobody works on is lost. Where it was taken up, there is no such model, say, or
somebody stopped it before the model spoke.
"""
ECHOES = (0.2, 1.0, 5.0)
"""Seconds without an event after which what an event has led to is there, although no event says so: a question to
somebody, the end of a turn.
"""
WAITS = {"permission": WaitReason.APPROVAL, "question": WaitReason.QUESTION}
"""The host's lists of what sessions wait for."""
STOPPED = "stopped_at"
"""The mark that says up to which event a session was stopped."""
KNOWN_LENGTHS = 10_000
"""Of so many logs it is remembered how far they reach, so that their ends are found quickly."""


class SessionLogs(OneOrganization):
    """What an opencode server says of the logs of its sessions."""

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        self._lengths: dict[str, Cursor] = {}  # of logs, as far as they were seen: they only grow
        super().__init__(base_url, **arguments)

    def run_id(self, text: str) -> str:
        if re.fullmatch(r"ses_[A-Za-z0-9]{1,64}", text):
            return text
        detail = errors.Detail(("run_id",), "Must be ses_ and letters or digits.", "string_pattern_mismatch")
        raise errors.Rejected(details=[detail])

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """How the session stands is found out behind the log, so that no end is older than the log beside it."""
        fetch, skipped, total = self._fetching(credential, ref), after, None
        if newest_first:
            total = _last(await self._end(credential, ref, 0))
            after, limit = max(0, total - skipped - limit), min(limit, max(0, total - skipped))
        log = await stretch(fetch, after, limit)
        if log.more:
            latest = await self._end(credential, ref, log.last)
        else:
            latest = await with_outlook(fetch, log.start, log.events)
        standing, length = await self._standing(credential, ref, latest)
        run = page_run(ref, standing)
        entries = tuple(entries_of(log.events, log.calls, after, min(after + limit, log.last)))
        if total is not None:
            paging = Paging(total, None, limit, None)
            return LogPage(run, skipped, entries[::-1], after == 0, paging, newest_first=True)
        return LogPage(run, after, entries, after + len(entries) >= length, Paging(length, None, limit, None))

    async def changes(self, credential: Credential, ref: RunRef, after: Cursor) -> AsyncGenerator[None, None]:
        """With each event, and some time after it."""
        # the host's answer begins with the first event: with the one that is known, it does so at once
        events = self.listen(credential, "changes", f"{self._path(ref)}/event", {"after": max(0, after - 1)})
        async with aclosing(events), aclosing(_with_echoes(events)) as heard:
            async for _ in heard:
                yield

    def _path(self, ref: RunRef) -> str:
        return f"/api/session/{self.run_id(ref.id)}"

    def _fetching(self, credential: Credential, ref: RunRef) -> Fetch:
        path = f"{self._path(ref)}/history"
        return lambda after, limit: self.ask(
            credential, "history", "GET", path, history_of, {"after": after, "limit": limit}
        )

    async def _end(self, credential: Credential, ref: RunRef, low: Cursor) -> Sequence[HistoryEvent]:
        """The last events of the log, which is known to reach ``low``."""
        found = await end(self._fetching(credential, ref), max(low, self._lengths.pop(ref.id, 0)))
        self._lengths[ref.id] = _last(found)
        if len(self._lengths) > KNOWN_LENGTHS:
            del self._lengths[next(iter(self._lengths))]
        return found

    async def _standing(
        self, credential: Credential, ref: RunRef, latest: Sequence[HistoryEvent]
    ) -> tuple[Standing, Cursor]:
        """How the session stands, by its last events and by what the host says now; and how far its log reaches."""
        kinds = WAITS if may_wait(latest) else {}
        asking = asyncio.gather(*(self._waiting(credential, ref, kind) for kind in kinds))
        working, requests = await asyncio.gather(self._working(credential), asking)
        if ref.id in working:
            reason = next((why for why, found in zip(kinds.values(), requests, strict=True) if found), None)
            return Standing(RunStatus.RUNNING if reason is None else RunStatus.WAITING, reason), _last(latest)
        seen = outlook(latest)
        if seen is None:
            return Standing(RunStatus.PENDING), _last(latest)
        status, event = seen
        cut = status is RunStatus.RUNNING  # nobody works on it: unless it has gone on between the two answers
        if cut:
            newer = (await self._fetching(credential, ref)(_last(latest), MOST)).events
            latest = [*latest, *newer]
            if (gone_on := outlook(newer)) is not None:
                cut, (status, event) = False, gone_on
        if (cut or status is RunStatus.PENDING) and event.seq <= await self._stopped_at(credential, ref):
            status = RunStatus.CANCELLED
        elif cut:
            status = broken_off(latest)
        elif status is RunStatus.PENDING and time.time() - event.timestamp > PATIENCE[event.kind]:
            status = RunStatus.FAILED
        return Standing(status, None, result_in(latest) if status is RunStatus.COMPLETED else None), _last(latest)

    async def _mark_stopped(self, credential: Credential, ref: RunRef) -> None:
        """Note with the session up to which event it was stopped, if its log does not show that. A log does not where
        the model has said nothing of its turn.
        """
        latest = await self._end(credential, ref, 0)
        seen = outlook(latest)
        if seen is not None and seen[0] in (RunStatus.PENDING, RunStatus.RUNNING):
            metadata, marks = unmarked((await self._session(credential, ref)).get("metadata"))
            kept = metadata if isinstance(metadata, dict) else None
            change: Object = {"metadata": marked(kept, {**marks, STOPPED: str(_last(latest))})}
            await self.ask(credential, "cancel_run", "PATCH", f"/session/{ref.id}", nothing, body=change, order=True)

    async def _stopped_at(self, credential: Credential, ref: RunRef) -> Cursor:
        """Up to which event the session was stopped through a gateway; 0 if it was not."""
        _, marks = unmarked((await self._session(credential, ref)).get("metadata"))
        seq = marks.get(STOPPED, "")
        return int(seq) if seq.isdecimal() else 0

    async def _session(self, credential: Credential, ref: RunRef) -> Object:
        """The session as the older API has it, which alone knows its metadata."""
        return await self.ask(credential, "session", "GET", f"/session/{self.run_id(ref.id)}", as_object)

    async def _working(self, credential: Credential) -> Object:
        """The sessions whose agents are at work, or wait for somebody."""
        return await self.ask(credential, "active", "GET", "/api/session/active", data_of)

    async def _waiting(self, credential: Credential, ref: RunRef, kind: str) -> list[Object]:
        path = f"{self._path(ref)}/{kind}"
        return await self.ask(credential, kind, "GET", path, lambda answer: as_objects(as_object(answer).get("data")))


async def _with_echoes(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[None, None]:
    """Yields with each event, and where none follows, at ``ECHOES`` after it."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        delays: Iterator[float] = iter(())
        while True:
            done, _ = await asyncio.wait({coming}, timeout=next(delays, None))
            if done:
                if coming.result() is None:
                    return
                delays = iter(ECHOES)
                coming = asyncio.ensure_future(anext(events, None))
            yield
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, errors.GatewayError):
            await coming


def _last(events: Sequence[HistoryEvent]) -> Cursor:
    return events[-1].seq if events else 0


def data_of(answer: Json) -> Object:
    return as_object(as_object(answer).get("data"))
