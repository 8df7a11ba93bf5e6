"""Divides the one memory bound for logs (``CODEGEN_MEMORY_MIB``) among the forms in which they are held."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """In bytes: ``windows`` for the recent part of each log with its renderings, ``old_pages`` for earlier pages read
    again, ``turns`` for pages of finished turns, ``renderings`` for the entries that dialects have rendered.
    """

    windows: int
    old_pages: int
    turns: int = 0
    renderings: int = 0

    @classmethod
    def of(cls, total: int, *, dialects: int) -> "MemoryShares":
        """The division of ``total``; ``dialects`` is the number of those that keep conversations."""
        if not dialects:
            return cls(total - total // 4, total // 4)
        part = total // 8
        return cls(total - (2 + dialects) * part, part, part, dialects * part)
