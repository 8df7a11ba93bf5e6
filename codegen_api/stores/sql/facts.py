"""What can be asked of metadata, configuration and tags, in a form that every database can look through.

Each thing that an object says becomes a short text, a *fact*: of ``{"user": {"name": "Bob"}}``, that at ``user``,
``name`` there is the text Bob. A row has its facts in one column, and it has what is asked for if it has all its facts.
So any key and any value can be asked for, lists and huge numbers too, without paths into JSON. In those, databases and
their versions differ: in how keys are quoted, in what is a number, and in whether true is 1.

What is kept was made by this, so a change to it comes with a migration that makes it anew.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

from codegen_api.runs import Json

_BYTES = 10  # two of a million million facts are the same by chance with a probability of less than one half


def facts_of(*, tags: Iterable[str] = (), **objects: Mapping[str, Json]) -> str:
    """All facts of a row in one text. ``objects`` are named for their columns."""
    said = {_fact(_digest(b"tag"), tag) for tag in tags}
    for name, value in objects.items():
        said.update(_facts(_digest(name.encode()), value, all_of_them=True))
    return "".join(sorted(said))


def wanted(*, tags: Iterable[str] = (), **objects: Mapping[str, Json]) -> list[str]:
    """What has to stand in that text, each by itself, for a row that has all of this."""
    said = {_fact(_digest(b"tag"), tag) for tag in tags}
    for name, value in objects.items():
        if value:  # else nothing is asked of it
            said.update(_facts(_digest(name.encode()), value, all_of_them=False))
    return sorted(said)


def _facts(path: bytes, value: Json, *, all_of_them: bool) -> Iterator[str]:
    """Those of ``value``, which stands at ``path``. That it is an object follows from what is in it, if anything is."""
    if not isinstance(value, Mapping):
        yield _fact(path, value)
        return
    if all_of_them or not value:
        yield "." + _digest(path, b"an object").hex()
    for key, part in value.items():
        yield from _facts(_digest(path, _bytes(key)), part, all_of_them=all_of_them)


def _fact(path: bytes, value: Json) -> str:
    return "." + _digest(path, _told(value)).hex()


def _told(value: Json) -> bytes:
    """What only equal values of the same kind have in common. An object in a list is compared like all else."""
    match value:
        case None | bool():
            return repr(value).encode()
        case int():
            return b"int %x" % value
        case float():
            # as JSON has them: no NaN, no infinities, and one zero
            return b"float " + repr(value or 0.0).encode() if math.isfinite(value) else b"None"
        case str():
            return b"str " + _bytes(value)
        case Mapping():
            return b"{" + b"".join(sorted(_digest(_bytes(key), _told(part)) for key, part in value.items()))
        case Sequence():
            return b"[" + b"".join(_digest(_told(part)) for part in value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _digest(*parts: bytes) -> bytes:
    state = blake2b(digest_size=_BYTES)
    for part in parts:
        state.update(b"%d:" % len(part) + part)
    return state.digest()
