"""What a token looks like: which authority has to be asked is decided by its form."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any


def looks_like_jwt(token: str) -> bool:
    """Whether this has the form of a JWT, whether signed, unsigned or encrypted."""
    parts = token.split(".")
    return len(parts) in (3, 5) and "alg" in json_object(decoded(parts[0]))


def decoded(part: str) -> bytes:
    """Decode a part of a token; empty if it is not base64."""
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""


def json_object(said: bytes) -> Mapping[str, Any]:
    """The JSON object in a part of a token; empty if there is none."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
