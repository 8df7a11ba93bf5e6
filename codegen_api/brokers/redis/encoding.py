"""What is written to Redis, and read there: JSON, and behind it the JSON of entries as it is."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from codegen_api.brokers import Looked
from codegen_api.runs import Changed, Cursor, Json, LogEntry, Run, RunRef, RunStatus, WaitReason, from_json, to_json


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
    return to_json(["c", changed.length, at, changed.revision, written_run(changed.run)])


def item(text: bytes, ref: RunRef) -> StreamItem:
    """Of a description, ``seen`` is still by the clock of Redis."""
    head, _, rest = text.partition(b"\n")
    said: Any = from_json(head)
    match said:
        case ["e", position, at, *facts]:
            return StreamItem(at, position, LogEntry(rest, *facts), None)
        case ["o", after, at]:
            return StreamItem(at, after, None, None)
        case ["c", length, at, revision, run]:
            return StreamItem(at, 0, None, Changed(read_run(run, ref), length, at, revision))
    raise ValueError("not an item")


def page(entries: Sequence[LogEntry]) -> bytes:
    return b"\n".join(part for entry in entries for part in (to_json(_facts(entry)), entry.json))


def read_page(text: bytes) -> list[LogEntry]:
    lines = text.split(b"\n")
    pairs: Any = zip(map(from_json, lines[::2]), lines[1::2], strict=True)
    return [LogEntry(rest, *facts) for facts, rest in pairs]


def looked(look: Looked, offset: float) -> bytes:
    """``offset``: what the clock of Redis is ahead of ours. A time before all others becomes null."""
    at, born, described = (each + offset for each in (look.at, look.born, look.described))
    known = (look.caught_up, look.revision, written_run(look.run))
    return to_json([at, born, *known, described, look.refreshed, look.trouble, look.given])


def read_looked(text: bytes, ref: RunRef, offset: float) -> Looked:
    said: Any = from_json(text)
    at, born, caught_up, revision, run, described, refreshed, trouble, given = said
    return Looked(
        at=-math.inf if at is None else at - offset,
        born=born - offset,
        caught_up=caught_up,
        revision=revision,
        run=None if run is None else read_run(run, ref),
        described=described - offset,
        refreshed=tuple(refreshed),
        trouble=None if trouble is None else (trouble[0], trouble[1]),
        given=given,
    )


def written_run(run: Run | None) -> Json:
    if run is None:
        return None
    reason = None if run.reason is None else run.reason.value
    return [run.status.value, run.raw_status, dict(run.fields), run.marks and dict(run.marks), reason, run.final]


def read_run(said: Any, ref: RunRef) -> Run:
    status, raw_status, fields, marks, reason, final = said
    return Run(ref, RunStatus(status), raw_status, fields, marks, None if reason is None else WaitReason(reason), final)


def _facts(entry: LogEntry) -> list[Json]:
    """All but the JSON, as ``LogEntry`` takes it."""
    return [entry.created_at, entry.open, entry.amendable, entry.said, entry.answers, entry.absent, entry.id]
