"""Divides the one memory bound for logs (``CODEGEN_MEMORY_MIB``) among the forms in which they are held."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """In bytes: ``logs`` for the logs that are followed with their renderings, ``turns`` for pages of finished turns,
    ``renderings`` for the entries that dialects have rendered.
    """

    logs: int
    turns: int = 0
    renderings: int = 0

    @classmethod
    def of(cls, total: int, *, dialects: int) -> "MemoryShares":
        """The division of ``total``; ``dialects`` is the number of those that keep conversations."""
        if not dialects:
            return cls(total)
        part = total // 8
        return cls(total - (1 + dialects) * part, part, dialects * part)
