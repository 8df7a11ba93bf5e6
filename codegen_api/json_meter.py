"""Measures JSON while its bytes arrive, before it is parsed.

24 MiB of brackets become a gigabyte of objects, and parsing them blocks everybody else. Counting is cheap.
"""

from itertools import accumulate

_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]


class JsonMeter:
    """The number of ``values`` and the nesting ``depth`` so far. Both are exact for valid JSON; anything else fails to
    parse at the point where it is invalid, whatever is counted after that.
    """

    def __init__(self) -> None:
        self.values = 0
        self.depth = 0
        self._open = 0
        self._in_text = False
        self._escape = b""

    def feed(self, piece: bytes) -> None:
        """Count the next bytes."""
        text = (self._escape + piece).replace(b"\\\\", b"")
        self._escape = b"\\" if text.endswith(b"\\") else b""  # may escape a quote in the next piece
        parts = text.replace(b'\\"', b"").split(b'"')
        outside = b" ".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        # each value but the very first follows one of these; an empty list or object counts as two
        self.values += sum(map(outside.count, (b",", b"[", b"{")))
        depths = list(accumulate(map(_STEPS.__getitem__, outside.translate(None, _OTHERS)), initial=self._open))
        self._open = depths[-1]
        self.depth = max(self.depth, *depths)
