"""The texts of messages and tools, and the first prompt of a run. Pure functions.

Hosts have no system prompts, and a run knows nothing of other runs. So the first prompt has both, in fences: each is
longer than any run of backticks inside it, so that no text can close it.
"""

import re
from collections.abc import Mapping, Sequence

from codegen_api.runs import Json, Step, StepKind, to_json
from codegen_api.stores import Turn

TRANSCRIPT_CHARACTERS = 200_000
"""How much of a transcript is sent: its newest part."""


def with_system_prompt(system_prompt: str | None, prompt: str) -> str:
    """The first prompt of a run whose agent has a system prompt."""
    if not system_prompt or not system_prompt.strip():
        return prompt
    fenced = _fenced(system_prompt.strip())
    return f"These are your instructions:\n\n{fenced}\n\nAnd this is what the user says:\n\n{prompt}"


def with_transcript(said: Sequence[tuple[str, str]], prompt: str) -> str:
    """The first prompt of a run that continues another one. ``said`` are pairs of speaker and text, in order."""
    text = "\n\n".join(f"{who}: {what.strip()}" for who, what in said if what.strip())
    if not text:
        return prompt
    cut = "[...] " if len(text) > TRANSCRIPT_CHARACTERS else ""
    fenced = _fenced(cut + text[-TRANSCRIPT_CHARACTERS:])
    return f"This is what has been said and done so far:\n\n{fenced}\n\nGo on from there. The user says:\n\n{prompt}"


def is_own_prompt(turn: Turn, offset: int, step: Step) -> bool:
    """Whether the entry at ``offset`` is the turn's own prompt, of which clients have the user's original. Some hosts
    say other things before it.
    """
    return step.kind is StepKind.USER and (offset == 1 or step.text.strip() == turn.prompt.strip())


def storable_text(text: str) -> str:
    """``text`` with NUL and halves of surrogate pairs replaced, which no store can keep."""
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
    """The input of a tool as an object, because clients accept nothing else."""
    if step.input is None:
        return {}
    return step.input if isinstance(step.input, Mapping) else {"input": step.input}


def output_of(step: Step) -> str:
    """The output of a tool as text."""
    return "" if step.output is None else as_text(step.output)


def as_text(value: Json) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def _fenced(text: str) -> str:
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
