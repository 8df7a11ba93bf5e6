"""What every store promises of all that it keeps. A new adapter adds itself to ``STORES`` in ``conftest.py``."""

import asyncio
from dataclasses import replace

from codegen_api.stores import Found, Query, Store
from tests.stores.things import ME, YOU, Test, agent, conversation, ids, item, turn

# -- agents and conversations -----------------------------------------------------------------------------------------


def test_what_is_kept_comes_back_as_it_was(check: Test) -> None:
    given = agent(
        description="d",
        system_prompt="s" * 100_000,
        model="m",
        tags=("x", "y"),
        configuration={"a": [1, 2.5, None, True, {"b": "c"}]},
        metadata={"n": {"big": 2**80, "small": -(2**80), "float": 1e300}, "": {}},
        archived=True,
        version=7,
        created=1700000000.123456,
    )
    talk = conversation(agent="a", title="T", tags=("z",), metadata={"k": [[], {}]}, parent="p")

    async def main(it: Store) -> None:
        assert await it.add_agent(ME, given)
        assert await it.agent(ME, "a") == given
        assert await it.add_conversation(ME, talk)
        assert await it.conversation(ME, "c") == talk
        assert await it.agent(ME, "b") is None
        assert await it.conversation(ME, "a") is None

    check(main)


def test_an_id_is_taken_once(check: Test) -> None:
    async def main(it: Store) -> None:
        assert await it.add_agent(ME, agent())
        assert not await it.add_agent(ME, agent(name="Bob"))
        assert await it.agent(ME, "a") == agent()
        assert await it.add_conversation(ME, conversation("a"))
        assert not await it.add_conversation(ME, conversation("a", title="T"))
        assert await it.conversation(ME, "a") == conversation("a")

    check(main)


def test_of_many_that_are_added_at_once_one_is_kept(check: Test) -> None:
    async def main(it: Store) -> None:
        added = await asyncio.gather(*(it.add_agent(ME, agent(name=str(number))) for number in range(10)))
        assert added.count(True) == 1
        kept = await it.agent(ME, "a")
        assert kept is not None
        assert kept.name == str(added.index(True))

    check(main)


def test_owners_see_nothing_of_each_other(check: Test) -> None:
    async def main(it: Store) -> None:
        for owner, name in ((ME, "mine"), (YOU, "yours")):
            assert await it.add_agent(owner, agent(name=name))
            assert await it.add_conversation(owner, conversation(title=name))
            await it.add_turn(owner, turn(prompt=name))
            await it.put_item(owner, item("n", value={"is": name}))
        mine = await it.agent(ME, "a")
        assert mine is not None
        await it.change_agent(ME, mine, replace(mine, name="still mine"))
        assert await it.agent(YOU, "a") == agent(name="yours")
        assert ids(await it.conversations(YOU, Query(name="mine"))) == []
        assert (await it.agents("nobody", Query())).total == 0
        assert await it.turns("nobody") == ()
        assert await it.ends("nobody", ["c"]) == {}
        assert await it.counts("nobody", ["a"], {}) == {}
        assert await it.namespaces("nobody") == ()
        assert await it.items("nobody", (), 10, 0) == Found((), 0)
        assert await it.remove_conversation(ME, "c")
        assert await it.remove_agent(ME, "a")
        assert await it.remove_item(ME, ("n",), "k")
        assert await it.conversation(YOU, "c") == conversation(title="yours", updated=2.0)
        assert [each.prompt for each in await it.turns(YOU)] == ["yours"]
        assert await it.agent(YOU, "a") == agent(name="yours")
        assert await it.item(YOU, ("n",), "k") == item("n", value={"is": "yours"})

    check(main)


def test_the_conversations_of_some_agents_are_counted_at_once(check: Test) -> None:
    async def main(it: Store) -> None:
        for number, (its, about) in enumerate([("a", {"x": {}}), ("a", {"x": {"y": 1}}), ("b", {}), (None, {"x": {}})]):
            assert await it.add_conversation(ME, conversation(str(number), agent=its, metadata=about))
        assert await it.add_conversation(YOU, conversation("0", agent="a"))
        assert await it.counts(ME, ["a", "b", "c", "a", "\0"], {}) == {"a": 2, "b": 1}
        assert await it.counts(ME, ["a", "b"], {"x": {"y": 1}}) == {"a": 1}
        assert await it.counts(ME, ["b"], {"x": {}}) == {}
        assert await it.counts(ME, [], {}) == {}
        assert await it.counts(ME, ["a"], {"x": "\0"}) == {}

    check(main)


def test_only_what_is_there_is_changed(check: Test) -> None:
    async def main(it: Store) -> None:
        first = agent()
        assert await it.change_agent(ME, first, first) is None
        await it.add_agent(ME, first)
        wanted = agent(name="Bob", version=2, updated=3.0, archived=True, metadata={"a": 1}, tags=("t",))
        second = await it.change_agent(ME, first, wanted)
        assert second == replace(wanted, revision=1)
        assert await it.agent(ME, "a") == second
        assert await it.change_agent(ME, first, agent(name="Late")) is None
        assert await it.agent(ME, "a") == second
        assert ids(await it.agents(ME, Query(metadata={"a": 1}, tag="t", name="bob"))) == ["a"]
        assert ids(await it.agents(ME, Query(name="ann"))) == []
        talk = conversation()
        assert await it.change_conversation(ME, talk, talk) is None
        await it.add_conversation(ME, talk)
        changed = await it.change_conversation(ME, talk, replace(talk, title="T", updated=5.0))
        assert changed == conversation(title="T", updated=5.0, revision=1)
        assert await it.change_conversation(ME, talk, talk) is None
        assert await it.conversation(ME, "c") == changed

    check(main)


def test_of_many_changes_at_once_one_is_made(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_agent(ME, agent())
        changes = (it.change_agent(ME, agent(), agent(name=str(number))) for number in range(10))
        made = [each for each in await asyncio.gather(*changes) if each is not None]
        assert made == [await it.agent(ME, "a")]

    check(main)


def test_what_is_removed_is_gone_once(check: Test) -> None:
    async def main(it: Store) -> None:
        assert not await it.remove_agent(ME, "a")
        assert not await it.remove_conversation(ME, "c")
        await it.add_agent(ME, agent())
        await it.add_conversation(ME, conversation(agent="a"))
        await it.add_turn(ME, turn())
        assert await it.remove_agent(ME, "a")
        assert not await it.remove_agent(ME, "a")
        assert await it.agent(ME, "a") is None
        assert ids(await it.conversations(ME, Query(agent="a"))) == ["c"]
        assert await it.remove_conversation(ME, "c")
        assert not await it.remove_conversation(ME, "c")
        assert await it.turn(ME, "t") is None
        assert await it.turns(ME) == ()
        assert await it.add_conversation(ME, conversation())
        assert await it.turns(ME, "c") == ()

    check(main)


# -- items ------------------------------------------------------------------------------------------------------------


def test_an_item_is_put_in_the_place_of_another(check: Test) -> None:
    async def main(it: Store) -> None:
        assert await it.item(ME, ("a",), "k") is None
        await it.put_item(ME, item("a", value={"x": [2**70]}))
        assert await it.item(ME, ["a"], "k") == item("a", value={"x": [2**70]})
        await it.put_item(ME, item("a", value={"y": 1}, at=5.0))
        assert await it.item(ME, ("a",), "k") == replace(item("a", value={"y": 1}), updated=5.0)
        assert await it.item(ME, ("a",), "K") is None
        assert await it.item(ME, ("A",), "k") is None
        assert await it.item(ME, (), "k") is None
        assert await it.remove_item(ME, ("a",), "k")
        assert not await it.remove_item(ME, ("a",), "k")
        assert await it.item(ME, ("a",), "k") is None

    check(main)


def test_a_prefix_is_one_of_whole_labels(check: Test) -> None:
    spaces = [
        (),
        ("a",),
        ("a", "b"),
        ("ab",),
        ("A",),
        ('a"',),
        ("a,",),
        ('a","b',),
        ("%",),
        ("a", ""),
        ("",),
        ("é", "b"),
    ]

    async def main(it: Store) -> None:
        for number, space in enumerate(spaces):
            await it.put_item(ME, item(*space, at=float(number)))
        assert await it.namespaces(ME) == tuple(sorted(spaces))

        async def below(*prefix: str) -> set[tuple[str, ...]]:
            return {each.namespace for each in (await it.items(ME, prefix, 100, 0)).items}

        for prefix in [*spaces, ("b",), ("a", "b", "c"), ("_",), ("\0",), ("\ud800",)]:
            assert await below(*prefix) == {space for space in spaces if space[: len(prefix)] == prefix}

    check(main)


def test_items_are_listed_by_when_they_were_changed(check: Test) -> None:
    async def main(it: Store) -> None:
        for number, key in enumerate("abcd"):
            await it.put_item(ME, item("n", key=key, at=float(number // 2)))
        await it.put_item(ME, item("n", key="a", at=9.0))
        assert [each.key for each in (await it.items(ME, ("n",), 10, 0)).items] == ["a", "c", "d", "b"]
        assert [each.key for each in (await it.items(ME, (), 2, 1)).items] == ["c", "d"]
        assert await it.items(ME, (), 0, 0) == Found((), 4)
        assert await it.items(ME, (), 10**30, 10**30) == Found((), 4)

    check(main)
