"""The pages held of all logs, and the bytes that all logs take."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codegen_api.brokers import PAGE
from codegen_api.runs import Cursor, LogEntry

if TYPE_CHECKING:
    from codegen_api.brokers.memory.log import Log

REREAD = 0.25
"""The share of the bound for pages that were read again, while there are others: so a viewer that reads through a long
log does not evict what was just read of other logs.
"""


@dataclass(slots=True, eq=False)
class HeldPage:
    """One page of a log; None stands for an entry that is not held.

    ``since``: the revision of the log when the host was asked for this page again; None if it was not.
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
        """Whether all its entries are held."""
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
    """The pages of all logs, in order of use, and the bytes of these logs."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0
        self._reread_bytes = 0
        # the least recently used first
        self._read: OrderedDict[HeldPage, None] = OrderedDict()
        self._reread: OrderedDict[HeldPage, None] = OrderedDict()

    @property
    def room(self) -> int:
        """Bytes still free; negative if too many are held."""
        return self.max_bytes - self.held

    def use(self, page: HeldPage, added: int = 0) -> None:
        """Mark a page as just used; it has grown by ``added`` bytes."""
        pages = self._read if page.since is None else self._reread
        pages[page] = None
        pages.move_to_end(page)
        self._reread_bytes += 0 if page.since is None else added

    def trim(self, page: HeldPage, excess: int) -> int:
        """Drop the oldest entries of a page until ``excess`` bytes are free or it is empty; returns the bytes freed."""
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

    def next_victim(self) -> HeldPage | None:
        """The page to evict next; None if there is none."""
        reread = self._reread_bytes > REREAD * self.max_bytes or not self._read
        return next(iter(self._reread if reread else self._read), None)
