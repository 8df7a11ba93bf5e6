"""The store of the Agent Protocol where the gateway has a model: items are found by meaning."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from langgraph_sdk.errors import UnprocessableEntityError

from codegen_api.embeddings.openai import OpenAIEmbedder
from tests.dialects.sdk import client_of, speaking
from tests.dialects.site import Site
from tests.embeddings import Endpoint

NOTES = {
    "oolong": {"text": "a tea from the mountains", "price": 3},
    "espresso": {"text": "coffee, short and strong", "price": 2},
    "wagon": {"text": "a car with room for music", "price": 9},
    "opera": {"text": "they sing for hours", "price": 5},
}


@asynccontextmanager
async def meaningful(endpoint: Endpoint) -> AsyncIterator[Site]:
    embedder = OpenAIEmbedder("http://models.example/v1", "small", "secret", transport=endpoint)
    async with speaking(embedder=embedder) as site:
        yield site


async def seen_to(site: Site) -> None:
    """Until all that was put has its vectors."""
    async with asyncio.timeout(10):
        while await site.app.state.parts.conversations.store.due("4 small", 1):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def fill(site: Site, client: Any) -> None:
    for key, value in NOTES.items():
        await client.store.put_item(("notes",), key, value)
    await seen_to(site)


def keys(found: Any) -> list[str]:
    return [item["key"] for item in found["items"]]


async def test_the_nearest_items_come_first_with_their_scores() -> None:
    endpoint = Endpoint()
    async with meaningful(endpoint) as site, client_of(site) as client:
        await client.store.put_item(("notes",), "green", {"text": "not yet"})
        assert (await client.store.get_item(("notes",), "green"))["value"] == {"text": "not yet"}
        await client.store.delete_item(("notes",), "green")
        await fill(site, client)
        found = await client.store.search_items(("notes",), query="I am thirsty", limit=2)
        assert found["searched_by"] == "meaning"
        assert sorted(keys(found)) == ["espresso", "oolong"]
        scores = [item["score"] for item in found["items"]]
        assert 0.9 < scores[1] <= scores[0] <= 1.000001
        ranked = await client.store.search_items(("notes",), query="drive", limit=10)
        assert (ranked["items"][0]["key"], len(ranked["items"])) == ("wagon", 4)
        assert [item["score"] for item in ranked["items"]] == sorted(
            (item["score"] for item in ranked["items"]), reverse=True
        )
        listed = await client.store.search_items(("notes",))
        assert "searched_by" not in listed
        assert "score" not in listed["items"][0]
        assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer secret"}


async def test_a_filter_and_a_namespace_leave_what_is_ranked() -> None:
    async with meaningful(Endpoint()) as site, client_of(site) as client:
        await fill(site, client)
        await client.store.put_item(("notesandmore",), "rival", {"text": "tea tea tea"})
        await seen_to(site)
        dear = await client.store.search_items(("notes",), query="beverage", filter={"price": {"$gte": 3}})
        assert keys(dear)[0] == "oolong"
        assert sorted(keys(dear)) == ["oolong", "opera", "wagon"]
        assert keys(await client.store.search_items(("notes",), query="beverage", filter={"price": 9})) == ["wagon"]


async def test_pages_follow_each_other_and_say_where_they_end() -> None:
    async with meaningful(Endpoint()) as site, client_of(site) as client:
        await fill(site, client)
        for condition in ({}, {"filter": {"price": {"$gt": 0}}}):
            seen: list[str] = []
            more: str | None = "0"
            while more is not None:
                asked = {"query": "tea", "limit": 3, "offset": int(more), **condition}
                answer = await site.post("/store/search", asked)
                seen += keys(answer.json())
                more = answer.headers.get("x-pagination-next")
            assert sorted(seen) == sorted(NOTES)


async def test_nobody_finds_what_another_one_keeps() -> None:
    async with meaningful(Endpoint()) as site, client_of(site) as client, client_of(site, "bob") as other:
        await fill(site, client)
        await other.store.put_item(("notes",), "mine", {"text": "tea"})
        await seen_to(site)
        assert keys(await other.store.search_items((), query="tea")) == ["mine"]
        assert "mine" not in keys(await client.store.search_items((), query="tea"))


async def test_which_fields_are_meant_is_the_clients_choice() -> None:
    endpoint = Endpoint()
    async with meaningful(endpoint) as site, client_of(site) as client:
        value = {"title": "car", "notes": [{"text": "tea"}, {"text": "music"}], "secret": "hidden"}
        await client.store.put_item(("n",), "title", value, index=["title"])
        await client.store.put_item(("n",), "notes", value, index=["notes[*].text", "missing"])
        await client.store.put_item(("n",), "none", value, index=False)
        await seen_to(site)
        found = (await client.store.search_items(("n",), query="tea"))["items"]
        assert [item["key"] for item in found] == ["notes", "title"]
        assert not any("hidden" in text for text in endpoint.texts)
        await client.store.put_item(("n",), "whole", value, index=["$"])
        await seen_to(site)
        assert any("hidden" in text for text in endpoint.texts)
        for wrong in ([""], ["x" * 256], ["a"] * 33, ["a\0"], "text", True):
            body: dict[str, Any] = {"namespace": ["n"], "key": "k", "value": {}, "index": wrong}
            assert (await site.ask("PUT", "/store/items", json=body)).status_code == 422, wrong


async def test_without_a_model_paths_are_refused_by_name_and_words_are_looked_for() -> None:
    async with speaking() as site, client_of(site) as client:
        with pytest.raises(UnprocessableEntityError, match="index"):
            await client.store.put_item(("n",), "a", {"text": "tea"}, index=["text"])
        await client.store.put_item(("n",), "a", {"text": "tea"})
        found = await client.store.search_items(("n",), query="TEA")
        assert (found["searched_by"], keys(found)) == ("words", ["a"])
        assert "score" not in found["items"][0]


async def test_while_the_endpoint_fails_words_are_looked_for_and_the_answer_says_so() -> None:
    endpoint = Endpoint()
    async with meaningful(endpoint) as site, client_of(site) as client:
        await fill(site, client)
        endpoint.answer = lambda _: httpx.Response(503, text="<html>busy</html>", headers={"Retry-After": "0"})
        found = await client.store.search_items(("notes",), query="Tea mountains")
        assert (found["searched_by"], keys(found)) == ("words", ["oolong"])
        endpoint.answer = lambda _: None
        found = await client.store.search_items(("notes",), query="Tea mountains")
        assert (found["searched_by"], keys(found)[0]) == ("meaning", "espresso")
