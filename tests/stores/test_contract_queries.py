"""What every store finds."""

from dataclasses import replace
from typing import Any

import pytest

from codegen_api.stores import Query, Store, TurnState
from tests.stores.things import ME, Test, agent, conversation, ids, turn

ASKED: list[tuple[Any, str]] = [
    ({}, "abcdef"),
    ({"user": "bob"}, "a"),
    ({"user": {"name": "bob"}}, "bc"),
    ({"user": {"name": "bob", "age": 7}}, "b"),
    ({"user": {}}, "bc"),
    ({"user": {"name": {}}}, ""),
    ({"n": 1}, "d"),
    ({"n": 1.0}, "e"),
    ({"n": True}, "f"),
    ({"n": "1"}, "a"),
    ({"n": None}, "b"),
    ({"n": [1]}, "c"),
    ({"n": [True]}, ""),
    ({"n": []}, ""),
    ({"n": {"0": 1}}, ""),
    ({"n": 0}, ""),
    ({"n": False}, ""),
    ({"missing": None}, ""),
    ({"list": [{"a": 1, "b": [None]}, "x"]}, "d"),
    ({"list": [{"b": [None], "a": 1}, "x"]}, "d"),
    ({"list": [{"a": 1}, "x"]}, ""),
    ({"list": ["x", {"a": 1, "b": [None]}]}, ""),
    ({"USER": "bob"}, ""),
    ({"user": "BOB"}, ""),
    ({"user.name": "bob"}, "e"),
    ({'"': {"'": {"\\": {"": "odd"}}}}, "f"),
    ({"\u0001\n": "ctrl"}, "f"),
    ({"ключ": "значение 🙂"}, "f"),
    ({"big": 2**64}, "a"),
    ({"big": 2**64 + 1}, ""),
    ({"big": float(2**64)}, ""),
    ({"big": 10**400}, ""),
    ({"big": 1e308}, "b"),
    ({"big": float("inf")}, ""),
    ({"a\0b": 1}, ""),
    ({"user": "\ud800"}, ""),
    ({str(number): number for number in range(5_000)}, ""),
    ({"many": {str(number): number for number in range(2_000)}}, "c"),
    ({"many": {str(number): number for number in range(2_001)}}, ""),
]


def test_metadata_is_found_as_it_is(check: Test) -> None:
    many = {str(number): number for number in range(2_000)}
    kept: dict[str, Any] = {
        "a": {"user": "bob", "n": "1", "big": 2**64},
        "b": {"user": {"name": "bob", "age": 7}, "n": None, "big": 1e308},
        "c": {"user": {"name": "bob", "age": 8}, "n": [1], "many": many},
        "d": {"n": 1, "list": [{"a": 1, "b": [None]}, "x"]},
        "e": {"n": 1.0, "user.name": "bob"},
        "f": {"n": True, '"': {"'": {"\\": {"": "odd"}}}, "\u0001\n": "ctrl", "ключ": "значение 🙂"},
    }

    async def main(it: Store) -> None:
        for id_, value in kept.items():
            await it.add_conversation(ME, conversation(id_, metadata=value))
            await it.add_agent(ME, agent(id_, configuration=value))
        for asked, found in ASKED:
            of_all = Query(metadata=asked, sort="id", descending=False)
            talks = await it.conversations(ME, of_all)
            assert ("".join(ids(talks)), talks.total) == (found, len(found)), str(asked)[:100]
            configured = Query(configuration=asked, sort="id", descending=False)
            assert "".join(ids(await it.agents(ME, configured))) == found, str(asked)[:100]
            assert ids(await it.agents(ME, of_all)) == ([] if asked else list("abcdef"))

    check(main)


def test_a_value_that_goes_too_deep_is_found_nowhere(check: Test) -> None:
    deep: Any = "end"
    for _ in range(100_000):
        deep = {"a": deep}

    async def main(it: Store) -> None:
        await it.add_agent(ME, agent())
        assert (await it.agents(ME, Query(metadata=deep))).total == 0
        assert (await it.agents(ME, Query(configuration={"a": [deep]}))).total == 0
        with pytest.raises(ValueError, match=r"metadata|^$"):
            await it.add_agent(ME, agent("b", metadata=deep))

    check(main)


NAMED = [
    ("", "abcde"),
    ("ann", "ab"),
    ("ANN", "ab"),
    ("%", "c"),
    ("_", "c"),
    ("0%_", "c"),
    ("\\", "d"),
    ("ÄRGER", "e"),
    ("ärger", "e"),
    ("STRASSE", "e"),
    ("arger", ""),
    ("*", ""),
    ("a\0", ""),
    ("\udfff", ""),
    ("x" * 100_000, ""),
]


def test_names_are_found_by_any_part_in_either_case(check: Test) -> None:
    names = {"a": "Ann", "b": "Joanna", "c": "100%_", "d": "back\\slash", "e": "Ärger in der Straße"}

    async def main(it: Store) -> None:
        for id_, its in names.items():
            await it.add_agent(ME, agent(id_, name=its))
            await it.add_conversation(ME, conversation(id_, title=its))
        await it.add_conversation(ME, conversation("f"))
        for name, found in NAMED:
            by_id = Query(name=name, sort="id", descending=False)
            assert "".join(ids(await it.agents(ME, by_id))) == found, name[:100]
            assert "".join(ids(await it.conversations(ME, by_id))) == (found if name else "abcdef"), name[:100]

    check(main)


def test_other_conditions_hold_together(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_agent(ME, agent("a", tags=("x", "y")))
        await it.add_agent(ME, agent("b", tags=("xy",), archived=True, metadata={"tag": "x"}))
        assert ids(await it.agents(ME, Query(tag="x"))) == ["a"]
        assert ids(await it.agents(ME, Query(tag=""))) == []
        assert ids(await it.agents(ME, Query(tag="X"))) == []
        assert ids(await it.agents(ME, Query(tag="\0"))) == []
        assert ids(await it.agents(ME, Query(archived=False))) == ["a"]
        assert ids(await it.agents(ME, Query(archived=True, name="ann", metadata={"tag": "x"}))) == ["b"]
        assert ids(await it.agents(ME, Query(archived=True, tag="x"))) == []
        assert ids(await it.agents(ME, Query(ids=("b", "b", "z", "\0", "\udc00")))) == ["b"]
        assert ids(await it.agents(ME, Query(ids=()))) == []
        assert ids(await it.agents(ME, Query(ids=(*(str(number) for number in range(50_000)), "a")))) == ["a"]
        await it.add_conversation(ME, conversation("c", agent="a"))
        await it.add_conversation(ME, conversation("d"))
        assert ids(await it.conversations(ME, Query(agent="a"))) == ["c"]
        assert ids(await it.conversations(ME, Query(agent="A"))) == []
        assert ids(await it.conversations(ME, Query(agent="a\0"))) == []

    check(main)


def test_conversations_are_found_by_the_state_of_their_latest_turn(check: Test) -> None:
    async def main(it: Store) -> None:
        for id_ in "abcd":
            await it.add_conversation(ME, conversation(id_))
        for number, state in enumerate((TurnState.FAILED, TurnState.WAITING)):
            await it.add_turn(ME, turn(f"a{number}", "a", state=state))
        await it.add_turn(ME, turn("b", "b"))
        await it.add_turn(ME, turn("c", "c", state=TurnState.FAILED))

        async def found(*states: TurnState | None) -> str:
            query = Query(states=states, sort="id", descending=False)
            kept = await it.conversations(ME, query)
            assert kept.total == len(kept.items)
            return "".join(ids(kept))

        assert await found(TurnState.WAITING) == "a"
        assert await found(TurnState.FAILED) == "c"
        assert await found(TurnState.STARTING, TurnState.RUNNING) == "b"
        assert await found(None) == "d"
        assert await found(None, TurnState.FAILED) == "cd"
        assert await found() == ""
        assert await found(*TurnState, None) == "abcd"

    check(main)


def test_a_stretch_is_given_in_order_and_says_how_much_there_is(check: Test) -> None:
    names = {"b": "Z", "a": "a", "C": "a", "d": "é", "e": "B"}

    async def main(it: Store) -> None:
        for number, (id_, name) in enumerate(names.items()):
            when = {"created": float(number // 2), "updated": float(-number)}
            await it.add_agent(ME, agent(id_, name=name, **when))
            await it.add_conversation(ME, conversation(id_, title=name or None, **when))
        for find in (it.agents, it.conversations):

            async def found(sort: str, descending: bool, find: Any = find) -> str:
                whole = await find(ME, Query(sort=sort, descending=descending, limit=100))
                for size in (1, 2, 3):
                    pages = [
                        await find(ME, Query(sort=sort, descending=descending, limit=size, offset=offset))
                        for offset in range(0, 6, size)
                    ]
                    assert [id_ for page in pages for id_ in ids(page)] == ids(whole)
                    assert {page.total for page in pages} == {5}
                return "".join(ids(whole))

            assert await found("id", False) == "Cabde"
            assert await found("id", True) == "edbaC"
            assert await found("created", False) == "abCde"
            assert await found("created", True) == "eCdab"
            assert await found("updated", False) == "edCab"
            assert await found("updated", True) == "baCde"
            assert await found("name", False) == "ebCad"
            assert await found("name", True) == "dCabe"
        assert await it.agents(ME, Query(limit=0)) == replace(await it.agents(ME, Query(limit=0)), items=(), total=5)
        assert ids(await it.agents(ME, Query(offset=10**30, limit=10**30))) == []
        assert len(ids(await it.agents(ME, Query(limit=10**30)))) == 5

    check(main)


def test_conversations_without_a_title_are_sorted_too(check: Test) -> None:
    async def main(it: Store) -> None:
        for id_, title in (("a", "A"), ("b", None), ("c", ""), ("d", None)):
            await it.add_conversation(ME, conversation(id_, title=title))
        assert ids(await it.conversations(ME, Query(sort="name", descending=False))) == ["b", "c", "d", "a"]
        assert ids(await it.conversations(ME, Query(sort="name"))) == ["a", "b", "c", "d"]

    check(main)
