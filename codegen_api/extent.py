"""How much there is in a piece of JSON, told from its bytes as they come, before anybody makes objects of them.

24 MiB of brackets make a gigabyte of objects, and whoever makes them has no time for anybody else. To count is cheap.
"""

from itertools import accumulate

_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]


class Extent:
    """The number of ``values`` and the ``depth`` of what was taken. Both are exact as long as it is JSON, and what is
    none fails where it stops being that, whatever is counted behind it.
    """

    def __init__(self) -> None:
        self.values = 0
        self.depth = 0
        self._open = 0
        self._in_text = False
        self._escape = b""

    def take(self, piece: bytes) -> None:
        """The next bytes."""
        said = (self._escape + piece).replace(b"\\\\", b"")
        self._escape = b"\\" if said.endswith(b"\\") else b""  # it may belong to a quote that is still to come
        parts = said.replace(b'\\"', b"").split(b'"')
        outside = b" ".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        # each value but the first of all stands behind one of these; an empty list or object counts as two
        self.values += sum(map(outside.count, (b",", b"[", b"{")))
        depths = list(accumulate(map(_STEPS.__getitem__, outside.translate(None, _OTHERS)), initial=self._open))
        self._open = depths[-1]
        self.depth = max(self.depth, *depths)
