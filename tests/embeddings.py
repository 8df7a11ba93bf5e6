"""An endpoint for embeddings, as OpenAI has it, of the tests' own: what speaks of the same has the same direction."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import httpx

SUBJECTS = ("tea coffee drink beverage thirsty", "car tyre road wheel drive", "music song sing concert melody")


def meaning(text: str) -> list[float]:
    words = re.findall("[a-z]+", text.lower())
    counted = [sum(word in subject.split() for word in words) for subject in SUBJECTS]
    return [*(float(count) for count in counted), 0.1]


class Endpoint(httpx.AsyncBaseTransport):
    """What is asked of it, and ``answer``, which stands in for what it says: None is the truth."""

    def __init__(self, embed: Callable[[str], Sequence[float]] = meaning) -> None:
        self.embed = embed
        self.asked: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self.answer: Callable[[dict[str, Any]], httpx.Response | None] = lambda _: None

    @property
    def texts(self) -> list[str]:
        return [text for each in self.asked for text in each["input"]]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path.endswith("/embeddings")
        asked = json.loads(await request.aread())
        self.asked.append(asked)
        self.headers.append(request.headers)
        said = self.answer(asked)
        if said is None:
            data = [
                {"object": "embedding", "index": index, "embedding": self.embed(text)}
                for index, text in enumerate(asked["input"])
            ]
            # in any order: the index says whose it is
            said = httpx.Response(200, json={"object": "list", "model": asked["model"], "data": data[::-1]})
        # a stream, as a connection has it
        return httpx.Response(said.status_code, headers=said.headers, stream=_Bytes(said.content))


class _Bytes(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> Any:
        yield self._content


def length(vector: Sequence[float]) -> float:
    return math.hypot(*vector)
