"""OpenHands' agent server as an upstream: a run is one of its conversations, its log the conversation's events.

How a conversation stands is asked first and its log then, so that all that was there at an end is in the log beside it.
The facts about the host are in docs/hosts/openhands.md.
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
"""Events, or conversations, in one answer, by the host's own limit."""
LATEST = 20
"""Among so many of the last events is the one that says how a conversation has stopped."""
MOST_PAGES = 20
"""So many pages of the list are read to get to a place in it."""
WORKPLACE = "workspace/project"
"""Where agents work if no other folder is named: below the one in which the server was started."""

CONFIRM: Mapping[str, Object] = {
    "never": {},
    "risky": {"security_analyzer": {"kind": "LLMSecurityAnalyzer"}, "confirmation_policy": {"kind": "ConfirmRisky"}},
    "always": {"confirmation_policy": {"kind": "AlwaysConfirm"}},
}


class Items(NamedTuple, Generic[T]):
    """A page of a list of the host's, and the id of the item behind it; None at the end."""

    items: list[T]
    following: str | None


class OpenHandsUpstream(OneOrganization):
    """An agent server as an ``Upstream`` that also ``Cancels``, ``Approves`` and ``TakesKeys``.

    The credential's token is the server's session key. Options: ``agent``, JSON of the agent with the settings of its
    model, a secret; ``directory``, the folder on the server's machine in which its agents work; ``confirm``, which of
    their actions somebody has to approve: ``never``, ``risky`` ones, ``always``.
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
        """The same key makes the same conversation, which the server takes for the one that it has."""
        refuse(new, "repo_id", "model", "agent_type")
        body: Object = {
            "conversation_id": new_uuid("conversation", new.key),
            "workspace": {"kind": "LocalWorkspace", "working_dir": self._directory},
            "agent": self._agent,
            "initial_message": said(new.prompt, new.images),
            "tags": entries.tags_of(marked(new.metadata, new.marks)),
            **self._confirm,
        }
        return await self.ask(credential, "create_run", "POST", "/conversations", entries.run_of, body=body)

    async def get_run(self, credential: Credential, ref: RunRef) -> Run:
        """The conversation; its last events or its answer are asked for only where they say more of its status."""
        return await self._described(credential, "get_run", ref)

    async def list_runs(
        self, credential: Credential, organization: str, skip: int, limit: int, only: RunFilter
    ) -> Listing[Run]:
        """Conversations, newest first. A list does not say which of those that are ``paused`` were stopped.

        Raises:
            Unsupported: the list is read from its front, so not far behind it.
        """
        refuse(only, "source_type", "user_id")
        place, token = 0, None
        for pieces in range(1, MOST_PAGES + 1):
            here = place == skip
            query: dict[str, str | int] = not_none(limit=min(limit if here else skip - place, MOST), page_id=token)
            page = await self.ask(credential, "list_runs", "GET", "/conversations/search", items_of, query)
            if here or page.following is None:
                found, paging = page.items if here else [], Paging(None, None, limit, None)
                return listing_of(found, entries.run_of, paging, at_end=page.following is None, pieces=pieces)
            place, token = place + len(page.items), page.following
        raise errors.Unsupported(f"The host's list can be read from its front only, up to {MOST_PAGES} pages.")

    async def resume_run(
        self, credential: Credential, ref: RunRef, prompt: str, images: Images, *, key: str | None = None
    ) -> Run:
        """While the agent works, the prompt joins what it is at.

        Raises:
            Conflict: an action waits for approval, or could by now: the server would take the prompt for that.
            UpstreamRateLimited: the server has no room for more runs. It has kept the prompt, so one that comes again
                only sets the agent to work.
        """
        try:
            conversation = await self._conversation(credential, "resume_run", ref)
            word = entries.word_of(conversation)
            stopped = word in (*entries.DOUBTFUL, "idle")
            newest = await self._newest(credential, "resume_run", ref, LATEST) if stopped else []
        except errors.UpstreamFailure as error:
            error.may_have_acted = False
            raise
        never = object_in(conversation, "confirmation_policy").get("kind") == "NeverConfirm"
        if word == "waiting_for_confirmation" or (word == "running" and not never):
            raise errors.Conflict("The run is at work, or waits for a decision: resume it when it has ended.")
        if entries.unbegun(newest) == prompt and not images:
            await self._go_on(credential, "resume_run", ref)
        else:
            await self._say(credential, ref, said(prompt, images))
        try:
            return await self.get_run(credential, ref)
        except errors.GatewayError:  # the prompt was heard all the same
            return run_told(self.run_id(ref.id), {}, RunStatus.PENDING)

    async def cancel_run(self, credential: Credential, ref: RunRef) -> None:
        """What waits for approval is rejected, since an interrupt alone leaves it waiting."""
        path = self._path(ref)
        if entries.word_of(await self._conversation(credential, "cancel_run", ref)) == "waiting_for_confirmation":
            await self._respond(credential, "cancel_run", ref, accept=False, reason="The run was stopped.")
        await self.ask(credential, "cancel_run", "POST", f"{path}/interrupt", nothing, order=True)

    async def pending(self, credential: Credential, ref: RunRef) -> tuple[PendingRequest, ...]:
        """The actions that wait: the server takes one decision on all of them."""
        if entries.word_of(await self._conversation(credential, "pending", ref)) != "waiting_for_confirmation":
            return ()
        return entries.pending_in(await self._newest(credential, "pending", ref, MOST))

    async def decide(self, credential: Credential, ref: RunRef, request_id: str, decision: Decision) -> None:
        """After a rejection the agent is told to go on, which the server leaves to whoever rejects."""
        if request_id not in [request.id for request in await self.pending(credential, ref)]:
            raise errors.NotFound
        if decision.verdict == "answer":
            raise errors.rejected("Does not suit what the run waits for.", "unsuitable", "body", "verdict")
        accept = decision.verdict == "approve"
        await self._respond(credential, "decide", ref, accept=accept, reason=None if accept else decision.text)
        if not accept:
            await self._go_on(credential, "decide", ref)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """How the conversation stands is asked first, so that all that was there at an end is in the log beside it."""
        run = await self._described(credential, "read_log", ref)
        if newest_first:
            total, events = await self._backwards(credential, ref, after, limit)
            found = await self._entries(credential, ref, events, events)
            return LogPage(run, after, found, after + limit >= total, Paging(total, None, limit, None), True)
        first, events, at_end = await self._stretch(credential, ref, after, limit)
        found = await self._entries(credential, ref, events[after + 1 - first :], events)
        total_or_none = first + len(events) - 1 if at_end else None
        return LogPage(run, after, found, at_end, Paging(total_or_none, None, limit, None))

    def _path(self, ref: RunRef) -> str:
        self.organization_id(ref.organization)
        return f"/conversations/{self.run_id(ref.id)}"

    async def _conversation(self, credential: Credential, operation: str, ref: RunRef) -> Object:
        return await self.ask(credential, operation, "GET", self._path(ref), as_object)

    async def _described(self, credential: Credential, operation: str, ref: RunRef) -> Run:
        """The run, with its answer if it has come to one."""
        conversation = await self._conversation(credential, operation, ref)
        newest, result, word = list[Object](), None, entries.word_of(conversation)
        if word in entries.DOUBTFUL:
            newest = await self._newest(credential, operation, ref, LATEST)
        elif word == "finished":
            path = f"{self._path(ref)}/agent_final_response"
            result = await self.ask(
                credential, operation, "GET", path, lambda said: member(as_object(said), "response", str)
            )
        return entries.run_of(conversation, newest, result)

    # -- pages of the log ---------------------------------------------------------------------------------------------

    async def _stretch(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int
    ) -> tuple[Cursor, list[Object], bool]:
        """The events from position ``after + 1``, or from shortly before, to ``after + limit``: the position of the
        first, the events, and whether there were no more. It begins at the nearest event that is known: a page whose
        first event is another one is of another log, under the same name.
        """
        place, name = self._bookmarks.before(ref.id, after + 1)
        first, events, doubted = place, list[Object](), name is None
        while True:
            if place <= after + 1:
                first, events = place, []
            page = await self._search(credential, "read_log", ref, min(MOST, after + limit + 1 - place), name)
            if name is not None and (not page.items or entries.name_of(page.items[0]) not in (name, None)):
                if doubted:
                    raise errors.UpstreamError("The host's log is another one with each answer.")
                self._bookmarks.forget(ref.id)
                place, name, doubted = 1, None, True
                continue
            self._remember(ref, place, page)
            events += page.items
            place, name = place + len(page.items), page.following
            if name is None or not page.items or place > after + limit:
                return first, events, name is None

    def _remember(self, ref: RunRef, place: Cursor, page: Items[Object]) -> None:
        last = len(page.items) - 1
        for index, event in enumerate(page.items):
            name = entries.name_of(event)
            if name is not None and ((place + index) % GRID == 1 or index == last):
                self._bookmarks.keep(ref.id, place + index, name)
        if page.following is not None:
            self._bookmarks.keep(ref.id, place + last + 1, page.following)

    async def _backwards(
        self, credential: Credential, ref: RunRef, skip: int, limit: int
    ) -> tuple[Cursor, list[Object]]:
        """The length of the log, and events behind the ``skip`` newest ones, newest first."""
        total = await self._count(credential, ref)
        events = [] if skip >= total else await self._newest(credential, "read_log", ref, skip + limit)
        counted = await self._count(credential, ref)
        if counted == total:
            return total, events[skip:]
        start, end = max(0, counted - skip - limit), max(0, counted - skip)  # it has grown between the answers
        if start == end:
            return counted, []
        first, events, _ = await self._stretch(credential, ref, start, end - start)
        return counted, events[start + 1 - first :][::-1]

    async def _newest(self, credential: Credential, operation: str, ref: RunRef, count: int) -> list[Object]:
        """So many of the last events, the newest first."""
        events: list[Object] = []
        name: str | None = None
        while len(events) < count:
            limit = min(MOST, count - len(events))
            page = await self._search(credential, operation, ref, limit, name, order="TIMESTAMP_DESC")
            events += page.items
            name = page.following
            if name is None or not page.items:
                break
        return events

    async def _entries(
        self, credential: Credential, ref: RunRef, events: Sequence[Object], known: Sequence[Object]
    ) -> tuple[LogEntry, ...]:
        """``events`` as entries. What tools were called with is in ``known`` events, or is asked for."""
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
        name: str | None,
        *,
        order: str = "TIMESTAMP",
    ) -> Items[Object]:
        """Events from the one of this ``name`` on; from the first one, if there is none of it."""
        query: dict[str, str | int] = not_none(limit=limit, sort_order=order, page_id=name)
        return await self.ask(credential, operation, "GET", f"{self._path(ref)}/events/search", events_of, query)

    async def _count(self, credential: Credential, ref: RunRef) -> int:
        return await self.ask(credential, "read_log", "GET", f"{self._path(ref)}/events/count", count_of)

    # -- orders -------------------------------------------------------------------------------------------------------

    async def _say(self, credential: Credential, ref: RunRef, message: Object) -> None:
        try:
            path = f"{self._path(ref)}/events"
            await self.ask(credential, "resume_run", "POST", path, nothing, body=message, order=True)
        except errors.UpstreamRateLimited as error:
            if "Message saved" not in error.message:
                raise
            full = "The host has no room for more runs. It has kept the prompt: resume with the same one later."
            raise errors.UpstreamRateLimited(full, retry_after=error.retry_after, reason=error.reason) from error

    async def _go_on(self, credential: Credential, operation: str, ref: RunRef) -> None:
        with suppress(errors.Conflict):  # it is at work already
            await self.ask(credential, operation, "POST", f"{self._path(ref)}/run", nothing, order=True)

    async def _respond(
        self, credential: Credential, operation: str, ref: RunRef, *, accept: bool, reason: str | None = None
    ) -> None:
        body: Object = not_none(accept=accept, reason=reason or None)
        path = f"{self._path(ref)}/events/respond_to_confirmation"
        await self.ask(credential, operation, "POST", path, nothing, body=body, order=True)


def agent_of(text: str) -> Object:
    """The agent of the settings. Raises ``InvalidOption`` for what is none."""
    try:
        agent = json.loads(text)
    except (ValueError, RecursionError):
        agent = None  # the error would quote it
    if not isinstance(agent, dict) or not isinstance(agent.get("llm"), dict):
        raise InvalidOption("agent", "must be the agent as a JSON object, with the settings of its model in llm")
    return {"kind": "Agent", **agent}


def said(prompt: str, images: Images) -> Object:
    """A message that sets the agent to work."""
    content: list[Json] = [{"type": "text", "text": prompt}]
    content += [{"type": "image", "image_urls": list(images)}] if images else []
    return {"role": "user", "content": content, "run": True}


def items_of(answer: Json) -> Items[Json]:
    said = as_object(answer)
    return Items(as_list(said.get("items")), text_in(said, "next_page_id"))


def events_of(answer: Json) -> Items[Object]:
    """A page of a log, with an empty object in the place of what is no event."""
    page = items_of(answer)
    return Items([item if isinstance(item, dict) else {} for item in page.items], page.following)


def count_of(answer: Json) -> int:
    return member({"count": answer}, "count", int)
