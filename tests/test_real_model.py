"""A real model behind an endpoint: what is said in other words is found. Where the package of one is installed."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from codegen_api.embeddings.openai import OpenAIEmbedder
from codegen_api.stores import Item
from tests.conversations.test_meaning import ME, opened
from tests.embeddings import Endpoint
from tests.stores.model import ModelStore

TEXTS = {
    "tyres": "The car needs new tires before winter.",
    "dinner": "We had pasta and a glass of wine at the restaurant.",
    "deploy": "The deployment failed because the database migration timed out.",
    "piano": "She practices the piano every morning.",
    "cat": "Our cat sleeps on the sofa all day.",
}
QUESTIONS = {
    "vehicle maintenance": "tyres",
    "food and drinks": "dinner",
    "software release problems": "deploy",
    "musical instruments": "piano",
    "a sleeping animal": "cat",
}


async def test_a_real_model_finds_what_is_meant() -> None:
    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        pytest.skip("wordllama is not installed: pip install -e '.[meaning]'")
    from wordllama import WordLlama

    model: Any = WordLlama.load(cache_dir=Path(found.origin).parent, disable_download=True)

    endpoint = Endpoint(lambda text: [float(number) for number in model.embed([text])[0]])
    store = ModelStore()
    async with opened(store, OpenAIEmbedder("http://models.example", "real", None, transport=endpoint)) as meaning:
        for key, text in TEXTS.items():
            await store.put_item(ME, Item(("n",), key, {"text": text}, 1.0, 1.0, ("text",)))
        meaning.wake()
        while await store.due("256 real", 1):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        for question, key in QUESTIONS.items():
            near = await meaning.nearest(ME, (), question, 10)
            assert near is not None
            assert near[0].key == key, question
