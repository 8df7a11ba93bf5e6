"""What is remembered of the entries of a log that are not held: four bytes each."""

from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode

from codegen_api.positions import UNKNOWN, Copy
from codegen_api.runs import Cursor

_NOTHING, _DIFFERENT = 0, 2  # neither is the code of a copy, which is odd


class Copies:
    """A ``Copy`` by position, for a stretch of a log with holes."""

    def __init__(self) -> None:
        self._first: Cursor = 1
        self._codes = array("I")

    @property
    def size(self) -> int:
        """In bytes."""
        return 4 * len(self._codes)

    @property
    def first(self) -> Cursor | None:
        """The first position of which anything is remembered."""
        return next((self._first + index for index, code in enumerate(self._codes) if code != _NOTHING), None)

    def get(self, position: Cursor) -> Copy | None:
        index = position - self._first
        code = self._codes[index] if 0 <= index < len(self._codes) else _NOTHING
        if code == _NOTHING:
            return None
        if code == _DIFFERENT:
            return Copy(UNKNOWN, amendable=True)
        return Copy(urlsafe_b64encode((code >> 8).to_bytes(3, "big")).decode(), bool(code & 4))

    def put(self, position: Cursor, copy: Copy) -> None:
        """Remember it; one with no digest stands for several that were different."""
        if not self._codes:
            self._first = position
        if position < self._first:
            self._codes[:0] = array("I", [_NOTHING]) * (self._first - position)
            self._first = position
        if position >= self._first + len(self._codes):
            self._codes.extend([_NOTHING] * (position - self._first - len(self._codes) + 1))
        self._codes[position - self._first] = (
            _DIFFERENT
            if copy.digest == UNKNOWN
            else int.from_bytes(urlsafe_b64decode(copy.digest), "big") << 8 | copy.amendable << 2 | 1
        )

    def drop(self, position: Cursor) -> None:
        index = position - self._first
        if 0 <= index < len(self._codes):
            self._codes[index] = _NOTHING

    def forget(self, upto: Cursor) -> None:
        """Forget everything up to this position."""
        if upto >= self._first:
            del self._codes[: upto - self._first + 1]
            self._first = upto + 1
