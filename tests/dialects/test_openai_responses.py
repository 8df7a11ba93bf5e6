"""Responses, as a client of OpenAI's API creates, watches, follows up and stops them."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from codegen_api import errors
from codegen_api.dialects.openai.wire import LOST, render_error
from codegen_api.http.web import RequestTimeout
from codegen_api.runs import WaitReason
from tests.dialects.openai import (
    RESPONSE,
    Seen,
    Streaming,
    answered,
    finish,
    latest,
    refused,
    response_of,
    returning,
    said,
    speaking,
    streaming,
    texts,
)
from tests.dialects.rich import RichHost, unstoppable
from tests.dialects.site import AUTHORIZED, Connection, Site

QUESTION = "Which of the two files is read?"
PNG = "data:image/png;base64,iVBORw0KGgo="


async def created(site: Site, body: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Any:
    answer = await site.post("/v1/responses", body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


async def begun(site: Site, text: str = QUESTION, **more: Any) -> Any:
    """A response of which only the beginning was waited for."""
    return await created(site, said(text, background=True, **more))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


async def test_a_response_is_streamed_as_it_comes() -> None:
    async with speaking() as site:
        watching = streaming(site, QUESTION, metadata={"team": "blue"}, temperature=0.5, model="default")
        first = await watching.begun()
        assert (first["status"], first["output"], first["metadata"]["team"]) == ("in_progress", [], "blue")
        hosted = latest(site)
        hosted.append(text="I open the first file.")
        place = hosted.act()
        await watching.items(2)
        hosted.amend(place, output={"lines": 3})
        finish(hosted, "The second file is read.")
        events = await watching.end()
        response = events[-1]["response"]
        assert response == await response_of(site, first["id"])
        assert (response["status"], response["temperature"], response["model"]) == ("completed", 0.5, "default")
        assert response["metadata"]["codegen_run"] == hosted.ref.id
        thought, call, message = response["output"]
        assert thought["summary"][0]["text"] == "I open the first file."
        assert (call["name"], call["output"], call["status"]) == ("look", '{"lines":3}', "completed")
        assert message["content"][0]["text"] == "The second file is read."
        assert list(Seen().take(events).items.values()) == response["output"]


async def test_a_reader_can_come_back_behind_any_event_and_a_second_one_sees_all() -> None:
    async with speaking() as site:
        first = streaming(site, QUESTION)
        response = (await first.begun())["id"]
        latest(site).append(2, text="Still on my way.")
        events = await first.items(2)
        await first.leave()
        back, second = returning(site, response, events[-3]["sequence_number"]), returning(site, response)
        await second.items(2)
        finish(latest(site))
        rest = await back.end()
        assert [*events[:-2], *rest] == await second.end()
        for number in range(rest[-1]["sequence_number"] + 1):
            again = await returning(site, response, number).end()
            assert again == [event for event in second.seen if event["sequence_number"] > number]
        assert await returning(site, response, 10**15).end() == second.seen


async def test_who_waits_gets_white_space_and_then_the_response() -> None:
    async with speaking() as site:
        body = json.dumps(said(QUESTION)).encode()
        given = {**AUTHORIZED, "Content-Type": "application/json"}
        waiting = Connection(site.app, "/v1/responses", given, "POST", body)
        await waiting.received(2)
        assert waiting.body.strip() == b""
        assert waiting.headers["content-type"] == "application/json"
        finish(latest(site))
        await waiting.task
        assert waiting.complete
        response = json.loads(waiting.body)
        RESPONSE.validate_python(response)
        assert (response["status"], texts(response)) == ("completed", ["It is done, all of it."])


async def test_in_the_background_it_is_asked_for_until_it_is_done() -> None:
    async with speaking() as site:
        response = await begun(site)
        RESPONSE.validate_python(response)
        assert (response["status"], response["background"], response["output"]) == ("in_progress", True, [])
        latest(site).append(text="A look at the first one.")
        watching = returning(site, response["id"])
        await watching.items(1)
        now = await response_of(site, response["id"])
        assert (now["status"], texts(now)) == ("in_progress", ["A look at the first one."])
        finish(latest(site))
        await watching.end()
        now = await response_of(site, response["id"])
        assert texts(now) == ["A look at the first one.", "It is done, all of it."]


async def test_in_the_background_and_streamed_is_streamed() -> None:
    async with speaking() as site:
        assert (await answered(site, QUESTION, background=True))["background"] is True


async def test_a_follow_up_of_a_response_goes_on_in_its_run() -> None:
    async with speaking() as site:
        first = await answered(site, QUESTION)
        second = await answered(site, "And the other one?", "It is not.", previous_response_id=first["id"])
        assert second["previous_response_id"] == first["id"]
        assert second["conversation"] == first["conversation"]
        assert texts(second) == ["It is not."]
        assert [prompt for prompt, _ in site.host.resumed] == ["And the other one?"]
        assert len(site.host.created) == 1


async def test_another_follow_up_of_the_same_response_is_a_run_of_its_own() -> None:
    async with speaking() as site:
        first = await answered(site, QUESTION, "The blue one.")
        second = await answered(site, "Why that?", "So it is.", previous_response_id=first["id"])
        other = streaming(site, "Are you sure?", previous_response_id=first["id"])
        assert (await other.begun())["conversation"] not in (first["conversation"], second["conversation"])
        last = streaming(site, "Go on then.", previous_response_id=second["id"])  # at the same time
        await last.begun()
        assert "The blue one." in site.host.created[1].prompt
        assert "So it is." not in site.host.created[1].prompt
        for hosted in site.host.runs.values():
            finish(hosted)
        assert [(await each.end())[-1]["response"]["previous_response_id"] for each in (other, last)] == [
            first["id"],
            second["id"],
        ]


async def test_a_follow_up_in_a_conversation_goes_on_in_its_run() -> None:
    async with speaking() as site:
        first = await answered(site, QUESTION)
        for conversation in (first["conversation"], first["conversation"]["id"]):
            second = await answered(site, "And the other one?", conversation=conversation)
            assert second["conversation"] == first["conversation"]
        assert len(site.host.resumed) == 2


async def test_a_follow_up_that_sends_everything_again_goes_on_by_the_ids_of_our_items() -> None:
    async with speaking() as site:
        watching = streaming(site, [user(QUESTION)])
        await watching.begun()
        latest(site).append(text="I open the first file.")
        latest(site).amend(latest(site).act(), output="It is empty.")
        finish(latest(site), "The second file is read.")
        first = (await watching.end())[-1]["response"]
        history = [{"role": "system", "content": "Be brief."}, user(QUESTION), *first["output"]]
        second = await answered(site, [*history, user("And the other one?")], "It is not.")
        assert (second["previous_response_id"], second["conversation"]) == (first["id"], first["conversation"])
        history += [user("And the other one?"), *({"type": "item_reference", "id": i["id"]} for i in second["output"])]
        third = await answered(site, [*history, user("Is that all?"), user("Really?")], "It is.")
        assert third["previous_response_id"] == second["id"]
        assert [prompt for prompt, _ in site.host.resumed] == ["And the other one?", "Is that all?\n\nReally?"]
        assert len(site.host.created) == 1
        items = (await site.get(f"/v1/responses/{third['id']}/input_items?order=asc")).json()
        assert texts(items) == ["Is that all?", "Really?"]


async def test_what_was_said_elsewhere_is_told_to_a_new_run() -> None:
    async with speaking() as site:
        foreign = [
            user("Where is the key?"),
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "id": "msg_68a1",
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "In."}],
            },
            user("In what?"),
        ]
        response = await answered(site, foreign, instructions="Answer in verse.")
        (new,) = site.host.created
        assert "User: Where is the key?\n\nAssistant: In." in new.prompt
        assert "Answer in verse." in new.prompt
        assert new.prompt.endswith("In what?")
        items = (await site.get(f"/v1/responses/{response['id']}/input_items")).json()
        assert texts(items) == ["In what?"]
        assert response["instructions"] == "Answer in verse."


async def test_a_follow_up_with_another_model_is_a_new_run_that_is_told_what_was() -> None:
    async with speaking() as site:
        first = await answered(site, QUESTION, "The blue one.", model="small-one")
        second = await answered(site, "And now?", model="large-one", previous_response_id=first["id"])
        assert [new.model for new in site.host.created] == ["small-one", "large-one"]
        assert "The blue one." in site.host.created[1].prompt
        assert (first["model"], second["model"]) == ("small-one", "large-one")


async def test_an_agent_of_another_api_is_a_model() -> None:
    async with speaking(dialects=("openai", "agio"), sandbox=True) as site:
        agent = {"name": "poet", "system_prompt": "You write odes to logs."}
        assert (await site.post("/api/agents", agent)).status_code == 201
        response = await answered(site, QUESTION, model="poet")
        assert "You write odes to logs." in site.host.created[0].prompt
        assert (site.host.created[0].model, response["model"]) == (None, "poet")


async def test_while_the_agent_works_a_follow_up_is_refused_and_not_to_be_repeated() -> None:
    async with speaking() as site:
        first = await begun(site)
        for more in ({"previous_response_id": first["id"]}, {"conversation": first["conversation"]}):
            answer = await site.post("/v1/responses", said("Wait!", **more))
            assert refused(answer)[:2] == (409, "conversation_busy")
            assert answer.headers["x-should-retry"] == "false"


async def test_a_response_is_cancelled_and_nothing_that_leaves_cancels_it() -> None:
    async with speaking() as site:
        watching = streaming(site, QUESTION)
        response = (await watching.begun())["id"]
        latest(site).act()
        await watching.items(1)
        await watching.leave()
        assert latest(site).status == "ACTIVE"
        back = returning(site, response)
        await back.items(1)
        cancelled = (await site.post(f"/v1/responses/{response}/cancel")).json()
        RESPONSE.validate_python(cancelled)
        assert (cancelled["status"], latest(site).status) == ("cancelled", "CANCELLED")
        last = (await back.end())[-1]
        assert (last["type"], last["response"]) == ("response.incomplete", cancelled)
        assert cancelled["output"][0]["status"] == "incomplete"
        assert (await site.post(f"/v1/responses/{response}/cancel")).json() == cancelled


async def test_a_run_that_fails_is_a_response_that_failed() -> None:
    async with speaking() as site:
        watching = streaming(site, QUESTION)
        response = (await watching.begun())["id"]
        latest(site).append(text="So far so good, said the agent.")
        await watching.items(1)
        latest(site).status = "ERROR"
        last = (await watching.end())[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["error"] == {"code": "server_error", "message": "The run ended as ERROR."}
        assert last["response"] == await response_of(site, response)


async def test_a_host_that_says_nothing_is_a_response_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("codegen_api.conversations.starting.GIVEN_UP", "codegen_api.conversations.starting.LOOK_EVERY"):
        monkeypatch.setattr(name, 0.05)
    host = RichHost()
    async with speaking(host) as site:

        async def lose(operation: str) -> None:
            if operation == "create":
                raise errors.UpstreamTimeout

        host.before = lose
        watching = streaming(site, QUESTION)
        last = (await watching.end())[-1]
        assert (last["type"], last["response"]["error"]["message"]) == ("response.failed", LOST)


async def test_what_the_agent_waits_for_is_asked_and_answered_by_words() -> None:
    async with speaking() as site:
        watching = streaming(site, QUESTION)
        await watching.begun()
        latest(site).wait("q7", WaitReason.QUESTION, text="Left or right?", choices=("left", "right"))
        response = (await watching.end())[-1]["response"]
        assert (response["status"], texts(response)) == ("completed", ["Left or right?"])
        assert response["metadata"]["codegen_status"] == "waiting"
        (asked,) = json.loads(response["metadata"]["codegen_pending"])
        assert (asked["id"], asked["reason"], asked["choices"]) == ("q7", "question", ["left", "right"])
        assert response == await response_of(site, response["id"])
        await answered(site, "To the left.", previous_response_id=response["id"])
        assert [(each, made.verdict, made.text) for each, made in site.host.decisions] == [
            ("q7", "answer", "To the left.")
        ]


@pytest.mark.parametrize(("approve", "verdict"), [(True, "approve"), (False, "reject")])
async def test_what_is_to_be_approved_is_decided_by_an_item(approve: bool, verdict: str) -> None:
    async with speaking() as site:
        watching = streaming(site, QUESTION)
        await watching.begun()
        latest(site).wait("a1", tool="shell", input={"command": "ls"})
        response = (await watching.end())[-1]["response"]
        item = {"type": "mcp_approval_response", "approval_request_id": "a1", "approve": approve, "reason": "So be it."}
        both = await site.post("/v1/responses", {"input": [item, user("Go!")], "previous_response_id": response["id"]})
        assert refused(both) == (422, "validation_error", "input")
        done = await answered(site, [item], previous_response_id=response["id"])
        assert [(each, made.verdict, made.text) for each, made in site.host.decisions] == [("a1", verdict, "So be it.")]
        assert texts(done) == ["It is done, all of it."]
        late = await site.post("/v1/responses", {"input": [item], "previous_response_id": done["id"]})
        assert refused(late)[:2] == (409, "conflict")


async def test_images_go_along() -> None:
    async with speaking() as site:
        picture = {"type": "input_image", "image_url": PNG, "detail": "auto"}
        item = {"role": "user", "content": [{"type": "input_text", "text": "What is on it?"}, picture]}
        response = await answered(site, [item])
        assert site.host.created[0].images == (PNG,)
        (shown,) = (await site.get(f"/v1/responses/{response['id']}/input_items")).json()["data"]
        assert shown["content"][1] == {**picture, "file_id": None}


async def test_a_response_that_is_deleted_is_gone_and_its_run_is_stopped() -> None:
    async with speaking() as site:
        response = await begun(site)
        answer = await site.ask("DELETE", f"/v1/responses/{response['id']}")
        assert answer.json() == {"id": response["id"], "object": "response", "deleted": True}
        assert latest(site).status == "CANCELLED"
        for method in ("GET", "DELETE"):
            assert refused(await site.ask(method, f"/v1/responses/{response['id']}"))[:2] == (404, "not_found")
        conversation = response["conversation"]["id"]
        assert refused(await site.get(f"/v1/conversations/{conversation}"))[:2] == (404, "not_found")


async def test_nobody_else_finds_a_response_or_goes_on_behind_it() -> None:
    async with speaking() as site:
        mine = await answered(site, QUESTION, "The blue one.")
        place = f"/v1/responses/{mine['id']}"
        for method, path in [
            ("GET", place),
            ("GET", f"{place}?stream=true"),
            ("GET", f"{place}/input_items"),
            ("POST", f"{place}/cancel"),
            ("DELETE", place),
            ("GET", f"/v1/conversations/{mine['conversation']['id']}/items"),
        ]:
            assert refused(await site.ask(method, path, token="bob"))[:2] == (404, "not_found"), path
        for more in ({"previous_response_id": mine["id"]}, {"conversation": mine["conversation"]}):
            answer = await site.post("/v1/responses", said("What was that?", **more), token="bob")
            assert refused(answer)[:2] == (404, "not_found")
        (item,) = mine["output"]
        for its, status in (({"type": "item_reference", "id": item["id"]}, 404), (item, 200)):
            body = {"input": [user(QUESTION), its, user("Eh?")], "background": True}
            answer = await site.post("/v1/responses", body, token="bob")
            assert answer.status_code == status
        assert answer.json()["previous_response_id"] is None
        assert site.host.resumed == []


# -- repeats ----------------------------------------------------------------------------------------------------------


def counted(number: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(number)}


async def test_a_request_with_a_key_begins_one_run() -> None:
    async with speaking() as site:
        key = {"Idempotency-Key": "k-1"}
        first, second = (streaming(site, QUESTION, headers=key) for _ in range(2))
        assert (await first.begun())["id"] == (await second.begun())["id"]
        finish(latest(site))
        assert await first.end() == await second.end()
        third = await created(site, said(QUESTION, stream=False), key, 422)
        assert third["error"]["code"] == "idempotency_key_reused"
        assert len(site.host.created) == 1


async def test_an_sdk_that_tries_again_begins_one_run_and_two_requests_begin_two() -> None:
    async with speaking() as site:
        first = await created(site, said(QUESTION, background=True), counted(0))
        again = await created(site, said(QUESTION, background=True), counted(1))
        other = await created(site, said(QUESTION, background=True), counted(0))
        last = await created(site, said(QUESTION, background=True), counted(2))
        assert first["id"] == again["id"] == last["id"]
        assert other["id"] != first["id"]
        assert len(site.host.created) == 2
        third = await created(site, said("Something else.", background=True), counted(1))
        assert third["id"] not in (first["id"], other["id"])


async def test_a_follow_up_that_is_sent_again_is_one_turn() -> None:
    async with speaking() as site:
        first = await answered(site, QUESTION)
        body = said("And the other one?", background=True, previous_response_id=first["id"])
        second = await created(site, body, counted(0))
        assert (await created(site, body, counted(1)))["id"] == second["id"]
        finish(latest(site))
        await returning(site, second["id"]).end()
        third = await created(site, body, counted(2))
        assert (third["id"], third["status"]) == (second["id"], "completed")
        assert len(site.host.resumed) == 1


async def test_what_is_sent_again_to_another_process_is_found_there() -> None:
    host = RichHost()
    async with speaking(host) as site:
        body = said(QUESTION, background=True)
        first = await created(site, body, counted(0))
        site.app.state.parts.idempotency._equal.clear()  # as in a process that has not seen it
        again = await created(site, body, counted(1))
        assert again["id"] == first["id"]
        assert len(host.created) == 1


async def test_a_request_that_is_sent_again_while_the_first_is_planned_begins_one_run() -> None:
    host = RichHost()
    async with speaking(host) as site:
        asked, goes_on = asyncio.Event(), asyncio.Event()

        async def stall(operation: str) -> None:
            if operation == "create":
                asked.set()
                await goes_on.wait()

        host.before = stall
        first = streaming(site, QUESTION, headers=counted(0))
        await asked.wait()
        again = streaming(site, QUESTION, headers=counted(1))
        await asyncio.sleep(0)
        goes_on.set()
        assert (await first.begun())["id"] == (await again.begun())["id"]
        assert len(host.created) == 1
        finish(latest(site))
        assert await first.end() == await again.end()


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "k-1"}, counted(1)])
async def test_what_the_host_has_refused_can_be_sent_again(headers: dict[str, str]) -> None:
    host = RichHost()
    async with speaking(host) as site:
        barred = ["create"]

        async def fail(operation: str) -> None:
            if operation in barred:
                barred.remove(operation)
                raise errors.UpstreamRateLimited

        host.before = fail
        first = await site.post("/v1/responses", said(QUESTION), headers=headers)
        assert refused(first)[:2] == (429, "upstream_rate_limited")
        assert "x-should-retry" not in first.headers
        assert (await created(site, said(QUESTION, background=True), {**headers, **counted(2)}))["status"]
        assert len(host.runs) == 1


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 422, "validation_error", "input"),
        ({"input": ""}, 422, "validation_error", None),
        ({"input": " \n"}, 422, "validation_error", "input"),
        ({"input": []}, 422, "validation_error", "input"),
        ({"input": [{"role": "assistant", "content": "I am."}]}, 422, "validation_error", "input"),
        ({"input": [user("A"), {"role": "user", "content": 7}]}, 422, "validation_error", "input[1].content"),
        ({"input": [{"role": "critic", "content": "A"}]}, 400, "unsupported_parameter", "input[0]"),
        ({"input": [{"type": "function_call_output", "output": "A"}]}, 400, "unsupported_parameter", "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            400,
            "unsupported_parameter",
            "input[0].content[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}]},
            422,
            "validation_error",
            "input[0].content[0].image_url",
        ),
        ({"input": [{"type": "mcp_approval_response"}]}, 422, "validation_error", "input[0]"),
        (said("A", tools=[{"type": "web_search"}]), 400, "unsupported_parameter", "tools"),
        (said("A", tool_choice="required"), 400, "unsupported_parameter", "tool_choice"),
        (said("A", text={"format": {"type": "json_object"}}), 400, "unsupported_parameter", "text.format"),
        (said("A", prompt={"id": "p"}), 400, "unsupported_parameter", "prompt"),
        (said("A", max_output_tokens=7), 400, "unsupported_parameter", "max_output_tokens"),
        (said("A", metadata={"a": 7}), 422, "validation_error", "metadata.a"),
        (said("A", previous_response_id="resp_x", conversation="c"), 422, "validation_error", "previous_response_id"),
        (said("A", previous_response_id="resp_x"), 404, "not_found", None),
        (said("A", conversation="conv_x"), 404, "not_found", None),
        (said("A", conversation={"id": "conv_x"}), 404, "not_found", None),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_begins(body: Any, status: int, code: str, param: str) -> None:
    async with speaking() as site:
        answer = await site.post("/v1/responses", body)
        found = refused(answer)
        assert found[:2] == (status, code), answer.text
        assert param is None or found[2] == param
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert site.host.created == []


async def test_what_has_no_meaning_is_ignored() -> None:
    async with speaking() as site:
        ignored: Mapping[str, Any] = {
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "tools": [],
            "tool_choice": "auto",
            "reasoning": {"effort": "low"},
            "truncation": "auto",
            "top_p": 1,
            "text": {"format": {"type": "text"}},
            "parallel_tool_calls": True,
            "service_tier": "auto",
            "user": "u",
            "prompt_cache_key": "k",
        }
        response = await answered(site, QUESTION, **ignored)
        assert (response["truncation"], response["user"], response["parallel_tool_calls"]) == ("auto", "u", True)
        assert "warnings" not in response


SHOULD: dict[errors.GatewayError, tuple[int, str, bool]] = {
    errors.GatewayError(): (500, "server_error", False),
    errors.InvalidRequest(): (400, "invalid_request_error", False),
    errors.Rejected(): (422, "invalid_request_error", False),
    errors.IdempotencyKeyReused(): (422, "invalid_request_error", False),
    errors.InvalidToken(): (401, "authentication_error", False),
    errors.QuotaExhausted(): (402, "insufficient_quota", False),
    errors.Forbidden(): (403, "permission_error", False),
    errors.NotFound(): (404, "invalid_request_error", False),
    RequestTimeout(): (408, "invalid_request_error", True),
    errors.ConversationBusy(): (409, "invalid_request_error", False),
    errors.InProgress(): (409, "invalid_request_error", True),
    errors.StoreFull(): (413, "invalid_request_error", False),
    errors.UpstreamRateLimited(): (429, "rate_limit_error", True),
    errors.Unsupported(): (501, "server_error", False),
    errors.UpstreamError(): (502, "server_error", True),
    errors.ShuttingDown(): (503, "server_error", True),
    errors.UpstreamTimeout(): (504, "server_error", True),
    errors.LoopDetected(): (508, "server_error", False),
}


@pytest.mark.parametrize("error", SHOULD, ids=lambda error: error.code)
def test_each_error_says_what_it_is_and_whether_to_try_again(error: errors.GatewayError) -> None:
    answer = render_error(error)
    told = json.loads(bytes(answer.body))["error"]
    assert (answer.status_code, told["type"], "x-should-retry" not in answer.headers) == SHOULD[error]
    assert (told["code"], told["message"]) == (error.code, error.message)


async def test_what_is_not_there_is_an_error_in_this_shape() -> None:
    async with speaking() as site:
        for method, path in [
            ("POST", "/v1/responses/compact"),
            ("POST", "/v1/responses/input_tokens"),
            ("GET", "/v1/responses/x/y"),
            ("GET", "/v1/conversations/c/items/i"),
        ]:
            assert refused(await site.ask(method, path))[:2] == (404, "not_found")
        assert refused(await site.get("/v1/responses/resp_x", token=None))[:2] == (401, "not_authenticated")


async def test_a_stream_that_has_had_its_time_breaks_off_and_goes_on_behind_what_was_told() -> None:
    async with speaking(stream_max_age_seconds=0.5) as site:
        watching = streaming(site, QUESTION)
        response = (await watching.begun())["id"]
        latest(site).append(text="Still on my way.")
        events = await watching.cut()
        finish(latest(site))
        rest = await returning(site, response, events[-1]["sequence_number"]).end()
        assert [*events, *rest] == await returning(site, response).end()


async def test_who_waits_and_is_cut_off_waits_on_with_the_same_request() -> None:
    async with speaking(stream_max_age_seconds=0.5) as site:
        waiting = Streaming(site, "POST", "/v1/responses", said(QUESTION), **counted(0))
        await waiting.connection.task
        assert not waiting.connection.complete
        assert waiting.text.strip() == ""
        finish(latest(site))
        assert texts(await created(site, said(QUESTION), counted(1))) == ["It is done, all of it."]
        assert len(site.host.created) == 1


async def test_a_stream_that_the_host_refuses_in_the_middle_says_so() -> None:
    async with speaking() as site:
        watching = streaming(site, QUESTION)
        await watching.begun()
        site.host.tokens.clear()
        error = (await watching.until(lambda events: events[-1]["type"] == "error"))[-1]
        assert (error["code"], error["param"]) == ("invalid_token", None)


async def test_where_the_host_cannot_stop_a_run_that_is_said() -> None:
    async with speaking(unstoppable()) as site:
        response = await begun(site)
        answer = await site.post(f"/v1/responses/{response['id']}/cancel")
        assert refused(answer)[:2] == (501, "unsupported")
        assert answer.headers["x-should-retry"] == "false"
