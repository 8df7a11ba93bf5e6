"""``opencode serve``, a coding agent on a machine of one's own, as an upstream: a run is one of its sessions.

Two APIs live in that server. Runs and logs are read from the newer one, below ``/api``; metadata, which it lacks, from
the older one. The facts about the host are in docs/hosts/opencode.md.
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
from codegen_api.upstreams.opencode.history import MOST, Fetch, end, last_of, stretch, with_outlook
from codegen_api.upstreams.over_http import ConnectArguments, Headers, OneOrganization, user_of

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
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class OpencodeUpstream(OneOrganization):
    """An opencode server as an ``Upstream`` that also ``Cancels``, ``Approves``, ``TakesKeys`` and ``Streams``.

    The credential's token is the server's password. Options: ``directory``, the folder on the server's machine in which
    its agents work (else where the server was started), ``model`` as ``provider/model``, ``agent``, and ``username``.
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
        self._lengths: LRUCache[str, Cursor] = LRUCache(KNOWN_LENGTHS)  # as far as they were seen: logs only grow
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
        shown = base64.b64encode(f"{self._user}:{credential.token}".encode()).decode()
        return [("Authorization", f"Basic {shown}")]

    def refusal(self, status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
        """The older API has its sentence in ``data``, and none about a wrong password."""
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
        """The prompt comes last, so that no work begins before the marks are there. All of it may be repeated."""
        refuse(new, "repo_id")
        metadata = marked(new.metadata, new.marks)
        body: Object = not_none(
            id=f"ses_{_name(new.key)}",
            agent=new.agent_type or self._agent,
            model=self._chosen(new.model),
            location=None if self._directory is None else {"directory": self._directory},
        )
        session = await self.ask(credential, "create_run", "POST", "/api/session", data_of, body=body)
        ref = entries.run_of(session, None).ref
        if metadata:
            path, change = f"/session/{ref.id}", {"metadata": metadata}
            session = await self.ask(credential, "create_run", "PATCH", path, as_object, body=change)
        await self._prompt(credential, "create_run", ref, new.prompt, new.images, new.key)
        return entries.run_of(session, entries.Standing(RunStatus.PENDING))

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """While the agent works, the prompt joins what it is at."""
        await self._prompt(credential, "resume_run", ref, prompt, images, key)
        try:
            return await self.get_run(credential, ref)
        except errors.GatewayError:  # the prompt was heard all the same
            return run_told(ref.id, {}, RunStatus.PENDING)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        session = await self._session(credential, ref)
        standing, _ = await self._standing(credential, ref, await self._end(credential, ref, 0))
        return entries.run_of(session, standing)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Of those that nobody works on, the list does not say how they ended. Sessions that agents have begun for
        parts of their work are left out.
        """
        refuse(only, "source_type", "user_id")
        query: dict[str, str | int] = not_none(limit=skip + limit, roots="true", directory=self._directory)
        sessions = await self.ask(credential, "list_runs", "GET", "/session", as_list, query)
        working, running = await self._working(credential), entries.Standing(RunStatus.RUNNING)

        def listed(session: Object) -> Run:
            return entries.run_of(session, running if member(session, "id", str) in working else None)

        paging = Paging(None, None, limit, None)
        return listing_of(sessions[skip:], listed, paging, at_end=len(sessions) < skip + limit)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        path = f"{self._path(ref)}/interrupt"
        await self.ask(credential, "cancel_run", "POST", path, nothing, order=True)
        with suppress(errors.GatewayError):  # it was stopped all the same
            await self._mark_stopped(credential, ref)

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """Each is decided on by itself, so those that cannot be read are left out."""
        permissions, _ = readable(await self._waiting(credential, ref, "permission"), entries.permission_of)
        questions, _ = readable(await self._waiting(credential, ref, "question"), entries.question_of)
        return permissions + questions

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """Approval is for this once. Of several questions in one request, each line of the text answers one."""
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
        """How the session stands is found out behind the log, so that no end is older than the log beside it."""
        fetch, skipped, total = self._fetching(credential, ref), after, None
        if newest_first:
            total = last_of(await self._end(credential, ref, 0))
            after, limit = max(0, total - skipped - limit), min(limit, max(0, total - skipped))
        log = await stretch(fetch, after, limit)
        last = last_of(log.events)
        if log.more:
            latest = await self._end(credential, ref, last)
        else:
            latest = await with_outlook(fetch, log.start, log.events)
        standing, length = await self._standing(credential, ref, latest)
        run = run_told(ref.id, {}, *standing)
        found = tuple(entries.between(log.events, log.calls, after, min(after + limit, last)))
        if total is not None:
            paging = Paging(total, None, limit, None)
            return LogPage(run, skipped, found[::-1], after == 0, paging, newest_first=True)
        return LogPage(run, after, found, after + len(found) >= length, Paging(length, None, limit, None))

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
            credential, "history", "GET", path, partial(entries.history_of, after), {"after": after, "limit": limit}
        )

    async def _end(self, credential: Credential, ref: RunRef, low: Cursor) -> Sequence[entries.HistoryEvent]:
        """The last events of the log, which is known to reach ``low``."""
        found = await end(self._fetching(credential, ref), max(low, self._lengths.get(ref.id, 0)))
        self._lengths[ref.id] = last_of(found)
        return found

    async def _standing(
        self, credential: Credential, ref: RunRef, latest: Sequence[entries.HistoryEvent]
    ) -> tuple[entries.Standing, Cursor]:
        """How the session stands, by its last events and by what the host says now; and how far its log reaches."""
        kinds = WAITS if entries.may_wait(latest) else {}
        asking = asyncio.gather(*(self._waiting(credential, ref, kind) for kind in kinds))
        working, requests = await asyncio.gather(self._working(credential), asking)
        if ref.id in working:
            reason = next((why for why, found in zip(kinds.values(), requests, strict=True) if found), None)
            return entries.Standing(RunStatus.RUNNING if reason is None else RunStatus.WAITING, reason), last_of(latest)
        seen = entries.outlook(latest)
        if seen is None:
            return entries.Standing(RunStatus.PENDING), last_of(latest)
        status, event = seen
        cut = status is RunStatus.RUNNING  # nobody works on it: unless it has gone on between the two answers
        if cut:
            newer = (await self._fetching(credential, ref)(last_of(latest), MOST)).events
            latest = [*latest, *newer]
            if (gone_on := entries.outlook(newer)) is not None:
                cut, (status, event) = False, gone_on
        if (cut or status is RunStatus.PENDING) and event.seq <= await self._stopped_at(credential, ref):
            status = RunStatus.CANCELLED
        elif cut:
            status = entries.broken_off(latest)
        elif status is RunStatus.PENDING and time.time() - event.timestamp > PATIENCE[event.kind]:
            status = RunStatus.FAILED
        result = entries.result_in(latest) if status is RunStatus.COMPLETED else None
        return entries.Standing(status, None, result), last_of(latest)

    async def _mark_stopped(self, credential: Credential, ref: RunRef) -> None:
        """Note with the session up to which event it was stopped, if its log does not show that. A log does not where
        the model has said nothing of its turn.
        """
        latest = await self._end(credential, ref, 0)
        seen = entries.outlook(latest)
        if seen is not None and seen[0] in (RunStatus.PENDING, RunStatus.RUNNING):
            metadata, marks = unmarked((await self._session(credential, ref)).get("metadata"))
            kept = metadata if isinstance(metadata, dict) else None
            change: Object = {"metadata": marked(kept, {**marks, STOPPED: str(last_of(latest))})}
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

    async def _waiting(self, credential: Credential, ref: RunRef, kind: str) -> list[Json]:
        path = f"{self._path(ref)}/{kind}"
        return await self.ask(credential, kind, "GET", path, lambda answer: as_list(as_object(answer).get("data")))

    async def _answers(self, credential: Credential, ref: RunRef, request_id: str, text: str) -> list[list[str]]:
        """A list for each question of the request."""
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
        body: Object = {"id": f"msg_{_name(key)}", "prompt": prompt}
        await self.ask(credential, operation, "POST", f"{self._path(ref)}/prompt", nothing, body=body, order=True)

    def _chosen(self, model: str | None) -> Object | None:
        found = _model_of(model) if model else self._model
        if model and found is None:
            raise errors.rejected("Must be provider/model.", "value_error", "body", "model")
        return found


def _model_of(text: str | None) -> Object | None:
    provider, _, model = (text or "").partition("/")
    return {"providerID": provider, "id": model} if provider and model else None


def _name(key: str | None) -> str:
    """26 letters and digits, the same ones for the same key."""
    number = int.from_bytes(secrets.token_bytes(32) if key is None else hashlib.sha256(key.encode()).digest())
    letters = ""
    while len(letters) < 26:
        number, digit = divmod(number, len(_DIGITS))
        letters += _DIGITS[digit]
    return letters


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


def data_of(answer: Json) -> Object:
    return as_object(as_object(answer).get("data"))
