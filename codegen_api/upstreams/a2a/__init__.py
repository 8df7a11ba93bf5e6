"""The adapter for A2A (Agent2Agent) agents: version 1.0 over HTTP+JSON or JSON-RPC, or 0.3 over JSON-RPC.

A run is a task. Facts about hosts are from servers of a2a-sdk 1.3.0, tried in November 2026.
"""

import re
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import TypeVar, Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.outbound import checked_url
from codegen_api.runs import Cursor, Json, LogPage, Paging, Run, RunRef, from_json
from codegen_api.upstreams import Decision, Images, InvalidOption, Listing, NewRun, PendingRequest, RunFilter, User
from codegen_api.upstreams.a2a.entries import UNREADABLE, log_of, pending_of, place_of, run_of, step_of, task_sent
from codegen_api.upstreams.a2a.interface import CANCEL, CARD, GET, LIST, SEND, SUBSCRIBE, Call, Interface, error_in
from codegen_api.upstreams.host_json import Object, as_list, as_object, listing_of, marked, not_none, page_of, refuse
from codegen_api.upstreams.over_http import ConnectArguments, Headers, OneOrganization, user_of

T = TypeVar("T")

MOST_PAGES = 20
"""Maximum pages of the agent's list to read on the way to a place in it: lists can only be read from the front."""


class A2AUpstream(OneOrganization):
    """An agent as an ``Upstream`` that also ``Cancels``, ``Approves`` and ``Streams``.

    The agent's card is at ``base_url``, below ``/.well-known``. Only the paths of the URLs in the card are used, so the
    credential is sent to no other host. The option ``header`` names a header for the credential, instead of
    ``Authorization: Bearer``.
    """

    name = "a2a"
    page_size = 100
    lags = False
    known_options = ("header",)
    unreadable = UNREADABLE
    step = staticmethod(step_of)

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        base = checked_url(base_url)
        super().__init__(str(base.copy_with(path="/")), **arguments)
        self._header = self.options.get("header")
        if self._header is not None and not re.fullmatch(r"[A-Za-z0-9-]+", self._header):
            raise InvalidOption("header", "it is not the name of a header")
        self._card_path = base.path.rstrip("/") + CARD
        self._interface: Interface | None = None
        self._stale = False
        """Whether to read the card again, since a call has failed."""

    def authorization(self, credential: Credential) -> Headers:
        version = [] if self._interface is None else [("A2A-Version", self._interface.version)]
        if self._header is None:
            return [*super().authorization(credential), *version]
        return [(self._header, credential.token), *version]

    def refusal(self, status: int, answer: Json, retry_after: str | None, token: str) -> errors.GatewayError:
        """A 404 means that there is no task only if the agent says so; any other comes from a wrong address."""
        if status not in (401, 403, 429) and isinstance(answer, dict):
            if (named := error_in(answer, token)) is not None:
                return named
            if isinstance(error := answer.get("error"), dict):
                answer = {"message": error.get("message")}
            elif status == 404:
                return errors.UpstreamError("The host answered with status 404, and does not say so of a task.")
        return super().refusal(status, answer, retry_after, token)

    async def identify(self, credential: Credential) -> User:
        """Ask for a task that does not exist: strangers are refused instead. Agents that require no credential let
        everybody in.
        """
        with suppress(errors.NotFound):
            await self._call(credential, "identify", GET, {"id": str(uuid.uuid4())}, as_object)
        return user_of(credential)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Send a message that starts a task. Its metadata contains the marks, and is part of the task's history."""
        self.organization_id(organization)
        refuse(new, "repo_id", "model", "agent_type")
        metadata = marked(new.metadata, new.marks)
        run = await self._send(credential, "create_run", new.prompt, new.images, {"metadata": metadata})
        if run is None:
            raise errors.Unsupported("The agent answered at once, without a task: there is no run to follow.")
        return run

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        return await self._task(credential, "get_run", ref, run_of)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Tasks, ordered by their newest status, with their history, which has the marks, but without artifacts.

        Raises:
            Unsupported: version 0.3 has no lists, and those of 1.0 are read from the front, up to ``MOST_PAGES`` pages.
        """
        self.organization_id(organization)
        refuse(only, "source_type", "user_id")
        place, token = 0, ""
        for pieces in range(1, MOST_PAGES + 1):
            arrived = place == skip
            size = min(limit if arrived else skip - place, self.page_size)
            query: Object = not_none(pageSize=size, pageToken=token or None, historyLength=None if arrived else 0)
            answer = await self._call(credential, "list_runs", LIST, query, as_object)
            tasks, token = as_list(answer.get("tasks", [])), str(answer.get("nextPageToken") or "")
            if arrived or not token:
                total = answer.get("totalSize")
                paging = Paging(total if type(total) is int else None, None, limit, None)
                at_end = not token and (not arrived or len(tasks) <= limit)
                found = tasks[:limit] if arrived else []
                return listing_of(found, partial(run_of, listed=True), paging, at_end=at_end, pieces=pieces)
            place += len(tasks)
        raise errors.Unsupported(f"The agent's list can be read from its front only, up to {MOST_PAGES} pages.")

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """Send a message to a task, after reading the task's context, which the message has to name."""
        try:
            place = await self._task(credential, "get_run", ref, place_of)
        except errors.UpstreamFailure as error:
            error.may_have_acted = False
            raise
        try:
            run = await self._send(credential, "resume_run", prompt, images, place)
        except errors.Unsupported as error:  # the task has ended meanwhile
            raise errors.RunFinal from error
        return run or await self.get_run(credential, ref)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Cancel a task. One that has ended stays as it is."""
        try:
            await self._call(credential, "cancel_run", CANCEL, {"id": self.run_id(ref.id)}, as_object)
        except errors.Conflict:
            if not (await self.get_run(credential, ref)).status.ended:
                raise

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """The agent's question, with the id of the message that asks it."""
        return await self._task(credential, "pending", ref, pending_of)

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """Answer the agent's question. It never asks for approval."""
        if decision.verdict != "answer" or not decision.text:
            what = "The agent has asked a question: answer it with a text."
            raise errors.rejected(what, "literal_error", "body", "verdict")
        if request_id not in [request.id for request in await self.pending(credential, ref)]:
            raise errors.NotFound
        await self.resume_run(credential, ref, decision.text, None)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """A part of the log. All of it comes with the task, so the status is never newer or older than the log."""

        def page_in(task: Object) -> LogPage:
            log = log_of(task)
            return page_of(
                run_of(task), len(log), after, limit, lambda start, stop: log[start:stop], newest_first=newest_first
            )

        return await self._task(credential, "read_log", ref, page_in)

    async def changes(self, credential: Credential, ref: RunRef, after: Cursor) -> AsyncGenerator[None, None]:
        """Yield with each event of the task's stream. The first is the task's current state, so no change is missed.

        Raises:
            Unsupported: the agent has no streams, the task has ended, or the version is 0.3, where an agent may stop
                working when a listener disconnects.
        """
        interface = await self._current_interface(credential)
        _, path, _, body = interface.request(SUBSCRIBE, {"id": self.run_id(ref.id)})
        async with aclosing(self.listen(credential, "changes", path, body=body)) as lines:
            async for line in lines:
                event = None
                with suppress(ValueError):  # the line was too long, and has been truncated
                    event = from_json(line)
                if event is not None:
                    interface.result(event, credential.token)
                if line:
                    yield None

    async def _task(self, credential: Credential, operation: str, ref: RunRef, read: Callable[[Object], T]) -> T:
        """Fetch a task with its whole history, and return what ``read`` makes of it."""
        self.organization_id(ref.organization)
        return await self._call(credential, operation, GET, {"id": self.run_id(ref.id)}, read)

    async def _send(
        self, credential: Credential, operation: str, prompt: str, images: Images, more: Object
    ) -> Run | None:
        """Send a message without waiting for its outcome. Returns the task, if the answer contains it."""
        body = (await self._current_interface(credential)).message(prompt, images or (), more)
        return await self._call(credential, operation, SEND, body, task_sent)

    async def _call(
        self, credential: Credential, operation: str, call: Call, fields: Object, read: Callable[[Object], T]
    ) -> T:
        interface, token = await self._current_interface(credential), credential.token
        method, path, query, body = interface.request(call, fields)

        def read_result(answer: Json) -> T:
            return read(interface.result(answer, token))

        try:
            return await self.ask(credential, operation, method, path, read_result, query, body=body)
        except errors.UpstreamFailure:
            self._stale = True
            raise

    async def _current_interface(self, credential: Credential) -> Interface:
        """The interface to use. The card is read at the first call, and again after a failure."""
        if self._interface is None or self._stale:
            try:
                self._interface = await self.ask(credential, "card", "GET", self._card_path, Interface.chosen)
            except errors.UpstreamFailure as error:
                error.may_have_acted = False
                raise
            self._stale = False
        return self._interface
