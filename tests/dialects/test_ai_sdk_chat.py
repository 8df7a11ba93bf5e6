"""Chats of the AI SDK: what a page sends, and what comes of it."""

import asyncio
from typing import Any

import pytest

from codegen_api.dialects.ai_sdk.wire import NEVER
from codegen_api.errors import Forbidden
from codegen_api.runs import WaitReason
from tests.dialects.ai_sdk import (
    CHAT,
    answered,
    finish,
    history,
    latest,
    refused,
    resuming,
    sending,
    sent,
    speaking,
    user_message,
)
from tests.dialects.rich import RichHost

QUESTION = user_message("Which of the two files is read?")
PNG = "data:image/png;base64,iVBORw0KGgo="


def texts(message: Any) -> list[str]:
    parts = message["parts"] if isinstance(message, dict) else message.parts
    return [part["text"] for part in parts if part["type"] in ("text", "reasoning")]


async def test_a_message_begins_a_run_and_the_page_sees_all_that_comes_of_it() -> None:
    async with speaking() as site:
        watching = sending(site, QUESTION)
        begun = await watching.begun()
        hosted = latest(site)
        assert begun.metadata["codegen_api"]["status"] == "running"
        assert begun.metadata["codegen_api"]["run"] == hosted.ref.id
        hosted.append(text="I open the first file.")
        place = hosted.act()
        await watching.parts(2)
        hosted.amend(place, output={"lines": 3})
        finish(hosted, "The second file is read.")
        message = await watching.end()
        assert message.status == "ready"
        assert message.metadata["codegen_api"]["status"] == "completed"
        assert message.metadata["codegen_api"]["entries"] == 4
        thought, tool, text = message.parts
        assert (thought["type"], thought["text"]) == ("reasoning", "I open the first file.")
        assert (tool["state"], tool["output"], tool["toolName"]) == ("output-available", {"lines": 3}, "look")
        assert (text["type"], text["text"]) == ("text", "The second file is read.")
        assert await history(site) == [
            QUESTION,
            {"id": message.id, "role": "assistant", "metadata": message.metadata, "parts": message.parts},
        ]


async def test_a_page_that_comes_back_gets_the_whole_turn_again_and_nothing_when_it_is_over() -> None:
    async with speaking() as site:
        assert (await site.get(f"/ui/chat/{CHAT}/stream")).status_code == 204
        first = sending(site, QUESTION)
        await first.begun()
        latest(site).append(3, text="Still on my way.")
        await first.parts(3)
        await first.leave()
        second, third = resuming(site), resuming(site)
        await second.parts(3)
        finish(latest(site))
        assert (await second.end()).parts == (await third.end()).parts == (await history(site))[1]["parts"]
        assert second.seen.id == third.seen.id
        again = await site.get(f"/ui/chat/{CHAT}/stream")
        assert (again.status_code, again.content) == (204, b"")


async def test_the_same_message_twice_is_one_turn() -> None:
    async with speaking() as site:
        first, second = sending(site, QUESTION), sending(site, QUESTION)
        await first.begun()
        await second.begun()
        finish(latest(site))
        assert (await first.end()).id == (await second.end()).id
        late = await sending(site, QUESTION).end()
        assert (late.id, late.parts) == (first.seen.id, first.seen.parts)
        assert len(site.host.created) == 1


async def test_a_chat_goes_on_in_its_run_and_only_the_last_message_is_heard() -> None:
    async with speaking() as site:
        first = await answered(site, QUESTION)
        own = {"id": first.id, "role": "assistant", "parts": [{"type": "text", "text": "Something else was said."}]}
        second = await answered(site, QUESTION, own, user_message("And the other one?", "m2"), text="It is not.")
        assert first.id != second.id
        assert [prompt for prompt, _ in site.host.resumed] == ["And the other one?"]
        assert [texts(each) for each in await history(site)] == [
            ["Which of the two files is read?"], ["It is done, all of it."], ["And the other one?"], ["It is not."],
        ]  # fmt: skip
        alone = await answered(site, user_message("Now without the rest.", "m3"))
        assert len(await history(site)) == 6
        assert texts(alone) == ["It is done, all of it."]


async def test_an_answer_is_made_anew_from_before_its_question() -> None:
    async with speaking() as site:
        first = await answered(site, QUESTION, text="The blue one.")
        second = await answered(site, user_message("And now?", "m2"), text="Now the red one.")
        again = await answered(
            site, QUESTION, trigger="regenerate-message", messageId=first.id, text="The green one, then."
        )
        assert again.id not in (first.id, second.id)
        assert [texts(each) for each in await history(site)] == [
            ["Which of the two files is read?"], ["The green one, then."],
        ]  # fmt: skip
        assert len(site.host.created) == 2
        assert "The blue one." not in site.host.created[1].prompt
        last = await answered(site, QUESTION, trigger="regenerate-message", text="And a third time.")
        assert texts((await history(site))[1]) == texts(last) == ["And a third time."]


async def test_a_message_that_was_edited_takes_the_place_of_what_it_was() -> None:
    async with speaking() as site:
        await answered(site, user_message("Begin with this one."), text="I began with it.")
        await answered(site, user_message("Which colour?", "m2"), text="The blue one.")
        edited = user_message("Which size?", "m2")
        changed = await answered(site, edited, messageId="m2", text="The large one.")
        messages = await history(site)
        assert [texts(each) for each in messages[2:]] == [["Which size?"], ["The large one."]]
        assert "I began with it." in site.host.created[-1].prompt
        assert (await sending(site, edited).end()).id == changed.id


async def test_while_the_agent_works_another_message_is_refused_or_takes_over() -> None:
    async with speaking() as site:
        first = sending(site, QUESTION)
        await first.begun()
        busy = await site.post("/ui/chat", sent(user_message("Wait!", "m2")))
        assert refused(busy)[:2] == (409, "conversation_busy")
        second = sending(site, user_message("Do this first.", "m3"), if_busy="interrupt")
        stopped = await first.end()
        assert (stopped.status, stopped.metadata["codegen_api"]["status"]) == ("ready", "cancelled")
        await second.begun()
        finish(latest(site))
        assert (await second.end()).status == "ready"


async def test_a_chat_is_stopped_only_by_whoever_says_so() -> None:
    async with speaking() as site:
        watching = sending(site, QUESTION)
        await watching.begun()
        latest(site).act()
        await watching.parts(1)
        await watching.leave()
        assert latest(site).status == "ACTIVE"
        back = resuming(site)
        await back.parts(1)
        assert (await site.post(f"/ui/chat/{CHAT}/stop")).json() == {"stopped": True}
        message = await back.end()
        assert (message.status, latest(site).status) == ("ready", "CANCELLED")
        assert (message.parts[0]["state"], message.parts[0]["errorText"]) == ("output-error", NEVER)
        assert (await history(site))[1]["parts"] == message.parts
        assert (await site.post(f"/ui/chat/{CHAT}/stop")).json() == {"stopped": False}
        assert refused(await site.post("/ui/chat/another/stop"))[:2] == (404, "not_found")


async def test_a_run_that_fails_is_an_error_of_the_chat() -> None:
    async with speaking() as site:
        watching = sending(site, QUESTION)
        await watching.begun()
        latest(site).append(text="So far so good, said the agent.")
        await watching.parts(1)
        latest(site).status = "ERROR"
        message = await watching.end()
        assert (message.status, message.error) == ("error", "The run ended as ERROR.")
        assert message.metadata["codegen_api"]["status"] == "failed"
        assert texts(message) == ["So far so good, said the agent."]


async def test_what_the_agent_waits_for_is_told_and_answered_by_the_next_message() -> None:
    async with speaking() as site:
        watching = sending(site, QUESTION)
        await watching.begun()
        latest(site).wait("q7", WaitReason.QUESTION, text="Left or right?", choices=("left", "right"))
        message = await watching.end()
        assert texts(message) == ["Left or right?"]
        asked: dict[str, Any] = {"id": "q7", "reason": "question", "text": "Left or right?", "tool": None}
        asked |= {"input": None, "choices": ["left", "right"], "fields": {}}
        assert message.parts[-1]["type"] == "data-codegen-waiting"
        assert message.parts[-1]["data"] == {"requests": [asked]}
        assert (await history(site))[1]["parts"] == message.parts
        await answered(site, user_message("To the left.", "m2"))
        assert [(each, made.verdict, made.text) for each, made in site.host.decisions] == [
            ("q7", "answer", "To the left.")
        ]


async def test_a_decision_needs_no_words() -> None:
    async with speaking() as site:
        watching = sending(site, QUESTION)
        await watching.begun()
        latest(site).wait("a1", tool="shell", input={"command": "ls"})
        message = await watching.end()
        own = {"id": message.id, "role": "assistant", "parts": message.parts}
        approved: dict[str, Any] = {"decisions": [{"id": "a1", "verdict": "approve"}]}
        done = await answered(site, QUESTION, own, **approved)
        assert [(each, made.verdict) for each, made in site.host.decisions] == [("a1", "approve")]
        assert texts(done) == ["It is done, all of it."]
        late = await site.post("/ui/chat", sent(QUESTION, own, **approved))
        assert refused(late)[:2] == (409, "conflict")


async def test_images_go_along_and_everything_else_is_named() -> None:
    async with speaking() as site:
        image = {"type": "file", "mediaType": "image/png", "url": PNG}
        await answered(site, user_message("What is on this picture?", "m1", image, {"type": "data-hint", "data": 1}))
        assert site.host.created[0].images == (PNG,)
        assert (await history(site))[0]["parts"][1] == image
        for part, what in [
            ({"type": "file", "url": "https://example.com/a.png"}, "messages.0.parts.1.url: must be a data URI"),
            ({"type": "file", "url": "data:text/plain;base64,aGk="}, "messages.0.parts.1.url: must be an image"),
            ({"type": "tool-search"}, "messages.0.parts.1: must be a text or a file."),
            ({}, "messages.0.parts.1: must be a text or a file."),
        ]:
            answer = await site.post("/ui/chat", sent(user_message("And on this one?", "m2", part)))
            assert refused(answer)[:2] == (422, "validation_error")
            assert what in answer.text


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        (sent(), 422, "messages: the last one must be the user's."),
        (sent({"id": "a", "role": "assistant", "parts": []}), 422, "messages: the last one must be the user's."),
        (sent({"id": "a", "role": "user", "parts": []}), 422, "messages.0: must not be empty"),
        (sent({"id": "a", "role": "user", "parts": [{"type": "text", "text": " \n"}]}), 422, "must not be empty"),
        ({"messages": [QUESTION]}, 422, "id: field required"),
        (sent(QUESTION) | {"id": "a/b"}, 422, "id: "),
        (sent(QUESTION, agent_id="nobody-there"), 404, "Agent 'nobody-there' not found"),
        (sent(QUESTION, trigger="regenerate-message"), 409, "There is no such message to be said again."),
    ],
)
async def test_what_cannot_be_is_refused_in_a_sentence(body: Any, status: int, what: str) -> None:
    async with speaking() as site:
        answer = await site.post("/ui/chat", body)
        assert refused(answer)[0] == status
        assert what in answer.text
        assert site.host.created == []


async def test_instructions_of_the_app_stand_before_what_the_user_says() -> None:
    async with speaking() as site:
        system = {"id": "s", "role": "system", "parts": [{"type": "text", "text": "Answer in verse, always."}]}
        await answered(site, system, QUESTION, model="large-one", metadata={"team": "blue"})
        (new,) = site.host.created
        assert "Answer in verse, always." in new.prompt
        assert new.prompt.endswith("Which of the two files is read?")
        assert (new.model, new.metadata) == ("large-one", {"team": "blue"})


async def test_an_agent_of_another_api_is_talked_to_by_its_id() -> None:
    async with speaking(dialects=("ai_sdk", "agio"), sandbox=True) as site:
        agent = {"name": "poet", "system_prompt": "You write odes to logs."}
        assert (await site.post("/api/agents", agent)).status_code == 201
        await answered(site, QUESTION, agent_id="poet")
        assert "You write odes to logs." in site.host.created[0].prompt
        await answered(site, user_message("One more line.", "m2"))
        assert len(site.host.created) == 1
        assert len(site.host.resumed) == 1


async def test_a_chat_that_is_deleted_is_gone_and_its_run_is_stopped() -> None:
    async with speaking() as site:
        watching = sending(site, QUESTION)
        await watching.begun()
        assert (await site.ask("DELETE", f"/ui/chat/{CHAT}")).status_code == 204
        assert latest(site).status == "CANCELLED"
        assert await history(site) == []
        assert refused(await site.ask("DELETE", f"/ui/chat/{CHAT}"))[0] == 404
        await asyncio.wait_for(asyncio.shield(watching.connection.task), 20)


async def test_a_host_that_fails_at_the_beginning_is_a_sentence_and_the_message_can_be_sent_again() -> None:
    host = RichHost()
    async with speaking(host) as site:
        barred: list[str] = ["create"]

        async def fail(operation: str) -> None:
            if operation in barred:
                barred.remove(operation)
                raise Forbidden

        host.before = fail
        answer = await site.post("/ui/chat", sent(QUESTION))
        assert refused(answer)[:2] == (403, "forbidden")
        assert (await answered(site, QUESTION)).status == "ready"
        assert len(await history(site)) >= 2
