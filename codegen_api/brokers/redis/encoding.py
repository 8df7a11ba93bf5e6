"""How data is encoded at Redis: a line of JSON, followed by an entry's own JSON, unchanged."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from codegen_api.brokers import Looked
from codegen_api.runs import Changed, Cursor, Json, LogEntry, Run, RunRef, RunStatus, WaitReason, from_json, to_json


class StreamItem(NamedTuple):
    """One item of a run's stream: an entry, a description, or neither: then the log begins after ``position``.

    ``at``: when the host was asked for it, by Redis's clock.
    """

    at: float
    position: Cursor
    entry: LogEntry | None
    changed: Changed | None


def encode_entry(position: Cursor, at: float, entry: LogEntry) -> bytes:
    return to_json(["e", position, at, *_fields(entry)]) + b"\n" + entry.json


def encode_opening(after: Cursor, at: float) -> bytes:
    return to_json(["o", after, at])


def encode_changed(changed: Changed, at: float) -> bytes:
    return to_json(["c", changed.length, at, changed.revision, encode_run(changed.run)])


def decode_item(text: bytes, ref: RunRef) -> StreamItem:
    """Parse an item. A description's ``seen`` is still by Redis's clock."""
    head, _, rest = text.partition(b"\n")
    parts: Any = from_json(head)
    match parts:
        case ["e", position, at, *fields]:
            return StreamItem(at, position, LogEntry(rest, *fields), None)
        case ["o", after, at]:
            return StreamItem(at, after, None, None)
        case ["c", length, at, revision, run]:
            return StreamItem(at, 0, None, Changed(decode_run(run, ref), length, at, revision))
    raise ValueError("not an item")


def encode_page(entries: Sequence[LogEntry]) -> bytes:
    return b"\n".join(part for entry in entries for part in (to_json(_fields(entry)), entry.json))


def decode_page(text: bytes) -> list[LogEntry]:
    lines = text.split(b"\n")
    pairs: Any = zip(map(from_json, lines[::2]), lines[1::2], strict=True)
    return [LogEntry(rest, *fields) for fields, rest in pairs]


def encode_look(look: Looked, offset: float) -> bytes:
    """``offset``: how far Redis's clock is ahead of ours. A time of minus infinity becomes null."""
    at, born, described = (each + offset for each in (look.at, look.born, look.described))
    known = (look.caught_up, look.revision, encode_run(look.run))
    return to_json([at, born, *known, described, look.refreshed, look.trouble, look.given])


def decode_look(text: bytes, ref: RunRef, offset: float) -> Looked:
    values: Any = from_json(text)
    at, born, caught_up, revision, run, described, refreshed, trouble, given = values
    return Looked(
        at=-math.inf if at is None else at - offset,
        born=born - offset,
        caught_up=caught_up,
        revision=revision,
        run=None if run is None else decode_run(run, ref),
        described=described - offset,
        refreshed=tuple(refreshed),
        trouble=None if trouble is None else (trouble[0], trouble[1]),
        given=given,
    )


def encode_run(run: Run | None) -> Json:
    if run is None:
        return None
    reason = None if run.reason is None else run.reason.value
    return [run.status.value, run.raw_status, dict(run.fields), run.marks and dict(run.marks), reason, run.final]


def decode_run(values: Any, ref: RunRef) -> Run:
    status, raw_status, fields, marks, reason, final = values
    return Run(ref, RunStatus(status), raw_status, fields, marks, None if reason is None else WaitReason(reason), final)


def _fields(entry: LogEntry) -> list[Json]:
    """The arguments of ``LogEntry`` after its JSON."""
    return [entry.created_at, entry.open, entry.amendable, entry.said, entry.answers, entry.absent, entry.id]
