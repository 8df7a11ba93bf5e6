"""What is kept for clients, and how large it may be."""

from collections.abc import Mapping

from codegen_api.conversations import checked
from codegen_api.errors import InvalidRequest
from codegen_api.runs import Json, to_json

SIZES: Mapping[str, int] = {
    "name": 2 * 1024,
    "display_name": 2 * 1024,
    "title": 2 * 1024,
    "model_id": 2 * 1024,
    "default_model_id": 2 * 1024,
    "description": 10 * 1024,
    "system_prompt": 1024 * 1024,
    "tags": 16 * 1024,
    "controls": 64 * 1024,
    "metadata": 64 * 1024,
}
"""Bytes that a field may have: of its text, or of its JSON."""


def keepable(**given: Json) -> None:
    """What a client wants kept, by the name of its field.

    Raises:
        InvalidRequest: it is too large.
        Rejected: it cannot be kept.
    """
    for name, value in given.items():
        checked(value)
        size = len(value.encode()) if isinstance(value, str) else 0 if value is None else len(to_json(value))
        if size > SIZES[name]:
            raise InvalidRequest(f"{name} must have at most {SIZES[name]} bytes.")
