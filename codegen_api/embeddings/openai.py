"""Embeddings from an OpenAI-compatible endpoint: ``POST .../embeddings`` with ``model`` and ``input``.

Most model servers have it: vLLM, Ollama, LiteLLM, text-embeddings-inference, llama.cpp.
"""

from collections.abc import Mapping, Sequence

import httpx

from codegen_api.embeddings import NoVectors, Vector, normalized
from codegen_api.errors import UpstreamFailure
from codegen_api.outbound import HostAnswer, Outbound
from codegen_api.runs import Json, to_json
from codegen_api.worker_thread import in_thread

PATH = "/embeddings"

CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 30.0

AT_A_TIME = 64
"""Texts per request. Some endpoints accept no more."""

REFUSED = (400, 413, 422)
"""Statuses for texts that are too long, or that the model cannot embed."""


class OpenAIEmbedder:
    """An ``Embedder`` at ``url``, with or without a trailing ``/embeddings``.

    Raises:
        ValueError: the URL cannot be used; the text does not quote it.
    """

    def __init__(
        self, url: str, model: str, token: str | None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        base = url.strip().rstrip("/").removesuffix(PATH)
        self.model = model
        self._headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        self._outbound = Outbound(
            base, PATH, transport=transport, connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, via=None
        )

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        vectors: list[Vector] = []
        for start in range(0, len(texts), AT_A_TIME):
            vectors += await self._embed(texts[start : start + AT_A_TIME])
        if len({len(vector) for vector in vectors}) > 1:
            raise NoVectors("its vectors are not all of one length")
        return vectors

    async def aclose(self) -> None:
        await self._outbound.aclose()

    async def _embed(self, texts: Sequence[str]) -> list[Vector]:
        body = to_json({"model": self.model, "input": list(texts), "encoding_format": "float"})
        try:
            answer = await self._outbound.ask("POST", "", None, body, self._headers)
        except UpstreamFailure as error:
            raise NoVectors(f"it gave no answer ({error.code})") from error
        if answer.status != 200:
            refused = answer.status in REFUSED
            raise NoVectors(f"it answered {answer.status}", refused=refused, retry_after=_retry_after(answer))
        # thousands of numbers: too long for the event loop
        return await in_thread(_vectors, answer.json, len(texts))


def _retry_after(answer: HostAnswer) -> float | None:
    seconds = answer.retry_after or ""
    return float(seconds) if seconds.isascii() and seconds.isdigit() else None


def _vectors(answer: Json, count: int) -> list[Vector]:
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, list) or len(data) != count:
        raise NoVectors(f"its answer has no list of {count} vectors")
    vectors: dict[int, Vector] = {}
    for place, each in enumerate(data):
        numbers = each.get("embedding") if isinstance(each, Mapping) else None
        if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
            raise NoVectors("something in its answer is no vector")
        index = each.get("index", place)
        try:
            vectors[index if type(index) is int else place] = normalized(numbers)
        except (ValueError, OverflowError) as error:
            raise NoVectors("a vector of its answer is zero, or too long") from error
    if vectors.keys() != set(range(count)):
        raise NoVectors("its answer does not say which vector is whose")
    return [vectors[place] for place in range(count)]
