"""The headers of a request, for all who look for something in them."""

from collections.abc import Sequence


class HeaderFields:
    """The headers of a request, gone through once. ``size`` is in bytes; ``repeated``: a name occurs twice."""

    __slots__ = ("_first", "_later", "count", "size")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        first: dict[bytes, bytes] = {}
        self._first, self._later = first, list[tuple[bytes, bytes]]()
        self.count, self.size = len(raw), 0
        for name, value in raw:
            self.size += len(name) + len(value) + len(": \r\n")
            if name in first:
                self._later.append((name, value))
            else:
                first[name] = value

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._first

    @property
    def repeated(self) -> bool:
        return bool(self._later)

    def first(self, name: str) -> str | None:
        """The first value of a header."""
        value = self._first.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        first = self.first(name)
        later = [value.decode("latin-1") for other, value in self._later if other == name.encode()]
        return [*later] if first is None else [first, *later]
