"""Chat Completions: what front ends send, and what comes of it."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from codegen_api.conversations import RenderCache, TurnEntry
from codegen_api.dialects.openai.completions import CompletionTeller
from codegen_api.dialects.openai.schemas import CreateCompletion
from codegen_api.runs import LogEntry, Step, StepKind, WaitReason, to_json
from codegen_api.stores import Turn, TurnState
from tests.dialects.openai import Streaming, finish, latest, refused, speaking
from tests.dialects.site import Site
from tests.leaks import WATCH

PATH = "/v1/chat/completions"
QUESTION = "Which of the two files is read?"
PNG = "data:image/png;base64,iVBORw0KGgo="

TITLE = """### Task:
Generate a concise, 3-5 word title with an emoji summarizing the chat history.
### Output:
JSON format: { "title": "your concise title here" }
### Chat History:
<chat_history>
USER: How deep is the well?
ASSISTANT: Twelve metres.
</chat_history>"""
LIBRECHAT = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the title"
    " itself.\n\nConversation:\nUser: How deep is the well?\nAI: Twelve metres."
)
DOCUMENTS = "### Task:\nRespond to the user query using the provided context.\n<context>A</context>\n\nHow deep is it?"


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    """What a front end sends: by turns the user's words and the agent's."""
    for text in texts[::2]:
        WATCH.secret("a message", text)
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return {"model": "default", "messages": messages, **more}


class Chunks:
    """The stream of an answer."""

    def __init__(self, site: Site, body: Any, **headers: str) -> None:
        self.watching = Streaming(site, "POST", PATH, {**body, "stream": True}, **headers)

    @property
    def all(self) -> list[Any]:
        """The chunks, as far as they have come; each is one by the SDK's types, or an error."""
        frames = [frame for frame in self.watching.text.split("\n\n")[:-1] if not frame.startswith(":")]
        found = [json.loads(frame.removeprefix("data: ")) for frame in frames if frame != "data: [DONE]"]
        for each in found:
            assert "error" in each or ChatCompletionChunk.model_validate(each)
            assert all(not choice["delta"].get("tool_calls") for choice in each.get("choices", ()))
        return found

    def text(self, field: str = "content") -> str:
        return "".join(choice["delta"].get(field, "") for chunk in self.all for choice in chunk.get("choices", ()))

    async def begun(self) -> "Chunks":
        while not self.all:
            assert not self.watching.connection.task.done(), self.watching.text
            await self.watching.connection.received(len(self.watching.connection.messages) + 1)
        return self

    async def end(self) -> "Chunks":
        await self.watching.connection.task
        assert self.watching.text.endswith("data: [DONE]\n\n"), self.watching.text
        return self


async def said(site: Site, *texts: str, answer: str = "The second one.", **headers: str) -> str:
    """What a chat is answered by a run that the last of its texts starts, or resumes."""
    before = len(told(site))
    watching = await Chunks(site, chat(*texts), **headers).begun()
    assert len(told(site)) == before + 1
    (working,) = (hosted for hosted in site.host.runs.values() if hosted.status == "ACTIVE")
    finish(working, answer)
    return (await watching.end()).text()


def told(site: Site) -> list[str]:
    """What the host was told, run by run."""
    entries = [entry for hosted in site.host.runs.values() for entry in hosted.entries]
    return [entry["prompt"] for entry in entries if "prompt" in entry]


async def test_thoughts_and_tools_are_reasoning_and_the_answer_is_content() -> None:
    async with speaking() as site:
        watching = await Chunks(site, chat(QUESTION, stream_options={"include_usage": True})).begun()
        hosted = latest(site)
        hosted.append(text="I open the first file.")
        place = hosted.act()
        hosted.amend(place, output={"lines": 3})
        finish(hosted, "The second file is read.")
        chunks = (await watching.end()).all
        assert watching.text() == "The second file is read."
        assert watching.text("reasoning_content").split("\n\n")[0] == "I open the first file."
        assert watching.text("reasoning_content").split("\n\n")[1].startswith("look {")
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:-1]] == ["stop"]
        assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], None)
        assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


async def test_without_a_stream_it_is_the_same_in_one_message() -> None:
    async with speaking() as site:
        waiting = asyncio.ensure_future(site.post(PATH, chat(QUESTION, model="default")))
        while not site.host.runs:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        latest(site).append(text="I open the first file.")
        finish(latest(site), "The second file is read.")
        answer = await waiting
        assert answer.headers["content-type"] == "application/json"
        completion = ChatCompletion.model_validate(answer.json())
        message: Any = completion.choices[0].message
        assert (message.content, message.reasoning_content) == ("The second file is read.", "I open the first file.")
        assert (completion.model, completion.choices[0].finish_reason) == ("default", "stop")


async def test_a_chat_that_was_told_here_goes_on_in_its_run() -> None:
    async with speaking() as site:
        first = await said(site, QUESTION)
        second = await said(site, QUESTION, first, "And the first one?", answer="Is not.")
        await said(site, QUESTION, first, "And the first one?", second, "Why?")
        assert len(site.host.runs) == 1
        assert told(site) == [QUESTION, "And the first one?", "Why?"]


async def test_two_chats_that_begin_with_the_same_words_stay_two() -> None:
    async with speaking() as site:
        first = await said(site, QUESTION, answer="The second one.")
        other = await said(site, QUESTION, answer="The first one.")
        one, two = list(site.host.runs)
        watching = await Chunks(site, chat(QUESTION, first, "Why?")).begun()
        assert len(site.host.runs) == 2
        finish(site.host.runs[one])
        await watching.end()
        await said(site, QUESTION, other, "Why, though?")
        assert list(site.host.runs) == [one, two]


async def test_a_chat_that_began_alike_and_failed_is_not_taken_for_one_that_was_answered() -> None:
    async with speaking() as site:
        first = await said(site, QUESTION)
        failing = await Chunks(site, chat(QUESTION)).begun()
        latest(site).status = "ERROR"
        await failing.end()
        one, two = list(site.host.runs)
        watching = await Chunks(site, chat(QUESTION, first, "Why?")).begun()
        assert [site.host.runs[each].status for each in (one, two)] == ["ACTIVE", "ERROR"]
        finish(site.host.runs[one])
        await watching.end()


async def test_a_chat_that_was_told_elsewhere_is_told_to_a_new_run() -> None:
    async with speaking() as site:
        await said(site, QUESTION, answer="The second one.")
        await said(site, QUESTION, "Neither of them.", "Why?")
        assert len(site.host.runs) == 2
        assert "Assistant: Neither of them." in told(site)[-1]
        assert QUESTION in told(site)[-1]
        assert "The second one." not in told(site)[-1]


async def test_a_chat_of_somebody_else_does_not_go_on() -> None:
    async with speaking() as site:
        header = {"X-OpenWebUI-Chat-Id": "c-17"}
        first = await said(site, QUESTION, **header)
        for more in header, {}:
            await said(site, QUESTION, first, "Why?", **more, Authorization="Bearer bob")
        assert len(site.host.runs) == 3
        assert told(site)[1].count(first) == told(site)[2].count(first) == 1  # as they said themselves


async def test_a_chat_of_which_the_client_has_a_part_goes_on() -> None:
    async with speaking() as site:
        watching = await Chunks(site, chat(QUESTION)).begun()
        hosted = latest(site)
        hosted.append(type="ANSWER", text="It is the second one.")
        finish(hosted, "Or the first.")
        whole = (await watching.end()).text()
        assert whole == "It is the second one.\n\nOr the first."
        await said(site, QUESTION, "It is the second one.", "Why?")
        assert len(site.host.runs) == 1


def test_text_that_the_host_is_still_writing_is_told_once_and_complete() -> None:
    def entry(offset: int, text: str, *, is_open: bool = False) -> TurnEntry:
        return TurnEntry(offset, LogEntry(to_json({"text": text}), None, open=is_open, amendable=is_open))

    turn = Turn("t-1", "c-1", 0.0, 0.0, TurnState.COMPLETED, end=4)
    conversations: Any = SimpleNamespace(
        rendered=RenderCache(1000), step=lambda each: Step(StepKind.ANSWER, None, json.loads(each.json)["text"])
    )
    teller = CompletionTeller(CreateCompletion(messages=[{}]), conversations, turn)
    assert b"Wri" not in teller.take([entry(1, "Wri", is_open=True)])
    assert b'"Written."' in teller.take([entry(1, "Written.")])
    assert teller.take([entry(1, "Rewritten.")]) == b""
    assert b"Half" not in teller.take([entry(2, "Half", is_open=True)])
    told = teller.take([entry(2, "Whole", is_open=True), entry(3, "Next", is_open=True)])
    assert b"Whole" in told
    assert b"Next" not in told
    last = teller.over(turn)
    assert b"Next" in last
    assert last.endswith(b"data: [DONE]\n\n")


async def test_messages_that_come_at_once_are_answered_or_refused() -> None:
    async with speaking() as site:
        header = {"X-OpenWebUI-Chat-Id": "c-17"}
        first = await said(site, QUESTION, **header)
        both = [Chunks(site, chat(QUESTION, first, text), **header) for text in ("Why?", "And then?", "Since when?")]
        connections = [each.watching.connection for each in both]
        for each in connections:
            await each.received(1)
        statuses = [each.status for each in connections]
        assert set(statuses) <= {200, 409}
        assert 200 in statuses
        for hosted in site.host.runs.values():
            finish(hosted)
        await asyncio.gather(*(each.task for each in connections))


async def test_a_front_end_that_names_its_chat_need_not_repeat_it_exactly() -> None:
    async with speaking() as site:
        header = {"X-OpenWebUI-Chat-Id": "c-17"}
        first = await said(site, DOCUMENTS, **header)  # what was a task with documents is afterwards only the question
        await said(site, "How deep is it?", f"<details>thoughts</details>\n{first}", "And how wide?", **header)
        assert len(site.host.runs) == 1
        await said(site, "How deep is it?", first, "And how wide?", **{"X-OpenWebUI-Chat-Id": "c-18"})
        assert len(site.host.runs) == 2


async def test_another_answer_begins_another_run_behind_what_was_said_before() -> None:
    async with speaking() as site:
        header = {"X-OpenWebUI-Chat-Id": "c-17"}
        first = await said(site, QUESTION, **header)
        await said(site, QUESTION, first, "Why?", answer="Because.", **header)
        await said(site, QUESTION, first, "Why?", answer="It is newer.", **header)
        assert len(site.host.runs) == 2
        assert "Because." not in told(site)[-1]
        await said(site, QUESTION, first, "Why?", "It is newer.", "Since when?", **header)
        assert len(site.host.runs) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (TITLE, {"title": "How deep is the well?", "tags": [], "follow_ups": [], "queries": [], "text": ""}),
        (LIBRECHAT, "How deep is the well?"),
        (TITLE.replace("JSON", "").replace("USER: ", "").replace("ASSISTANT: ", ""), "Chat"),
    ],
)
async def test_what_a_front_end_asks_beside_a_chat_begins_no_run(stream: bool, task: str, answer: Any) -> None:
    async with speaking() as site:
        if stream:
            text = (await Chunks(site, chat(task)).end()).text()
        else:
            got = await site.post(PATH, chat(task))
            text = ChatCompletion.model_validate(got.json()).choices[0].message.content or ""
        assert (json.loads(text) if isinstance(answer, dict) else text) == answer
        assert not site.host.runs


async def test_a_question_about_documents_begins_a_run() -> None:
    async with speaking() as site:
        await said(site, DOCUMENTS)
        assert told(site) == [DOCUMENTS]


async def test_what_an_sdk_sends_again_begins_nothing_again() -> None:
    async with speaking() as site:
        first = await Chunks(site, chat(QUESTION), **{"x-stainless-retry-count": "0"}).begun()
        await first.watching.leave()
        again = await Chunks(site, chat(QUESTION), **{"x-stainless-retry-count": "1"}).begun()
        finish(latest(site))
        await again.end()
        assert again.all[0]["id"] == first.all[0]["id"]
        assert len(site.host.runs) == 1


async def test_a_run_that_fails_is_an_error_in_the_stream_and_to_who_asks_again() -> None:
    async with speaking() as site:
        watching = await Chunks(site, chat(QUESTION), **{"x-stainless-retry-count": "0"}).begun()
        latest(site).status = "ERROR"
        last = (await watching.end()).all[-1]
        assert last["error"]["code"] == "run_failed"
        answer = await site.post(PATH, {**chat(QUESTION), "stream": True}, headers={"x-stainless-retry-count": "1"})
        assert refused(answer)[:2] == (500, "run_failed")
        assert answer.headers["x-should-retry"] == "false"
        assert len(site.host.runs) == 1


async def test_a_completion_can_be_cancelled_as_a_response() -> None:
    async with speaking() as site:
        watching = await Chunks(site, chat(QUESTION)).begun()
        response = watching.all[0]["id"].replace("chatcmpl-", "resp_")
        assert (await site.post(f"/v1/responses/{response}/cancel")).json()["status"] == "cancelled"
        assert (await watching.end()).all[-1]["error"]["message"] == "The run was stopped."


async def test_what_the_agent_asks_is_the_answer_and_is_answered_by_the_next_message() -> None:
    async with speaking() as site:
        watching = await Chunks(site, chat(QUESTION)).begun()
        latest(site).wait("q7", WaitReason.QUESTION, text="Left or right?", choices=("left", "right"))
        asked = (await watching.end()).text()
        assert asked == "Left or right?"
        again = await Chunks(site, chat(QUESTION, asked, "To the left.")).begun()
        assert [(each, made.verdict, made.text) for each, made in site.host.decisions] == [
            ("q7", "answer", "To the left.")
        ]
        await again.watching.leave()


async def test_images_and_instructions_go_along() -> None:
    async with speaking() as site:
        content = [{"type": "text", "text": "What is on it?"}, {"type": "image_url", "image_url": {"url": PNG}}]
        body = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]}
        watching = await Chunks(site, body).begun()
        assert "Be brief." in told(site)[0]
        assert "What is on it?" in told(site)[0]
        await watching.watching.leave()


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "validation_error", "messages"),
        ({"messages": []}, "validation_error", "messages"),
        (chat(" "), "validation_error", "messages"),
        (chat("Hello", "Hello"), "validation_error", "messages"),
        (chat("Hello \0"), "validation_error", None),
        (chat("Hello", tools=[{"type": "function"}]), "unsupported_parameter", "tools"),
        (chat("Hello", n=2), "unsupported_parameter", "n"),
        (chat("Hello", response_format={"type": "json_object"}), "unsupported_parameter", "response_format"),
        ({"messages": [{"role": "tool", "content": "4"}]}, "unsupported_parameter", "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.b/c"}}]}]},
            "validation_error",
            "messages[0].content[0].image_url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "unsupported_parameter",
            "messages[0].content[0]",
        ),
    ],
)
async def test_what_cannot_be_is_refused_by_name(body: Any, code: str, param: str | None) -> None:
    async with speaking() as site:
        answer = await site.post(PATH, body)
        status, *said = refused(answer)
        assert said == [code, param]
        assert 400 <= status < 500 or status == 501
        assert not site.host.runs


async def test_what_front_ends_send_besides_is_ignored() -> None:
    async with speaking() as site:
        more = {"temperature": 0.1, "max_tokens": 5, "stop": ["."], "user": "7", "tools": [], "tool_choice": "none"}
        watching = await Chunks(site, chat("Hello", **more)).begun()
        await watching.watching.leave()


async def test_models_are_the_choice_of_the_host_and_the_agents_of_the_caller() -> None:
    async with speaking(dialects=("openai", "agio")) as site:
        agent = (await site.post("/api/agents", {"name": "Gardener", "id": "garden/tools"})).json()["id"]
        listed = (await site.get("/v1/models")).json()
        assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["default", agent])
        for model in listed["data"]:
            assert Model.model_validate(model)
            assert (await site.get(f"/v1/models/{model['id']}")).json() == model
        assert refused(await site.get("/v1/models/some/other/model"))[:2] == (404, "not_found")
        assert (await site.get("/v1/models", token="bob")).json()["data"] == listed["data"][:1]
        assert (await site.get(f"/v1/models/{agent}", token="bob")).status_code == 404
