"""The contract of an embedder: texts become vectors, and texts of like meaning vectors of like direction."""

import math
from collections.abc import Sequence
from typing import Protocol

Vector = Sequence[float]

MOST_NUMBERS = 16_000
"""A vector has no more."""


class NoVectors(Exception):
    """There are none. The text is for the operator's log, and has nothing of what was to be embedded.

    ``refused``: the endpoint does not take these very texts; else it may take them later, not before ``retry_after``
    seconds where it said so.
    """

    def __init__(self, reason: str, *, refused: bool = False, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.refused = refused
        self.retry_after = retry_after


class Embedder(Protocol):
    """A model somewhere, called ``model``."""

    model: str

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A vector of length 1 for each text, all of them with as many numbers.

        Raises:
            NoVectors: there are none just now, or not for these.
        """
        ...

    async def aclose(self) -> None: ...


def normalized(numbers: Sequence[float]) -> Vector:
    """The vector of that direction whose length is 1.

    Raises:
        ValueError: it has no direction.
    """
    length = math.hypot(*numbers)
    if not 0 < length < math.inf or len(numbers) > MOST_NUMBERS:
        raise ValueError("no direction")
    return [number / length for number in numbers]
