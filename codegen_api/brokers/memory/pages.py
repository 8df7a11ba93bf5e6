"""The pages of logs that are held, of all logs together, and how many bytes all of that takes."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codegen_api.brokers import PAGE
from codegen_api.runs import Cursor, LogEntry

if TYPE_CHECKING:
    from codegen_api.brokers.memory.log import Log

REREAD = 0.25
"""What pages that were read again may take of the bound, while there are others: who reads through all of a long log
does not push out what was just read of the others.
"""


@dataclass(slots=True, eq=False)
class HeldPage:
    """One page of a log, as far as it is held; None stands for an entry that is not.

    ``since``: of a page that was read again, what the revision of the log was when it was asked for.
    """

    log: "Log"
    number: int
    entries: list[LogEntry | None] = field(default_factory=list)
    since: int | None = None
    size: int = 0

    @property
    def last(self) -> Cursor:
        """The position of its last entry."""
        return self.number * PAGE + len(self.entries)

    @property
    def whole(self) -> bool:
        """Whether all of it is held."""
        return len(self.entries) == PAGE and None not in self.entries

    def get(self, position: Cursor) -> LogEntry | None:
        index = position - 1 - self.number * PAGE
        return self.entries[index] if 0 <= index < len(self.entries) else None

    def put(self, position: Cursor, entry: LogEntry) -> None:
        index = position - 1 - self.number * PAGE
        self.entries.extend([None] * (index + 1 - len(self.entries)))
        before = self.entries[index]
        self.entries[index] = entry
        self.size += entry.size - (0 if before is None else before.size)


class Shelf:
    """The pages of all logs, and how many bytes these logs hold in all."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0
        self._reread_bytes = 0
        # the least recently used first
        self._read: OrderedDict[HeldPage, None] = OrderedDict()
        self._reread: OrderedDict[HeldPage, None] = OrderedDict()

    @property
    def room(self) -> int:
        """How many bytes more may be held; less than nothing when there are too many."""
        return self.max_bytes - self.held

    def take(self, page: HeldPage, size: int) -> None:
        """A page takes so many bytes more, and is the one that was used last."""
        pages = self._read if page.since is None else self._reread
        pages[page] = None
        pages.move_to_end(page)
        self._reread_bytes += 0 if page.since is None else size

    def trim(self, page: HeldPage, excess: int) -> int:
        """Let go of the oldest entries of a page, until so many bytes are free or none is left; how many are."""
        before = page.size
        for index, entry in enumerate(page.entries):
            if before - page.size >= excess:
                break
            if entry is not None:
                page.entries[index] = None
                page.size -= entry.size
        pages = self._read if page.since is None else self._reread
        self._reread_bytes -= 0 if page.since is None else before - page.size
        if not page.size:
            del pages[page]
        return before - page.size

    def next_to_go(self) -> HeldPage | None:
        """The page that can be spared first."""
        reread = self._reread_bytes > REREAD * self.max_bytes or not self._read
        return next(iter(self._reread if reread else self._read), None)
