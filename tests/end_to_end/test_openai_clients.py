"""OpenAI's SDKs and agents, of Python and of Node, and the AI SDK's provider, in front of a gateway that serves."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    set_tracing_disabled,
)
from agents.exceptions import ModelBehaviorError
from openai import (
    APIConnectionError,
    APIStatusError,
    AsyncOpenAI,
    BadRequestError,
    ConflictError,
    DefaultAsyncHttpxClient,
    DefaultHttpxClient,
    NotFoundError,
    OpenAI,
)

from tests.commands import completed
from tests.end_to_end.processes import WAIT, Sandbox, Server, eventually, gateway, kill, program
from tests.end_to_end.relay import relay
from tests.end_to_end.sdk import prompts, run_of
from tests.leaks import WATCH

JAVASCRIPT = Path(__file__).parents[1] / "javascript"
TOKEN = "sandbox-alice"
SETTINGS: dict[str, Any] = {
    "dialects": "native,openai",
    "upstream_requests_per_minute": 100_000,
    "follower_linger_seconds": 0.3,
}
WORKS, QUICK, FAILS = {"scenario": "default"}, {"scenario": "quick"}, {"scenario": "fails"}
PAUSES, ENDLESS = {"scenario": "pauses"}, {"scenario": "endless"}

set_tracing_disabled(True)


@pytest.fixture(scope="module")
def site(swift: Sandbox) -> Iterator[Server]:
    with gateway(swift, **SETTINGS) as server:
        yield server


@contextmanager
def sdk(url: str) -> Iterator[OpenAI]:
    with (
        DefaultHttpxClient(trust_env=False, timeout=WAIT) as http,
        OpenAI(base_url=f"{url}/v1", api_key=TOKEN, http_client=http) as client,
    ):
        yield client


@asynccontextmanager
async def asynchronous(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with (
        DefaultAsyncHttpxClient(trust_env=False, timeout=WAIT) as http,
        AsyncOpenAI(base_url=f"{url}/v1", api_key=TOKEN, http_client=http) as client,
    ):
        yield client


def says(text: str) -> str:
    WATCH.secret("a message", text)
    return text


def plain(events: list[Any]) -> list[Any]:
    return [event.model_dump(mode="json", warnings="error") for event in events]


# -- openai, Python ---------------------------------------------------------------------------------------------------


def test_a_stream_is_taken_up_behind_every_number(site: Server) -> None:
    with sdk(site.url) as client:
        text = says("Mend the gate of the yard")
        live = plain(list(client.responses.create(model="default", input=text, stream=True, metadata=WORKS)))
        response = live[-1]["response"]
        assert (live[0]["type"], live[-1]["type"]) == ("response.created", "response.completed")
        assert {item["type"] for item in response["output"]} == {"reasoning", "mcp_call", "message"}
        told = plain(list(client.responses.retrieve(response["id"], stream=True)))
        assert told[-1] == live[-1]
        numbers = [event["sequence_number"] for event in told]
        # what a tool answered late, when others had been told that it had not, is not told to them again
        assert {event["sequence_number"] for event in live} <= set(numbers)
        for place, number in enumerate(numbers):
            again = client.responses.retrieve(response["id"], stream=True, starting_after=number)
            assert plain(list(again)) == told[place + 1 :]
        for number in (0, numbers[len(numbers) // 2]):
            with client.responses.stream(response_id=response["id"], starting_after=number) as helper:
                assert helper.get_final_response().output_text == client.responses.retrieve(response["id"]).output_text


def test_a_response_in_the_background_is_asked_for_later(site: Server, swift: Sandbox) -> None:
    with sdk(site.url) as client:
        text = says("Paint the gate of the yard")
        begun = client.responses.create(model="default", input=text, background=True, metadata=WORKS)
        assert begun.status == "in_progress"
        assert begun.output == []
        live = list(client.responses.retrieve(begun.id, stream=True))
        done = eventually(lambda: client.responses.retrieve(begun.id), lambda response: response.status == "completed")
        assert done.output_text
        assert plain([done]) == [plain(live)[-1]["response"]]
        (item,) = client.responses.input_items.list(begun.id).data
        assert item.model_dump()["content"][0]["text"] == text
        assert prompts(swift, run_of(swift, text)) == [text]
        client.responses.delete(begun.id)
        with pytest.raises(NotFoundError):
            client.responses.retrieve(begun.id)


def test_a_response_goes_on_behind_another_in_three_ways(site: Server, swift: Sandbox) -> None:
    with sdk(site.url) as client:
        text = says("Oil the gate of the yard")
        first = client.responses.create(model="default", input=text, metadata=QUICK)
        second = client.responses.create(model="default", input="Twice", previous_response_id=first.id)
        history: list[Any] = [
            {"role": "user", "content": text},
            *(item.model_dump() for item in first.output),
            {"role": "user", "content": "Twice"},
            *(item.model_dump() for item in second.output),
            {"role": "user", "content": "Thrice"},
        ]
        third = client.responses.create(model="default", input=history)
        assert third.conversation is not None
        fourth = client.responses.create(model="default", input="Enough", conversation=third.conversation.id)
        assert [each.status for each in (first, second, third, fourth)] == ["completed"] * 4
        assert prompts(swift, run_of(swift, text)) == [text, "Twice", "Thrice", "Enough"]
        conversation = client.conversations.create(metadata={"about": "gates"})
        said = client.responses.create(model="default", input=text, conversation=conversation.id, metadata=QUICK)
        items = client.conversations.items.list(conversation.id, order="asc").data
        assert [item.id for item in items[1:]] == [item.id for item in said.output]


def test_what_is_cancelled_what_fails_and_what_asks_say_so(site: Server) -> None:
    with sdk(site.url) as client:
        text = says("Sing in the yard")
        begun = client.responses.create(model="default", input=text, background=True, metadata=ENDLESS)
        with pytest.raises(ConflictError) as caught:
            client.responses.create(model="default", input="Hush", previous_response_id=begun.id)
        assert caught.value.code == "conversation_busy"
        assert client.responses.cancel(begun.id).status == "cancelled"
        assert list(client.responses.retrieve(begun.id, stream=True))[-1].type == "response.incomplete"
        failed = client.responses.create(model="default", input=says("Break the gate"), metadata=FAILS)
        assert failed.status == "failed"
        assert failed.error is not None
        asked = client.responses.create(model="default", input=says("Choose a colour for the gate"), metadata=PAUSES)
        assert (asked.status, (asked.metadata or {})["codegen_status"]) == ("completed", "waiting")
        done = client.responses.create(model="default", input="Blue", previous_response_id=asked.id)
        assert (done.status, "codegen_status" in (done.metadata or {})) == ("completed", False)
        with pytest.raises(BadRequestError) as refused:
            client.responses.create(model="default", input="Hello", tools=[{"type": "web_search"}])
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "tools")


@pytest.mark.parametrize("cut", [rb"HTTP/1\.1 200", rb'"object":"response"'])
def test_a_request_that_an_sdk_sends_again_begins_nothing_again(site: Server, swift: Sandbox, cut: bytes) -> None:
    with relay(site.url) as between, sdk(between.url) as client:
        text = says(f"Weed the yard behind {cut.hex()}")
        between.cut_before = re.compile(cut)
        response = client.responses.create(model="default", input=text, metadata=WORKS)
        assert between.cuts == 1
        assert (response.status, bool(response.output_text)) == ("completed", True)
        assert prompts(swift, run_of(swift, text)) == [text]


def test_a_chat_whose_answer_is_cut_is_answered_when_the_sdk_asks_again(site: Server, swift: Sandbox) -> None:
    with relay(site.url) as between, sdk(between.url) as client:
        text = says("Mow the yard")
        between.cut_before = re.compile(rb'"object":"chat.completion"')
        answer = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": text}], metadata=QUICK
        )
        assert (between.cuts, bool(answer.choices[0].message.content)) == (1, True)
        assert prompts(swift, run_of(swift, text)) == [text]


def test_a_stream_that_is_cut_is_taken_up_where_it_was(site: Server, swift: Sandbox) -> None:
    with relay(site.url) as between, sdk(between.url) as client:
        text = says("Water the yard")
        between.cut_before = re.compile(rb"event: response.mcp_call.completed")
        seen: list[Any] = []
        with pytest.raises(APIConnectionError):
            take(client.responses.create(model="default", input=text, stream=True, metadata=WORKS), seen)
        response, number = seen[0].response.id, seen[-1].sequence_number
        take(client.responses.retrieve(response, stream=True, starting_after=number), seen)
        assert plain(seen)[-1] == plain(list(client.responses.retrieve(response, stream=True)))[-1]
        numbers = [event.sequence_number for event in seen]
        assert numbers == sorted(set(numbers))
        assert prompts(swift, run_of(swift, text)) == [text]


def take(events: Iterable[Any], seen: list[Any], then: Callable[[Any], object] = lambda _: None) -> None:
    """Read a stream; ``then`` something happens at each event."""
    for event in events:
        seen.append(event)
        then(event)


def test_a_gateway_that_is_killed_and_comes_back_loses_nothing(swift: Sandbox, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data_dir": str(tmp_path)}
    text, seen = says("Rake the yard"), list[Any]()
    with gateway(swift, **settings) as first, sdk(first.url) as client:
        live = client.responses.create(model="default", input=text, stream=True, metadata=ENDLESS)
        with pytest.raises(APIConnectionError):
            take(live, seen, lambda _: kill(first.pid) if len(seen) > 20 else None)
        response, number = seen[0].response.id, seen[-1].sequence_number
        with gateway(swift, **settings) as second, sdk(second.url) as again:

            def stop(event: Any) -> None:
                if event.type == "response.mcp_call.completed":
                    again.responses.cancel(response)

            take(again.responses.retrieve(response, stream=True, starting_after=number), seen, stop)
            assert seen[-1].type == "response.incomplete"
            assert plain(seen) == plain(list(again.responses.retrieve(response, stream=True)))
            assert prompts(swift, run_of(swift, text)) == [text]


# -- openai-agents, Python --------------------------------------------------------------------------------------------


def agent(model: Any, scenario: dict[str, str]) -> Agent[None]:
    settings = ModelSettings(metadata=scenario)
    return Agent(name="Gardener", instructions="Be brief.", model=model, model_settings=settings)


async def drain(streamed: Any, then: Callable[[Any], Awaitable[object]] | None = None) -> list[Any]:
    """The events of a run; ``then`` something happens at each."""
    seen = []
    async for event in streamed.stream_events():
        seen.append(event)
        if then is not None:
            await then(event)
    return seen


async def test_an_agent_streams_and_goes_on_in_a_session_a_conversation_and_behind_a_response(
    site: Server, swift: Sandbox
) -> None:
    async with asynchronous(site.url) as client:
        model = OpenAIResponsesModel("default", openai_client=client)
        gardener = agent(model, WORKS)
        text = says("Fell the tree in the yard")
        streamed = Runner.run_streamed(gardener, text, session=SQLiteSession("yard"))
        names = [event.name for event in await drain(streamed) if event.type == "run_item_stream_event"]
        assert {"tool_called", "reasoning_item_created", "message_output_created"} <= set(names)
        assert streamed.last_response_id is not None
        kept = await client.responses.retrieve(streamed.last_response_id)
        assert streamed.final_output == kept.output_text

        gardener = agent(model, QUICK)
        second = await Runner.run(gardener, "Now the other", previous_response_id=streamed.last_response_id)
        session = SQLiteSession("shed")
        text_of_shed = says("Sweep the shed")
        for said in (text_of_shed, "And the roof", "And the cellar"):
            result = await Runner.run(gardener, said, session=session)
            assert result.final_output
        assert second.final_output
        text_of_well = says("Look into the well")
        conversation = await client.conversations.create()
        for said in (text_of_well, "Once more"):
            assert (await Runner.run(gardener, said, conversation_id=conversation.id)).final_output
    for first, *more in (
        [text, "Now the other"],
        [text_of_shed, "And the roof", "And the cellar"],
        [text_of_well, "Once more"],
    ):
        begun, *rest = prompts(swift, run_of(swift, first))
        assert begun.endswith(first)
        assert "Be brief." in begun
        assert rest == more


async def test_an_agent_whose_run_fails_or_is_stopped_raises(site: Server) -> None:
    async with asynchronous(site.url) as client:
        model = OpenAIResponsesModel("default", openai_client=client)
        with pytest.raises(ModelBehaviorError):
            await drain(Runner.run_streamed(agent(model, FAILS), says("Break the bench")))
        streamed = Runner.run_streamed(agent(model, ENDLESS), says("Whistle by the bench"))

        async def stop(event: Any) -> None:
            if event.type == "raw_response_event" and event.data.type == "response.in_progress":
                await client.responses.cancel(event.data.response.id)

        with pytest.raises(ModelBehaviorError, match="cancelled"):
            await drain(streamed, stop)


async def test_an_agent_by_chat_completions_goes_on_in_its_run(site: Server, swift: Sandbox) -> None:
    async with asynchronous(site.url) as client:
        gardener = agent(OpenAIChatCompletionsModel("default", openai_client=client), QUICK)
        text, session = says("Count the bees in the yard"), SQLiteSession("bees")
        for said in (text, "And the wasps", "And the flies"):
            streamed = Runner.run_streamed(gardener, said, session=session)
            kinds = [event.data.type for event in await drain(streamed) if event.type == "raw_response_event"]
            assert "response.reasoning_summary_text.delta" in kinds
            assert streamed.final_output
        begun, *rest = prompts(swift, run_of(swift, text))
        assert (begun.endswith(text), rest) == (True, ["And the wasps", "And the flies"])
        with pytest.raises(APIStatusError) as caught:
            await client.chat.completions.create(
                model="default", messages=[{"role": "user", "content": says("Break the hive")}], metadata=FAILS
            )
        assert caught.value.code == "run_failed"
        assert [model.id async for model in client.models.list()] == ["default"]


# -- Node -------------------------------------------------------------------------------------------------------------


def in_node(client: str, url: str, text: str) -> Any:
    """What comes of all that people do with a client."""
    package = {"openai": "openai", "agents": "@openai/agents", "ai-sdk": "@ai-sdk/openai"}[client]
    if not (JAVASCRIPT / "node_modules" / package).is_dir():
        pytest.skip("npm ci --prefix tests/javascript installs this client")
    command = [program("node"), str(JAVASCRIPT / "openai_clients.mjs"), client, url, TOKEN, says(text)]
    done = completed(command, timeout=2 * WAIT, cwd=JAVASCRIPT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def told(host: Sandbox, text: str) -> list[str]:
    """What the host was told in the run that began with this text, without the instructions."""
    first, *rest = prompts(host, run_of(host, text))
    assert first.endswith(text)
    return [text, *rest]


def kept(site: Server, response: str) -> Any:
    answer = site.get(f"/v1/responses/{response}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def spoken(response: Any) -> str:
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for message in messages for part in message["content"])


def test_the_sdk_of_node_streams_comes_back_goes_on_and_stops(site: Server, swift: Sandbox) -> None:
    with relay(site.url) as between:
        between.cut_before = re.compile(rb"HTTP/1\.1 200")  # the first answer, which the SDK asks for again
        seen = in_node("openai", between.url, "Lay the table")
        assert between.cuts == 1
    live, again = seen["live"], seen["told"]
    assert (live[-1]["type"], live[-1]) == ("response.completed", again[-1])
    assert seen["tails"] == [again[place:] for place in range(1, len(again) + 1)]
    assert spoken(seen["helped"]) == spoken(kept(site, live[0]["response"]["id"]))
    assert (seen["begun"]["status"], seen["begun"]["output"]) == ("in_progress", [])
    assert [response["status"] for response in seen["followed"]] == ["completed"] * 4
    assert (seen["busy"]["status"], seen["busy"]["code"]) == (409, "conversation_busy")
    assert (seen["stopped"]["status"], seen["failed"]["status"]) == ("cancelled", "failed")
    assert seen["completion"]["choices"][0]["message"]["content"]
    assert [model["id"] for model in seen["models"]] == ["default"]
    assert told(swift, "Lay the table 1") == ["Lay the table 1"]
    assert told(swift, "Lay the table 2") == ["Lay the table 2", "Twice", "Thrice", "Enough"]
    assert told(swift, "Lay the table 5") == ["Lay the table 5", "Why?"]


def test_agents_of_node_stream_and_go_on_in_every_way(site: Server, swift: Sandbox) -> None:
    seen = in_node("agents", site.url, "Wash the plates")
    assert {"reasoning_item_created", "tool_called", "message_output_created"} <= set(seen["events"])
    assert seen["output"] == spoken(kept(site, seen["response"]))
    assert all(seen["outputs"])
    assert seen["raised"]["name"] == "ModelBehaviorError"
    for number, more in (1, "Twice"), (2, "Again"), (3, "Once more"):
        assert told(swift, f"Wash the plates {number}") == [f"Wash the plates {number}", more]


def test_the_provider_of_the_ai_sdk_streams_and_goes_on_in_every_way(site: Server, swift: Sandbox) -> None:
    seen = in_node("ai-sdk", site.url, "Dry the plates")
    kinds = [part["type"] for part in seen["parts"]]
    assert {"reasoning-delta", "tool-call", "tool-result", "text-delta"} <= set(kinds)
    assert all(part["providerExecuted"] for part in seen["parts"] if part["type"] == "tool-call")
    assert "error" not in kinds
    assert seen["output"] == spoken(kept(site, seen["response"]))
    assert all(seen["outputs"])
    assert ("error" in seen["failed"], seen["reason"]) == (True, "error")
    assert told(swift, "Dry the plates 1") == ["Dry the plates 1", "Twice", "Thrice"]
    assert told(swift, "Dry the plates 2") == ["Dry the plates 2", "Why?"]
