"""Runs and their logs, as the rest of the gateway sees them: frozen data, no I/O.

A log only grows, and few hosts number its entries, so an entry is identified by its position, counted from 1. A
*cursor* is the position of the last entry seen: cursor 25 asks for entry 26 onwards, 0 for everything.
"""

import json
import math
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import TypeAlias, TypeVar

import orjson

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"
Cursor: TypeAlias = int

T = TypeVar("T")

MOST_DIGITS = 400
"""Maximum digits of an integer: parsing and printing take quadratic time."""

LINE_ENDS = {b"\xe2\x80\xa8": rb"\u2028", b"\xe2\x80\xa9": rb"\u2029", b"\xc2\x85": rb"\u0085"}
"""Characters that many readers take for line ends, although JSON does not, and their escapes."""

ENTRY_OVERHEAD = 208
"""Measured bytes of the objects around the JSON of one held entry."""

TEXT_OVERHEAD = 50
"""Bytes of a text beyond its characters."""


class RunStatus(StrEnum):
    """The status of a run, in the gateway's words. The host's own word stays in ``Run.raw_status``."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen unless the run is resumed."""
        return self in _ENDED


_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class WaitReason(StrEnum):
    """What a run in the status ``waiting`` waits for."""

    APPROVAL = "approval"
    """Somebody has to allow or forbid what the agent is about to do."""
    QUESTION = "question"
    """Somebody has to answer the agent."""
    PAYMENT = "payment"
    SIGN_IN = "sign_in"


def _seconds(moment: str) -> float | None:
    """A timestamp in epoch seconds; None if it is invalid or has no zone."""
    try:
        parsed = datetime.fromisoformat(moment)
        return parsed.timestamp() if parsed.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class RunRef:
    """The identity of a run. Always taken from the host's answer, so that one run has one name."""

    organization: str
    id: str


@dataclass(frozen=True, slots=True)
class Run:  # noqa: PLW1641 - its mappings have no hash either
    """A run as the host last described it.

    ``fields`` has the host's names and values, unknown ones included; only times are normalized (RFC 3339, UTC).
    ``marks`` is what the gateway attached to the run when creating it, never shown to clients; None if this description
    omits them. ``reason``: what a waiting run waits for, if the host says so. ``final``: it has ended for good, and
    cannot be resumed.
    """

    ref: RunRef
    status: RunStatus
    raw_status: str | None
    fields: Mapping[str, Json]
    marks: Mapping[str, str] | None = None
    reason: WaitReason | None = None
    final: bool = False

    @property
    def created(self) -> float | None:
        """Creation time in epoch seconds, as ``LogEntry.created``."""
        return _seconds(str(self.fields.get("created_at")))

    def __eq__(self, other: object) -> bool:
        """Whether both are described alike. Unlike Python, JSON tells true from 1."""
        if self is other or not isinstance(other, Run):
            return self is other
        return _FACTS(self) == _FACTS(other) and _alike(self.fields, other.fields)

    def updated(self, newer: "Run") -> "Run":
        """This run with the changes of ``newer``. What ``newer`` omits, even the status, keeps its last value."""
        fields = {**self.fields, **newer.fields}
        marks = self.marks if newer.marks is None else newer.marks
        if newer.raw_status is None:
            newer = self
            if "status" in self.fields:
                fields["status"] = self.fields["status"]
        updated = replace(newer, fields=fields, marks=marks)
        return self if updated == self else updated  # nearly every page of a log describes the same run


_FACTS = attrgetter("ref", "status", "raw_status", "fields", "marks", "reason", "final")


def _alike(one: Mapping[str, Json], other: Mapping[str, Json]) -> bool:
    """Whether mappings that are equal in Python are equal in JSON."""
    pairs = [(value, other[name]) for name, value in one.items()]
    for here, there in pairs:  # which the loop extends
        if isinstance(here, dict) and isinstance(there, dict):
            pairs += [(value, there[name]) for name, value in here.items()]
        elif isinstance(here, list) and isinstance(there, list):
            pairs += zip(here, there, strict=True)
        elif isinstance(here, bool) is not isinstance(there, bool):
            return False
    return True


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing the agent did: its JSON as bytes, encoded once, and the few facts the core needs.

    ``open``: its output is still missing and will be filled in by the host. ``amendable``: the host fills in entries of
    this kind, so older copies may differ. ``said``: the text of a user's prompt, if the entry is one. ``answers``: it
    is the agent's answer. ``absent``: a placeholder for an entry that cannot be read. ``id``: the host's own id of the
    entry, if it has one that never changes.
    """

    json: bytes
    created_at: str | None
    open: bool
    amendable: bool
    said: str | None = None
    answers: bool = False
    absent: bool = False
    id: str | None = None

    @property
    def size(self) -> int:
        """Memory cost of holding this entry, in bytes."""
        of_id = 0 if self.id is None else len(self.id) + TEXT_OVERHEAD
        return len(self.json) + len(self.said or "") + of_id + ENTRY_OVERHEAD

    @property
    def digest(self) -> str:
        """Four characters that distinguish this version of the entry from others, the same in every process."""
        return urlsafe_b64encode(zlib.crc32(self.json).to_bytes(4, "big")[1:]).decode()

    @property
    def created(self) -> float | None:
        """Creation time in epoch seconds; None if the host gives none in a known format."""
        return _seconds(self.created_at or "")


class StepKind(StrEnum):
    """What a log entry is, in terms common to all hosts."""

    USER = "user"
    """A prompt from a user."""
    THOUGHT = "thought"
    ACTION = "action"
    """The agent uses a tool."""
    ANSWER = "answer"
    ERROR = "error"
    """Something failed; the run may continue."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Step:
    """The meaning of a log entry. ``raw_kind`` is the host's own word for its kind.

    ``text`` is for people and may be empty. An action has the name of its ``tool``, its ``input``, and its ``output``
    once that exists (``closed``).
    """

    kind: StepKind
    raw_kind: str | None
    text: str
    tool: str | None = None
    input: Json = None
    output: Json = None
    closed: bool = True


@dataclass(frozen=True, slots=True)
class Paging:
    """The host's page numbers for a list. Any may be unknown, and ``total`` is a hint that proves nothing."""

    total: int | None
    page: int | None
    size: int | None
    pages: int | None


UNCOUNTED = Paging(None, None, None, None)
"""Paging of a list about which nothing is known."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Consecutive log entries, and the run as it was when they were read.

    ``entries`` follow position ``after``. ``at_end``: the host says that the log had no more; the number of entries
    says nothing about that. With ``newest_first``, ``after`` counts entries skipped from the other end. ``revision``
    names this state of the whole log, where the host has such names; it differs after any change, even of an old entry.
    """

    run: Run
    after: Cursor
    entries: tuple[LogEntry, ...]
    at_end: bool
    paging: Paging
    newest_first: bool = False
    revision: str | None = None

    def position(self, index: int) -> Cursor | None:
        """The position of ``entries[index]``; None if the host did not give the log's length."""
        if not self.newest_first:
            return self.after + index + 1
        return None if self.paging.total is None else self.paging.total - self.after - index

    @property
    def length(self) -> int:
        return len(self.entries)

    @property
    def last(self) -> Cursor:
        """The position of the last entry of a page in log order."""
        return self.after + len(self.entries)


@dataclass(frozen=True, slots=True)
class Appended:
    """A new entry at the end of the log."""

    cursor: Cursor
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Amended:
    """An existing entry has changed."""

    cursor: Cursor
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Changed:
    """The run has a new description. A level, not an edge: only the latest counts.

    ``length`` is the final length of the log once the run has ended and every entry was read, else None. ``seen`` is
    when the host was asked, in event loop time: an end is trusted only for a while. ``revision`` is that of the log at
    the time, as in ``LogPage``.
    """

    run: Run
    length: Cursor | None
    seen: float
    revision: str | None = None


Event: TypeAlias = Appended | Amended | Changed


def to_json(value: Json) -> bytes:
    """Encode as one line of JSON that every parser accepts and every line reader keeps whole.

    Lone surrogates and Unicode line separators are ASCII-escaped; NaN and infinities become null.

    Raises:
        ValueError: the value is nested too deeply.
    """
    try:
        written = orjson.dumps(value)
    except TypeError:  # orjson supports neither lone surrogates nor integers beyond 64 bits
        try:
            return json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
        except RecursionError as error:
            raise ValueError("nested too deeply to be written as JSON") from error
    if not written.isascii():
        for end, escaped in LINE_ENDS.items():  # outside strings they cannot occur
            if end in written:
                written = written.replace(end, escaped)
    # copied, because orjson over-allocates its result, often by more than its length, and entries are kept
    return memoryview(written).tobytes()


def whole(digits: str) -> int | str:
    """An integer, or the text itself if it has more than ``MOST_DIGITS`` digits."""
    return int(digits) if len(digits.lstrip("-")) <= MOST_DIGITS else digits


def from_json(text: bytes | bytearray, whole: Callable[[str], Json] = whole) -> Json:
    """Parse JSON with exact integers, and Python's extensions of it: NaN, 1e400, lone surrogates.

    ``whole`` converts the digits of an integer; the default leaves those beyond ``MOST_DIGITS`` as text.

    Raises:
        ValueError: it is not JSON.
    """
    # orjson silently turns integers beyond 64 bits, which have at least 19 digits, into floats
    if _NINETEEN_DIGITS in text.translate(_DIGITS_ONLY):
        try:
            return _read_exactly(text, whole)
        except (ValueError, RecursionError):
            pass  # left to orjson, which accepts deeper nesting and reports what is not JSON
    try:
        value: Json = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            value = _read_exactly(text, whole)
        except RecursionError as error:
            raise ValueError("nested too deeply to be read as JSON") from error
    return value


_DIGITS_ONLY = bytes(ord("0") if chr(byte).isascii() and chr(byte).isdecimal() else ord(" ") for byte in range(256))
_NINETEEN_DIGITS = b"0" * 19


def _read_exactly(text: bytes | bytearray, whole: Callable[[str], Json]) -> Json:
    value: Json = json.loads(text, parse_int=whole)
    return value


def _finite(value: Json) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
