"""The contract of a store, in as few words as possible: everything in dictionaries, everything looked through."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from codegen_api.runs import Json
from codegen_api.storable import storable
from codegen_api.stores import (
    LONGEST,
    Agent,
    Busy,
    Conversation,
    Due,
    Found,
    Full,
    Item,
    Near,
    Overtaken,
    Query,
    Talk,
    Turn,
    TurnState,
)
from codegen_api.telemetry import Observation

T = TypeVar("T")
Kept = dict[tuple[str, str], T]


class ModelStore:
    """``Store`` in the memory of one process."""

    observation: Observation | None = None

    def __init__(self) -> None:
        self._agents: Kept[Agent] = {}
        self._conversations: Kept[Conversation] = {}
        self._turns: Kept[Turn] = {}
        self._items: dict[tuple[str, tuple[str, ...], str], Item] = {}
        self._vectors: dict[tuple[str, tuple[str, ...], str], tuple[str, Sequence[Sequence[float]]]] = {}
        self._puts: dict[tuple[str, tuple[str, ...], str], int] = {}

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    async def check(self) -> None: ...

    async def add_agent(self, owner: str, agent: Agent) -> bool:
        return _added(self._agents, owner, agent)

    async def agent(self, owner: str, id: str) -> Agent | None:  # noqa: A002
        return self._agents.get((owner, id))

    async def agents(self, owner: str, query: Query) -> Found[Agent]:
        def asked_for(agent: Agent) -> bool:
            return (
                _matches(query, agent, agent.name)
                and has(agent.configuration, query.configuration)
                and query.archived in (None, agent.archived)
            )

        return _found(query, filter(asked_for, _of(owner, self._agents)), lambda agent: agent.name)

    async def change_agent(self, owner: str, then: Agent, now: Agent) -> Agent | None:
        return _changed(self._agents, owner, then, now)

    async def remove_agent(self, owner: str, id: str) -> bool:  # noqa: A002
        return self._agents.pop((owner, id), None) is not None

    async def add_conversation(self, owner: str, conversation: Conversation) -> bool:
        return _added(self._conversations, owner, conversation)

    async def conversation(self, owner: str, id: str) -> Conversation | None:  # noqa: A002
        return self._conversations.get((owner, id))

    async def conversations(self, owner: str, query: Query) -> Found[Conversation]:
        def asked_for(conversation: Conversation) -> bool:
            theirs = self._in(owner, conversation.id, withdrawn=False)
            return (
                _matches(query, conversation, conversation.title or "")
                and query.agent in (None, conversation.agent)
                and (query.states is None or (theirs[-1].state if theirs else None) in query.states)
            )

        kept = filter(asked_for, _of(owner, self._conversations))
        return _found(query, kept, lambda conversation: conversation.title or "")

    async def talk(self, owner: str, id: str) -> Talk | None:  # noqa: A002
        conversation = self._conversations.get((owner, id))
        theirs = tuple(self._in(owner, id)[::-1])
        return None if conversation is None else Talk(conversation, theirs, conversation)

    async def counts(self, owner: str, agents: Sequence[str], metadata: Mapping[str, Json]) -> Mapping[str, int]:
        theirs = [each.agent for each in _of(owner, self._conversations) if has(each.metadata, metadata)]
        return {agent: theirs.count(agent) for agent in sorted({*agents}.intersection(theirs))}

    async def change_conversation(self, owner: str, then: Conversation, now: Conversation) -> Conversation | None:
        return _changed(self._conversations, owner, then, now)

    async def remove_conversation(self, owner: str, id: str) -> bool:  # noqa: A002
        for turn in self._in(owner, id):
            del self._turns[owner, turn.id]
        return self._conversations.pop((owner, id), None) is not None

    async def add_turn(self, owner: str, turn: Turn, *, queued_at_most: int = 0, into: Talk | None = None) -> Turn:
        _check(turn)
        if into is not None and into.conversation is not into.stored:
            conversation, there = into.conversation, self._conversations.get((owner, turn.conversation))
            _check(conversation)
            if there is not None and into.stored is not None and there.revision == into.stored.revision:
                conversation = replace(conversation, revision=there.revision + 1)
            elif there is not None or into.stored is not None:
                raise Overtaken
        else:
            conversation = self._conversations[owner, turn.conversation]
        if turn.state is not TurnState.QUEUED:
            self._be_alone(owner, turn.conversation, lambda state: not state.over)
        elif len([each for each in self._in(owner, turn.conversation) if each.state is turn.state]) >= queued_at_most:
            raise Full
        if (owner, turn.id) in self._turns:
            raise KeyError(turn.id)
        number = max((other.number for other in self._in(owner, turn.conversation)), default=0) + 1
        self._turns[owner, turn.id] = replace(turn, number=number)
        self._conversations[owner, turn.conversation] = replace(
            conversation, id=turn.conversation, updated=turn.updated
        )
        return self._turns[owner, turn.id]

    async def turn(self, owner: str, id: str) -> Turn | None:  # noqa: A002
        return self._turns.get((owner, id))

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
        kept = [
            turn
            for turn in _of(owner, self._turns)
            if conversation in (None, turn.conversation) and (states is None or turn.state in states)
        ]
        if conversation is None:
            kept.sort(key=lambda turn: (turn.created, turn.conversation, turn.number), reverse=newest_first)
        else:
            kept.sort(key=lambda turn: turn.number, reverse=newest_first)
        return tuple(kept[offset : offset + limit])

    async def ends(self, owner: str, conversations: Sequence[str]) -> Mapping[str, tuple[Turn, Turn]]:
        theirs = {each: self._in(owner, each, withdrawn=False) for each in conversations}
        return {conversation: (turns[0], turns[-1]) for conversation, turns in theirs.items() if turns}

    async def queues(self, after: tuple[str, str] = ("", ""), limit: int = 100) -> Sequence[tuple[str, Turn]]:
        queues: dict[tuple[str, str], Turn] = {}
        for (owner, _), turn in sorted(self._turns.items(), key=lambda item: item[1].number):
            if turn.state is TurnState.QUEUED:
                queues.setdefault((owner, turn.conversation), turn)
        return tuple((place[0], queues[place]) for place in sorted(queues) if place > after)[:limit]

    async def change_turn(self, owner: str, then: Turn, now: Turn) -> Turn | None:
        _check(now)
        there = self._turns.get((owner, then.id))
        if there is None or there.revision != then.revision:
            return None
        if now.state.active and not there.state.active:
            self._be_alone(owner, there.conversation, lambda state: state.active)
        return _changed(self._turns, owner, then, replace(now, conversation=there.conversation, number=there.number))

    async def remove_turn(self, owner: str, id: str) -> bool:  # noqa: A002
        return self._turns.pop((owner, id), None) is not None

    async def put_item(self, owner: str, item: Item) -> None:
        _check(item)
        name = owner, item.namespace, item.key
        there = self._items.get(name)
        self._items[name] = replace(item, created=there.created) if there else item
        self._vectors.pop(name, None)
        self._puts[name] = self._puts.get(name, 0) + 1

    async def item(self, owner: str, namespace: Sequence[str], key: str) -> Item | None:
        return self._items.get((owner, tuple(namespace), key))

    async def items(self, owner: str, prefix: Sequence[str], limit: int, offset: int) -> Found[Item]:
        kept = [
            item
            for (its, namespace, _), item in self._items.items()
            if its == owner and namespace[: len(prefix)] == tuple(prefix)
        ]
        kept.sort(key=lambda item: (-item.updated, item.namespace, item.key))
        return Found(tuple(kept[offset : offset + limit]), len(kept))

    async def due(self, space: str, limit: int) -> Sequence[Due]:
        waiting = [
            (self._vectors.get(name, ("",))[0], item.updated, Due(name[0], item, str(self._puts[name])))
            for name, item in self._items.items()
            if self._vectors.get(name, ("",))[0] != space
        ]
        return [due for _, _, due in sorted(waiting, key=lambda each: each[:2])][:limit]

    async def keep_vectors(self, due: Due, space: str, vectors: Sequence[Sequence[float]]) -> bool:
        name = due.owner, due.item.namespace, due.item.key
        if name not in self._items or str(self._puts[name]) != due.stamp:
            return False
        self._vectors[name] = space, vectors
        return True

    async def nearest(
        self, owner: str, prefix: Sequence[str], space: str, vector: Sequence[float], limit: int
    ) -> Sequence[Near]:
        near = [
            Near(namespace, key, max(sum(a * b for a, b in zip(vector, each, strict=True)) for each in vectors))
            for (its, namespace, key), (of, vectors) in self._vectors.items()
            if (its, namespace[: len(prefix)], of) == (owner, tuple(prefix), space) and vectors
        ]
        return sorted(near, key=lambda each: (-each.score, each.namespace, each.key))[:limit]

    async def remove_item(self, owner: str, namespace: Sequence[str], key: str) -> bool:
        self._vectors.pop((owner, tuple(namespace), key), None)
        return self._items.pop((owner, tuple(namespace), key), None) is not None

    async def namespaces(self, owner: str) -> Sequence[tuple[str, ...]]:
        return tuple(sorted({namespace for its, namespace, _ in self._items if its == owner}))

    async def expire(self, before: float) -> int:
        idle = [
            name
            for name, conversation in self._conversations.items()
            if conversation.updated < before and not any(turn.state.active for turn in self._in(*name))
        ]
        for name in idle:
            await self.remove_conversation(*name)
        return len(idle)

    def _in(self, owner: str, conversation: str, *, withdrawn: bool = True) -> list[Turn]:
        theirs = (turn for turn in _of(owner, self._turns) if turn.conversation == conversation)
        kept = (turn for turn in theirs if withdrawn or turn.state is not TurnState.WITHDRAWN)
        return sorted(kept, key=lambda turn: turn.number)

    def _be_alone(self, owner: str, conversation: str, is_other: Callable[[TurnState], bool]) -> None:
        for turn in self._in(owner, conversation):
            if is_other(turn.state):
                raise Busy(turn)


def _check(thing: Any) -> None:
    run = getattr(thing, "run", None)
    texts = [run.organization, run.id] if run else []
    texts += [getattr(thing, name) for name in thing.__dataclass_fields__ if name != "run"]
    names = (getattr(thing, "id", ""), getattr(thing, "key", ""))
    if any(isinstance(each, int) and not -(2**63) <= each < 2**63 for each in texts):
        raise ValueError
    if not all(map(storable, texts)) or any(len(name.encode()) > LONGEST for name in names):
        raise ValueError


def _of(owner: str, kept: Kept[T]) -> Iterable[T]:
    return (thing for (its, _), thing in kept.items() if its == owner)


def _added(kept: Kept[Any], owner: str, thing: Any) -> bool:
    _check(thing)
    return kept.setdefault((owner, thing.id), thing) is thing


def _changed(kept: Kept[Any], owner: str, then: Any, now: Any) -> Any:
    _check(now)
    there = kept.get((owner, then.id))
    if there is None or there.revision != then.revision:
        return None
    kept[owner, then.id] = replace(now, id=then.id, revision=then.revision + 1)
    return kept[owner, then.id]


def _found(query: Query, kept: Iterable[Any], name: Callable[[Any], str]) -> Found[Any]:
    found = sorted(kept, key=lambda thing: thing.id)
    by = name if query.sort == "name" else lambda thing: getattr(thing, query.sort)
    found.sort(key=by, reverse=query.descending)
    return Found(tuple(found[query.offset : query.offset + query.limit]), len(found))


def _matches(query: Query, thing: Agent | Conversation, name: str) -> bool:
    return (
        (query.ids is None or thing.id in query.ids)
        and has(thing.metadata, query.metadata)
        and (query.name is None or query.name.casefold() in name.casefold())
        and (query.tag is None or query.tag in thing.tags)
    )


def has(own: Json, asked: Json) -> bool:
    """Whether ``own`` has all of ``asked``."""
    if isinstance(own, Mapping) and isinstance(asked, Mapping):
        return all(key in own and has(own[key], value) for key, value in asked.items())
    return same(own, asked)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other
