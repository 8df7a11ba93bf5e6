"""Answers that are still JSON to a lenient reader, yet not what anybody expects.

Every entry of a log page gets one oddity, chosen by its position in the log, so that reading it again shows the
same. Every object answer loses its status and gains unknown members. NaN and 1e400 go beyond the JSON standard;
Python's parser and JavaScript's disagree about them, which is the point.
"""

import json
from collections.abc import Callable
from urllib.parse import parse_qs

DEPTH = 300
"""Levels of nesting: fine for a parser, more than orjson writes."""

_HUGE = "\u0000huge\u0000"
"""Stands for the number 1e400 until the text is written: no Python value prints that way."""

Entry = dict[str, object]


def _nan(entry: Entry) -> None:
    entry["tool_output"] = {"score": float("nan"), "low": float("-inf")}


def _huge(entry: Entry) -> None:
    entry["tool_output"] = {"size": _HUGE, "count": 10**40}


def _surrogate(entry: Entry) -> None:
    entry["thought"] = "half a pair: \ud800, the other half: \udc00"


def _deep(entry: Entry) -> None:
    nested: list[object] = []
    for _ in range(DEPTH):
        nested = [nested]
    entry["observation"] = {"nested": nested}


def _list_observation(entry: Entry) -> None:
    entry["observation"] = ["a", "list", {"of": "things"}, None]


def _text_output(entry: Entry) -> None:
    entry["tool_output"] = "plain text, with a line\nbreak and a separator \u2028"


def _unknown_members(entry: Entry) -> None:
    entry["id"] = "log-1"
    entry["x_tokens"] = {"in": 812, "out": 77}


def _unknown_type(entry: Entry) -> None:
    entry["message_type"] = "HOLOGRAM_RENDERED"


def _null_members(entry: Entry) -> None:
    entry.update(message_type=None, created_at=None, tool_name=None)


ODDITIES: tuple[Callable[[Entry], None], ...] = (
    _nan,
    _huge,
    _surrogate,
    _deep,
    _list_observation,
    _text_output,
    _unknown_members,
    _unknown_type,
    _null_members,
)


def odd(body: bytes, query: str) -> bytes:
    """The real answer `body` to a request with `query`, made odd; what is not a JSON object stays as it is."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    if not isinstance(answer, dict):
        return body
    if "status" in answer:
        answer["status"] = None
    answer["x_unknown"] = {"nested": [1, 2.5, None, {"deep": True}]}
    logs = answer.get("logs")
    if isinstance(logs, list):
        for entry, position in zip(logs, _positions(query, answer["total_logs"]), strict=False):
            ODDITIES[position % len(ODDITIES)](entry)
    return json.dumps(answer, separators=(",", ":")).replace(json.dumps(_HUGE), "1e400").encode("ascii")


def _positions(query: str, total: int) -> range:
    """The places in the log, from 0, of the entries of a page that was answered and so had a valid query."""
    values = parse_qs(query)
    skip = int(values.get("skip", ["0"])[-1])
    if values.get("reverse", ["false"])[-1].lower() in ("true", "1", "on", "t", "y", "yes"):
        return range(total - 1 - skip, -1, -1)
    return range(skip, total)
