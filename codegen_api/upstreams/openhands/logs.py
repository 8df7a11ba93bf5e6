"""The logs of conversations: pages of them, and how the conversation stands, which its last events may tell."""

import re
from collections.abc import Sequence
from typing import NamedTuple, Unpack

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Paging, Run, RunRef
from codegen_api.upstreams.openhands.bookmarks import GRID, Bookmarks
from codegen_api.upstreams.openhands.conversations import DOUBTFUL, run_name, run_of, word_of
from codegen_api.upstreams.openhands.entries import call_of, entry_of, inputs_in, name_of
from codegen_api.upstreams.over_http import ConnectArguments, Object, OneOrganization, as_object, as_objects, member

MOST = 100
"""Events, or conversations, in one answer, by the host's own limit."""
LATEST = 20
"""Among so many of the last events is the one that says how a conversation has stopped."""


class Items(NamedTuple):
    """A page of a list of the host's, and the id of the item behind it; None at the end."""

    items: list[Object]
    following: str | None


class ConversationLogs(OneOrganization):
    """What an agent server says of its conversations and their logs."""

    def __init__(self, base_url: str, **arguments: Unpack[ConnectArguments]) -> None:
        self._bookmarks = Bookmarks()
        super().__init__(base_url, "/api", **arguments)

    def run_id(self, text: str) -> str:
        """A UUID in lower case with hyphens; raises ``Rejected`` for anything else."""
        try:
            return run_name(text)
        except ValueError as error:
            raise errors.Rejected(details=[errors.Detail(("run_id",), "Must be a UUID.", "uuid_parsing")]) from error

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        """How the conversation stands is asked first, so that all that was there at an end is in the log beside it."""
        run = await self._described(credential, "read_log", ref)
        if newest_first:
            total, events = await self._backwards(credential, ref, after, limit)
            entries = await self._entries(credential, ref, events, events)
            return LogPage(run, after, entries, after + limit >= total, Paging(total, None, limit, None), True)
        first, events, at_end = await self._stretch(credential, ref, after, limit)
        entries = await self._entries(credential, ref, events[after + 1 - first :], events)
        total_or_none = first + len(events) - 1 if at_end else None
        return LogPage(run, after, entries, at_end, Paging(total_or_none, None, limit, None))

    def _path(self, ref: RunRef) -> str:
        self.organization_id(ref.organization)
        return f"/conversations/{self.run_id(ref.id)}"

    async def _conversation(self, credential: Credential, operation: str, ref: RunRef) -> Object:
        return await self.ask(credential, operation, "GET", self._path(ref), as_object)

    async def _described(self, credential: Credential, operation: str, ref: RunRef) -> Run:
        """The run, with its answer if it has come to one."""
        conversation = await self._conversation(credential, operation, ref)
        newest, result, word = None, None, word_of(conversation)
        if word in DOUBTFUL:
            newest = await self._newest(credential, operation, ref, LATEST)
        elif word == "finished":
            path = f"{self._path(ref)}/agent_final_response"
            result = await self.ask(credential, operation, "GET", path, _response)
        return run_of(conversation, newest, result)

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
            if name is not None and [name_of(event) for event in page.items[:1]] != [name]:
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

    def _remember(self, ref: RunRef, place: Cursor, page: Items) -> None:
        last = len(page.items) - 1
        for index, event in enumerate(page.items):
            if (place + index) % GRID == 1 or index == last:
                self._bookmarks.keep(ref.id, place + index, name_of(event))
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
        inputs = inputs_in(known)
        for call in [call_of(event) for event in events]:
            if call is not None and call not in inputs and re.fullmatch("[A-Za-z0-9_-]{1,64}", call):
                page = await self._search(credential, "read_log", ref, 1, call)
                inputs = {call: None, **inputs, **inputs_in(page.items)}
        return tuple(entry_of(event, inputs) for event in events)

    async def _search(
        self,
        credential: Credential,
        operation: str,
        ref: RunRef,
        limit: int,
        name: str | None,
        *,
        order: str = "TIMESTAMP",
    ) -> Items:
        """Events from the one of this ``name`` on; from the first one, if there is none of it."""
        query: dict[str, str | int] = {"limit": limit, "sort_order": order}
        query |= {} if name is None else {"page_id": name}
        return await self.ask(credential, operation, "GET", f"{self._path(ref)}/events/search", items_of, query)

    async def _count(self, credential: Credential, ref: RunRef) -> int:
        return await self.ask(credential, "read_log", "GET", f"{self._path(ref)}/events/count", count_of)


def items_of(answer: Json) -> Items:
    said = as_object(answer)
    following = said.get("next_page_id")
    return Items(as_objects(said.get("items")), following if isinstance(following, str) else None)


def count_of(answer: Json) -> int:
    return member({"count": answer}, "count", int)


def _response(answer: Json) -> str:
    return member(as_object(answer), "response", str)
