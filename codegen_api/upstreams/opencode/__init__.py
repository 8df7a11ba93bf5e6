"""The adapter for ``opencode serve``, a self-hosted coding agent: a run is one of its sessions.

The server has two APIs. Runs and logs are read from the newer one, below ``/api``; metadata, which it lacks, from the
older one. Facts about the host are in docs/hosts/opencode.md.
"""

import asyncio
import base64
import hashlib
import re
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Unpack

from cachetools import LRUCache

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogPage, Paging, Run, RunRef, RunStatus, WaitReason
from codegen_api.upstreams import Decision, Images, InvalidOption, Listing, NewRun, PendingRequest, RunFilter, User
from codegen_api.upstreams.host_json import (
    Object,
    as_list,
    as_object,
    listing_of,
    marked,
    member,
    not_none,
    nothing,
    readable,
    refuse,
    run_told,
    unmarked,
)
from codegen_api.upstreams.opencode import entries
from codegen_api.upstreams.opencode.history import MOST, Fetch, last_seq, read_back, read_end, read_stretch
from codegen_api.upstreams.over_http import ConnectArguments, Headers, OneOrganization, user_of

PROMPT_TIMEOUTS = {"prompt.admitted": 60.0, "prompted": 10.0}
"""Seconds after which a prompt that no agent works on is lost, by the event that admitted it. After ``prompted``, for
example, the model does not exist, or somebody stopped the session before the model spoke.
"""
ECHO_DELAYS = (0.2, 1.0, 5.0)
"""Seconds after an event at which to report again if no other follows: some of its effects have no event, such as a
question to a person, or the end of a turn.
"""
WAIT_REASONS = {"permission": WaitReason.APPROVAL, "question": WaitReason.QUESTION}
"""The host's lists of pending requests, and what each means."""
STOPPED = "stopped_at"
"""The mark with the number of the last event when a session was stopped."""
KNOWN_LENGTHS = 10_000
"""Number of logs whose lengths are remembered, to find their ends quickly."""
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class OpencodeUpstream(OneOrganization):
    """An opencode server as an ``Upstream`` that also ``Cancels``, ``Approves``, ``TakesKeys`` and ``Streams``.

    The credential's token is the server's password. Options: ``directory``, the folder on the server's machine in which
    agents work (default: where the server was started), ``model`` as ``provider/model``, ``agent``, and ``username``.
    """

    name = "opencode"
    page_size = MOST
    lags = False
    exchanges_per_read = 8
    keyed = frozenset({"create", "resume"})
    known_options = ("directory", "model", "agent", "username")
    unreadable = entries.UNREADABLE
    step = staticmethod(entries.step_of)

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        self._lengths: LRUCache[str, Cursor] = LRUCache(KNOWN_LENGTHS)  # as last seen: logs only grow
        super().__init__(base_url, **arguments)
        options = self.options
        self._directory, self._agent = options.get("directory"), options.get("agent")
        if self._directory is not None and not re.match(r"/|[A-Za-z]:[\\/]", self._directory):
            raise InvalidOption("directory", "must be an absolute path on the machine of the host")
        self._model = _model_of(options.get("model"))
        if "model" in options and self._model is None:
            raise InvalidOption("model", "must be provider/model")
        self._user = options.get("username", "opencode")
        if not self._user or ":" in self._user:
            raise InvalidOption("username", "must be a name without a colon")

    def authorization(self, credential: Credential) -> Headers:
        encoded = base64.b64encode(f"{self._user}:{credential.token}".encode()).decode()
        return [("Authorization", f"Basic {encoded}")]

    def refusal(self, status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
        """The older API has its message in ``data``, and none about a wrong password."""
        if status == 401 and answer is None:
            return errors.InvalidToken()
        data = answer.get("data") if isinstance(answer, dict) else None
        return super().refusal(status, data if isinstance(data, dict) else answer, retry_after, token)

    def run_id(self, text: str) -> str:
        if re.fullmatch(r"ses_[A-Za-z0-9]{1,64}", text):
            return text
        raise errors.rejected("Must be ses_ and letters or digits.", "string_pattern_mismatch", "run_id")

    async def identify(self, credential: Credential) -> User:
        """A server without a password lets everybody in."""
        await self.ask(credential, "identify", "GET", "/global/health", as_object)
        return user_of(credential)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Send the prompt last, so that work begins only after the marks are stored. Every step can be repeated."""
        refuse(new, "repo_id")
        metadata = marked(new.metadata, new.marks)
        body: Object = not_none(
            id=f"ses_{_id_from(new.key)}",
            agent=new.agent_type or self._agent,
            model=self._model_for(new.model),
            location=None if self._directory is None else {"directory": self._directory},
        )
        session = await self.ask(credential, "create_run", "POST", "/api/session", data_of, body=body)
        ref = entries.run_of(session, None).ref
        if metadata:
            path, change = f"/session/{ref.id}", {"metadata": metadata}
            session = await self.ask(credential, "create_run", "PATCH", path, as_object, body=change)
        await self._prompt(credential, "create_run", ref, new.prompt, new.images, new.key)
        return entries.run_of(session, entries.SessionState(RunStatus.PENDING))

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """While the agent works, the prompt joins the current turn."""
        await self._prompt(credential, "resume_run", ref, prompt, images, key)
        try:
            return await self.get_run(credential, ref)
        except errors.GatewayError:  # the prompt has arrived nevertheless
            return run_told(ref.id, {}, RunStatus.PENDING)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        session = await self._session(credential, ref)
        state, _ = await self._state(credential, ref, await self._read_end(credential, ref, 0))
        return entries.run_of(session, state)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Sessions, except those that agents started for parts of their work. Of those that no agent works on, the list
        does not say how they ended.
        """
        refuse(only, "source_type", "user_id")
        query: dict[str, str | int] = not_none(limit=skip + limit, roots="true", directory=self._directory)
        sessions = await self.ask(credential, "list_runs", "GET", "/session", as_list, query)
        working, running = await self._working(credential), entries.SessionState(RunStatus.RUNNING)

        def listed(session: Object) -> Run:
            return entries.run_of(session, running if member(session, "id", str) in working else None)

        paging = Paging(None, None, limit, None)
        return listing_of(sessions[skip:], listed, paging, at_end=len(sessions) < skip + limit)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        path = f"{self._path(ref)}/interrupt"
        await self.ask(credential, "cancel_run", "POST", path, nothing, order=True)
        with suppress(errors.GatewayError):  # the session is stopped nevertheless
            await self._mark_stopped(credential, ref)

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """Permissions and questions. Each has its own decision, so unreadable ones are left out."""
        permissions, _ = readable(await self._waiting(credential, ref, "permission"), entries.permission_of)
        questions, _ = readable(await self._waiting(credential, ref, "question"), entries.question_of)
        return permissions + questions

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """An approval is valid once. If a request has several questions, each line of the text answers one."""
        body: Object
        match request_id.partition("_")[0], decision.verdict:
            case "per", "approve":
                order, body = "permission/{}/reply", {"reply": "once"}
            case "per", "reject":
                order, body = "permission/{}/reply", {"reply": "reject"}
                body |= {"message": decision.text} if decision.text else {}
            case "que", "reject":
                order, body = "question/{}/reject", {}
            case "que", "answer":
                answers = await self._answers(credential, ref, request_id, decision.text or "")
                order, body = "question/{}/reply", {"answers": answers}
            case "per" | "que", _:
                raise errors.rejected("Does not suit what the run waits for.", "unsuitable", "body", "verdict")
            case _:
                raise errors.NotFound
        if not re.fullmatch(r"[a-z]{3}_[A-Za-z0-9]{1,64}", request_id):
            raise errors.NotFound
        path = f"{self._path(ref)}/{order.format(request_id)}"
        await self.ask(credential, "decide", "POST", path, nothing, body=body, order=True)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """A part of the log. The state is read after it, so an end is never older than the log beside it."""
        fetch, skipped, total = self._fetcher(credential, ref), after, None
        if newest_first:
            total = last_seq(await self._read_end(credential, ref, 0))
            after, limit = max(0, total - skipped - limit), min(limit, max(0, total - skipped))
        log = await read_stretch(fetch, after, limit)
        last = last_seq(log.events)
        if log.more:
            latest = await self._read_end(credential, ref, last)
        else:
            latest = await read_back(fetch, log.start, log.events)
        state, length = await self._state(credential, ref, latest)
        run = run_told(ref.id, {}, *state)
        page = tuple(entries.between(log.events, log.calls, after, min(after + limit, last)))
        if total is not None:
            paging = Paging(total, None, limit, None)
            return LogPage(run, skipped, page[::-1], after == 0, paging, newest_first=True)
        return LogPage(run, after, page, after + len(page) >= length, Paging(length, None, limit, None))

    async def changes(self, credential: Credential, ref: RunRef, after: Cursor) -> AsyncGenerator[None, None]:
        """Yield with each event, and some time after it."""
        # the host sends the head only with the first event: asked from the last known event on, it does so at once
        events = self.listen(credential, "changes", f"{self._path(ref)}/event", {"after": max(0, after - 1)})
        async with aclosing(events), aclosing(_with_echoes(events)) as echoed:
            async for _ in echoed:
                yield

    def _path(self, ref: RunRef) -> str:
        return f"/api/session/{self.run_id(ref.id)}"

    def _fetcher(self, credential: Credential, ref: RunRef) -> Fetch:
        path = f"{self._path(ref)}/history"
        return lambda after, limit: self.ask(
            credential, "history", "GET", path, partial(entries.history_of, after), {"after": after, "limit": limit}
        )

    async def _read_end(self, credential: Credential, ref: RunRef, low: Cursor) -> Sequence[entries.HistoryEvent]:
        """The last events of the log, which has at least ``low``."""
        latest = await read_end(self._fetcher(credential, ref), max(low, self._lengths.get(ref.id, 0)))
        self._lengths[ref.id] = last_seq(latest)
        return latest

    async def _state(
        self, credential: Credential, ref: RunRef, latest: Sequence[entries.HistoryEvent]
    ) -> tuple[entries.SessionState, Cursor]:
        """The state of the session, by its last events and by what the host says now; and the length of its log."""
        kinds = WAIT_REASONS if entries.may_wait(latest) else {}
        waiting = asyncio.gather(*(self._waiting(credential, ref, kind) for kind in kinds))
        working, requests = await asyncio.gather(self._working(credential), waiting)
        if ref.id in working:
            reason = next((why for why, found in zip(kinds.values(), requests, strict=True) if found), None)
            status = RunStatus.RUNNING if reason is None else RunStatus.WAITING
            return entries.SessionState(status, reason), last_seq(latest)
        seen = entries.turn_status(latest)
        if seen is None:
            return entries.SessionState(RunStatus.PENDING), last_seq(latest)
        status, event = seen
        broken_off = status is RunStatus.RUNNING  # no agent works on it, unless it went on between the two answers
        if broken_off:
            newer = (await self._fetcher(credential, ref)(last_seq(latest), MOST)).events
            latest = [*latest, *newer]
            if (seen := entries.turn_status(newer)) is not None:
                broken_off, (status, event) = False, seen
        if (broken_off or status is RunStatus.PENDING) and event.seq <= await self._stopped_at(credential, ref):
            status = RunStatus.CANCELLED
        elif broken_off:
            status = entries.broken_off_status(latest)
        elif status is RunStatus.PENDING and time.time() - event.timestamp > PROMPT_TIMEOUTS[event.kind]:
            status = RunStatus.FAILED
        result = entries.result_in(latest) if status is RunStatus.COMPLETED else None
        return entries.SessionState(status, None, result), last_seq(latest)

    async def _mark_stopped(self, credential: Credential, ref: RunRef) -> None:
        """Mark the session as stopped at its last event, unless the log shows the stop. It does not if the model has
        said nothing in its turn.
        """
        latest = await self._read_end(credential, ref, 0)
        seen = entries.turn_status(latest)
        if seen is not None and seen[0] in (RunStatus.PENDING, RunStatus.RUNNING):
            metadata, marks = unmarked((await self._session(credential, ref)).get("metadata"))
            kept = metadata if isinstance(metadata, dict) else None
            change: Object = {"metadata": marked(kept, {**marks, STOPPED: str(last_seq(latest))})}
            await self.ask(credential, "cancel_run", "PATCH", f"/session/{ref.id}", nothing, body=change, order=True)

    async def _stopped_at(self, credential: Credential, ref: RunRef) -> Cursor:
        """The number of the last event when a gateway stopped the session; 0 if none did."""
        _, marks = unmarked((await self._session(credential, ref)).get("metadata"))
        seq = marks.get(STOPPED, "")
        return int(seq) if seq.isdecimal() else 0

    async def _session(self, credential: Credential, ref: RunRef) -> Object:
        """The session from the older API, which alone has its metadata."""
        return await self.ask(credential, "session", "GET", f"/session/{self.run_id(ref.id)}", as_object)

    async def _working(self, credential: Credential) -> Object:
        """The sessions whose agents are working, or waiting for a decision, by id."""
        return await self.ask(credential, "active", "GET", "/api/session/active", data_of)

    async def _waiting(self, credential: Credential, ref: RunRef, kind: str) -> list[Json]:
        path = f"{self._path(ref)}/{kind}"
        return await self.ask(credential, kind, "GET", path, lambda answer: as_list(as_object(answer).get("data")))

    async def _answers(self, credential: Credential, ref: RunRef, request_id: str, text: str) -> list[list[str]]:
        """The answers to the questions of a request, a list for each."""
        for request in await self._waiting(credential, ref, "question"):
            if isinstance(request, dict) and request.get("id") == request_id:
                count = len(entries.questions_in(request))
                lines = [text] if count == 1 else [line for line in text.splitlines() if line.strip()]
                if len(lines) != count or not text.strip():
                    what = (
                        f"Must have {count} lines, an answer to a question each." if count > 1 else "Must not be empty."
                    )
                    raise errors.rejected(what, "value_error", "body", "text")
                return [[line.strip()] for line in lines]
        raise errors.NotFound

    async def _prompt(
        self, credential: Credential, operation: str, ref: RunRef, text: str, images: Images, key: str | None
    ) -> None:
        prompt: Object = not_none(text=text, files=[{"uri": image} for image in images] if images else None)
        body: Object = {"id": f"msg_{_id_from(key)}", "prompt": prompt}
        await self.ask(credential, operation, "POST", f"{self._path(ref)}/prompt", nothing, body=body, order=True)

    def _model_for(self, model: str | None) -> Object | None:
        found = _model_of(model) if model else self._model
        if model and found is None:
            raise errors.rejected("Must be provider/model.", "value_error", "body", "model")
        return found


def _model_of(text: str | None) -> Object | None:
    provider, _, model = (text or "").partition("/")
    return {"providerID": provider, "id": model} if provider and model else None


def _id_from(key: str | None) -> str:
    """26 letters and digits, the same ones for the same key; random without one."""
    number = int.from_bytes(secrets.token_bytes(32) if key is None else hashlib.sha256(key.encode()).digest())
    letters = ""
    while len(letters) < 26:
        number, digit = divmod(number, len(_DIGITS))
        letters += _DIGITS[digit]
    return letters


async def _with_echoes(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[None, None]:
    """Yield with each event, and at each of ``ECHO_DELAYS`` after it if no other follows."""
    upcoming = asyncio.ensure_future(anext(events, None))
    try:
        delays: Iterator[float] = iter(())
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=next(delays, None))
            if done:
                if upcoming.result() is None:
                    return
                delays = iter(ECHO_DELAYS)
                upcoming = asyncio.ensure_future(anext(events, None))
            yield
    finally:
        upcoming.cancel()
        with suppress(asyncio.CancelledError, errors.GatewayError):
            await upcoming


def data_of(answer: Json) -> Object:
    return as_object(as_object(answer).get("data"))
