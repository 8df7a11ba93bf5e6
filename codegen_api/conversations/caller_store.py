"""What is kept for one caller. It stands under a name of theirs; under another name it is not there."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from codegen_api.errors import Conflict, Rejected
from codegen_api.identity import Caller
from codegen_api.runs import Json, to_json
from codegen_api.storable import storable
from codegen_api.stores import Agent, Conversation, Found, Item, Query, Store, Turn, TurnState

T = TypeVar("T")

TRIES = 10
"""How often a change is tried that others get ahead of."""


def owner_of(caller: Caller) -> str:
    """To whom things belong: the same whatever token they use, and it tells nobody who that is. A key that is confined
    to an organization has nothing of what keys of its name have elsewhere.
    """
    said = [caller.principal.authority, caller.principal.user, caller.organization]
    return hashlib.sha256(to_json([each for each in said if each is not None])).hexdigest()


def checked(value: Json) -> None:
    """
    Raises:
        Rejected: no database can keep this.
    """
    if not storable(value):
        raise Rejected("A text holds a character that cannot be kept: NUL, or half of a surrogate pair.")


@dataclass(frozen=True)
class CallerStore:
    """What ``store`` keeps for ``caller`` under the name ``owner``. Its methods are the store's.

    ``change_...`` looks, changes what is there ``to`` what it is to be, and looks again where others were faster; it
    gives None if there is no such thing, and raises ``Conflict`` when others change it all the time.
    """

    caller: Caller
    owner: str
    store: Store

    async def add_agent(self, agent: Agent) -> bool:
        return await self.store.add_agent(self.owner, agent)

    async def agent(self, id: str) -> Agent | None:  # noqa: A002 - as everywhere
        return await self.store.agent(self.owner, id)

    async def agents(self, query: Query) -> Found[Agent]:
        return await self.store.agents(self.owner, query)

    async def change_agent(self, id: str, to: Callable[[Agent], Agent]) -> Agent | None:  # noqa: A002
        return await self._changed(self.store.agent, self.store.change_agent, id, to)

    async def remove_agent(self, id: str) -> bool:  # noqa: A002
        return await self.store.remove_agent(self.owner, id)

    async def counts(self, agents: Sequence[str], metadata: Mapping[str, Json]) -> Mapping[str, int]:
        return await self.store.counts(self.owner, agents, metadata)

    async def add_conversation(self, conversation: Conversation) -> bool:
        return await self.store.add_conversation(self.owner, conversation)

    async def conversation(self, id: str) -> Conversation | None:  # noqa: A002
        return await self.store.conversation(self.owner, id)

    async def conversations(self, query: Query) -> Found[Conversation]:
        return await self.store.conversations(self.owner, query)

    async def change_conversation(self, id: str, to: Callable[[Conversation], Conversation]) -> Conversation | None:  # noqa: A002
        return await self._changed(self.store.conversation, self.store.change_conversation, id, to)

    async def remove_conversation(self, id: str) -> bool:  # noqa: A002
        return await self.store.remove_conversation(self.owner, id)

    async def turn(self, id: str) -> Turn | None:  # noqa: A002
        return await self.store.turn(self.owner, id)

    async def turns(
        self,
        conversation: str | None = None,
        *,
        states: Sequence[TurnState] | None = None,
        limit: int = 1000,
        offset: int = 0,
        newest_first: bool = True,
    ) -> Sequence[Turn]:
        return await self.store.turns(
            self.owner, conversation, states=states, limit=limit, offset=offset, newest_first=newest_first
        )

    async def ends(self, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        return await self.store.ends(self.owner, conversations)

    async def add_turn(self, turn: Turn, *, queued_at_most: int = 0) -> Turn:
        return await self.store.add_turn(self.owner, turn, queued_at_most=queued_at_most)

    async def change_turn(self, id: str, to: Callable[[Turn], Turn]) -> Turn | None:  # noqa: A002
        return await self._changed(self.store.turn, self.store.change_turn, id, to)

    async def replace_turn(self, then: Turn, now: Turn) -> Turn | None:
        """``now`` in the place of ``then``; None if that is not there any more."""
        return await self.store.change_turn(self.owner, then, now)

    async def put_turn(self, then: Turn, now: Turn) -> Turn:
        """The same, and what is there instead; ``now``, and nothing is written down, if the turn was removed."""
        return await self.replace_turn(then, now) or await self.turn(then.id) or now

    async def remove_turn(self, id: str) -> bool:  # noqa: A002
        return await self.store.remove_turn(self.owner, id)

    async def item(self, namespace: Sequence[str], key: str) -> Item | None:
        return await self.store.item(self.owner, namespace, key)

    async def items(self, prefix: Sequence[str], limit: int, offset: int) -> Found[Item]:
        return await self.store.items(self.owner, prefix, limit, offset)

    async def remove_item(self, namespace: Sequence[str], key: str) -> bool:
        return await self.store.remove_item(self.owner, namespace, key)

    async def namespaces(self) -> Sequence[tuple[str, ...]]:
        return await self.store.namespaces(self.owner)

    async def _changed(
        self,
        look: Callable[[str, str], Awaitable[T | None]],
        put: Callable[[str, T, T], Awaitable[T | None]],
        id: str,  # noqa: A002
        to: Callable[[T], T],
    ) -> T | None:
        for _ in range(TRIES):
            then = await look(self.owner, id)
            if then is None:
                return None
            changed = await put(self.owner, then, to(then))
            if changed is not None:
                return changed
        raise Conflict("Others are changing this, too; try again.")
