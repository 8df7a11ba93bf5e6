"""What every store promises of turns."""

import asyncio
from dataclasses import replace

import pytest

from codegen_api.runs import RunRef
from codegen_api.stores import Busy, Full, Overtaken, Query, Store, Talk, TurnState
from tests.stores.things import ME, YOU, Test, agent, conversation, ids, item, turn


def test_a_turn_comes_back_as_it_was(check: Test) -> None:
    given = turn(
        state=TurnState.WAITING,
        agent="a",
        messages=({"id": "m", "content": [{"type": "text", "text": "Äh\u2028"}], "n": 2**90},),
        parent="p",
        mark="mark",
        resumes=True,
        prompt="Tell me",
        organization="9",
        run=RunRef("9", "12345"),
        begin=2**40,
        end=2**40 + 5,
        answer="Well",
        error="no",
        options={"a": {"b": [1.5]}},
        ask={"text": "Äh"},
    )

    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        assert await it.add_turn(ME, given) == replace(given, number=1)
        assert await it.turn(ME, "t") == replace(given, number=1)
        assert await it.turn(ME, "u") is None
        bare = await it.add_turn(ME, turn("u", number=77))
        assert bare.number == 2
        assert await it.turn(ME, "u") == bare
        talk = await it.conversation(ME, "c")
        assert talk == conversation(updated=2.0)

    check(main)


def test_there_is_one_active_turn_in_a_conversation(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        await it.add_conversation(ME, conversation("d"))
        first = await it.add_turn(ME, turn())
        await it.add_turn(ME, turn("u", "d"))
        for state in set(TurnState) - {TurnState.QUEUED}:
            with pytest.raises(Busy) as busy:
                await it.add_turn(ME, turn("v", state=state, updated=9.0))
            assert busy.value.turn == first
        talk = await it.conversation(ME, "c")
        assert talk is not None
        assert talk.updated == 2.0
        assert await it.turn(ME, "v") is None
        for state in (TurnState.RUNNING, TurnState.WAITING):
            changed = await it.change_turn(ME, first, replace(first, state=state))
            assert changed is not None
            first = changed
        second = await it.add_turn(ME, turn("v"))
        assert second.number == 2
        with pytest.raises(Busy) as busy:
            await it.change_turn(ME, first, replace(first, state=TurnState.RUNNING))
        assert busy.value.turn == second
        assert await it.change_turn(ME, replace(first, revision=0), replace(first, state=TurnState.RUNNING)) is None
        assert await it.turn(ME, "t") == first
        assert await it.change_turn(ME, second, replace(second, state=TurnState.FAILED))
        assert await it.change_turn(ME, first, replace(first, state=TurnState.RUNNING))
        with pytest.raises(Busy) as busy:
            await it.add_turn(ME, turn("w"))
        assert busy.value.turn.id == "t"

    check(main)


def test_of_many_turns_at_once_one_is_added_and_the_others_meet_it(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        for number in range(1, 4):
            adding = (it.add_turn(ME, turn(f"{number}.{each}")) for each in range(20))
            came = await asyncio.gather(*adding, return_exceptions=True)
            (added,) = [each for each in came if not isinstance(each, BaseException)]
            assert added.number == number
            assert [each.turn for each in came if isinstance(each, Busy)] == [added] * 19
            await it.change_turn(ME, added, replace(added, state=TurnState.COMPLETED))
        assert len(await it.turns(ME, "c")) == 3

    check(main)


def test_turns_that_are_not_active_are_added_at_once_and_numbered(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        adding = (it.add_turn(ME, turn(str(each), state=TurnState.COMPLETED)) for each in range(20))
        assert sorted(each.number for each in await asyncio.gather(*adding)) == list(range(1, 21))

    check(main)


def test_of_many_that_become_active_at_once_one_does(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        waiting = [await it.add_turn(ME, turn(str(each), state=TurnState.WAITING)) for each in range(10)]
        changes = (it.change_turn(ME, each, replace(each, state=TurnState.RUNNING)) for each in waiting)
        came = await asyncio.gather(it.add_turn(ME, turn("new")), *changes, return_exceptions=True)
        assert len([each for each in came if isinstance(each, Busy)]) == 10
        assert len(await it.turns(ME, "c", states=[TurnState.STARTING, TurnState.RUNNING])) == 1

    check(main)


def test_a_turn_needs_a_conversation_and_an_id_of_its_own(check: Test) -> None:
    async def main(it: Store) -> None:
        with pytest.raises(KeyError):
            await it.add_turn(ME, turn())
        await it.add_conversation(ME, conversation())
        await it.add_conversation(ME, conversation("d"))
        await it.add_turn(ME, turn(state=TurnState.FAILED))
        for where in "cd":
            with pytest.raises(KeyError):
                await it.add_turn(ME, turn(conversation=where, updated=9.0))
            talk = await it.conversation(ME, where)
            assert talk is not None
            assert talk.updated < 9.0
        with pytest.raises(KeyError):
            await it.add_turn(YOU, turn("u"))

    check(main)


def test_a_turn_is_changed_by_whoever_knows_it(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        await it.add_conversation(ME, conversation("d"))
        first = await it.add_turn(ME, turn())
        run_ = RunRef("9", "1")
        changed = await it.change_turn(
            ME, first, replace(first, run=run_, state=TurnState.COMPLETED, end=3, conversation="d", number=9, id="x")
        )
        assert changed == replace(first, run=run_, state=TurnState.COMPLETED, end=3, revision=1)
        assert await it.turn(ME, "t") == changed
        assert await it.change_turn(ME, first, first) is None
        assert await it.change_turn(ME, turn("none"), turn("none")) is None
        assert await it.change_turn(ME, turn("none", state=TurnState.FAILED), turn("none")) is None
        assert await it.remove_turn(ME, "t")
        assert not await it.remove_turn(ME, "t")
        assert await it.change_turn(ME, changed, changed) is None

    check(main)


def test_turns_are_listed_by_number_or_by_age(check: Test) -> None:
    async def main(it: Store) -> None:
        for where in "dc":
            await it.add_conversation(ME, conversation(where))
        for number, where in enumerate("cdccd"):
            state = TurnState.COMPLETED if number % 2 else TurnState.FAILED
            await it.add_turn(ME, turn(f"{where}{number}", where, created=float(10 - number // 2), state=state))
        assert ids(await it.turns(ME, "c")) == ["c3", "c2", "c0"]
        assert ids(await it.turns(ME, "c", newest_first=False)) == ["c0", "c2", "c3"]
        assert ids(await it.turns(ME, "c", limit=1, offset=1)) == ["c2"]
        assert ids(await it.turns(ME, "c", states=[TurnState.FAILED])) == ["c2", "c0"]
        assert ids(await it.turns(ME, "c", states=[])) == []
        assert ids(await it.turns(ME, "\0")) == []
        assert ids(await it.turns(ME)) == ["d1", "c0", "c3", "c2", "d4"]
        assert ids(await it.turns(ME, newest_first=False)) == ["d4", "c2", "c3", "c0", "d1"]
        assert ids(await it.turns(ME, limit=2, offset=3)) == ["c2", "d4"]
        assert ids(await it.turns(ME, offset=10**30, limit=10**30)) == []

    check(main)


def test_the_ends_of_conversations_are_their_first_and_latest_turns(check: Test) -> None:
    async def main(it: Store) -> None:
        for where, count in (("a", 0), ("b", 1), ("c", 5), ("d", 2)):
            await it.add_conversation(ME, conversation(where))
            for number in range(count):
                await it.add_turn(ME, turn(f"{where}{number}", where, state=TurnState.FAILED))
        ends = await it.ends(ME, ["a", "b", "c", "none", "c", "\0"])
        assert {where: (first.id, last.id) for where, (first, last) in ends.items()} == {
            "b": ("b0", "b0"),
            "c": ("c0", "c4"),
        }
        assert ends["c"][1] == await it.turn(ME, "c4")
        assert await it.ends(ME, []) == {}
        assert set(await it.ends(ME, [str(number) for number in range(50_000)] + ["d"])) == {"d"}

    check(main)


def test_idle_conversations_expire_with_their_turns_and_busy_ones_stay(check: Test) -> None:
    async def main(it: Store) -> None:
        for number in range(300):
            await it.add_conversation(ME if number % 2 else YOU, conversation(str(number), updated=float(number)))
        await it.add_turn(ME, turn("busy", "1", updated=1.0))
        await it.add_turn(YOU, turn("done", "2", updated=2.0, state=TurnState.COMPLETED))
        await it.add_turn(ME, turn("new", "3", updated=1000.0, state=TurnState.COMPLETED))
        await it.add_agent(ME, agent())
        await it.put_item(ME, item("n"))
        assert await it.expire(0.0) == 0
        assert await it.expire(250.0) == 248
        assert await it.expire(250.0) == 0
        assert await it.turn(YOU, "done") is None
        assert await it.turn(ME, "busy") is not None
        assert (await it.conversations(ME, Query())).total + (await it.conversations(YOU, Query())).total == 52
        assert await it.conversation(YOU, "250") is not None
        assert await it.agent(ME, "a") is not None
        assert await it.item(ME, ("n",), "k") is not None

    check(main)


def test_turns_wait_behind_an_active_one_and_nothing_comes_before_them(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        active = await it.add_turn(ME, turn())
        first = await it.add_turn(ME, turn("u", state=TurnState.QUEUED, ask={"text": "more"}), queued_at_most=2)
        second = await it.add_turn(ME, turn("v", state=TurnState.QUEUED), queued_at_most=2)
        assert [each.number for each in (active, first, second)] == [1, 2, 3]
        with pytest.raises(Full):
            await it.add_turn(ME, turn("w", state=TurnState.QUEUED, updated=9.0), queued_at_most=2)
        with pytest.raises(Busy) as busy:
            await it.change_turn(ME, first, replace(first, state=TurnState.STARTING))
        assert busy.value.turn == active
        assert await it.change_turn(ME, active, replace(active, state=TurnState.COMPLETED))
        with pytest.raises(Busy) as busy:
            await it.add_turn(ME, turn("w"))
        assert busy.value.turn == first
        begun = await it.change_turn(ME, first, replace(first, state=TurnState.STARTING, ask=None))
        assert begun == replace(first, state=TurnState.STARTING, ask=None, revision=1)
        assert await it.change_turn(ME, first, replace(first, state=TurnState.STARTING)) is None, "it begins once"

    check(main)


def test_it_is_told_of_all_owners_where_turns_wait(check: Test) -> None:
    async def main(it: Store) -> None:
        for owner, name in ((YOU, "a"), (ME, "b"), (ME, "a"), (ME, "c")):
            await it.add_conversation(owner, conversation(name))
            for number in range(2):
                await it.add_turn(owner, turn(f"{name}{number}", name, state=TurnState.QUEUED), queued_at_most=9)
        assert [(owner, each.id) for owner, each in await it.queues()] == [
            (ME, "a0"),
            (ME, "b0"),
            (ME, "c0"),
            (YOU, "a0"),
        ]
        assert [each.id for _, each in await it.queues(limit=2)] == ["a0", "b0"]
        assert [(owner, each.id) for owner, each in await it.queues((ME, "b"))] == [(ME, "c0"), (YOU, "a0")]
        first = await it.turn(ME, "a0")
        assert first is not None
        assert await it.change_turn(ME, first, replace(first, state=TurnState.STARTING))
        assert (await it.queues(limit=1))[0][1].id == "a1"

    check(main)


def test_a_withdrawn_turn_is_never_the_latest(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        active = await it.add_turn(ME, turn(state=TurnState.RUNNING))
        waiting = await it.add_turn(ME, turn("u", state=TurnState.QUEUED), queued_at_most=1)
        assert await it.ends(ME, ["c"]) == {"c": (active, waiting)}
        assert await it.change_turn(ME, waiting, replace(waiting, state=TurnState.WITHDRAWN))
        assert await it.ends(ME, ["c"]) == {"c": (active, active)}
        assert ids(await it.conversations(ME, Query(states=(TurnState.RUNNING,)))) == ["c"]
        assert ids(await it.conversations(ME, Query(states=(None, TurnState.WITHDRAWN)))) == []
        assert [each.id for each in await it.turns(ME, "c")] == ["u", "t"]
        assert await it.remove_turn(ME, "t")
        assert await it.ends(ME, ["c"]) == {}
        assert ids(await it.conversations(ME, Query(states=(None,)))) == ["c"]

    check(main)


def test_a_conversation_comes_with_its_turns(check: Test) -> None:
    async def main(it: Store) -> None:
        assert await it.talk(ME, "c") is None
        assert await it.talk(ME, "\0") is None
        await it.add_conversation(ME, conversation())
        await it.add_conversation(ME, conversation("d"))
        assert await it.talk(ME, "c") == Talk(conversation(), (), conversation())
        one = await it.add_turn(ME, turn(state=TurnState.COMPLETED))
        await it.add_turn(ME, turn("x", "d"))
        two = await it.add_turn(ME, turn("u", state=TurnState.WITHDRAWN, updated=3.0))
        talk = await it.talk(ME, "c")
        assert talk is not None
        assert (talk.turns, talk.latest, talk.conversation.updated) == ((two, one), one, 3.0)
        assert talk.stored is talk.conversation
        assert await it.talk(YOU, "c") is None

    check(main)


def test_a_conversation_is_added_with_its_first_turn(check: Test) -> None:
    new = conversation(metadata={"team": "a"})

    async def main(it: Store) -> None:
        first = await it.add_turn(ME, turn(), into=Talk(new))
        assert first.number == 1
        assert await it.conversation(ME, "c") == replace(new, updated=2.0)
        with pytest.raises(Overtaken):
            await it.add_turn(ME, turn("u"), into=Talk(conversation(title="Another")))
        assert await it.talk(ME, "c") == Talk(replace(new, updated=2.0), (first,), replace(new, updated=2.0))
        with pytest.raises(ValueError, match=r"stored|^$"):
            await it.add_turn(ME, turn("v", "d"), into=Talk(conversation("d", title="\0")))
        assert await it.turn(ME, "v") is None

    check(main)


def test_a_conversation_is_changed_with_a_turn_or_not_at_all(check: Test) -> None:
    async def main(it: Store) -> None:
        await it.add_conversation(ME, conversation())
        talk = await it.talk(ME, "c")
        assert talk is not None
        named = replace(talk, conversation=replace(talk.conversation, title="Builds", metadata={"team": "a"}))
        first = await it.add_turn(ME, turn(), into=named)
        there = conversation(title="Builds", metadata={"team": "a"}, updated=2.0, revision=1)
        assert await it.conversation(ME, "c") == there
        assert [found.id for found in (await it.conversations(ME, Query(metadata={"team": "a"}))).items] == ["c"]
        with pytest.raises(Overtaken):
            await it.add_turn(ME, turn("u", state=TurnState.QUEUED), queued_at_most=9, into=named)
        busy = Talk(replace(there, title="No"), (first,), there)
        with pytest.raises(Busy):
            await it.add_turn(ME, turn("u"), into=busy)
        with pytest.raises(Full):
            await it.add_turn(ME, turn("u", state=TurnState.QUEUED), into=busy)
        assert await it.conversation(ME, "c") == there
        await it.add_turn(ME, turn("u", state=TurnState.QUEUED), queued_at_most=9, into=busy)
        assert await it.conversation(ME, "c") == replace(there, title="No", revision=2)
        await it.remove_conversation(ME, "c")
        with pytest.raises(Overtaken):
            await it.add_turn(ME, turn("v"), into=busy)
        with pytest.raises(KeyError):
            await it.add_turn(ME, turn("v"), into=Talk(there, (), there))

    check(main)
