"""What is written to Redis, and read there: JSON, and behind it the JSON of entries as it is."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from codegen_api.brokers import Looked
from codegen_api.runs import Changed, Cursor, LogEntry, Run, RunRef, RunStatus, WaitReason, from_json, to_json


class StreamItem(NamedTuple):
    """One thing in the stream of a run: an entry at a position, that the log begins behind it, or a description.

    ``at``: when the host was asked for it, by the clock of Redis.
    """

    at: float
    position: Cursor
    entry: LogEntry | None
    changed: Changed | None


def entry_item(position: Cursor, at: float, entry: LogEntry) -> bytes:
    return to_json(["e", position, at, *_facts(entry)]) + b"\n" + entry.json


def opening_item(after: Cursor, at: float) -> bytes:
    return to_json(["o", after, at])


def changed_item(changed: Changed, at: float) -> bytes:
    return to_json(["c", changed.length, at, changed.revision, _run(changed.run)])


def item(text: bytes, ref: RunRef) -> StreamItem:
    """Of a description, ``seen`` is still by the clock of Redis."""
    head, _, rest = text.partition(b"\n")
    said: Any = from_json(head)
    match said:
        case ["e", position, at, *facts]:
            return StreamItem(at, position, _entry(facts, rest), None)
        case ["o", after, at]:
            return StreamItem(at, after, None, None)
        case ["c", length, at, revision, run]:
            return StreamItem(at, 0, None, Changed(read_run(run, ref), length, at, revision))
    raise ValueError("not an item")


def page(entries: Sequence[LogEntry]) -> bytes:
    return b"\n".join(part for entry in entries for part in (to_json(_facts(entry)), entry.json))


def read_page(text: bytes) -> list[LogEntry]:
    lines = text.split(b"\n")
    return [_entry(from_json(facts), rest) for facts, rest in zip(lines[::2], lines[1::2], strict=True)]


def looked(look: Looked, offset: float) -> bytes:
    """``offset``: what the clock of Redis is ahead of ours."""
    return to_json(
        [
            look.at + offset if math.isfinite(look.at) else None,
            look.born + offset,
            look.caught_up,
            look.revision,
            None if look.run is None else _run(look.run),
            look.described + offset,
            list(look.refreshed),
            None if look.trouble is None else list(look.trouble),
            look.given,
        ]
    )


def read_looked(text: bytes, ref: RunRef, offset: float) -> Looked:
    said: Any = from_json(text)
    at, born, caught_up, revision, run, described, refreshed, trouble, given = said
    return Looked(
        -math.inf if at is None else at - offset,
        born - offset,
        caught_up,
        revision,
        None if run is None else read_run(run, ref),
        described - offset,
        tuple(refreshed),
        None if trouble is None else (trouble[0], trouble[1]),
        given,
    )


def written_run(run: Run | None) -> Any:
    return None if run is None else _run(run)


def read_run(said: Any, ref: RunRef) -> Run:
    status, raw_status, fields, marks, reason, final = said
    return Run(ref, RunStatus(status), raw_status, fields, marks, None if reason is None else WaitReason(reason), final)


def _run(run: Run) -> list[Any]:
    reason = None if run.reason is None else run.reason.value
    return [run.status.value, run.raw_status, dict(run.fields), run.marks and dict(run.marks), reason, run.final]


def _facts(entry: LogEntry) -> list[Any]:
    return [entry.created_at, entry.open, entry.amendable, entry.said, entry.answers, entry.absent, entry.id]


def _entry(facts: Any, json: bytes) -> LogEntry:
    created_at, open_, amendable, said, answers, absent, id_ = facts
    return LogEntry(json, created_at, open_, amendable, said, answers, absent, id_)
