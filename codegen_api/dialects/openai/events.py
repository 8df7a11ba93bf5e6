"""A response over a long-lived connection: its events, or signs of life and then the whole response.

An event's number leads to its entry, so a reader can resume anywhere. An entry that changes after it was sent, and the
output of a tool that comes after later entries, are not sent again: the last event has all items as they are then, and
clients take these.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

from codegen_api.conversations import EntryRepeated, HoldingTeller, Stretch, TurnChanges, TurnEnded, TurnEntry
from codegen_api.conversations.conversations import CallerConversations, pending_of
from codegen_api.conversations.streams import ReaderAhead, frames, updates
from codegen_api.dialects.openai.items import WRITING, Item, ResponseEntry, last_items, settled
from codegen_api.dialects.openai.wire import event, last_event, response_fields
from codegen_api.errors import GatewayError, StreamCut
from codegen_api.http.sse import HEARTBEAT_SECONDS, with_heartbeats
from codegen_api.runs import Json
from codegen_api.stores import Turn
from codegen_api.telemetry import note
from codegen_api.upstreams import PendingRequest
from codegen_api.worker_thread import encoded

SIGN_OF_LIFE = b"\n"
"""White space before the JSON."""

STRIDE = 16
"""How many event numbers each entry has. The first ``STRIDE`` belong to the events before any entry."""

CALLED, ANSWERED = 6, 9
"""Where in an entry's numbers the events of a call begin, and those of its outcome."""


class ResponseTeller(HoldingTeller[ResponseEntry]):
    """Makes the events of a response for one reader, after event number ``after``."""

    def __init__(
        self, turn: Turn, render: Callable[[TurnEntry], ResponseEntry], changes: TurnChanges, after: int = -1
    ) -> None:
        super().__init__(render, changes)
        self.claimed = max(after, 0) // STRIDE
        self.ended: tuple[Turn, Sequence[PendingRequest]] | None = None
        """The turn that is over and its pending requests, while the reader still lacks the last event."""
        self.number = max(after, 0)
        """The number of the last event."""
        self._turn = turn
        self._after = after
        self._has_begun = False
        self._items = 0  # how many were sent
        self._called: tuple[int, int, Item] | None = None  # the call that is not done: its place among items, offset

    def begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        told: dict[str, Json] = {"response": response_fields(self._turn, None, [])}
        return self._from(0, _numbered(0, [("created", told), ("in_progress", told)]))

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> bytes:
        told = [self._release(), *map(self._tell, self._telling.close()), self._settle()]
        offset = turn.length
        for item in last_items(turn, pending):
            offset += 1
            told.append(self._from(offset * STRIDE, text_frames(offset, self._items, item)))
            self._items += 1
        if self._after > (offset + 1) * STRIDE:
            raise ReaderAhead
        self.number = (offset + 1) * STRIDE
        self.ended = (turn, pending) if self._after < self.number else None
        return b"".join(told)

    def _added(self, entry: ResponseEntry) -> bytes:
        done = self._settle()
        index, self._items = self._items, self._items + len(entry.items)
        if entry.call is not None:
            self._called = self._items - 1, entry.offset, entry.call
        return done + self._from(entry.offset * STRIDE, entry.frames("added", index, added_frames))

    def _answered(self, entry: ResponseEntry) -> bytes:
        if self._called is None:
            return b""
        (index, _, called), self._called = self._called, None
        frames = entry.frames("answered", index, lambda each, at: answered_frames(each.offset, at, each.call or called))
        return self._from(entry.offset * STRIDE + ANSWERED, frames)

    def _repeated(self, event: EntryRepeated[ResponseEntry]) -> bytes:
        entry = event.rendered
        # no ActionClosed comes for a call that was held back as a thought
        is_due = self._called is not None and self._called[1] == entry.offset and entry.closed
        return self._answered(entry) if is_due else b""

    def _settle(self) -> bytes:
        """End the call that is not done, if there is one."""
        if self._called is None:
            return b""
        (index, offset, called), self._called = self._called, None
        return self._from(offset * STRIDE + ANSWERED, answered_frames(offset, index, called))

    def _from(self, first: int, frames: Sequence[bytes]) -> bytes:
        """Those of the events numbered from ``first`` on that the reader does not have."""
        self.number = max(self.number, first)
        return b"".join(frames[max(0, self._after + 1 - first) :])


MESSAGE = ("content", "content", "output_text")
REASONING = ("reasoning_summary", "summary", "reasoning_summary_text")
"""The names of an item's parts: in the names of events, as a field of the item, and in the names of text events."""


def added_frames(entry: ResponseEntry, index: int) -> list[bytes]:
    """The events that announce an entry, one for each of its numbers; empty for a number without an event."""
    said = [] if entry.said is None else text_frames(entry.offset, index, entry.said)
    if entry.call is None:
        return said
    call, index = entry.call, index + len(entry.items) - 1
    at: dict[str, Json] = {"item_id": call["id"], "output_index": index}
    item: Item = {**call, "output": None, "error": None, "status": WRITING}
    events: list[tuple[str, dict[str, Json]]] = [
        ("output_item.added", {"output_index": index, "item": item}),
        ("mcp_call.in_progress", at),
        ("mcp_call_arguments.done", {**at, "arguments": call["arguments"]}),
    ]
    return [*said, *[b""] * (CALLED - len(said)), *_numbered(entry.offset * STRIDE + CALLED, events)]


def answered_frames(offset: int, index: int, item: Item) -> list[bytes]:
    """The events that end a call. Without an output it is neither completed nor failed."""
    at: dict[str, Json] = {"item_id": item["id"], "output_index": index}
    outcome = settled(item)
    done: dict[str, Json] = {"output_index": index, "item": outcome}
    told = _numbered(offset * STRIDE + ANSWERED, [(f"mcp_call.{outcome['status']}", at), ("output_item.done", done)])
    return told if outcome is item else [b"", told[1]]


def _numbered(first: int, events: Sequence[tuple[str, dict[str, Json]]]) -> list[bytes]:
    return [event(first + place, f"response.{kind}", **fields) for place, (kind, fields) in enumerate(events)]


def text_frames(offset: int, index: int, item: Item) -> list[bytes]:
    """The events of an item of text, from ``output_item.added`` to ``output_item.done``."""
    item = {**item, "status": "completed"}
    is_message = item["type"] == "message"
    name, field, kind = MESSAGE if is_message else REASONING
    parts = item[field]
    assert isinstance(parts, list)  # noqa: S101 - it was made so
    part: dict[str, Json] = parts[0]
    at: dict[str, Json] = {"item_id": item["id"], "output_index": index, f"{field}_index": 0}
    more: dict[str, Json] = {"logprobs": []} if is_message else {}
    events: list[tuple[str, dict[str, Json]]] = [
        ("output_item.added", {"output_index": index, "item": {**item, field: [], "status": WRITING}}),
        (f"{name}_part.added", {**at, "part": {**part, "text": ""}}),
        (f"{kind}.delta", {**at, **more, "delta": part["text"]}),
        (f"{kind}.done", {**at, **more, "text": part["text"]}),
        (f"{name}_part.done", {**at, "part": part}),
        ("output_item.done", {"output_index": index, "item": item}),
    ]
    return _numbered(offset * STRIDE, events)


async def events(conversations: CallerConversations, turn: Turn, after: int = -1) -> AsyncGenerator[bytes, None]:
    """Yield the events of a response after number ``after``, or all of them if no event can have that number yet.
    Raises ``StreamCut`` if the stream breaks off while the response goes on.
    """
    tellers: list[ResponseTeller] = []

    def teller(is_believed: bool) -> ResponseTeller:
        start, changes = after if is_believed else -1, conversations.changes_of(turn)
        tellers.append(ResponseTeller(turn, partial(rendered, conversations, turn), changes, start))
        return tellers[-1]

    def failed(error: GatewayError) -> bytes:
        return event(tellers[-1].number, "error", code=error.code, message=error.message, param=None)

    async with aclosing(frames(conversations, turn, teller, failed=failed)) as pieces:
        async for piece in pieces:
            yield piece
    if tellers[-1].ended is not None:
        over, pending = tellers[-1].ended
        try:
            response = await encoded(await described(conversations, over, pending))
        except GatewayError as error:  # the client can get it later
            note(error.code, error.root_reason)
            raise StreamCut from error
        yield last_event(tellers[-1].number, over.state, response)


async def outcome(
    conversations: CallerConversations, turn: Turn, describe: Callable[[Turn], Awaitable[Mapping[str, Json]]]
) -> AsyncGenerator[bytes, None]:
    """Yield signs of life until a turn is over, then what ``describe`` returns. Raises ``StreamCut`` if this breaks off
    while the turn goes on: the client repeats its request, and waits on.
    """
    try:
        async with aclosing(with_heartbeats(updates(conversations, turn), HEARTBEAT_SECONDS)) as news:
            async for update in news:
                if update is None:
                    yield SIGN_OF_LIFE
                elif isinstance(update, TurnEnded):
                    yield await encoded(await describe(update.turn))
    except GatewayError as error:
        note(error.code, error.root_reason)
        raise StreamCut from error


async def described(
    conversations: CallerConversations, turn: Turn, pending: Sequence[PendingRequest] | None = None
) -> dict[str, Json]:
    """A response with its present items. ``pending`` are its run's pending requests, if they are known."""
    pending = await pending_of(conversations, turn) if pending is None else pending
    return response_fields(turn, turn.state, await items_of(conversations, Stretch(turn, None), pending), pending)


async def items_of(
    conversations: CallerConversations, stretch: Stretch, pending: Sequence[PendingRequest] = ()
) -> list[Item]:
    """The items of a stretch that exist by now."""
    turn, entries = stretch.turn, await conversations.entries(stretch)
    numbered = [TurnEntry(offset, entry) for offset, entry in enumerate(entries, 1)]
    items = [item for each in numbered for item in rendered(conversations, turn, each).items]
    if turn.state.active or stretch.upto is not None:
        return items
    return [*map(settled, items), *last_items(turn, pending)]


def rendered(conversations: CallerConversations, turn: Turn, came: TurnEntry) -> ResponseEntry:
    return conversations.rendered.of_turn("openai", turn, ResponseEntry.of, conversations.step)(came)
