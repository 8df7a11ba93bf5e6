"""What every supported database can store."""

from collections.abc import Mapping, Sequence

from codegen_api.runs import Json

DEEPEST = 100
"""Maximum nesting of stored objects and lists."""


def storable(value: Json) -> bool:
    """Whether every database can store ``value``: no NUL or lone surrogates in its texts, and not nested too deeply."""
    level: Sequence[Json] = [value]
    for _ in range(DEEPEST + 1):
        inside: list[Json] = []
        for part in level:
            if isinstance(part, str):
                if not _is_encodable(part):
                    return False
            elif isinstance(part, Mapping):
                inside += [*part.keys(), *part.values()]
            elif isinstance(part, Sequence):
                inside += part
        if not inside:
            return True
        level = inside
    return False


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
