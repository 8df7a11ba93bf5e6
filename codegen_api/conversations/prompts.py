"""Words: of messages and tools, and what a host is told at the beginning of a run. Pure functions.

A host knows no system prompts, and nothing of other runs. What is not the user's own words stands in a fence that no
text inside can close: it is longer than any run of backticks there.
"""

import re
from collections.abc import Mapping, Sequence

from codegen_api.runs import Json, Step, StepKind, to_json
from codegen_api.stores import Turn

TRANSCRIPT_CHARACTERS = 200_000
"""So much of a conversation is told again, its newest part."""


def with_system_prompt(system_prompt: str | None, prompt: str) -> str:
    """The first prompt of a run whose agent has a system prompt."""
    if not system_prompt or not system_prompt.strip():
        return prompt
    fenced = _fenced(system_prompt.strip())
    return f"These are your instructions:\n\n{fenced}\n\nAnd this is what the user says:\n\n{prompt}"


def with_transcript(said: Sequence[tuple[str, str]], prompt: str) -> str:
    """The first prompt of a run that goes on where another one was. ``said``: who, and what, in order."""
    text = "\n\n".join(f"{who}: {what.strip()}" for who, what in said if what.strip())
    if not text:
        return prompt
    cut = "[...] " if len(text) > TRANSCRIPT_CHARACTERS else ""
    fenced = _fenced(cut + text[-TRANSCRIPT_CHARACTERS:])
    return f"This is what has been said and done so far:\n\n{fenced}\n\nGo on from there. The user says:\n\n{prompt}"


def is_own_prompt(turn: Turn, offset: int, step: Step) -> bool:
    """Whether the entry at ``offset`` is the prompt with which its turn began, which is shown as the user wrote it.
    Some hosts say other things before it.
    """
    return step.kind is StepKind.USER and (offset == 1 or step.text.strip() == turn.prompt.strip())


def storable_text(text: str) -> str:
    """``text`` without what no store can keep: NUL, and halves of surrogate pairs."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


def content_of(message: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    content = message.get("content")
    return [part for part in (content if isinstance(content, list | tuple) else []) if isinstance(part, Mapping)]


def text_of(message: Mapping[str, Json]) -> str:
    texts = [part.get("text") for part in content_of(message)]
    return "\n".join(text for text in texts if isinstance(text, str))


def images_of(*messages: Mapping[str, Json]) -> tuple[str, ...]:
    parts = [part for message in messages for part in content_of(message)]
    urls = [part.get("url") for part in parts if part.get("type") == "image"]
    return tuple(url for url in urls if isinstance(url, str))


def arguments_of(step: Step) -> Mapping[str, Json]:
    """What a tool was called with, as an object: clients know nothing else."""
    if step.input is None:
        return {}
    return step.input if isinstance(step.input, Mapping) else {"input": step.input}


def output_of(step: Step) -> str:
    """What a tool answered, as a text."""
    return "" if step.output is None else as_text(step.output)


def as_text(value: Json) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def _fenced(text: str) -> str:
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
