"""Embeddings from an endpoint such as OpenAI's: what is asked of it, and what is not taken from it."""

import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from codegen_api import Settings, create_app
from codegen_api.embeddings import NoVectors
from codegen_api.embeddings.openai import OpenAIEmbedder
from codegen_api.settings.environment import SettingsError
from tests.embeddings import Endpoint, length

URL = "http://models.example/v1"


def embedder(endpoint: httpx.AsyncBaseTransport, url: str = URL, token: str | None = None) -> OpenAIEmbedder:
    return OpenAIEmbedder(url, "small", token, transport=endpoint)


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/embeddings", f" {URL}/embeddings/ "])
async def test_each_text_gets_its_vector_of_length_one(url: str) -> None:
    endpoint = Endpoint()
    it = embedder(endpoint, url, "secret")
    texts = ["tea", "car", *("music" for _ in range(150))]
    vectors = await it.embed(texts)
    assert [max(range(4), key=list(vector).__getitem__) for vector in vectors] == [0, 1, *(2 for _ in range(150))]
    assert all(math.isclose(length(vector), 1) for vector in vectors)
    assert endpoint.texts == texts
    assert max(len(each["input"]) for each in endpoint.asked) <= 64
    assert {each["model"] for each in endpoint.asked} == {"small"}
    assert {each["Authorization"] for each in endpoint.headers} == {"Bearer secret"}
    await it.aclose()


def said(data: Any, **more: Any) -> Callable[[Any], httpx.Response]:
    return lambda _: httpx.Response(200, json={"data": data, **more})


GOOD = {"index": 0, "embedding": [1, 0.5]}
WRONG: dict[str, Callable[[Any], httpx.Response]] = {
    "a page": lambda _: httpx.Response(200, text="<html>Sign in</html>"),
    "half a body": lambda _: httpx.Response(200, text='{"data": [{"index": 0, "embedd'),
    "a redirect": lambda _: httpx.Response(302, headers={"Location": "/elsewhere"}),
    "its own fault": lambda _: httpx.Response(500, json={"error": "the text was: tea"}),
    "no token": lambda _: httpx.Response(401, json={"error": "Incorrect API key provided: sk-1"}),
    "no list": said({"0": GOOD}),
    "one too few": said([GOOD]),
    "one too many": said([GOOD, {**GOOD, "index": 1}, {**GOOD, "index": 2}]),
    "the same twice": said([GOOD, GOOD]),
    "texts": said([GOOD, {"index": 1, "embedding": "AACAPw=="}]),
    "no numbers": said([GOOD, {"index": 1, "embedding": [None, 1]}]),
    "flags": said([GOOD, {"index": 1, "embedding": [True, False]}]),
    "nothing": said([GOOD, {"index": 1, "embedding": []}]),
    "zero": said([GOOD, {"index": 1, "embedding": [0, 0]}]),
    "two lengths": said([GOOD, {"index": 1, "embedding": [1, 2, 3]}]),
    "far too long": said([{"index": number, "embedding": [1] * 16_001} for number in range(2)]),
    "huge": lambda _: httpx.Response(200, text='{"data": [{"embedding": [1e999, 1]}, {"embedding": [1, 1]}]}'),
    "a list": lambda _: httpx.Response(200, json=[GOOD, GOOD]),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_no_vector_is_not_taken_for_one(what: str) -> None:
    endpoint = Endpoint()
    endpoint.answer = WRONG[what]
    with pytest.raises(NoVectors) as fault:
        await embedder(endpoint).embed(["tea", "car"])
    assert not fault.value.refused
    assert not {"tea", "sk-1"} & set(str(fault.value).split())


async def test_an_endpoint_that_is_not_there_is_a_fault_like_others() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(NoVectors, match="upstream_unreachable"):
        await embedder(httpx.MockTransport(refuse)).embed(["tea"])


@pytest.mark.parametrize(("status", "refused"), [(400, True), (413, True), (422, True), (404, False), (429, False)])
async def test_it_is_known_whether_the_text_or_the_endpoint_is_at_fault(status: int, refused: bool) -> None:
    endpoint = Endpoint()
    endpoint.answer = lambda _: httpx.Response(status, headers={"Retry-After": "7"})
    with pytest.raises(NoVectors, match=str(status)) as fault:
        await embedder(endpoint).embed(["tea"])
    assert (fault.value.refused, fault.value.retry_after) == (refused, 7.0)


@pytest.mark.parametrize(
    "given",
    [
        {"embeddings_url": URL},
        {"embeddings_model": "small"},
        {"embeddings_url": f"{URL}?key=1", "embeddings_model": "small"},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(given: dict[str, Any]) -> None:
    settings = Settings(_env_file=None, dialects=("agent_protocol",), **given)
    with pytest.raises(SettingsError, match="CODEGEN_EMBEDDINGS_URL"):
        create_app(settings)
