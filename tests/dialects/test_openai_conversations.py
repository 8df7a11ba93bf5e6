"""Conversations of OpenAI's API: what was said in them, and where they go on."""

import asyncio
from typing import Any

from openai.types.conversations import Conversation, ConversationItemList
from pydantic import TypeAdapter

from tests.dialects.openai import answered, latest, refused, said, speaking, streaming, texts
from tests.dialects.site import Site

CONVERSATION = TypeAdapter(Conversation)
ITEMS = TypeAdapter(ConversationItemList)


async def new_conversation(site: Site, **more: Any) -> str:
    answer = await site.post("/v1/conversations", more or None)
    assert answer.status_code == 200, answer.text
    return str(CONVERSATION.validate_python(answer.json()).id)


async def items_of(site: Site, conversation: str, query: str = "order=asc") -> Any:
    answer = await site.get(f"/v1/conversations/{conversation}/items?{query}")
    assert answer.status_code == 200, answer.text
    if answer.json()["data"]:
        ITEMS.validate_python(answer.json())
    return answer.json()


async def test_what_is_said_in_a_conversation_is_listed_in_order() -> None:
    async with speaking() as site:
        conversation = await new_conversation(site, metadata={"team": "blue"})
        assert (await items_of(site, conversation))["data"] == []
        first = await answered(site, "Which of the two?", "The blue one.", conversation=conversation)
        assert first["conversation"] == {"id": conversation}
        second = await answered(site, "Why that?", "So it is.", conversation=conversation)
        everything = await items_of(site, conversation)
        assert texts(everything) == ["Which of the two?", "The blue one.", "Why that?", "So it is."]
        assert [item for item in everything["data"] if item["role"] == "assistant"] == [
            *first["output"],
            *second["output"],
        ]
        assert texts(await items_of(site, conversation, "limit=2")) == ["So it is.", "Why that?"]
        page = await items_of(site, conversation, f"limit=1&order=asc&after={first['output'][0]['id']}")
        assert (texts(page), page["has_more"]) == (["Why that?"], True)
        assert page["first_id"] == page["last_id"] == page["data"][0]["id"]
        assert refused(await site.get(f"/v1/conversations/{conversation}/items?after=x"))[:2] == (404, "not_found")
        watching = streaming(site, "And now?", conversation=conversation)
        await watching.begun()
        latest(site).append(text="I am on it, still.")
        await watching.items(1)
        assert texts(await items_of(site, conversation))[4:] == ["And now?", "I am on it, still."]
        await watching.leave()


async def test_nothing_can_be_added_to_a_conversation_but_by_responses() -> None:
    async with speaking() as site:
        assert await new_conversation(site, items=[])
        answer = await site.post("/v1/conversations", {"items": [{"role": "user", "content": "Which?"}]})
        assert refused(answer) == (400, "unsupported_parameter", "items")


async def test_a_conversation_that_is_deleted_is_gone_with_its_responses() -> None:
    async with speaking() as site:
        conversation = await new_conversation(site)
        response = (await site.post("/v1/responses", said("Go on!", background=True, conversation=conversation))).json()
        place = f"/v1/conversations/{conversation}"
        gone = await site.ask("DELETE", place)
        assert gone.json() == {"id": conversation, "object": "conversation.deleted", "deleted": True}
        assert latest(site).status == "CANCELLED"
        for method, path in [
            ("GET", place),
            ("DELETE", place),
            ("GET", f"{place}/items"),
            ("GET", f"/v1/responses/{response['id']}"),
        ]:
            assert refused(await site.ask(method, path))[:2] == (404, "not_found"), path


async def test_the_last_response_that_is_deleted_leaves_a_conversation_that_was_made_by_itself() -> None:
    async with speaking() as site:
        conversation = await new_conversation(site)
        response = await answered(site, "Which of the two?", conversation=conversation)
        await site.ask("DELETE", f"/v1/responses/{response['id']}")
        assert (await items_of(site, conversation))["data"] == []


async def test_a_conversation_of_another_api_can_be_read_and_goes_on() -> None:
    async with speaking(dialects=("openai", "ai_sdk"), sandbox=True) as site:
        message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Which of the two?"}]}
        body = {"id": "chat-1", "messages": [message]}
        chatting = asyncio.ensure_future(site.post("/ui/chat", body))
        while not site.host.runs:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        latest(site).append(type="ANSWER", text="The blue one.")
        latest(site).status = "COMPLETE"
        await chatting
        assert texts(await items_of(site, "conv_chat-1")) == ["Which of the two?", "The blue one."]
        response = await answered(site, "Why that?", "So it is.", conversation="chat-1")
        assert response["conversation"] == {"id": "conv_chat-1"}
        assert len(site.host.resumed) == 1
