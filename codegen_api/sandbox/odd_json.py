"""Answers that are still JSON to a lenient reader, yet not what anybody expects.

Every entry of a log page gets one oddity, chosen by its position in the log, so that reading it again shows the
same. Every object answer loses its status and gains unknown members. NaN and 1e400 go beyond the JSON standard;
Python's parser and JavaScript's disagree about them, which is the point.
"""

import json
from functools import reduce
from urllib.parse import parse_qs

DEPTH = 300
"""Levels of nesting: fine for a parser, more than orjson writes."""

_HUGE = "\u0000huge\u0000"
"""Stands for the number 1e400 until the text is written: no Python value prints that way."""

ODDITIES: tuple[dict[str, object], ...] = (
    {"tool_output": {"score": float("nan"), "low": float("-inf")}},
    {"tool_output": {"size": _HUGE, "count": 10**40}},
    {"thought": "half a pair: \ud800, the other half: \udc00"},
    {"observation": {"nested": reduce(lambda inner, _: [inner], range(DEPTH), list[object]())}},
    {"observation": ["a", "list", {"of": "things"}, None]},
    {"tool_output": "plain text, with a line\nbreak and a separator \u2028"},
    {"id": "log-1", "x_tokens": {"in": 812, "out": 77}},
    {"message_type": "HOLOGRAM_RENDERED"},
    {"message_type": None, "created_at": None, "tool_name": None},
)
"""Members that an entry gets, or gets anew."""


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
            entry.update(ODDITIES[position % len(ODDITIES)])
    return json.dumps(answer, separators=(",", ":")).replace(json.dumps(_HUGE), "1e400").encode("ascii")


def _positions(query: str, total: int) -> range:
    """The places in the log, from 0, of the entries of a page that was answered and so had a valid query."""
    values = parse_qs(query)
    skip = int(values.get("skip", ["0"])[-1])
    if values.get("reverse", ["false"])[-1].lower() in ("true", "1", "on", "t", "y", "yes"):
        return range(total - 1 - skip, -1, -1)
    return range(skip, total)
