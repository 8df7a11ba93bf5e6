"""What a run will do, as data: when each entry of its log appears, changes, and when the run's status turns.

A script is immutable and knows no clock. All offsets are seconds since its start at speed 1. Its visible state
at any moment is a function of the seconds that have passed, so nothing has to run in the background and a
simulation may jump about in time. Asking costs a bisection or a division, never a walk over the log.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Fields = Mapping[str, object]
"""The JSON members of a log entry other than `agent_run_id` and `created_at`."""

FOREVER = 10**12
"""More entries than any run will show: the length of an endless log."""


@dataclass(frozen=True, slots=True)
class ListedTimes:
    """When the entries of a log appear, each offset written down; they never decrease."""

    offsets: Sequence[float]

    def count(self, elapsed: float) -> int:
        """How many entries are there after `elapsed` seconds."""
        return bisect_right(self.offsets, elapsed)

    def at(self, index: int) -> float:
        """The offset at which the entry `index`, counted from 0, appears."""
        return self.offsets[index]


@dataclass(frozen=True, slots=True)
class PacedTimes:
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


def at_once(total: int) -> PacedTimes:
    """`total` entries, all there from the start."""
    return PacedTimes(opening=0.0, first=0.0, every=1.0, batch=max(total, 1), total=total)


@dataclass(frozen=True, slots=True)
class Amendment:
    """At the offset `at`, an entry that is already there gets other `fields`; its members not named here stay."""

    at: float
    fields: Fields


@dataclass(frozen=True, slots=True)
class StatusChange:
    """At the offset `at` the run's status becomes `status`; what else it then carries replaces what it had, if given.

    `pull_request` is one that the agent opened; `created_at` is added when it is shown.
    """

    at: float
    status: str | None
    result: str | None = None
    summary: str | None = None
    pull_request: Fields | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The timed steps of one stretch of a run.

    `entry` makes the fields of the entry with a given index, counted from 0, and must always make the same.
    `changes` are in the order of their offsets, and `amendments` by the index of their entry.
    """

    times: ListedTimes | PacedTimes
    entry: Callable[[int], Fields]
    changes: tuple[StatusChange, ...] = ()
    amendments: Mapping[int, Amendment] = field(default_factory=dict)


def listed(entries: Sequence[Fields], *changes: StatusChange) -> Script:
    """A script that shows `entries` at once, and then only changes the status."""
    kept = tuple(entries)
    return Script(at_once(len(kept)), kept.__getitem__, changes)


_EMPTY = dict.fromkeys(("tool_name", "message_type", "thought", "observation", "tool_input", "tool_output"))


def entry_fields(message_type: str, **members: object) -> Fields:
    """An entry: all its members are always there, null where unused."""
    return {**_EMPTY, "message_type": message_type, **members}


def user_message(prompt: str, images: int = 0) -> Fields:
    """The first entry of each stretch; contrary to the host's guide it has a tool's name, input and output.

    The one seen on the wire had neither `thought` nor `observation`.
    """
    return {
        "tool_name": "user_input",
        "message_type": "USER_MESSAGE",
        "tool_input": {"message": prompt, "images": images},
        "tool_output": {"status": "received", "content": prompt},
    }
