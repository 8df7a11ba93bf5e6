"""What a run will do, as data: scripts, and the scenarios that they are made from.

A script says when each entry of a log appears and changes, and when the run's status turns. It is immutable and knows
no clock: all offsets are seconds since its start at speed 1. Its visible state at any moment is a function of the
seconds that have passed, so nothing has to run in the background and a simulation may jump about in time. Asking costs
a bisection, never a walk over the log.

The scenarios of scenarios.toml, which says how they are written, are picked by `metadata.scenario`; example.toml has
another. They are read when they are first needed, and their gaps are filled with facts of the run.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .answers import REFUSED

JsonObject = Mapping[str, object]


class TimedEntry(NamedTuple):
    """An entry that appears at the offset `at`; `fields` are its members except `agent_run_id` and `created_at`.

    At the offset of `later`, if there is one, the members in it change.
    """

    at: float
    fields: JsonObject
    later: "TimedEntry | None" = None


@dataclass(frozen=True, slots=True)
class LongLog:
    """A log too long to be kept: `entry` makes each entry when it is read, and must always make the same."""

    length: int
    entry: Callable[[int], TimedEntry]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TimedEntry:
        return self.entry(index)


@dataclass(frozen=True, slots=True)
class StatusChange:
    """At the offset `at` the run's status becomes `status`. A result and a summary, if given, replace the run's.

    `pull_request` is one that the agent opened; `created_at` is added when it is shown.
    """

    at: float
    status: str | None
    result: str | None = None
    summary: str | None = None
    pull_request: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The log of one stretch of a run, and the changes of its status, both in the order of their offsets."""

    entries: Sequence[TimedEntry] | LongLog = ()
    changes: tuple[StatusChange, ...] = ()


def at_once(entries: Sequence[JsonObject]) -> Script:
    """A script that shows `entries` from the start and does nothing more."""
    return Script([TimedEntry(0.0, fields) for fields in entries])


_EMPTY = dict.fromkeys(("tool_name", "message_type", "thought", "observation", "tool_input", "tool_output"))


def entry_fields(message_type: str, **members: object) -> JsonObject:
    """An entry: all its members are always there, null where unused."""
    return {**_EMPTY, "message_type": message_type, **members}


def user_message(prompt: str, images: int) -> JsonObject:
    """The first entry of each stretch; contrary to the host's guide it has a tool's name, input and output.

    The one seen on the wire had neither `thought` nor `observation`.
    """
    return {
        "tool_name": "user_input",
        "message_type": "USER_MESSAGE",
        "tool_input": {"message": prompt, "images": images},
        "tool_output": {"status": "received", "content": prompt},
    }


# -- scenarios --

EXAMPLE_ID = 12345

FOREVER = 10**12
"""More entries than any run will show: the length of an endless log."""

ECHOED = 160
"""How many characters of a prompt the agent repeats in its plan and answer."""

_GAP = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Cue:
    """What a scenario needs to know of the run that plays it.

    The status still shows the past for `delay` seconds at speed 1; 0 for a new run. `segment` is the number of times
    that the run was started before.
    """

    run_id: int
    prompt: str
    images: int = 0
    delay: float = 0.0
    segment: int = 0

    def texts(self) -> dict[str, object]:
        """What the gaps in a scenario's texts may name."""
        line = " ".join(self.prompt.split())
        echo = line if len(line) <= ECHOED else f"{line[: ECHOED - 1]}…"
        return {
            "prompt": echo,
            "short_prompt": echo[:60],
            "run": self.run_id,
            "start": self.segment + 1,
            "number": self.run_id % 1000 + self.segment,
            "pull_request_id": self.run_id * 10 + self.segment,
        }


def _script(written: Mapping[str, Any], cue: Cue) -> Script:
    """The script of one start, as a file has it: everything but the user's message is put off by the cue's delay."""
    texts = cue.texts()
    for name, text in written.get("texts", {}).items():
        texts[name] = _filled(text, texts)
    changes = [StatusChange(cue.delay, "ACTIVE")]  # a new run is born with it
    if end := written.get("end"):
        changes.append(StatusChange(**{**_filled(end, texts), "at": cue.delay + end["at"]}))
    opening = 0.0 if cue.segment else written.get("opening", 0.2)
    message = TimedEntry(opening, user_message(cue.prompt, cue.images))
    if stream := written.get("stream"):
        closing = entry_fields("FINAL_ANSWER", observation=changes[-1].result)
        return Script(_long_log(message, closing, **{**stream, "first": cue.delay + stream["first"]}), tuple(changes))

    def entry(written: Mapping[str, Any]) -> TimedEntry:
        later = written.get("later")
        amended = None if later is None else TimedEntry(cue.delay + later["at"], _members(later, texts))
        return TimedEntry(cue.delay + written["at"], entry_fields(**_members(written, texts)), amended)

    entries = [] if written.get("silent") else [message, *map(entry, written.get("entries", ()))]
    return Script(entries, tuple(changes))


def _filled(value: Any, texts: Mapping[str, object]) -> Any:
    """`value` with its gaps filled, but not gaps in what is filled in: a user's text in braces stays."""
    if isinstance(value, str):
        whole = _GAP.fullmatch(value)
        return texts[whole[1]] if whole else _GAP.sub(lambda gap: str(texts[gap[1]]), value)
    if isinstance(value, dict):
        return {name: _filled(each, texts) for name, each in value.items()}
    return [_filled(each, texts) for each in value] if isinstance(value, list) else value


def _members(written: Mapping[str, Any], texts: Mapping[str, object]) -> dict[str, Any]:
    """The members of an entry, without what the file says about its times."""
    return {name: _filled(each, texts) for name, each in written.items() if name not in ("at", "later")}


def _long_log(
    message: TimedEntry, closing: JsonObject, *, first: float, every: float, batch: int, total: int = FOREVER
) -> LongLog:
    """The message, then from `first` on a `batch` of entries that nobody reads closely every so many seconds."""

    def entry(index: int) -> TimedEntry:
        if index == 0:
            return message
        if index + 1 == total:
            fields = closing
        elif index % 10 == 0:
            fields = entry_fields("PLAN_EVALUATION", thought=f"Step {index}: so far so good.")
        else:
            fields = entry_fields(
                "ACTION",
                tool_name="view_file",
                observation=f"step {index}",
                tool_input={"path": f"src/module_{index % 97}.py", "start_line": index},
                tool_output={"lines": index % 50 + 1},
            )
        return TimedEntry(first + (index - 1) // batch * every, fields)

    return LongLog(total, entry)


@cache
def _read(name: str) -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text("utf-8"))


def scenario_names() -> list[str]:
    return [*_read("scenarios.toml"), *REFUSED]


def scenario_script(name: object, cue: Cue) -> Script:
    """What the scenario called `name`, which may be anything a client put into its metadata, does at this start."""
    scenarios = _read("scenarios.toml")
    starts = scenarios[name if isinstance(name, str) and name in scenarios else "default"]
    return _script(starts[min(cue.segment, len(starts) - 1)], cue)


def example_script() -> Script:
    """What happened in run 12345."""
    written = _read("example.toml")
    return _script(written, Cue(EXAMPLE_ID, written["prompt"]))
