"""What the host is told of a turn: in which run, with what before the user's own words, and how it is found again."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.conversations import BEFORE, end_of, text_of
from codegen_api.conversations.planning import GO_ON
from codegen_api.errors import NotFound, QuotaExhausted, Rejected
from codegen_api.runs import Json, RunRef
from codegen_api.stores import Agent, Turn, TurnState
from codegen_api.upstreams import NewRun
from tests.conversations.world import (
    ALICE,
    Host,
    Process,
    Step,
    World,
    ask,
    at,
    conversing,
    works,
)
from tests.fakehost import Hosted, Sequence

pytestmark = pytest.mark.virtual_time

POET = Agent("poet", "Poet", 0.0, 0.0, system_prompt="Answer in verse.", model="large")


async def finished(process: Process, text: str, **more: Any) -> Turn:
    return await process.wait(await process.say(text, **more))


async def test_a_first_turn_creates_a_run_and_later_ones_resume_it() -> None:
    async with conversing() as (world, process):
        turns = [await finished(process, text) for text in ("Say hello", "Say it louder", "And once more")]
        assert world.host.prompts == [("1", "Say hello"), ("1", "Say it louder"), ("1", "And once more")]
        assert [turn.resumes for turn in turns] == [False, True, True]
        assert [turn.number for turn in turns] == [1, 2, 3]
        assert [(turn.begin, turn.end) for turn in turns] == [(0, 5), (5, 10), (10, 15)]
        assert [turn.parent for turn in turns] == [None, str(end_of(turns[0])), str(end_of(turns[1]))]
        for turn in turns:
            assert await process.told(turn) == world.expected(turn)


async def test_a_system_prompt_goes_before_the_first_prompt_of_a_run_and_the_message_shown_is_the_turn_s_own() -> None:
    world = World()
    await world.converse()
    await world.converse("fork")
    async with world.serving() as process:
        first = await finished(process, "Say hello", agent=POET)
        second = await finished(process, "Say it louder", agent=POET)
        forked = await process.say("Whisper", conversation="fork", checkpoint=at(first, 0), agent=POET)
        told = [prompt for _, prompt in world.host.prompts]
        assert [prompt.count("Answer in verse.") for prompt in told] == [1, 0, 1]
        assert told[0].startswith("These are your instructions:\n\n```\nAnswer in verse.\n```\n")
        assert told[0].endswith("\n\nSay hello")
        for turn, text in [(first, "Say hello"), (second, "Say it louder"), (forked, "Whisper")]:
            assert [text_of(message) for message in turn.messages] == [text]
            assert turn.agent == "poet"
            assert turn.prompt in told
        assert [new.model for new in world.host.news] == ["large", "large"]


async def test_another_system_prompt_and_another_model_take_the_place_of_the_agent_s() -> None:
    async with conversing() as (world, process):
        new = NewRun("", metadata={"team": "a"}, repo_id=7, model="small", agent_type="coder")
        await process.say("Say hello", agent=POET, system_prompt="Answer in prose.", run=new, images=("data:x",))
        [(_, prompt)], [told] = world.host.prompts, world.host.news
        assert "in prose" in prompt
        assert "in verse" not in prompt
        assert replace(told, marks={}) == replace(new, prompt=prompt, images=("data:x",))


async def test_the_run_of_a_turn_bears_its_mark_and_no_client_is_shown_it() -> None:
    async with conversing() as (world, process):
        turn = await process.say("Say hello", options={"stream": ["values"]})
        assert world.host.news[0].marks == {"turn": turn.mark}
        assert turn.options == {"stream": ["values"]}
        shown = await process.gateway.get(ALICE, "9", "1")
        assert turn.mark not in str(shown.fields)


async def test_images_go_along_with_either() -> None:
    async with conversing() as (world, process):
        await finished(process, "Look", images=("data:1",))
        await finished(process, "And here", images=("data:2", "data:3"))
        await finished(process, "That is all")
        assert [new.images for new in world.host.news] == [("data:1",)]
        assert world.host.images == [("data:2", "data:3"), None]


def busy_script(hosted: Hosted, prompt: str) -> list[Step]:
    def act(each: Hosted) -> None:
        each.append(type="ACTION", tool="search", input={"q": "houses"}, output={"found": 3})

    return [(0.5, act), *works(hosted, prompt)]


async def test_a_new_run_that_goes_on_from_a_checkpoint_is_told_what_was_said_and_done_up_to_there() -> None:
    world = World(Host(script=busy_script))
    await world.converse()
    await world.converse("fork")
    async with world.serving() as process:
        first = await finished(process, "Build a house")
        second = await finished(process, "Paint it blue")
        third = await finished(process, "Paint it red", conversation="fork", checkpoint=at(second, 2))
        assert third.run != second.run
        assert third.begin == 0
        told = third.prompt
        for text in (
            "User: Build a house",
            'Tool search: {"q":"houses"} -> {"found":3}',
            "Assistant: note 3",
            "Assistant: answer to Build a house",
            "User: Paint it blue",
        ):
            assert text in told
        assert told.count('{"q":"houses"}') == 2
        assert "answer to Paint" not in told
        assert told.endswith("The user says:\n\nPaint it red")
        again = await finished(process, "Paint it green", checkpoint=end_of(first))
        assert again.run not in (first.run, third.run)
        assert "Paint it" not in again.prompt.removesuffix("Paint it green")


async def test_an_answer_that_no_log_tells_is_told_to_a_new_run_unless_that_goes_on_before_it() -> None:
    def in_silence(hosted: Hosted, prompt: str) -> list[Step]:
        def end(each: Hosted) -> None:
            each.status, each.result = "COMPLETE", "forty-two"

        return [(1, lambda each: each.append()), (2, end)]

    world = World(Host(script=in_silence))
    await world.converse()
    await world.converse("fork")
    async with world.serving() as process:
        first = await finished(process, "Say a number")
        assert first.answer == "forty-two"
        behind = await process.say("And another", conversation="fork", checkpoint=end_of(first))
        assert "Assistant: forty-two" in behind.prompt
        await process.wait(behind)
        before = await process.say("And yet another", conversation="fork", checkpoint=at(first, 1))
        assert "forty-two" not in before.prompt


async def test_without_a_text_the_user_s_last_words_are_said_again() -> None:
    async with conversing() as (_, process):
        first = await finished(process, "Say hello", agent=POET)
        second = await finished(process, "Say it louder")
        for text in ("", " \n"):
            again = await finished(process, text, checkpoint=at(second, 0))
            assert not any(text_of(message).strip() for message in again.messages)
            assert again.prompt.endswith("The user says:\n\nSay it louder")
            assert "User: Say hello" in again.prompt
            assert again.prompt.count("Say it louder") == 1
            assert again.parent == str(at(second, 0))
        assert (await finished(process, "", checkpoint=at(first, 0))).prompt == "Say hello"
        assert (await finished(process, "", checkpoint=at(first, 0), agent=POET)).prompt == first.prompt


async def test_where_nothing_is_to_be_said_again_the_host_is_told_to_go_on() -> None:
    world = World()
    await world.converse()
    await world.converse("pictures")
    async with world.serving() as process:
        first = await finished(process, "")
        assert first.prompt == GO_ON
        assert (await finished(process, "  ")).prompt == GO_ON
        assert (await finished(process, "", checkpoint=at(first, BEFORE))).prompt == GO_ON
        assert (await finished(process, "", checkpoint=at(first, 3))).prompt.endswith(f"\n\n{GO_ON}")
        image = {"id": "m", "content": [{"type": "image", "url": "data:1"}]}
        shown = await finished(process, "", conversation="pictures", messages=[image], images=("data:1",))
        again = await finished(process, "", conversation="pictures", checkpoint=at(shown, 0))
        assert [shown.prompt, again.prompt] == [GO_ON, GO_ON]


def test_of_a_message_its_texts_are_told() -> None:
    parts: list[Json] = [
        {"type": "text", "text": "one"},
        {"type": "image"},
        "three",
        {"type": "text", "text": 4},
        {"text": "five"},
    ]
    assert text_of({"content": parts}) == "one\nfive"
    assert text_of({"content": "all of it"}) == ""
    assert text_of({}) == ""


async def test_what_somebody_does_with_the_run_between_two_turns_is_in_neither() -> None:
    async with conversing() as (world, process):
        first = await finished(process, "Say hello")
        hosted = world.host.runs["1"]
        await process.gateway.resume(ALICE, "9", "1", "Do something else", None)
        await asyncio.sleep(10)
        world.host.evolve()
        assert len(hosted.entries) == 10
        second = await finished(process, "Say it louder")
        assert (second.run, second.begin, second.end) == (first.run, 10, 15)
        assert await process.told(first) == hosted.encoded()[:5]
        assert await process.told(second) == hosted.encoded()[10:]


@pytest.mark.parametrize("page_size", [3, 5, 7])
async def test_a_log_that_has_grown_by_many_pages_is_read_to_its_end(page_size: int) -> None:
    async with conversing(Host(page_size=page_size)) as (world, process):
        await finished(process, "Say hello")
        world.host.runs["1"].append(20)
        second = await finished(process, "Say it louder")
        assert (second.begin, second.end) == (25, 30)
        assert await process.told(second) == world.expected(second)


async def test_behind_a_turn_that_was_never_begun_the_one_before_it_goes_on() -> None:
    async with conversing() as (world, process):
        world.host.before = Sequence("create", QuotaExhausted())
        with pytest.raises(QuotaExhausted):
            await process.say("Say hello")
        first = await finished(process, "Say hello after all")
        assert first.prompt == "Say hello after all"
        world.host.before = Sequence("resume", QuotaExhausted())
        with pytest.raises(QuotaExhausted):
            await process.say("Say it louder")
        second = await finished(process, "Say it as loud as you can")
        assert (second.run, second.parent) == (first.run, str(end_of(first)))
        assert [turn.state for turn in world.turns()] == [
            TurnState.FAILED,
            TurnState.COMPLETED,
            TurnState.FAILED,
            TurnState.COMPLETED,
        ]
        lost = world.turns()[2]
        assert lost.error == QuotaExhausted.default_message
        assert await process.told(lost) == []
        # whoever goes back to a turn that was never begun has another run, and says it again
        third = await finished(process, "", checkpoint=at(lost, 0))
        assert third.run != first.run
        assert third.prompt.endswith("Say it louder")


async def test_the_end_of_an_older_turn_is_another_place_than_that_of_the_latest() -> None:
    async with conversing() as (_, process):
        first = await finished(process, "Say hello")
        second = await finished(process, "Say it louder")
        same = await finished(process, "And louder", checkpoint=end_of(second))
        assert same.run == second.run
        other = await finished(process, "Say it softly", checkpoint=end_of(first))
        assert other.run != second.run
        behind = await finished(process, "And softer")
        assert behind.run == other.run
        assert behind.parent == str(end_of(other))


async def test_the_organization_is_the_one_that_was_wanted_or_that_of_the_run() -> None:
    async with conversing() as (_, process):
        begin = process.conversations.of(ALICE).begin
        first = await process.wait(await begin("9", "talk", ask("Say hello")))
        second = await begin("8", "talk", ask("Say it louder"))
        assert (first.organization, second.organization, second.run) == ("9", "9", RunRef("9", "1"))
        await process.wait(second)
        with pytest.raises(Rejected):
            await begin("nine", "talk", ask("Say it softly", checkpoint=at(first, 0)))


HOSTILE = ["a\0b", "a\ud800b"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_no_store_can_keep_is_refused_before_anything_is_done(text: str) -> None:
    async with conversing() as (world, process):
        for more in (
            {"text": text},
            {"system_prompt": text},
            {"options": {"a": [text]}},
            {"messages": [{"id": "m", "content": [{"text": text}]}]},
            {"messages": [{text: 1}]},
        ):
            with pytest.raises(Rejected):
                await process.conversations.of(ALICE).begin(
                    None, "talk", ask("", **more) if "text" not in more else ask(text)
                )
        assert not world.host.prompts
        assert not world.turns()


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_a_host_says_and_no_store_can_keep_stops_nothing(text: str) -> None:
    def mean(hosted: Hosted, prompt: str) -> list[Step]:
        def end(each: Hosted) -> None:
            each.append(text=text)
            each.append(type="ACTION", tool=text, input={text: text}, output=text)
            each.status, each.result = "COMPLETE", f"the result: {text}"

        return [(1, end)]

    async with conversing(Host(script=mean)) as (world, process):
        first = await finished(process, "Say hello")
        assert first.answer == "the result: a\ufffdb"
        await world.converse("fork", parent=str(end_of(first)))
        second = await finished(process, "Go on", conversation="fork")
        assert second.prompt.count("a\ufffdb") == 4
        assert second.state is TurnState.COMPLETED
        world.host.script = lambda hosted, prompt: [(1, lambda each: setattr(each, "status", "ERROR"))]
        third = await finished(process, "Fail now")
        assert (third.state, third.error) == (TurnState.FAILED, "The run ended as ERROR.")
        refusal = QuotaExhausted(text)
        world.host.before = Sequence("resume", refusal)
        with pytest.raises(QuotaExhausted):
            await process.say("And again")
        assert world.turns()[-1].error == "a\ufffdb"


async def test_there_is_no_turn_without_a_conversation() -> None:
    world = World()
    async with world.serving() as process:
        with pytest.raises(NotFound):
            await process.say("Say hello")
        assert await process.conversations.of(ALICE).latest("talk") is None
        with pytest.raises(NotFound):
            await process.conversations.of(ALICE).find_turn("none")
