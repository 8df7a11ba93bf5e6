"""What a run will do, as data: when each entry of its log appears, changes, and when the run's status turns.

A script is immutable and knows no clock. All offsets are seconds since its start at speed 1. Its visible state
at any moment is a function of the seconds that have passed, so nothing has to run in the background and a
simulation may jump about in time. Asking costs a bisection or a division, never a walk over the log.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Fields = Mapping[str, object]
"""The JSON members of a log entry other than `agent_run_id` and `created_at`."""

FOREVER = 10**12
"""More entries than any run will show: the length of an endless log."""


class Times(Protocol):
    """When the entries of a log appear: offsets that never decrease."""

    def count(self, elapsed: float) -> int:
        """How many entries are there after `elapsed` seconds."""
        ...

    def at(self, index: int) -> float:
        """The offset at which the entry `index`, counted from 0, appears."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """Each offset written down."""

    offsets: Sequence[float]

    def count(self, elapsed: float) -> int:
        return bisect_right(self.offsets, elapsed)

    def at(self, index: int) -> float:
        return self.offsets[index]


@dataclass(frozen=True, slots=True)
class Paced:
    """One entry at `opening`, then from `first` on `batch` entries every `every` seconds, `total` in all."""

    opening: float
    first: float
    every: float
    batch: int
    total: int = FOREVER

    def count(self, elapsed: float) -> int:
        if elapsed < self.opening:
            return 0
        if elapsed < self.first:
            return min(1, self.total)
        # The guard against rounding keeps `count` and `at` in step: an entry is there at its own offset.
        batches = int((elapsed - self.first) / self.every + 1e-9) + 1
        return min(1 + batches * self.batch, self.total)

    def at(self, index: int) -> float:
        if index == 0:
            return self.opening
        return self.first + ((index - 1) // self.batch) * self.every


def at_once(total: int) -> Times:
    """`total` entries, all there from the start."""
    return Paced(opening=0.0, first=0.0, every=1.0, batch=max(total, 1), total=total)


@dataclass(frozen=True, slots=True)
class Amendment:
    """At `offset`, an entry that is already there gets other `fields`; its members not named here stay."""

    offset: float
    fields: Fields


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull request the agent opened. `created_at` is added when it is shown."""

    id: int
    title: str
    url: str
    head_branch_name: str


@dataclass(frozen=True, slots=True)
class Turn:
    """At `offset` the run's status becomes `status`; what else it then carries replaces what it had, if given."""

    offset: float
    status: str | None
    result: str | None = None
    summary: str | None = None
    pull_requests: tuple[PullRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """The timed steps of one stretch of a run.

    `entry` makes the fields of the entry with a given index, counted from 0, and must always make the same.
    `amendments` are those of each index, by offset; `turns` are in the order of their offsets.
    """

    times: Times
    entry: Callable[[int], Fields]
    turns: tuple[Turn, ...] = ()
    amendments: Mapping[int, tuple[Amendment, ...]] = field(default_factory=dict)

    def amendments_by(self, index: int, elapsed: float) -> tuple[Amendment, ...]:
        """The amendments of an entry that have happened after `elapsed` seconds."""
        every = self.amendments.get(index, ())
        return tuple(each for each in every if each.offset <= elapsed)


def listed(entries: Sequence[Fields], *turns: Turn) -> Script:
    """A script that shows `entries` at once, and then only turns the status."""
    kept = tuple(entries)
    return Script(at_once(len(kept)), kept.__getitem__, turns)


# The kinds of entry, with the members that each is documented to carry. All eight members are always there, null
# where unused, except in a user's message: the one seen on the wire had neither `thought` nor `observation`.


def _entry(
    message_type: str,
    *,
    tool_name: str | None = None,
    thought: str | None = None,
    observation: Fields | str | None = None,
    tool_input: Fields | None = None,
    tool_output: Fields | None = None,
) -> Fields:
    return {
        "tool_name": tool_name,
        "message_type": message_type,
        "thought": thought,
        "observation": observation,
        "tool_input": tool_input,
        "tool_output": tool_output,
    }


def user_message(prompt: str, images: int = 0) -> Fields:
    """The first entry of each stretch; contrary to the host's guide it has a tool's name, input and output."""
    return {
        "tool_name": "user_input",
        "message_type": "USER_MESSAGE",
        "tool_input": {"message": prompt, "images": images},
        "tool_output": {"status": "received", "content": prompt},
    }


def plan(thought: str) -> Fields:
    """PLAN_EVALUATION: reasoning, or a plan brought up to date."""
    return _entry("PLAN_EVALUATION", thought=thought)


def action(
    tool_name: str,
    tool_input: Fields,
    tool_output: Fields | None,
    *,
    thought: str | None = None,
    observation: Fields | str | None = None,
) -> Fields:
    """ACTION: one call of a tool; `tool_output` is None while the tool is still at work."""
    return _entry(
        "ACTION",
        tool_name=tool_name,
        thought=thought,
        observation=observation,
        tool_input=tool_input,
        tool_output=tool_output,
    )


def error(observation: Fields | str, tool_name: str | None = None) -> Fields:
    """ERROR: something went wrong and the run goes on; only the status tells whether a run failed."""
    return _entry("ERROR", tool_name=tool_name, observation=observation)


def answer(observation: str) -> Fields:
    """FINAL_ANSWER: the text that also becomes the run's result. Not the end: that is the status."""
    return _entry("FINAL_ANSWER", observation=observation)
