"""Turns as streams: from the reader's position on, with signs of life, cut off when they have to be."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Protocol, TypeVar

from codegen_api.conversations.conversations import CallerConversations, pending_of
from codegen_api.conversations.progress import CaughtUp, Entries, TurnEnded
from codegen_api.errors import GatewayError, ShuttingDown, StreamCut
from codegen_api.following import Leaving, Notice, Quiet, loop_time
from codegen_api.stores import Turn
from codegen_api.telemetry import count_entries, note, record_ending
from codegen_api.upstreams import PendingRequest

PING = b": ping\n\n"
"""A sign of life in a stream of server-sent events."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ReaderAhead(Exception):
    """A reader claims a position that cannot have been sent yet."""


class Teller(Protocol[T_co]):
    """A dialect's view of a turn for one reader: each method returns what to send."""

    @property
    def claimed(self) -> int:
        """The last entry of the turn that the reader claims to have; 0 for none."""
        ...

    def begin(self) -> T_co:
        """What comes before the first entry, unless it has been sent."""
        ...

    def take(self, entries: Entries) -> T_co: ...

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> T_co:
        """What comes after the last entry. Raises ``ReaderAhead`` if the reader claims a position after that."""
        ...


class StreamLife:
    """How long a stream may go on: as long as the caller's credential is valid, and no longer than any stream."""

    def __init__(self, conversations: CallerConversations) -> None:
        patrol = conversations.shared.gateway.patrol(conversations.caller)
        self.heartbeat = patrol.heartbeat
        self._conversations = conversations
        self._until = loop_time() + patrol.max_age

    @property
    def left(self) -> float:
        """Seconds until the stream has reached its greatest age."""
        return max(0.0, self._until - loop_time())

    def check(self) -> None:
        """Raise ``InvalidToken`` if the caller's credential has expired, ``StreamCut`` if the stream is too old."""
        self._conversations.require_good()
        if not self.left:
            raise StreamCut


async def updates(
    conversations: CallerConversations, turn: Turn
) -> AsyncGenerator[Entries | CaughtUp | TurnEnded | None, None]:
    """Follow a turn from its beginning to its end. None is a sign of life. Raises ``InvalidToken`` when the caller's
    credential expires, and ``StreamCut`` when the client must reconnect: this process stops, or the stream is too old.
    """
    async with aclosing(conversations.follow(turn)) as progress:
        async for news in progress:
            match news:
                case Leaving():
                    conversations.require_good()
                    record_ending("reconnect")
                    raise StreamCut
                case Quiet() | Notice():
                    yield None
                case _:
                    if isinstance(news, tuple):
                        count_entries(len(news))
                    yield news


async def tell(
    conversations: CallerConversations, turn: Turn, teller: Callable[[bool], Teller[T]], *, at_once: bool
) -> AsyncGenerator[T | None, None]:
    """Yield what ``teller`` makes of a turn for a reader. None is a sign of life. The beginning comes ``at_once``, or
    when the log has been read. Raises what ``updates`` does.

    ``teller`` is called with whether to believe the position that the reader claims: first with True, and if that
    position is impossible with False.
    """
    for is_believed in (True, False):
        with suppress(ReaderAhead):
            async with aclosing(_tell(conversations, turn, teller(is_believed), at_once=at_once)) as pieces:
                async for piece in pieces:
                    yield piece
            return


async def frames(
    conversations: CallerConversations,
    turn: Turn,
    teller: Callable[[bool], Teller[bytes]],
    *,
    failed: Callable[[GatewayError], bytes],
) -> AsyncGenerator[bytes, None]:
    """``tell`` as bytes, beginning at once, with ``PING`` as a sign of life. If the turn cannot be followed, what
    ``failed`` makes of the error comes last. Raises ``StreamCut`` if the stream breaks off while the turn goes on.
    """
    try:
        async with aclosing(tell(conversations, turn, teller, at_once=True)) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield PING
                elif piece:
                    yield piece
    except ShuttingDown as error:
        raise StreamCut from error
    except GatewayError as error:
        note(error.code, error.root_reason)
        yield failed(error)


async def _tell(
    conversations: CallerConversations, turn: Turn, teller: Teller[T], *, at_once: bool
) -> AsyncGenerator[T | None, None]:
    claims_more = False
    if at_once:
        yield teller.begin()
    async with aclosing(updates(conversations, turn)) as news:
        async for update in news:
            match update:
                case None:
                    yield None
                case CaughtUp(offset=offset):
                    # another instance may have read further; the position after the last entry is that of the end
                    claims_more = teller.claimed > offset and not await conversations.has(turn, teller.claimed)
                    if claims_more and teller.claimed > offset + 1:
                        raise ReaderAhead
                    yield teller.begin()
                case TurnEnded(turn=over):
                    yield teller.over(over, await pending_of(conversations, over))
                case _:
                    if claims_more:
                        raise ReaderAhead
                    yield teller.take(update)
