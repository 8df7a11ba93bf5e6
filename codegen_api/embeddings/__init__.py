"""The contract of an embedder, which turns texts into vectors so that similar meanings get similar directions."""

import math
from collections.abc import Sequence
from typing import Protocol

Vector = Sequence[float]

MAX_DIMENSIONS = 16_000
"""Maximum dimensions of a vector."""


class NoVectors(Exception):
    """Embedding failed. The text is for the operator's log and contains nothing of the input.

    ``refused``: the endpoint does not accept these texts; otherwise it may later, after ``retry_after`` seconds if
    given.
    """

    def __init__(self, reason: str, *, refused: bool = False, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.refused = refused
        self.retry_after = retry_after


class Embedder(Protocol):
    """An embeddings model, whose name is ``model``."""

    model: str

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return a vector of length 1 for each text, all with the same number of dimensions.

        Raises:
            NoVectors: the model is not available, or does not accept these texts.
        """

    async def aclose(self) -> None: ...


def normalized(numbers: Sequence[float]) -> Vector:
    """The vector scaled to length 1.

    Raises:
        ValueError: the vector has no direction, or too many dimensions.
    """
    length = math.hypot(*numbers)
    if not 0 < length < math.inf or len(numbers) > MAX_DIMENSIONS:
        raise ValueError("no direction")
    return [number / length for number in numbers]
