"""Digests of the last entries of a log, kept whether the entries are held or not: four bytes each."""

import zlib
from array import array
from base64 import urlsafe_b64encode
from functools import lru_cache

from codegen_api.positions import UNKNOWN, Copy
from codegen_api.runs import Cursor, LogEntry

_NOTHING, _SEVERAL = 0, 2  # neither is the code of a copy, which is odd


class Copies:
    """A ``Copy`` of each entry as last seen, by position. Positions may be missing."""

    def __init__(self) -> None:
        self._forgotten: Cursor = 0  # no copies are kept up to this position
        self._first: Cursor = 1
        self._codes = array("I")

    @property
    def size(self) -> int:
        """In bytes."""
        return 4 * len(self._codes)

    @property
    def first(self) -> Cursor | None:
        """The first position with a copy."""
        return next((self._first + index for index, code in enumerate(self._codes) if code != _NOTHING), None)

    def get(self, position: Cursor) -> Copy | None:
        """The copy at this position. Its digest is ``UNKNOWN`` if different ones were noted."""
        return _decode(self._code(position))

    def put(self, position: Cursor, entry: LogEntry) -> Copy | None:
        """Store a copy of the entry. Returns the previous copy if that was different."""
        code, before = _encode(entry), self._code(position)
        if before == code:
            return None
        self._put(position, code)
        return _decode(before)

    def note(self, position: Cursor, entry: LogEntry) -> None:
        """Store a copy beside the previous one. If they differ, the digest becomes ``UNKNOWN``."""
        code, before = _encode(entry), self._code(position)
        self._put(position, code if before in (_NOTHING, code) else _SEVERAL)

    def forget(self, upto: Cursor) -> None:
        """Forget everything up to this position, for good."""
        self._forgotten = max(self._forgotten, upto)
        if upto >= self._first:
            del self._codes[: upto - self._first + 1]
            self._first = upto + 1

    def _code(self, position: Cursor) -> int:
        index = position - self._first
        return self._codes[index] if 0 <= index < len(self._codes) else _NOTHING

    def _put(self, position: Cursor, code: int) -> None:
        if position <= self._forgotten:
            return
        if not self._codes:
            self._first = position
        if position < self._first:
            self._codes[:0] = array("I", [_NOTHING]) * (self._first - position)
            self._first = position
        if position >= self._first + len(self._codes):
            self._codes.extend(array("I", [_NOTHING]) * (position - self._first - len(self._codes) + 1))
        self._codes[position - self._first] = code


def _encode(entry: LogEntry) -> int:
    """The digest of the entry, and whether it is amendable."""
    return (zlib.crc32(entry.json) & 0xFFFFFF) << 8 | entry.amendable << 2 | 1


@lru_cache(4096)  # the last entries of a log are asked for with each one that is new
def _decode(code: int) -> Copy | None:
    if code == _NOTHING:
        return None
    if code == _SEVERAL:
        return Copy(UNKNOWN, amendable=True)
    return Copy(urlsafe_b64encode((code >> 8).to_bytes(3, "big")).decode(), bool(code & 4))
