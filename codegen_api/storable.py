"""What every database can keep."""

from collections.abc import Mapping, Sequence

from codegen_api.runs import Json

DEEPEST = 100
"""Objects and lists within each other, in what is kept."""


def storable(value: Json) -> bool:
    """Whether every database can keep ``value``: no text in it has NUL or lone surrogates, nor does it go too deep."""
    level: Sequence[Json] = [value]
    for _ in range(DEEPEST + 1):
        inside: list[Json] = []
        for part in level:
            if isinstance(part, str):
                if not _whole(part):
                    return False
            elif isinstance(part, Mapping):
                inside += [*part.keys(), *part.values()]
            elif isinstance(part, Sequence):
                inside += part
        if not inside:
            return True
        level = inside
    return False


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
