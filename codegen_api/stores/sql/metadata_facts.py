"""Makes metadata, configuration and tags searchable in the same way in every database.

Each value in an object becomes a short text, a *fact*: ``{"user": {"name": "Bob"}}`` has the fact that ``user``,
``name`` is the string Bob. All facts of a row are in one column, and a row matches if it has all wanted facts. So any
key and value can be searched for, even lists and huge numbers, without JSON paths: databases and their versions differ
in how paths quote keys, in what is a number, and in whether true is 1.

Stored rows depend on this code, so a change to it needs a migration that recomputes them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

from codegen_api.runs import Json

_BYTES = 10  # with a million million facts, the probability of any collision is below one half


def facts_of(*, tags: Iterable[str] = (), **objects: Mapping[str, Json]) -> str:
    """All facts of a row in one text. ``objects`` are named after their columns."""
    return "".join(_all_facts(tags, objects, with_objects=True))


def wanted(*, tags: Iterable[str] = (), **objects: Mapping[str, Json]) -> list[str]:
    """The facts that a row must all have in order to match."""
    return _all_facts(tags, {name: value for name, value in objects.items() if value}, with_objects=False)


def _all_facts(tags: Iterable[str], objects: Mapping[str, Mapping[str, Json]], *, with_objects: bool) -> list[str]:
    facts = {_fact(_digest(b"tag"), tag) for tag in tags}
    for name, value in objects.items():
        facts.update(_facts(_digest(name.encode()), value, with_objects=with_objects))
    return sorted(facts)


def _facts(path: bytes, value: Json, *, with_objects: bool) -> Iterator[str]:
    """Yield the facts of ``value`` at ``path``. That it is an object follows from its content, unless it is empty."""
    if not isinstance(value, Mapping):
        yield _fact(path, value)
        return
    if with_objects or not value:
        yield "." + _digest(path, b"an object").hex()
    for key, part in value.items():
        yield from _facts(_digest(path, _bytes(key)), part, with_objects=with_objects)


def _fact(path: bytes, value: Json) -> str:
    return "." + _digest(path, _canonical(value)).hex()


def _canonical(value: Json) -> bytes:
    """Bytes that are equal only for equal values of the same type. Objects in a list are compared as a whole."""
    match value:
        case None | bool():
            return repr(value).encode()
        case int():
            return b"int %x" % value
        case float():
            # as in JSON: no NaN, no infinities, a single zero
            return b"float " + repr(value or 0.0).encode() if math.isfinite(value) else b"None"
        case str():
            return b"str " + _bytes(value)
        case Mapping():
            return b"{" + b"".join(sorted(_digest(_bytes(key), _canonical(part)) for key, part in value.items()))
        case Sequence():
            return b"[" + b"".join(_digest(_canonical(part)) for part in value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _digest(*parts: bytes) -> bytes:
    state = blake2b(digest_size=_BYTES)
    for part in parts:
        state.update(b"%d:" % len(part) + part)
    return state.digest()
