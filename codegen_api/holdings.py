"""What is held of logs, in whatever form, and how much of the one bound for all of it each form may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holdings:
    """In bytes. ``windows`` are the recent stretches of logs, with what is written of them; ``old_pages`` what was read
    again from before those; ``turns`` pages of turns that are over; ``renderings`` what one dialect makes of entries.
    """

    windows: int
    old_pages: int
    turns: int = 0
    renderings: int = 0

    @classmethod
    def of(cls, total: int, *, dialects: int) -> "Holdings":
        """The parts of ``total``, where so many ``dialects`` keep conversations."""
        if not dialects:
            return cls(total - total // 4, total // 4)
        part = total // 8
        return cls(total - (2 + dialects) * part, part, part, part)
