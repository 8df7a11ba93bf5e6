"""What is stored for one caller, under an owner's name made from their identity. Other callers cannot reach it."""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from codegen_api.errors import Conflict, Rejected
from codegen_api.identity import Caller
from codegen_api.runs import Json, to_json
from codegen_api.storable import storable
from codegen_api.stores import Agent, Conversation, Overtaken, Store, Turn

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 10
"""How often a change is attempted when others keep getting ahead of it."""


def owner_of(caller: Caller) -> str:
    """The name under which a caller's things are stored: the same for all their tokens, and it does not reveal who they
    are. Keys of the same name that are confined to different organizations are different owners.
    """
    identity = [caller.principal.authority, caller.principal.user, caller.organization]
    return hashlib.sha256(to_json([each for each in identity if each is not None])).hexdigest()


async def retried(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat ``attempt`` while it raises ``Overtaken``. Raises ``Conflict`` after ``TRIES`` attempts."""
    for _ in range(TRIES):
        with suppress(Overtaken):
            return await attempt()
    raise Conflict("Others are changing this, too; try again.")


def checked(value: Json) -> None:
    """Raise ``Rejected`` if a database cannot store ``value``."""
    if not storable(value):
        raise Rejected("A text holds a character that cannot be kept: NUL, or half of a surrogate pair.")


def _theirs(
    method: Callable[Concatenate[Store, str, P], Awaitable[T]],
) -> Callable[Concatenate["CallerStore", P], Awaitable[T]]:
    """A method of the store, bound to the caller as the owner."""

    @wraps(method)
    def of_owner(self: "CallerStore", /, *args: P.args, **more: P.kwargs) -> Awaitable[T]:
        answer: Awaitable[T] = getattr(self.store, method.__name__)(self.owner, *args, **more)
        return answer

    return of_owner


@dataclass(frozen=True)
class CallerStore:
    """What ``store`` has of ``caller``, under the name ``owner``. Its methods are the store's, except for these:

    ``change_...`` reads a thing, stores what the function ``to`` makes of it, and tries again if it was changed in
    between. It returns None if there is no such thing, and raises ``Conflict`` if others change it all the time.
    """

    caller: Caller
    owner: str
    store: Store

    add_agent = _theirs(Store.add_agent)
    agent = _theirs(Store.agent)
    agents = _theirs(Store.agents)
    remove_agent = _theirs(Store.remove_agent)
    counts = _theirs(Store.counts)
    add_conversation = _theirs(Store.add_conversation)
    conversation = _theirs(Store.conversation)
    conversations = _theirs(Store.conversations)
    remove_conversation = _theirs(Store.remove_conversation)
    talk = _theirs(Store.talk)
    add_turn = _theirs(Store.add_turn)
    turn = _theirs(Store.turn)
    turns = _theirs(Store.turns)
    ends = _theirs(Store.ends)
    replace_turn = _theirs(Store.change_turn)
    remove_turn = _theirs(Store.remove_turn)
    item = _theirs(Store.item)
    items = _theirs(Store.items)
    remove_item = _theirs(Store.remove_item)
    namespaces = _theirs(Store.namespaces)

    async def change_agent(self, id: str, to: Callable[[Agent], Agent]) -> Agent | None:  # noqa: A002 - as everywhere
        return await self._changed(self.store.agent, self.store.change_agent, id, to)

    async def change_conversation(self, id: str, to: Callable[[Conversation], Conversation]) -> Conversation | None:  # noqa: A002
        return await self._changed(self.store.conversation, self.store.change_conversation, id, to)

    async def change_turn(self, id: str, to: Callable[[Turn], Turn]) -> Turn | None:  # noqa: A002
        return await self._changed(self.store.turn, self.store.change_turn, id, to)

    async def put_turn(self, then: Turn, now: Turn) -> Turn:
        """Store ``now`` in place of ``then``, unless that has been changed, and return what is stored. If the turn was
        removed, nothing is stored, and ``now`` is returned.
        """
        return await self.replace_turn(then, now) or await self.turn(then.id) or now

    async def _changed(
        self,
        look: Callable[[str, str], Awaitable[T | None]],
        put: Callable[[str, T, T], Awaitable[T | None]],
        id: str,  # noqa: A002
        to: Callable[[T], T],
    ) -> T | None:
        async def attempt() -> T | None:
            then = await look(self.owner, id)
            if then is None:
                return None
            changed = await put(self.owner, then, to(then))
            if changed is None:
                raise Overtaken
            return changed

        return await retried(attempt)
