"""A store in memory, as far as conversations and their turns need one."""

from collections.abc import Sequence
from dataclasses import replace

from codegen_api.stores import Busy, Conversation, Turn, TurnState, storable


class MemoryStore:
    """``Store`` without agents and items."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Conversation] = {}
        self.said: dict[tuple[str, str], Turn] = {}
        self.opened = 0
        self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def aclose(self) -> None:
        self.closed += 1

    async def add_conversation(self, owner: str, conversation: Conversation) -> bool:
        return self.kept.setdefault((owner, conversation.id), conversation) is conversation

    async def conversation(self, owner: str, id: str) -> Conversation | None:  # noqa: A002
        return self.kept.get((owner, id))

    async def remove_conversation(self, owner: str, id: str) -> bool:  # noqa: A002
        for turn in self._of(owner, id):
            del self.said[owner, turn.id]
        return self.kept.pop((owner, id), None) is not None

    async def add_turn(self, owner: str, turn: Turn) -> Turn:
        _check(turn)
        there, theirs = self.kept[owner, turn.conversation], self._of(owner, turn.conversation)
        self._be_alone(owner, turn.conversation)
        if (owner, turn.id) in self.said:
            raise KeyError(turn.id)
        number = max((each.number for each in theirs), default=0) + 1
        self.said[owner, turn.id] = replace(turn, number=number)
        self.kept[owner, turn.conversation] = replace(there, updated=turn.updated)
        return self.said[owner, turn.id]

    async def turn(self, owner: str, id: str) -> Turn | None:  # noqa: A002
        return self.said.get((owner, id))

    async def turns(
        self,
        owner: str,
        conversation: str | None = None,
        *,
        states: Sequence[TurnState] | None = None,
        limit: int = 1000,
        offset: int = 0,
        newest_first: bool = True,
    ) -> Sequence[Turn]:
        theirs = [turn for turn in self._of(owner, conversation) if states is None or turn.state in states]
        theirs.sort(key=lambda turn: (turn.created, turn.number), reverse=newest_first)
        return tuple(theirs[offset : offset + limit])

    async def change_turn(self, owner: str, then: Turn, now: Turn) -> Turn | None:
        _check(now)
        there = self.said.get((owner, then.id))
        if there is None or there.revision != then.revision:
            return None
        if now.state.active and not there.state.active:
            self._be_alone(owner, there.conversation)
        self.said[owner, then.id] = replace(now, revision=then.revision + 1)
        return self.said[owner, then.id]

    async def remove_turn(self, owner: str, id: str) -> bool:  # noqa: A002
        return self.said.pop((owner, id), None) is not None

    async def expire(self, before: float) -> int:
        idle = [
            (owner, id_)
            for (owner, id_), conversation in self.kept.items()
            if conversation.updated < before and not any(turn.state.active for turn in self._of(owner, id_))
        ]
        for owner, id_ in idle:
            await self.remove_conversation(owner, id_)
        return len(idle)

    def _of(self, owner: str, conversation: str | None) -> list[Turn]:
        return [
            turn for (its, _), turn in self.said.items() if its == owner and conversation in (None, turn.conversation)
        ]

    def _be_alone(self, owner: str, conversation: str) -> None:
        for turn in self._of(owner, conversation):
            if turn.state.active:
                raise Busy(turn)


def _check(turn: Turn) -> None:
    texts = [turn.prompt, turn.answer, turn.error, turn.messages, turn.options, turn.parent, turn.mark, turn.id]
    if not all(map(storable, texts)):
        raise ValueError
