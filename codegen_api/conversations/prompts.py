"""What a host is told at the beginning of a run: it knows no system prompts, and nothing of other runs. Pure functions.

What is not the user's own words stands in a fence that no text inside can close: it is longer than any run of backticks
there.
"""

import re
from collections.abc import Sequence

from codegen_api.runs import Step, StepKind
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


def _fenced(text: str) -> str:
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
