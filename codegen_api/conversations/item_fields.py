"""The texts in a value by which it is found, at paths as LangGraph's stores have them.

``$`` is the whole; ``a.b`` a field within a field; ``a[0]`` and ``a[-1]`` an element of a list, ``a[*]`` each of them;
``*`` each element or field; ``{a,b.c}`` these fields. Nothing is at a path that does not fit the value.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from codegen_api.runs import Json

WHOLE = ("$",)

EACH = "*"

_TOKEN = re.compile(r"\[[^\]]*\]?|\{[^}]*\}?|[^.\[{]+")


def texts_at(value: Json, paths: Sequence[str] | None) -> Iterator[str]:
    """Those at ``paths``, or the whole where there are none given. Nothing blank: no model sees anything in that."""
    for path in WHOLE if paths is None else paths:
        tokens = [] if path == "$" else _TOKEN.findall(path)
        for found in _at(value, tokens):
            if (text := _text(found)).strip():
                yield text


def _at(value: Json, tokens: Sequence[str]) -> Iterator[Json]:
    if not tokens:
        if value is not None:
            yield value
        return
    token, rest = tokens[0], tokens[1:]
    if token.startswith("{"):
        for field in token.strip("{}").split(","):
            yield from _at(value, [*_TOKEN.findall(field.strip()), *rest])
        return
    for inside in _inside(value, token):
        yield from _at(inside, rest)


def _inside(value: Json, token: str) -> list[Json]:
    if isinstance(value, Mapping):
        if token == EACH:
            return list(value.values())
        return [value[token]] if token in value else []
    if not isinstance(value, list | tuple):
        return []
    if token in (EACH, f"[{EACH}]"):
        return list(value)
    place = re.fullmatch(r"\[(-?[0-9]{1,9})\]", token)
    if place and -len(value) <= int(place[1]) < len(value):
        return [value[int(place[1])]]
    return []


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
