"""Search for items by meaning: their vectors are made after they are stored, and compared with that of a question.

Storing an item never waits for its vectors. The store knows which items have none, or those of another model, so a
crash, an endpoint that is down or a new model loses nothing: the next process that looks makes them.
"""

import asyncio
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from cachetools import LRUCache

from codegen_api.embeddings import Embedder, NoVectors, Vector
from codegen_api.errors import StoreUnavailable
from codegen_api.following import loop_time
from codegen_api.runs import Json
from codegen_api.stores import Near, Store
from codegen_api.telemetry import log_fault, logger

LOOK_EVERY = 30.0
"""Seconds between two looks for due items that other processes stored or left."""

LONGEST_WAIT = 600.0
"""Longest pause, in seconds, between two attempts when the endpoint fails."""

AT_A_TIME = 32
"""How many items are embedded at a time."""

MOST_TEXTS = 32
"""How many texts of one item get a vector each."""

LENGTHS = (8000, 2000, 500)
"""How many characters of a text are embedded; the next length is tried when the endpoint refuses one."""

QUESTION_SECONDS = 10.0
"""Longest time, in seconds, that a question waits for its vector."""

REMEMBERED = 256
"""How many questions' vectors are cached: a client that pages through results repeats its question."""

_STEP = re.compile(r"\[[^\]]*\]?|\{[^}]*\}?|[^.\[{]+")


class SemanticSearch:
    """Makes the vectors of items, in the background, and finds items by them."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store = store
        self.embedder = embedder
        self._put = asyncio.Event()
        self._space = ""  # unknown until the first vector has come
        self._vectors: LRUCache[str, tuple[str, Vector]] = LRUCache(REMEMBERED)
        self._failed = 0
        self._not_before = 0.0

    def wake(self) -> None:
        """An item was stored: look for due items now."""
        self._put.set()

    async def nearest(self, owner: str, prefix: Sequence[str], question: str, limit: int) -> Sequence[Near] | None:
        """The items whose meaning is nearest to that of ``question``; None if the endpoint fails now. Raises
        ``NotOffered`` if there are too many items to compare.
        """
        known = self._vectors.get(question)
        if known is None or known[0] != self._space:
            if loop_time() < self._not_before:
                return None
            try:
                async with asyncio.timeout(QUESTION_SECONDS):
                    (vector,) = await self._embed([question[: LENGTHS[0]]])
            except (NoVectors, TimeoutError) as error:
                self._record_failure(error)
                return None
            known = self._vectors[question] = self._space, vector
        space, vector = known
        return await self._store.nearest(owner, prefix, space, vector, limit)

    async def work(self) -> None:
        """Make the vectors of due items, forever."""
        while True:
            self._put.clear()
            try:
                while await self._embed_due():
                    pass
            except NoVectors as error:
                self._record_failure(error)
            except StoreUnavailable:  # logged where it is raised
                pass
            except Exception as error:  # task boundary: the next time it may work
                log_fault("making vectors of items", error)
            wait = self._not_before - loop_time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            # jittered, so that processes that started together do not all make the same vectors
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY * random.uniform(0.75, 1.25)):  # noqa: S311
                    await self._put.wait()

    async def _embed_due(self) -> bool:
        """Embed some due items, and return whether there may be more. Raises ``NoVectors`` if the endpoint fails."""
        if not self._space:
            await self._embed(["space"])
        due = await self._store.due(self._space, AT_A_TIME)
        texts = [list(texts_at(each.item.value, each.item.fields))[:MOST_TEXTS] for each in due]
        try:
            together = await self._embed([text[: LENGTHS[0]] for some in texts for text in some])
        except NoVectors as error:
            if not error.refused:
                raise
            await self._embed(["space"])  # raises if the endpoint refuses this gateway, and not a text
            for each, some in zip(due, texts, strict=True):
                await self._store.keep_vectors(each, self._space, await self._one_by_one(some))
        else:
            vectors = iter(together)
            for each, some in zip(due, texts, strict=True):
                await self._store.keep_vectors(each, self._space, [next(vectors) for _ in some])
        return len(due) == AT_A_TIME

    async def _one_by_one(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of texts, each shortened until the endpoint takes it, without those that it always refuses."""
        vectors: list[Vector] = []
        for text in texts:
            for most in LENGTHS:
                try:
                    vectors += await self._embed([text[:most]])
                    break
                except NoVectors as error:
                    if not error.refused:
                        raise
        return vectors

    async def _embed(self, texts: Sequence[str]) -> list[Vector]:
        if not texts:
            return []
        vectors = await self.embedder.embed(texts)
        # a model of the same name that gives longer vectors is another one
        self._space = f"{len(vectors[0])} {self.embedder.model}"
        if self._failed:
            logger.info("the embeddings endpoint works again")
        self._failed, self._not_before = 0, 0.0
        return vectors

    def _record_failure(self, error: NoVectors | TimeoutError) -> None:
        if not self._failed:
            logger.warning("no embeddings: the endpoint fails: %s", error if isinstance(error, NoVectors) else "slow")
        retry_after = error.retry_after if isinstance(error, NoVectors) else None
        self._failed += 1
        wait = retry_after if retry_after is not None else 2.0 ** min(self._failed, 10)
        self._not_before = loop_time() + min(wait, LONGEST_WAIT)


def texts_at(value: Json, paths: Sequence[str] | None) -> Iterator[str]:
    """The texts by which a value is found: those at ``paths``, in the syntax of LangGraph's stores, else all of it.
    Blank texts are left out, as they mean nothing to a model.

    ``$`` is the whole; ``a.b`` a field within a field; ``a[0]`` and ``a[-1]`` an element of a list, ``a[*]`` each of
    them; ``*`` each element or field; ``{a,b.c}`` these fields. A path that does not fit the value yields nothing.
    """
    for path in ("$",) if paths is None else paths:
        for found in _at(value, [] if path == "$" else _STEP.findall(path)):
            text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, sort_keys=True)
            if text.strip():
                yield text


def _at(value: Json, steps: Sequence[str]) -> Iterator[Json]:
    if not steps:
        if value is not None:
            yield value
        return
    step, rest = steps[0], steps[1:]
    if step.startswith("{"):
        for field in step.strip("{}").split(","):
            yield from _at(value, [*_STEP.findall(field.strip()), *rest])
        return
    for inside in _inside(value, step):
        yield from _at(inside, rest)


def _inside(value: Json, step: str) -> Sequence[Json]:
    if isinstance(value, Mapping):
        return list(value.values()) if step == "*" else [value[step]] if step in value else []
    if not isinstance(value, list | tuple):
        return []
    if step in ("*", "[*]"):
        return value
    place = re.fullmatch(r"\[(-?[0-9]{1,9})\]", step)
    return [value[int(place[1])]] if place and -len(value) <= int(place[1]) < len(value) else []
