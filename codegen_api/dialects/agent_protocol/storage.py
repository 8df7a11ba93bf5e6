"""What is kept for clients, and how large it may be."""

from collections.abc import Mapping

from codegen_api.conversations import checked
from codegen_api.errors import Detail, Rejected
from codegen_api.runs import Json, to_json
from codegen_api.stores import LONGEST
from codegen_api.worker_thread import is_large

LARGEST = 256 * 1024
"""Bytes of an object that is kept, as JSON: many of them are read at a time."""


def keepable(**given: Json) -> None:
    """What a client wants kept, by the name of its field.

    Raises:
        Rejected: it cannot be, or it is too large.
    """
    for name, value in given.items():
        large = isinstance(value, Mapping) and is_large(value)
        if not large:
            checked(value)
        if large or (isinstance(value, Mapping) and len(to_json(value)) > LARGEST):
            raise Rejected(details=[Detail(("body", name), f"Must have at most {LARGEST} bytes as JSON.", "too_long")])


def nameable(**given: str) -> None:
    """Ids and keys that a client has chosen, by the name of their field.

    Raises:
        Rejected: one cannot be kept, or is too long.
    """
    for name, text in given.items():
        checked(text)
        if len(text.encode()) > LONGEST:
            raise Rejected(details=[Detail(("body", name), f"Must have at most {LONGEST} bytes.", "string_too_long")])
