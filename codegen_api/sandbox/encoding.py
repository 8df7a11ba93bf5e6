"""JSON and times as the hosted API writes them.

`encode` never fails on what a request may have carried in: lone surrogates, integers beyond 64 bits and deep
nesting all have an answer. Times are naive UTC with a space (`2025-06-21 11:20:04.338398`), as Python's
`str(datetime)` prints them; the host adds neither `T` nor `Z`.
"""

import json
from datetime import UTC, datetime

import orjson
from starlette.responses import Response


def encode(value: object) -> bytes:
    """`value` as JSON bytes; NaN and infinities become null, unknown objects `{}`.

    Raises RecursionError only for values nested about a thousand levels deep.
    """
    try:
        return orjson.dumps(value, default=_empty)
    except TypeError:
        return _encode_oddities(value)


def json_response(value: object, status: int = 200) -> Response:
    """`value` as an HTTP answer."""
    return Response(encode(value), status, media_type="application/json")


def plain_response(status: int, body: bytes, content_type: str = "application/json") -> Response:
    """An answer that no route has given."""
    return Response(body, status, {"content-type": content_type})


def _encode_oddities(value: object) -> bytes:
    """The slow way, for what orjson refuses: lone surrogates, huge integers, more than 254 levels.

    The result is pure ASCII: a lone surrogate can only travel as its escape, because it has no UTF-8 form.
    """
    text = json.dumps(value, separators=(",", ":"), default=_empty)
    if "NaN" in text or "Infinity" in text:
        # The words may also stand inside strings, so they are parsed away rather than replaced.
        finite = json.loads(text, parse_constant=lambda _constant: None)
        text = json.dumps(finite, separators=(",", ":"))
    return text.encode("ascii")


def _empty(_unknown: object) -> dict[str, object]:
    """What FastAPI makes of the exception objects inside a validation error's `ctx`."""
    return {}


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as `YYYY-MM-DD HH:MM:SS.ffffff`, naive UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
