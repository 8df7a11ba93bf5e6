"""What a run will do, as data: when each entry of its log appears, changes, and when the run's status turns.

A script is immutable and knows no clock. All offsets are seconds since its start at speed 1. Its visible state
at any moment is a function of the seconds that have passed, so nothing has to run in the background and a
simulation may jump about in time. Asking costs a bisection, never a walk over the log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Fields = Mapping[str, object]
"""The JSON members of a log entry other than `agent_run_id` and `created_at`."""


class TimedEntry(NamedTuple):
    """At the offset `at` an entry appears. If there is a `later`, it then gets other values for the members in it."""

    at: float
    fields: Fields
    later: "TimedEntry | None" = None


@dataclass(frozen=True, slots=True)
class LongLog:
    """A log too long to be kept: each is made when it is looked at, and must always be made the same."""

    length: int
    entry: Callable[[int], TimedEntry]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TimedEntry:
        return self.entry(index)


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
    """The log of one stretch of a run, and the changes of its status, both in the order of their offsets."""

    entries: Sequence[TimedEntry] | LongLog = ()
    changes: tuple[StatusChange, ...] = ()


def at_once(entries: Sequence[Fields]) -> Script:
    """A script that shows `entries` from the start and does nothing more."""
    return Script([TimedEntry(0.0, fields) for fields in entries])


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
