"""The adapter for OpenHands' agent server: a run is a conversation, its log the conversation's events.

The status is read before the log, so the log of an ended run is complete. Facts about the host are in
docs/hosts/openhands.md.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar, Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Paging, Run, RunRef, RunStatus
from codegen_api.upstreams import Decision, Images, InvalidOption, Listing, NewRun, PendingRequest, RunFilter, User
from codegen_api.upstreams.host_json import (
    Object,
    as_list,
    as_object,
    listing_of,
    marked,
    member,
    new_uuid,
    not_none,
    nothing,
    object_in,
    refuse,
    run_told,
    run_uuid,
    text_in,
)
from codegen_api.upstreams.openhands import entries
from codegen_api.upstreams.openhands.bookmarks import GRID, Bookmarks
from codegen_api.upstreams.over_http import ConnectArguments, Headers, OneOrganization, user_of

T = TypeVar("T")

MOST = 100
"""Maximum events or conversations in one answer of the host."""
LATEST = 20
"""Number of last events to read to find the one that says how a conversation stopped."""
MOST_PAGES = 20
"""Maximum pages of the list to read on the way to a place in it."""
WORKPLACE = "workspace/project"
"""The default folder for agents, relative to where the server was started."""

CONFIRM: Mapping[str, Object] = {
    "never": {},
    "risky": {"security_analyzer": {"kind": "LLMSecurityAnalyzer"}, "confirmation_policy": {"kind": "ConfirmRisky"}},
    "always": {"confirmation_policy": {"kind": "AlwaysConfirm"}},
}


class Items(NamedTuple, Generic[T]):
    """A page of one of the host's lists, and the id of the item that follows; None at the end."""

    items: list[T]
    following: str | None


class OpenHandsUpstream(OneOrganization):
    """An agent server as an ``Upstream`` that also ``Cancels``, ``Approves`` and ``TakesKeys``.

    The credential's token is the server's session key. Options: ``agent``, JSON of the agent with the settings of its
    model, a secret; ``directory``, the folder on the server's machine in which agents work; ``confirm``, which actions
    need approval: ``never``, ``risky`` or ``always``.
    """

    name = "openhands"
    page_size = MOST
    exchanges_per_read = 5
    keyed = frozenset({"create"})
    known_options = ("agent", "directory", "confirm")
    unreadable = entries.UNREADABLE
    run_id = staticmethod(run_uuid)
    step = staticmethod(entries.step_of)

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        super().__init__(base_url, "/api", **arguments)
        self._bookmarks = Bookmarks()
        self._agent = agent_of(self.options.get("agent", ""))
        self._directory = self.options.get("directory", WORKPLACE)
        if (confirm := self.options.get("confirm", "never")) not in CONFIRM:
            raise InvalidOption("confirm", f"must be {', '.join(CONFIRM)}")
        self._confirm = CONFIRM[confirm]

    def authorization(self, credential: Credential) -> Headers:
        return [("X-Session-API-Key", credential.token)]

    async def identify(self, credential: Credential) -> User:
        """A server without a session key lets everybody in."""
        await self.ask(credential, "identify", "GET", "/conversations/count", count_of)
        return user_of(credential)

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        """Create a conversation. The same key gives the same id, for which the server returns the existing one."""
        refuse(new, "repo_id", "model", "agent_type")
        body: Object = {
            "conversation_id": new_uuid("conversation", new.key),
            "workspace": {"kind": "LocalWorkspace", "working_dir": self._directory},
            "agent": self._agent,
            "initial_message": user_message(new.prompt, new.images),
            "tags": entries.tags_of(marked(new.metadata, new.marks)),
            **self._confirm,
        }
        return await self.ask(credential, "create_run", "POST", "/conversations", entries.run_of, body=body)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """The conversation, with its last events or its answer where its status alone does not say enough."""
        return await self._get_run(credential, "get_run", ref)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Conversations, newest first. A list does not say which of the ``paused`` ones were stopped.

        Raises:
            Unsupported: the list can only be read from the front, up to ``MOST_PAGES`` pages.
        """
        refuse(only, "source_type", "user_id")
        place, token = 0, None
        for pieces in range(1, MOST_PAGES + 1):
            arrived = place == skip
            query: dict[str, str | int] = not_none(limit=min(limit if arrived else skip - place, MOST), page_id=token)
            page = await self.ask(credential, "list_runs", "GET", "/conversations/search", items_of, query)
            if arrived or page.following is None:
                items, paging = page.items if arrived else [], Paging(None, None, limit, None)
                return listing_of(items, entries.run_of, paging, at_end=page.following is None, pieces=pieces)
            place, token = place + len(page.items), page.following
        raise errors.Unsupported(f"The host's list can be read from its front only, up to {MOST_PAGES} pages.")

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """While the agent works, the prompt joins the current turn.

        Raises:
            Conflict: an action waits for approval, or may by now: the server would take the prompt as that.
            UpstreamRateLimited: the server has no room for more runs. It has kept the prompt, so sending it again only
                starts the agent.
        """
        try:
            conversation = await self._conversation(credential, "resume_run", ref)
            word = entries.word_of(conversation)
            stopped = word in (*entries.AMBIGUOUS, "idle")
            newest = await self._newest(credential, "resume_run", ref, LATEST) if stopped else []
        except errors.UpstreamFailure as error:
            error.may_have_acted = False
            raise
        confirms = object_in(conversation, "confirmation_policy").get("kind") != "NeverConfirm"
        if word == "waiting_for_confirmation" or (word == "running" and confirms):
            raise errors.Conflict("The run is at work, or waits for a decision: resume it when it has ended.")
        if entries.unanswered_prompt(newest) == prompt and not images:
            await self._start(credential, "resume_run", ref)
        else:
            await self._send(credential, ref, user_message(prompt, images))
        try:
            return await self.get_run(credential, ref)
        except errors.GatewayError:  # the prompt has arrived nevertheless
            return run_told(self.run_id(ref.id), {}, RunStatus.PENDING)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """Interrupt the agent. Pending actions are rejected, since an interrupt alone leaves them waiting."""
        path = self._path(ref)
        if entries.word_of(await self._conversation(credential, "cancel_run", ref)) == "waiting_for_confirmation":
            await self._respond(credential, "cancel_run", ref, accept=False, reason="The run was stopped.")
        await self.ask(credential, "cancel_run", "POST", f"{path}/interrupt", nothing, order=True)

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """The pending actions as one request: the server takes one decision on all of them."""
        if entries.word_of(await self._conversation(credential, "pending", ref)) != "waiting_for_confirmation":
            return ()
        return entries.pending_in(await self._newest(credential, "pending", ref, MOST))

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """Send the decision. After a rejection also start the agent, which the server does not do."""
        if request_id not in [request.id for request in await self.pending(credential, ref)]:
            raise errors.NotFound
        if decision.verdict == "answer":
            raise errors.rejected("Does not suit what the run waits for.", "unsuitable", "body", "verdict")
        accept = decision.verdict == "approve"
        await self._respond(credential, "decide", ref, accept=accept, reason=None if accept else decision.text)
        if not accept:
            await self._start(credential, "decide", ref)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """A part of the log. The status is read before it, so the log of an ended run is complete."""
        run = await self._get_run(credential, "read_log", ref)
        if newest_first:
            total, events = await self._read_backwards(credential, ref, after, limit)
            page = await self._entries(credential, ref, events, events)
            return LogPage(run, after, page, after + limit >= total, Paging(total, None, limit, None), True)
        first, events, at_end = await self._read_forwards(credential, ref, after, limit)
        page = await self._entries(credential, ref, events[after + 1 - first :], events)
        total_or_none = first + len(events) - 1 if at_end else None
        return LogPage(run, after, page, at_end, Paging(total_or_none, None, limit, None))

    def _path(self, ref: RunRef) -> str:
        self.organization_id(ref.organization)
        return f"/conversations/{self.run_id(ref.id)}"

    async def _conversation(self, credential: Credential, operation: str, ref: RunRef) -> Object:
        return await self.ask(credential, operation, "GET", self._path(ref), as_object)

    async def _get_run(self, credential: Credential, operation: str, ref: RunRef) -> Run:
        """The run, with its answer if it has one."""
        conversation = await self._conversation(credential, operation, ref)
        newest, result, word = list[Object](), None, entries.word_of(conversation)
        if word in entries.AMBIGUOUS:
            newest = await self._newest(credential, operation, ref, LATEST)
        elif word == "finished":
            path = f"{self._path(ref)}/agent_final_response"
            result = await self.ask(
                credential, operation, "GET", path, lambda answer: member(as_object(answer), "response", str)
            )
        return entries.run_of(conversation, newest, result)

    # -- pages of the log ---------------------------------------------------------------------------------------------

    async def _read_forwards(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int
    ) -> tuple[Cursor, list[Object], bool]:
        """Read the events from position ``after + 1``, or some before it, to ``after + limit``. Returns the position of
        the first, the events, and whether no others follow.

        Reading begins at the nearest bookmark. If the page does not begin with its event, the log has been replaced.
        """
        place, first_id = self._bookmarks.before(ref.id, after + 1)
        first, events, doubted = place, list[Object](), first_id is None
        while True:
            if place <= after + 1:
                first, events = place, []
            page = await self._search(credential, "read_log", ref, min(MOST, after + limit + 1 - place), first_id)
            if first_id is not None and (not page.items or entries.id_of(page.items[0]) not in (first_id, None)):
                if doubted:
                    raise errors.UpstreamError("The host's log is another one with each answer.")
                self._bookmarks.forget(ref.id)
                place, first_id, doubted = 1, None, True
                continue
            self._bookmark(ref, place, page)
            events += page.items
            place, first_id = place + len(page.items), page.following
            if first_id is None or not page.items or place > after + limit:
                return first, events, first_id is None

    def _bookmark(self, ref: RunRef, place: Cursor, page: Items[Object]) -> None:
        last = len(page.items) - 1
        for index, event in enumerate(page.items):
            event_id = entries.id_of(event)
            if event_id is not None and ((place + index) % GRID == 1 or index == last):
                self._bookmarks.keep(ref.id, place + index, event_id)
        if page.following is not None:
            self._bookmarks.keep(ref.id, place + last + 1, page.following)

    async def _read_backwards(
        self, credential: Credential, ref: RunRef, skip: int, limit: int
    ) -> tuple[Cursor, list[Object]]:
        """The length of the log, and up to ``limit`` events before the ``skip`` newest ones, newest first."""
        total = await self._count(credential, ref)
        events = [] if skip >= total else await self._newest(credential, "read_log", ref, skip + limit)
        counted = await self._count(credential, ref)
        if counted == total:
            return total, events[skip:]
        start, end = max(0, counted - skip - limit), max(0, counted - skip)  # the log has grown between the answers
        if start == end:
            return counted, []
        first, events, _ = await self._read_forwards(credential, ref, start, end - start)
        return counted, events[start + 1 - first :][::-1]

    async def _newest(self, credential: Credential, operation: str, ref: RunRef, count: int) -> list[Object]:
        """The last ``count`` events, newest first."""
        events: list[Object] = []
        first_id: str | None = None
        while len(events) < count:
            limit = min(MOST, count - len(events))
            page = await self._search(credential, operation, ref, limit, first_id, order="TIMESTAMP_DESC")
            events += page.items
            first_id = page.following
            if first_id is None or not page.items:
                break
        return events

    async def _entries(
        self, credential: Credential, ref: RunRef, events: Sequence[Object], known: Sequence[Object]
    ) -> tuple[LogEntry, ...]:
        """``events`` as entries. The inputs of tools are in ``known`` events, or are fetched."""
        inputs = entries.inputs_in(known)
        for call in [entries.call_of(event) for event in events]:
            if call is not None and call not in inputs and re.fullmatch("[A-Za-z0-9_-]{1,64}", call):
                page = await self._search(credential, "read_log", ref, 1, call)
                inputs = {call: None, **inputs, **entries.inputs_in(page.items)}
        return tuple(entries.entry_of(event, inputs) for event in events)

    async def _search(
        self,
        credential: Credential,
        operation: str,
        ref: RunRef,
        limit: int,
        first_id: str | None,
        *,
        order: str = "TIMESTAMP",
    ) -> Items[Object]:
        """Events from the one with the id ``first_id`` on; from the first if there is none."""
        query: dict[str, str | int] = not_none(limit=limit, sort_order=order, page_id=first_id)
        return await self.ask(credential, operation, "GET", f"{self._path(ref)}/events/search", events_of, query)

    async def _count(self, credential: Credential, ref: RunRef) -> int:
        return await self.ask(credential, "read_log", "GET", f"{self._path(ref)}/events/count", count_of)

    # -- orders -------------------------------------------------------------------------------------------------------

    async def _send(self, credential: Credential, ref: RunRef, message: Object) -> None:
        try:
            path = f"{self._path(ref)}/events"
            await self.ask(credential, "resume_run", "POST", path, nothing, body=message, order=True)
        except errors.UpstreamRateLimited as error:
            if "Message saved" not in error.message:
                raise
            full = "The host has no room for more runs. It has kept the prompt: resume with the same one later."
            raise errors.UpstreamRateLimited(full, retry_after=error.retry_after, reason=error.reason) from error

    async def _start(self, credential: Credential, operation: str, ref: RunRef) -> None:
        with suppress(errors.Conflict):  # the agent is working already
            await self.ask(credential, operation, "POST", f"{self._path(ref)}/run", nothing, order=True)

    async def _respond(
        self, credential: Credential, operation: str, ref: RunRef, *, accept: bool, reason: str | None = None
    ) -> None:
        body: Object = not_none(accept=accept, reason=reason or None)
        path = f"{self._path(ref)}/events/respond_to_confirmation"
        await self.ask(credential, operation, "POST", path, nothing, body=body, order=True)


def agent_of(text: str) -> Object:
    """The agent in the settings. Raises ``InvalidOption`` if ``text`` is not an agent as JSON."""
    try:
        agent = json.loads(text)
    except (ValueError, RecursionError):
        agent = None  # the error would quote the text
    if not isinstance(agent, dict) or not isinstance(agent.get("llm"), dict):
        raise InvalidOption("agent", "must be the agent as a JSON object, with the settings of its model in llm")
    return {"kind": "Agent", **agent}


def user_message(prompt: str, images: Images) -> Object:
    """A message that starts the agent."""
    content: list[Json] = [{"type": "text", "text": prompt}]
    content += [{"type": "image", "image_urls": list(images)}] if images else []
    return {"role": "user", "content": content, "run": True}


def items_of(answer: Json) -> Items[Json]:
    fields = as_object(answer)
    return Items(as_list(fields.get("items")), text_in(fields, "next_page_id"))


def events_of(answer: Json) -> Items[Object]:
    """A page of a log, with an empty object in the place of anything that is not an event."""
    page = items_of(answer)
    return Items([item if isinstance(item, dict) else {} for item in page.items], page.following)


def count_of(answer: Json) -> int:
    return member({"count": answer}, "count", int)
