"""What a test leaves to be closed when it is over, on the event loop on which it was used."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Closes(Protocol):
    async def aclose(self) -> None: ...


C = TypeVar("C", bound=Closes)

_LATER: ContextVar[AsyncExitStack] = ContextVar("what is closed when the test is over")


def closed_later(thing: C) -> C:
    """``thing``, which is closed when the test that runs now is over."""
    afterwards(thing.aclose)
    return thing


def afterwards(call: Callable[[], Awaitable[object]]) -> None:
    """``call`` is made when the test that runs now is over."""
    _LATER.get().push_async_callback(call)


async def closing(main: Awaitable[T]) -> T:
    """Await ``main``, and then close what it has left to be closed, the last thing first."""
    async with AsyncExitStack() as stack:
        _LATER.set(stack)
        return await main
