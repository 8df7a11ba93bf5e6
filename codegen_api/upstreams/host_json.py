"""What adapters share to translate JSON: they read answers, write orders, and refuse what the host does not have."""

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
"""The id of the only organization, at hosts without organizations."""

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
    """Read nothing: the answer has no known shape."""


def member(answer: Object, key: str, kind: type[T]) -> T:
    value = answer.get(key)
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise errors.UpstreamError(f"The host's answer lacks {key}, or has something else in its place.")


def text_in(answer: Object, key: str) -> str | None:
    """The text under ``key``, or None."""
    value = answer.get(key)
    return value if isinstance(value, str) else None


def object_in(answer: Object, key: str) -> Object:
    """The object under ``key``, or an empty one."""
    value = answer.get(key)
    return value if isinstance(value, dict) else {}


def objects_in(answer: Object, key: str) -> list[Object]:
    """The objects in the list under ``key``; other items are skipped."""
    items = answer.get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def run_told(
    run_id: str, source: Object, status: RunStatus | None, reason: WaitReason | None = None, result: str | None = None
) -> Run:
    """A run of a host without organizations, with the fields in ``source``. ``status`` is our word, since hosts use one
    word for several statuses; None if it was not looked up.
    """
    fields: dict[str, Json] = {**with_times(source), "id": run_id, "organization_id": ONLY, "status": None}
    fields |= {} if status is None else {"status": status.value, "result": result}
    marks = None
    if "metadata" in fields:
        fields["metadata"], marks = unmarked(fields["metadata"])
    word = None if status is None else status.value
    return Run(RunRef(ONLY, run_id), status or RunStatus.UNKNOWN, word, fields, marks, reason)


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
    """A page of a log of ``total`` entries, all of which are at hand. ``read`` returns those between two indexes,
    oldest first. The other parameters are those of ``read_log`` and ``LogPage``.
    """
    end = max(0, total - after) if newest_first else min(after + limit, total)
    entries = tuple(read(max(0, end - limit) if newest_first else min(after, end), end))
    shown = entries[::-1] if newest_first else entries
    return LogPage(run, after, shown, after + limit >= total, Paging(total, None, limit, None), newest_first, revision)


def placeholder(**fields: Json) -> LogEntry:
    """An entry in the place of an unreadable one. ``fields`` should look like those of the host's entries."""
    return LogEntry(to_json(fields), None, open=False, amendable=True, absent=True)


UNREADABLE = placeholder(type="unreadable", content="The gateway could not read this entry.")


def lasting_entry(
    fields: Object, unreadable: LogEntry, *, said: str | None = None, answers: bool, entry_id: str | None
) -> LogEntry:
    """An entry that has no time and never changes; ``unreadable`` if ``fields`` are nested too deeply."""
    try:
        return LogEntry(to_json(fields), None, open=False, amendable=False, said=said, answers=answers, id=entry_id)
    except ValueError:
        return unreadable


def with_times(fields: Object) -> dict[str, Json]:
    """``fields`` with its times converted by ``rfc3339``."""
    return {key: rfc3339(value) if key.endswith("_at") else value for key, value in fields.items()}


def rfc3339(value: Json) -> Json:
    """A time in UTC with ``T`` and ``Z``. A time without a zone is taken as UTC; other values stay as they are."""
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
    """The client's part of the host's metadata, None if it is empty, and the marks."""
    if not isinstance(metadata, dict) or MARKS not in metadata:
        return metadata, {}
    marks = metadata[MARKS]
    rest = {key: value for key, value in metadata.items() if key != MARKS} or None
    return rest, {key: mark for key, mark in marks.items() if isinstance(mark, str)} if isinstance(marks, dict) else {}


def marked(metadata: Mapping[str, Json] | None, marks: Mapping[str, str]) -> Mapping[str, Json] | None:
    """Metadata for the host, with the marks. Raises ``Rejected`` for metadata that could be taken for marks."""
    if metadata is not None and MARKS in metadata:
        raise errors.rejected("This key is reserved for the gateway.", "reserved_key", "body", "metadata", MARKS)
    return {**(metadata or {}), MARKS: marks} if marks else metadata


def not_none(**fields: T | None) -> dict[str, T]:
    """The arguments that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def run_uuid(text: str) -> str:
    """The run id in ``text``, a UUID, in lower case and with hyphens. Raises ``Rejected`` for anything else."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise errors.rejected("Must be a UUID.", "uuid_parsing", "run_id") from error


def uuid_in(answer: Object, key: str) -> str:
    """The UUID under ``key``, in the form of ``run_uuid``."""
    try:
        return run_uuid(member(answer, key, str))
    except errors.Rejected as error:
        raise errors.UpstreamError(f"The host's answer lacks {key}, or has something else in its place.") from error


def new_uuid(kind: str, key: str | None) -> str:
    """A UUID for something new. A repeat of the order, with the same ``key``, gets the same one."""
    return str(uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, f"codegen_gateway {kind} {key}"))


def refuse(request: NewRun | RunFilter, *names: str) -> None:
    """Raise ``NotOffered`` if the request sets one of these fields, which the host does not have."""
    for name in names:
        if getattr(request, name) is not None:
            raise not_offered(*(["body"] if isinstance(request, NewRun) else []), name)


def not_offered(*loc: str) -> errors.NotOffered:
    """The error for a part of a request that the host does not have."""
    return errors.NotOffered(details=[errors.Detail(loc, "This host has nothing of the kind.", "unsupported")])
