"""Turns as streams: what comes of one, kept alive, from where its reader is, and broken off where it has to be."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Protocol, TypeVar

from codegen_api.conversations.conversations import CallerConversations, pending_of
from codegen_api.conversations.progress import CaughtUp, Entries, TurnEnded
from codegen_api.errors import GatewayError, ShuttingDown, StreamCut
from codegen_api.following import Leaving, Notice, Quiet, loop_time
from codegen_api.stores import Turn
from codegen_api.telemetry import note, over, sent
from codegen_api.upstreams import PendingRequest

PING = b": ping\n\n"
"""A sign of life in a stream of server-sent events."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ReaderAhead(Exception):
    """A reader says that they have what nobody can have sent."""


class Teller(Protocol[T_co]):
    """Says of a turn what one reader is told."""

    @property
    def claimed(self) -> int:
        """The entry of the turn up to which the reader says that they have been told; 0: none."""
        ...

    def begin(self) -> T_co:
        """What comes before the first entry, if that was not told."""
        ...

    def take(self, entries: Entries) -> T_co: ...

    def over(self, turn: Turn, pending: Sequence[PendingRequest] = ()) -> T_co:
        """What comes behind the last entry. Raises ``ReaderAhead`` for a reader who has something behind that."""
        ...


class StreamLife:
    def __init__(self, conversations: CallerConversations) -> None:
        patrol = conversations.shared.gateway.patrol(conversations.caller)
        self.heartbeat = patrol.heartbeat
        self._conversations = conversations
        self._until = loop_time() + patrol.max_age

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._until - loop_time())

    def check(self) -> None:
        """Raises ``InvalidToken`` where what the caller came with is not good any longer, ``StreamCut`` in the end."""
        self._conversations.require_good()
        if not self.left:
            raise StreamCut


async def updates(
    conversations: CallerConversations, turn: Turn
) -> AsyncGenerator[Entries | CaughtUp | TurnEnded | None, None]:
    """A turn from its beginning to its end, as it comes. None is a sign of life. Raises ``InvalidToken`` when what the
    caller came with is good no longer, and ``StreamCut`` when this process, or the stream, is to be left.
    """
    async with aclosing(conversations.follow(turn)) as progress:
        async for news in progress:
            match news:
                case Leaving():
                    conversations.require_good()
                    over("reconnect")
                    raise StreamCut
                case Quiet() | Notice():
                    yield None
                case _:
                    if isinstance(news, tuple):
                        sent(len(news))
                    yield news


async def tell(
    conversations: CallerConversations, turn: Turn, teller: Callable[[bool], Teller[T]], *, at_once: bool
) -> AsyncGenerator[T | None, None]:
    """What a reader is told of a turn as it comes. None is a sign of life. The beginning is told ``at_once``, or when
    the log was seen. Raises what ``updates`` does.

    ``teller`` is asked for one that believes where the reader says to be; and if nobody can be there, for one that does
    not.
    """
    for is_believed in (True, False):
        with suppress(ReaderAhead):
            async with aclosing(_told(conversations, turn, teller(is_believed), at_once=at_once)) as told:
                async for each in told:
                    yield each
            return


async def frames(
    conversations: CallerConversations,
    turn: Turn,
    teller: Callable[[bool], Teller[bytes]],
    *,
    failed: Callable[[GatewayError], bytes],
) -> AsyncGenerator[bytes, None]:
    """The same as bytes, at once, with ``PING`` as a sign of life. Where nobody can say how the turn goes on, what
    ``failed`` makes of that comes last. Raises ``StreamCut`` where it breaks off, and the turn goes on.
    """
    try:
        async with aclosing(tell(conversations, turn, teller, at_once=True)) as told:
            async for piece in told:
                if piece is None:
                    yield PING
                elif piece:
                    yield piece
    except ShuttingDown as error:
        raise StreamCut from error
    except GatewayError as error:
        note(error.code, error.root_reason)
        yield failed(error)


async def _told(
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
                    # another instance may have read further than this one; behind the last entry stands the end
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
