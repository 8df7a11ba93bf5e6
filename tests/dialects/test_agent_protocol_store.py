"""The store of the Agent Protocol, as the SDK and a plain client see it."""

import json
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.errors import APIStatusError, UnprocessableEntityError

from codegen_api.dialects.agent_protocol import items
from codegen_api.stores import ANSWER_BYTES
from codegen_api.stores.sql import SqlStore
from tests.dialects.sdk import client_of, speaking

AT = ("users", "ann")


async def test_an_item_is_put_got_replaced_and_deleted() -> None:
    async with speaking() as site, client_of(site) as client:
        await client.store.put_item(AT, "tea", {"likes": "green"}, index=False)
        first = await client.store.get_item(AT, "tea")
        assert (first["namespace"], first["key"], first["value"]) == (["users", "ann"], "tea", {"likes": "green"})
        assert first["created_at"] == first["updated_at"]
        await client.store.put_item(AT, "tea", {"likes": "black"})
        second = await client.store.get_item(AT, "tea", refresh_ttl=True)
        assert (second["value"], second["created_at"]) == ({"likes": "black"}, first["created_at"])
        assert second["updated_at"] > first["updated_at"]
        for _ in range(2):
            await client.store.delete_item(AT, "tea")
        assert await client.store.get_item(AT, "tea") is None


@pytest.mark.parametrize("query", ["namespace=users.ann&key=coffee", "namespace=users&key=tea", "key=tea"])
async def test_an_item_that_is_not_there_is_null_as_the_sdks_expect_it(query: str) -> None:
    async with speaking() as site, client_of(site) as client:
        await client.store.put_item(AT, "tea", {"likes": "green"})
        answer = await site.get(f"/store/items?{query}")
        assert (answer.status_code, answer.json()) == (200, None)


async def test_items_are_everybodys_own() -> None:
    async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
        await client.store.put_item(AT, "tea", {"likes": "green"})
        assert await other.store.get_item(AT, "tea") is None
        assert await other.store.search_items(()) == {"items": []}
        assert await other.store.list_namespaces() == {"namespaces": []}
        await other.store.delete_item(AT, "tea")
        assert (await client.store.get_item(AT, "tea"))["value"] == {"likes": "green"}


async def test_the_older_paths_do_the_same() -> None:
    async with speaking() as site, client_of(site) as client:
        put = await site.ask("PUT", "/store", json={"namespace": list(AT), "key": "tea", "value": {"likes": "green"}})
        assert (put.status_code, put.content) == (204, b"")
        found = (await site.post("/store/search", {"namespace_prefix": ["users"], "query": "GREEN"})).json()
        assert found == {**await client.store.search_items(("users",)), "searched_by": "words"}
        for query in ("namespace=users.ann&key=tea", "namespace=users&namespace=ann&key=tea"):
            assert (await site.get(f"/store/items?{query}")).json() == found["items"][0]


KEPT: dict[str, dict[str, Any]] = {
    "a": {"kind": "tea", "price": 3, "hot": True, "tags": ["green", "Leaf"], "from": {"place": "Assam", "year": 2020}},
    "b": {"kind": "tea", "price": 3.5, "hot": False, "tags": [], "from": {"place": "Uji", "year": 2024}},
    "c": {"kind": "coffee", "price": 10**15, "hot": 1, "note": "from the Green mountains"},
}
SEARCHES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["a", "b", "c"]),
    ({"filter": {}}, ["a", "b", "c"]),
    ({"filter": {"kind": "tea"}}, ["a", "b"]),
    ({"filter": {"kind": "tea", "price": 3}}, ["a"]),
    ({"filter": {"price": 3.0}}, ["a"]),
    ({"filter": {"hot": True}}, ["a"]),
    ({"filter": {"hot": 1}}, ["c"]),
    ({"filter": {"note": None}}, ["a", "b"]),
    ({"filter": {"tags": ["green", "Leaf"]}}, ["a"]),
    ({"filter": {"tags": ["Leaf", "green"]}}, []),
    ({"filter": {"from": {"place": "Uji"}}}, ["b"]),
    ({"filter": {"from": {"year": {"$gte": 2021}}}}, ["b"]),
    ({"filter": {"from": {"$eq": {"place": "Uji"}}}}, []),
    ({"filter": {"from": {"$eq": {"year": 2024, "place": "Uji"}}}}, ["b"]),
    ({"filter": {"kind": {"$eq": "tea"}}}, ["a", "b"]),
    ({"filter": {"kind": {"$ne": "tea"}}}, ["c"]),
    ({"filter": {"kind": {"$gt": "coffee"}}}, ["a", "b"]),
    ({"filter": {"kind": {"$lt": 5}}}, []),
    ({"filter": {"hot": {"$gte": 0}}}, ["c"]),
    ({"filter": {"price": {"$gt": 3}}}, ["b", "c"]),
    ({"filter": {"price": {"$gte": 3}}}, ["a", "b", "c"]),
    ({"filter": {"price": {"$lt": 3.5}}}, ["a"]),
    ({"filter": {"price": {"$lte": 3.5, "$gt": 3}}}, ["b"]),
    ({"filter": {"missing": {"$gt": 1}}}, []),
    ({"filter": {"missing": {"$ne": 1}}}, ["a", "b", "c"]),
    ({"query": "green"}, ["a", "c"]),
    ({"query": "  GREEN   leaf "}, ["a"]),
    ({"query": "uji"}, ["b"]),
    ({"query": "place"}, []),
    ({"query": "nothing like it"}, []),
    ({"query": "green", "filter": {"kind": "coffee"}}, ["c"]),
    ({"limit": 2}, ["b", "c"]),
    ({"limit": 1, "filter": {"kind": "tea"}}, ["b"]),
    ({"limit": 1, "offset": 1, "filter": {"kind": "tea"}}, ["a"]),
]


async def test_a_search_finds_what_has_all_that_is_asked_for() -> None:
    async with speaking() as site, client_of(site) as client:
        for key, value in KEPT.items():
            await client.store.put_item(("drinks", "hot"), key, value)
        await client.store.put_item(("drinksandmore",), "z", KEPT["a"])
        for asked, keys in SEARCHES:
            found = (await client.store.search_items(("drinks",), **asked))["items"]
            assert sorted(item["key"] for item in found) == keys, asked
        newest_first = await client.store.search_items(("drinks",))
        assert [item["key"] for item in newest_first["items"]] == ["c", "b", "a"]
        assert newest_first["items"][0]["value"] == KEPT["c"]


async def test_a_search_that_would_take_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MOST_SCANNED", 3)
    monkeypatch.setattr(items, "AT_A_TIME", 2)

    async with speaking() as site, client_of(site) as client:
        for number in range(3):
            await client.store.put_item(("a",), f"{number}", {"n": number})
        for number in range(2):
            await client.store.put_item(("b",), f"{number}", {"n": 0})
        assert len((await client.store.search_items(("a",), filter={"n": {"$gte": 0}}))["items"]) == 3
        with pytest.raises(UnprocessableEntityError, match="longer prefix"):
            await client.store.search_items((), filter={"n": 5})
        assert len((await client.store.search_items((), filter={"n": 2}, limit=1))["items"]) == 1


NAMESPACES: list[tuple[dict[str, Any], list[list[str]]]] = [
    ({}, [["a"], ["a", "b"], ["a", "b", "c"], ["d", "b"]]),
    ({"prefix": ["a"]}, [["a"], ["a", "b"], ["a", "b", "c"]]),
    ({"prefix": ["*", "b"]}, [["a", "b"], ["a", "b", "c"], ["d", "b"]]),
    ({"suffix": ["b"]}, [["a", "b"], ["d", "b"]]),
    ({"prefix": ["a"], "suffix": ["*", "c"]}, [["a", "b", "c"]]),
    ({"max_depth": 1}, [["a"], ["d"]]),
    ({"max_depth": 2, "prefix": ["a"]}, [["a"], ["a", "b"]]),
    ({"limit": 2, "offset": 1}, [["a", "b"], ["a", "b", "c"]]),
]


async def test_namespaces_are_listed() -> None:
    async with speaking() as site, client_of(site) as client:
        for labels in (("a",), ("a", "b"), ("a", "b", "c"), ("d", "b")):
            for key in ("one", "two"):
                await client.store.put_item(labels, key, {})
        for asked, found in NAMESPACES:
            assert await client.store.list_namespaces(**asked) == {"namespaces": found}, asked


REFUSED: list[dict[str, Any]] = [
    {"namespace": []},
    {"namespace": [""]},
    {"namespace": ["a.b"]},
    {"namespace": ["x" * 101]},
    {"namespace": ["ß" * 100] * 20},
    {"namespace": ["a\0"]},
    {"namespace": "a"},
    {"key": ""},
    {"key": "x" * 256},
    {"key": "\U0001f600" * 200},
    {"key": "\ud800"},
    {"value": ["a"]},
    {"value": {"a": "\ud800"}},
    {"value": {"a": "x" * 300_000}},
    {"index": ["text"]},
    {"index": True},
    {"ttl": 5},
]


async def test_what_cannot_be_kept_is_refused() -> None:
    async with speaking() as site, client_of(site) as client:
        for wrong in REFUSED:
            body = {"namespace": ["a"], "key": "k", "value": {}, **wrong}
            sent: dict[str, Any] = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
            answer = await site.ask("PUT", "/store/items", **sent)
            assert answer.status_code == 422, wrong
            assert answer.json()["error"] == "validation_error"
        assert await client.store.list_namespaces() == {"namespaces": []}
        unknown = await site.post("/store/items/search", {"filter": {"a": {"b": {"$near": 1}}}})
        assert unknown.json()["details"][0]["loc"] == ["body", "filter", "a", "b", "$near"]


async def test_large_items_come_in_pages_that_end_early_and_say_so() -> None:
    async with speaking() as site, client_of(site) as client:
        for number in range(60):
            await client.store.put_item(AT, f"{number:02}", {"text": "long " * 50_000, "odd": number % 2})
        for asked, total in (({}, 60), ({"filter": {"odd": 1}}, 30), ({"query": "LONG"}, 60)):
            seen: list[str] = []
            more: str | None = "0"
            while more is not None:
                answer = await site.post("/store/items/search", {**asked, "limit": 1000, "offset": int(more)})
                assert 0 < len(answer.content) < 2 * ANSWER_BYTES
                seen += [item["key"] for item in answer.json()["items"]]
                more = answer.headers.get("x-pagination-next")
                assert more is None or int(more) == len(seen)
            assert len(seen) == len(set(seen)) == total


async def test_who_keeps_as_much_as_they_may_is_told_so_by_name(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/gateway.db", bytes_each=2**20)
    async with speaking(store=store) as site, client_of(site) as client, client_of(site, "bob") as other:
        for number in range(5):
            await client.store.put_item(AT, str(number), {"text": "x" * 200_000})
        with pytest.raises(APIStatusError) as refused:
            await client.store.put_item(AT, "5", {"text": "x" * 200_000})
        assert (refused.value.status_code, refused.value.response.json()["code"]) == (413, "storage_full")
        for path in ("/threads", "/assistants"):
            answer = await site.post(path, {"graph_id": "agent", "metadata": {"text": "x" * 200_000}})
            assert (answer.status_code, answer.json()["code"]) == (413, "storage_full")
        await other.store.put_item(AT, "0", {"text": "x" * 200_000})
        await client.store.delete_item(AT, "0")
        await client.store.put_item(AT, "0", {"text": "y" * 200_000})
