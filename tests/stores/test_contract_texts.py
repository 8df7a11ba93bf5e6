"""Every text that can be kept is, by every store, and no other."""

from dataclasses import replace
from typing import Any

import pytest

from codegen_api.runs import Json, RunRef
from codegen_api.storable import DEEPEST, storable
from codegen_api.stores import LONGEST, Found, Query, Store
from tests.stores.things import ME, Test, agent, conversation, ids, item, turn

ODD = [
    "",
    " ",
    "naïve Ünïcode 🙂",
    "quote \" ' \\ `",
    "100% _ *?[a]",
    "a\tb\nc\r\x01\x7f",
    "\ufffe\U0010ffff",
    "';--",
    "$.a[0]",
]


def test_whatever_is_storable_is_stored(check: Test) -> None:
    whole: Json = {text: [text, {text: text}] for text in ODD}
    assert storable(whole)

    async def main(it: Store) -> None:
        for number, text in enumerate(ODD):
            owner = text
            assert await it.add_agent(
                owner, agent(text, name=text, description=text, tags=(text,), metadata=whole, configuration=whole)
            )
            kept = await it.agent(owner, text)
            assert kept is not None
            assert (kept.name, kept.description, kept.tags, kept.metadata) == (text, text, (text,), whole)
            assert ids(await it.agents(owner, Query(metadata={text: [text, {text: text}]}, name=text))) == [text]
            assert await it.add_conversation(owner, conversation(text, title=text, agent=text))
            assert ids(await it.conversations(owner, Query(agent=text, ids=(text,)))) == [text]
            told = turn(text, text, prompt=text, messages=(whole,), answer=text, run=RunRef(text, text), mark=text)
            assert await it.turns(owner, (await it.add_turn(owner, told)).conversation) == (replace(told, number=1),)
            await it.put_item(owner, item(text, text, key=text, value=whole, at=float(number)))
            put = item(text, text, key=text, value=whole, at=float(number))
            assert await it.items(owner, (text,), 10, 0) == Found((put,), 1)

    check(main)


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "x\udc80y"], ids=["nul", "inner-nul", "surrogate", "byte"])
def test_what_is_not_storable_is_refused_and_not_found(check: Test, text: str) -> None:
    assert not storable(text)
    assert not storable({"a": [{text: 1}]})

    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        await it.add_agent(ME, agent())
        for attempt in (
            it.add_agent(ME, agent(text)),
            it.add_agent(ME, agent("b", name=text)),
            it.add_agent(ME, agent("b", tags=(text,))),
            it.add_agent(ME, agent("b", metadata={"a": [text]})),
            it.change_agent(ME, agent(), agent(configuration={text: 1})),
            it.add_conversation(ME, conversation("d", title=text)),
            it.change_conversation(ME, conversation(), conversation(parent=text)),
            it.add_turn(ME, turn(prompt=text)),
            it.add_turn(ME, turn(conversation=text)),
            it.add_turn(ME, turn(run=RunRef("9", text))),
            it.add_turn(ME, turn(begin=2**63)),
            it.add_turn(ME, turn(messages=[{"a": text}])),
            it.change_turn(ME, turn(), turn(answer=text)),
            it.put_item(ME, item("a", key=text)),
            it.put_item(ME, item(text)),
            it.put_item(ME, item("a", value={"a": text})),
        ):
            with pytest.raises(ValueError, match=r"stored|^$"):
                await attempt
        assert await it.agent(ME, "b") is None
        assert await it.agent(ME, text) is None
        assert await it.agent(text, "a") is None
        assert not await it.remove_agent(ME, text)
        assert not await it.remove_item(ME, ("a",), text)
        assert await it.item(ME, (text,), "k") is None
        assert (await it.agents(text, Query())).total == 0
        assert (await it.conversations(ME, Query())).total == 1

    check(main)


def test_names_that_no_index_would_hold_are_refused(check: Test) -> None:
    long = "é" * (LONGEST // 2)

    async def main(it: Store) -> None:
        assert await it.add_agent(long, agent(long))
        await it.put_item(long, item(long[:-10], long[:-10], key=long))
        assert await it.add_conversation(ME, conversation())
        for attempt in (
            it.add_agent(ME, agent(long + "x")),
            it.add_conversation(ME, conversation(long + "x")),
            it.add_turn(ME, turn(long + "x")),
            it.put_item(ME, item("a", key=long + "x")),
        ):
            with pytest.raises(ValueError, match=r"id|key|^$"):
                await attempt
        assert await it.agent(ME, "x" * 10_000) is None

    check(main)


def test_what_is_storable_is_known_without_a_store() -> None:
    level: Any = 1
    for _ in range(DEEPEST):
        level = [level]
    assert storable(level)
    assert not storable([level])
    assert storable(["\ufffd", 1, None, True, 2.5, {"a": {}}])
