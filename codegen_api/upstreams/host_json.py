"""Between the JSON of hosts and our words: what adapters read of answers, write into orders, and refuse to ask for."""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from codegen_api import errors
from codegen_api.runs import Cursor, Json, LogEntry, LogPage, Paging, Run, RunRef, RunStatus, WaitReason, to_json
from codegen_api.upstreams import Listing, NewRun, RunFilter

T = TypeVar("T")
Object = Mapping[str, Json]

MARKS = "codegen_gateway"
"""The key of a run's metadata under which the gateway's marks are kept; clients neither set nor see it."""

ONLY = "default"
"""The organization of hosts that have none."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)


def as_object(answer: Json) -> Object:
    if isinstance(answer, dict):
        return answer
    raise errors.UpstreamError("The host's answer is not the object that was expected.")


def as_list(answer: Json) -> list[Json]:
    if isinstance(answer, list):
        return answer
    raise errors.UpstreamError("The host's answer is not the list that was expected.")


def as_objects(answer: Json) -> list[Object]:
    return [as_object(item) for item in as_list(answer)]


def nothing(_: Json) -> None:
    """What is read of an answer that has no known shape."""


def member(answer: Object, key: str, kind: type[T]) -> T:
    value = answer.get(key)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise errors.UpstreamError(f"The host's answer lacks {key}, or has something else in its place.")


def text_in(answer: Object, key: str) -> str | None:
    """The text in this place, if there is one."""
    value = answer.get(key)
    return value if isinstance(value, str) else None


def object_in(answer: Object, key: str) -> Object:
    """The object in this place; else an empty one."""
    value = answer.get(key)
    return value if isinstance(value, dict) else {}


def objects_in(answer: Object, key: str) -> list[Object]:
    """The objects of the list in this place."""
    items = answer.get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def run_told(
    name: str, told: Object, status: RunStatus | None, reason: WaitReason | None = None, result: str | None = None
) -> Run:
    """A run of a host without organizations, of which it has ``told`` this. The status is our word, since hosts' words
    do not tell all apart; None where it was not looked for.
    """
    fields: dict[str, Json] = {**with_times(told), "id": name, "organization_id": ONLY, "status": None}
    fields |= {} if status is None else {"status": status.value, "result": result}
    marks = None
    if "metadata" in fields:
        fields["metadata"], marks = unmarked(fields["metadata"])
    word = None if status is None else status.value
    return Run(RunRef(ONLY, name), status or RunStatus.UNKNOWN, word, fields, marks, reason)


def listing_of(
    found: Sequence[Json], read: Callable[[Object], T], paging: Paging, *, at_end: bool, pieces: int = 1
) -> Listing[T]:
    """A page of a list, with gaps for the items that cannot be read. Raises as ``readable`` does."""
    items, gaps = readable(found, read)
    return Listing(items, paging, at_end, gaps, pieces)


def readable(found: Sequence[Json], read: Callable[[Object], T]) -> tuple[tuple[T, ...], tuple[int, ...]]:
    """What ``read`` makes of each item, and the indexes of the items that cannot be read.

    Raises:
        UpstreamError: none of them can be read.
    """
    items: list[T] = []
    gaps: list[int] = []
    for index, item in enumerate(found):
        try:
            items.append(read(as_object(item)))
        except errors.UpstreamError:
            gaps.append(index)
            if len(gaps) == len(found):
                raise
    return tuple(items), tuple(gaps)


def page_of(
    run: Run,
    total: int,
    after: Cursor,
    limit: int,
    read: Callable[[int, int], Sequence[LogEntry]],
    *,
    newest_first: bool,
    revision: str | None = None,
) -> LogPage:
    """A page of a log that is there as a whole, of ``total`` entries. ``read`` gives those from one index to another,
    oldest first. The rest is as in ``read_log`` and ``LogPage``.
    """
    end = max(0, total - after) if newest_first else min(after + limit, total)
    entries = tuple(read(max(0, end - limit) if newest_first else min(after, end), end))
    shown = entries[::-1] if newest_first else entries
    return LogPage(run, after, shown, after + limit >= total, Paging(total, None, limit, None), newest_first, revision)


def placeholder(**fields: Json) -> LogEntry:
    """An entry in the place of one that cannot be had, and so may differ from it. ``fields`` look like the host's."""
    return LogEntry(to_json(fields), None, open=False, amendable=True, absent=True)


UNREADABLE = placeholder(type="unreadable", content="The gateway could not read this entry.")


def lasting_entry(
    fields: Object, unreadable: LogEntry, *, said: str | None = None, answers: bool, name: str | None
) -> LogEntry:
    """An entry without a time that never changes; what is ``unreadable`` if it is nested too deeply."""
    try:
        return LogEntry(to_json(fields), None, open=False, amendable=False, said=said, answers=answers, id=name)
    except ValueError:
        return unreadable


def with_times(fields: Object) -> dict[str, Json]:
    """With the times in it as ``rfc3339``."""
    return {key: rfc3339(value) if key.endswith("_at") else value for key, value in fields.items()}


def rfc3339(value: Json) -> Json:
    """A time in UTC with ``T`` and ``Z``, one without a zone taken as UTC; what is none stays."""
    parts = _TIME.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return value
    day, clock, fraction, offset = parts.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{(offset or 'Z').upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return value
    return f"{moment.replace(tzinfo=None).isoformat()}{fraction or ''}Z"


def unmarked(metadata: Json) -> tuple[Json, Mapping[str, str]]:
    """The client's part of the host's metadata, and the marks. A run whose client gave none has none again."""
    if not isinstance(metadata, dict) or MARKS not in metadata:
        return metadata, {}
    marks = metadata[MARKS]
    rest = {key: value for key, value in metadata.items() if key != MARKS} or None
    return rest, {key: mark for key, mark in marks.items() if isinstance(mark, str)} if isinstance(marks, dict) else {}


def marked(metadata: Mapping[str, Json] | None, marks: Mapping[str, str]) -> Mapping[str, Json] | None:
    """Metadata for the host, with the marks in it. Raises ``Rejected`` for metadata that would pass for marks."""
    if metadata is not None and MARKS in metadata:
        raise errors.rejected("This key is reserved for the gateway.", "reserved_key", "body", "metadata", MARKS)
    return {**(metadata or {}), MARKS: marks} if marks else metadata


def given(**fields: T | None) -> dict[str, T]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def run_uuid(text: str) -> str:
    """A run's id where those are UUIDs: in lower case, with hyphens. Raises ``Rejected`` for anything else."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise errors.rejected("Must be a UUID.", "uuid_parsing", "run_id") from error


def uuid_in(answer: Object, key: str) -> str:
    """The UUID in this place, in the form of ``run_uuid``."""
    try:
        return run_uuid(member(answer, key, str))
    except errors.Rejected as error:
        raise errors.UpstreamError(f"The host's answer lacks {key}, or has something else in its place.") from error


def new_uuid(kind: str, key: str | None) -> str:
    """An id for something new: the same for each repeat of the order that makes it."""
    return str(uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, f"codegen_gateway {kind} {key}"))


def refuse(asked: NewRun | RunFilter, *names: str) -> None:
    """Raises ``NotOffered`` if one of these is asked for, and the host has no word for it."""
    for name in names:
        if getattr(asked, name) is not None:
            raise not_offered(*(["body"] if isinstance(asked, NewRun) else []), name)


def not_offered(*place: str) -> errors.NotOffered:
    """For what a client asks for at this place of its request, and the host has no word for."""
    return errors.NotOffered(details=[errors.Detail(place, "This host has nothing of the kind.", "unsupported")])
