"""What a run plays: the scenarios of scenarios.toml, picked by `metadata.scenario`, and the run of example.toml.

The first of the files says how they are written. They are read when they are first needed, and their gaps are filled
with what is known of the run.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .answers import Refusal
from .script import Fields, LongLog, Script, StatusChange, TimedEntry, entry_fields, user_message

EXAMPLE_ID = 12345

FOREVER = 10**12
"""More entries than any run will show: the length of an endless log."""

ECHOED = 160
"""How many characters of a prompt the agent repeats in its plan and answer."""

_GAP = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Cue:
    """What a scenario is told before it is played.

    `delay` is how long, in seconds at speed 1, the status still shows the past; 0 for a new run. `segment` counts
    from 0: it is the number of times the run was started before.
    """

    run_id: int
    prompt: str
    images: int = 0
    delay: float = 0.0
    segment: int = 0

    def texts(self) -> dict[str, object]:
        """What may be named in the texts of a scenario."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """One start of a scenario, as the file has it. `opening` is when the message of a new run appears."""

    entries: Sequence[Mapping[str, Any]] = ()
    stream: Mapping[str, Any] | None = None
    end: Mapping[str, Any] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    opening: float = 0.2
    silent: bool = False

    def script(self, cue: Cue) -> Script:
        """The script for one run: everything but the user's message is put off by the cue's delay."""
        texts = cue.texts()
        for name, text in self.texts.items():
            texts[name] = _filled(text, texts)
        changes = [StatusChange(cue.delay, "ACTIVE")]  # a new run is born with it
        if self.end is not None:
            changes.append(StatusChange(**{**_filled(self.end, texts), "at": cue.delay + self.end["at"]}))
        message = TimedEntry(0.0 if cue.segment else self.opening, user_message(cue.prompt, cue.images))
        if self.stream is not None:
            closing = entry_fields("FINAL_ANSWER", observation=changes[-1].result)
            stream = {**self.stream, "first": cue.delay + self.stream["first"]}
            return Script(_long_log(message, closing, **stream), tuple(changes))

        def entry(written: Mapping[str, Any]) -> TimedEntry:
            later = written.get("later")
            amended = None if later is None else TimedEntry(cue.delay + later["at"], _members(later, texts))
            return TimedEntry(cue.delay + written["at"], entry_fields(**_members(written, texts)), amended)

        return Script([] if self.silent else [message, *map(entry, self.entries)], tuple(changes))


def _filled(value: Any, texts: Mapping[str, object]) -> Any:
    """`value` with its gaps filled, once: what a user wrote in braces stays."""
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
    message: TimedEntry, closing: Fields, *, first: float, every: float, batch: int, total: int = FOREVER
) -> LongLog:
    """The message, then from `first` on a `batch` of entries that nobody reads closely every so many seconds."""

    def entry(index: int) -> TimedEntry:
        if index == 0:
            return message
        at = first + (index - 1) // batch * every
        return TimedEntry(at, closing if index + 1 == total else _small_entry(index))

    return LongLog(total, entry)


def _small_entry(index: int) -> Fields:
    if index % 10 == 0:
        return entry_fields("PLAN_EVALUATION", thought=f"Step {index}: so far so good.")
    return entry_fields(
        "ACTION",
        tool_name="view_file",
        observation=f"step {index}",
        tool_input={"path": f"src/module_{index % 97}.py", "start_line": index},
        tool_output={"lines": index % 50 + 1},
    )


@cache
def _read(name: str) -> Mapping[str, Any]:
    with Path(__file__).with_name(name).open("rb") as file:
        return tomllib.load(file)


@cache
def _scenarios() -> Mapping[str, Sequence[Outline]]:
    written = _read("scenarios.toml")
    return {name: [Outline(**start) for start in starts] for name, starts in written.items() if name != "refused"}


def scenario_names() -> list[str]:
    return [*_scenarios(), *_read("scenarios.toml")["refused"]]


def check_not_refused(name: object) -> None:
    """Raise the Refusal of a scenario that makes the creation of a run fail."""
    refused = _read("scenarios.toml")["refused"]
    if isinstance(name, str) and name in refused:
        raise Refusal(**refused[name])


def scenario_script(name: object, cue: Cue) -> Script:
    """What the scenario called `name`, which may be anything a client put into its metadata, does at this start."""
    default = _scenarios()["default"]
    starts = _scenarios().get(name, default) if isinstance(name, str) else default
    return starts[min(cue.segment, len(starts) - 1)].script(cue)


def example_script() -> Script:
    """What happened in run 12345."""
    written = _read("example.toml")
    outline = Outline(**{name: each for name, each in written.items() if name != "prompt"})
    return outline.script(Cue(EXAMPLE_ID, written["prompt"]))
