"""What is shown of a log entry, by its kind. The fields of Codegen's entries are known. In those of other hosts, the
text, the tool, its input and its output are searched for where such hosts have them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KINDS = {
    "error": re.compile(r"^ERROR$|UNREADABLE|_FAILED$|Error(Event)?$|failed$", re.IGNORECASE),
    "message": re.compile(r"^(ROLE_)?USER|human|prompted$", re.IGNORECASE),
    "answer": re.compile(
        r"FINAL_ANSWER|text\.ended$|^ai$|^assistant$|^(ROLE_)?agent$|MessageEvent|artifact", re.IGNORECASE
    ),
    "thought": re.compile(r"PLAN_EVALUATION|reason|thought|think", re.IGNORECASE),
    "tool": re.compile(r"ACTION|tool|observation", re.IGNORECASE),
}
OLD, NEW = ("old", "old_string", "old_str"), ("new", "new_string", "new_str", "content")
TELLING = ("command", "path", "query", "title", "message")


@dataclass(frozen=True, slots=True)
class ShownEntry:
    """What is shown of an entry: its ``kind``, a ``title`` on one line, and ``parts``, pairs of a name and a text."""

    kind: str
    title: str
    parts: tuple[tuple[str, str], ...]


def shown_entry(data: Mapping[str, Any]) -> ShownEntry:
    """What to show of an entry. The texts are not made harmless yet."""
    kind = _kind(data)
    if kind == "tool":
        return _tool(data)
    inner = _object(data.get("data"))
    said = _text(data, inner, kind)
    if kind == "other" or not said:
        word = data.get("message_type") or data.get("type") or data.get("kind") or "entry"
        return ShownEntry(kind, _line(word), (("output", said or _shown(dict(data))),))
    return ShownEntry(kind, "" if kind == "message" else _line(data.get("tool_name") or ""), ((kind, said),))


def _kind(data: Mapping[str, Any]) -> str:
    names = (data.get(name) for name in ("message_type", "role", "kind", "type"))
    word = str(next((name for name in names if name is not None), "artifact" if data.get("artifactId") else ""))
    if data.get("source") == "user":
        return "message"
    if data.get("tool_calls"):
        return "tool"
    found = next((kind for kind, words in KINDS.items() if words.search(word)), None)
    return found or ("tool" if data.get("tool_name") else "other")


def _text(data: Mapping[str, Any], inner: Mapping[str, Any], kind: str) -> str:
    names = ("observation", "thought", "content", "text")
    looked = [*(data.get(name) for name in names), inner.get("text"), inner.get("error"), data.get("parts")]
    looked += [_object(data.get("llm_message")).get("content"), data.get("message"), data.get("detail")]
    if kind == "message":
        given = _object(data.get("tool_output")).get("content"), _object(inner.get("prompt")).get("text")
        looked = [data.get("tool_input"), *given, *looked]
    texts = (_words(value) for value in looked)
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _tool(data: Mapping[str, Any]) -> ShownEntry:
    inner, called = _object(data.get("data")), _object(data.get("gateway.call"))
    calls = data.get("tool_calls")
    call = _object(calls[0]) if isinstance(calls, list) and calls else {}
    named = (data.get("tool_name"), inner.get("tool"), called.get("tool"), call.get("name"), data.get("name"))
    name = _line(next((each for each in named if each), None) or data.get("type") or data.get("kind") or "tool")
    inputs = (data.get("tool_input"), inner.get("input"), called.get("input"), call.get("args"), data.get("action"))
    given = _first(*inputs)
    output = _first(
        data.get("tool_output"), inner.get("content"), inner.get("output"), inner.get("result"), data.get("content")
    )
    seen = data.get("observation")
    seen = seen.get("content", seen) if isinstance(seen, dict) else seen
    short, fields = _short(given)
    thought = data.get("thought")
    parts = [
        ("thought", thought if isinstance(thought, str) else ""),
        *_changes(_object(given)),
        ("input", _shown(fields)),
        ("output", _shown(output)),
        ("output", "" if seen == output else _shown(seen)),
    ]
    return ShownEntry("tool", f"{name}  {short}".strip(), tuple(part for part in parts if part[1].strip()))


def _short(given: object) -> tuple[str, object]:
    """The most telling field of an input, on one line, and the other fields."""
    if not isinstance(given, dict):
        return ("", given) if isinstance(given, str) and "\n" in given else (_line(_shown(given)), None)
    rest = {key: value for key, value in given.items() if key not in (*OLD, *NEW)}
    for key in (*TELLING, *rest):
        value = rest.get(key)
        if isinstance(value, str) and value.strip():
            if "\n" not in value.strip():
                del rest[key]
            return _line(value), rest
    return "", rest


def _changes(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The removed and added lines, if this changes a file."""
    for names, what, sign in ((OLD, "gone", "-"), (NEW, "come", "+")):
        text = next((given[name] for name in names if isinstance(given.get(name), str)), "")
        if text:
            yield what, "\n".join(f"{sign} {line}" for line in text.split("\n"))


def _shown(value: object) -> str:
    """Any value as text; for an object, a line for each field with a value."""
    value = _joined(value)
    if isinstance(value, dict):
        fields = ((name, _joined(inner)) for name, inner in value.items())
        return "\n".join(f"{name}: {_json(each)}" for name, each in fields if each not in (None, "", [], {}))
    return "" if value in (None, "", []) else _json(value)


def _words(value: object) -> object:
    """The message, if this is an error or the like."""
    return value["message"] if isinstance(value, dict) and isinstance(value.get("message"), str) else _joined(value)


def _joined(value: object) -> object:
    """The texts, if this is a list of parts with texts."""
    if isinstance(value, list) and value and all(isinstance(_object(part).get("text"), str) for part in value):
        return "\n".join(part["text"] for part in value)
    return value


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(value: object) -> str:
    """The first line, as a title."""
    return _json(value).strip()[:300].split("\n")[0]


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)
