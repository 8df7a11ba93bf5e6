"""Items found by meaning: vectors are made of them after they are put, and compared with that of a question.

An item is never kept waiting. What has no vectors, or those of another model, is due in the store, so that a crash, an
endpoint that is down, or a new model loses nothing; whichever process looks next makes them.
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
"""Seconds between two looks for what is due that nobody here was told of."""

LONGEST_WAIT = 600.0
"""Seconds between two attempts, at most, when the endpoint fails."""

AT_A_TIME = 32
"""Items whose vectors are made at a time."""

MOST_TEXTS = 32
"""Texts of one item that get a vector each."""

LENGTHS = (8000, 2000, 500)
"""Characters of a text that are embedded, and how many when the endpoint refuses that."""

QUESTION_SECONDS = 10.0
"""A question waits no longer for its vector."""

REMEMBERED = 256
"""Questions whose vectors are remembered: who turns pages asks the same again."""

_STEP = re.compile(r"\[[^\]]*\]?|\{[^}]*\}?|[^.\[{]+")


class SemanticSearch:
    """Makes the vectors of items, as long as it works, and finds items by them."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store = store
        self.embedder = embedder
        self._put = asyncio.Event()
        self._space = ""  # nobody knows it before the first vector is here
        self._asked: LRUCache[str, tuple[str, Vector]] = LRUCache(REMEMBERED)
        self._failed = 0
        self._not_before = 0.0

    def wake(self) -> None:
        """An item was put."""
        self._put.set()

    async def nearest(self, owner: str, prefix: Sequence[str], question: str, limit: int) -> Sequence[Near] | None:
        """The items whose meaning is nearest to that of ``question``; None when that cannot be told just now. Raises
        ``NotOffered`` where there are more than can be compared.
        """
        known = self._asked.get(question)
        if known is None or known[0] != self._space:
            if loop_time() < self._not_before:
                return None
            try:
                async with asyncio.timeout(QUESTION_SECONDS):
                    (vector,) = await self._embed([question[: LENGTHS[0]]])
            except (NoVectors, TimeoutError) as error:
                self._in_trouble(error)
                return None
            known = self._asked[question] = self._space, vector
        space, vector = known
        return await self._store.nearest(owner, prefix, space, vector, limit)

    async def work(self) -> None:
        """Make what is due, for ever."""
        while True:
            self._put.clear()
            try:
                while await self._round():
                    pass
            except NoVectors as error:
                self._in_trouble(error)
            except StoreUnavailable:  # which is logged where it is found
                pass
            except Exception as error:  # task boundary: the next time it may work
                log_fault("making vectors of items", error)
            wait = self._not_before - loop_time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            # jittered, so that processes which began together do not all do the same
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY * random.uniform(0.75, 1.25)):  # noqa: S311
                    await self._put.wait()

    async def _round(self) -> bool:
        """See to some of what is due; whether more may be. Raises ``NoVectors`` where none are made just now."""
        if not self._space:
            await self._embed(["space"])
        due = await self._store.due(self._space, AT_A_TIME)
        texts = [list(texts_at(each.item.value, each.item.fields))[:MOST_TEXTS] for each in due]
        try:
            together = await self._embed([text[: LENGTHS[0]] for some in texts for text in some])
        except NoVectors as error:
            if not error.refused:
                raise
            await self._embed(["space"])  # to see that it is not this gateway which is refused
            for each, some in zip(due, texts, strict=True):
                await self._store.keep_vectors(each, self._space, await self._one_by_one(some))
        else:
            vectors = iter(together)
            for each, some in zip(due, texts, strict=True):
                await self._store.keep_vectors(each, self._space, [next(vectors) for _ in some])
        return len(due) == AT_A_TIME

    async def _one_by_one(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of those that are not refused, as far as they are not."""
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

    def _in_trouble(self, error: NoVectors | TimeoutError) -> None:
        if not self._failed:
            logger.warning("no embeddings: the endpoint fails: %s", error if isinstance(error, NoVectors) else "slow")
        asked_for = error.retry_after if isinstance(error, NoVectors) else None
        self._failed += 1
        wait = asked_for if asked_for is not None else 2.0 ** min(self._failed, 10)
        self._not_before = loop_time() + min(wait, LONGEST_WAIT)


def texts_at(value: Json, paths: Sequence[str] | None) -> Iterator[str]:
    """The texts by which a value is found: those at ``paths``, as LangGraph's stores have them, else of the whole.
    Nothing blank: no model sees anything in that.

    ``$`` is the whole; ``a.b`` a field within a field; ``a[0]`` and ``a[-1]`` an element of a list, ``a[*]`` each of
    them; ``*`` each element or field; ``{a,b.c}`` these fields. Nothing is at a path that does not fit the value.
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
