"""Runs and their logs, as the whole gateway speaks of them: frozen data, no I/O.

A log only grows and hosts number nothing, so an entry is named by its position, counted from 1. A *cursor* is the
position of the last entry seen: cursor 25 asks for entry 26 and what follows, 0 asks for everything.
"""

import json
import math
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias, TypeVar

import orjson

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"
Cursor: TypeAlias = int

T = TypeVar("T")

MOST_DIGITS = 400
"""Digits of a whole number. To read or write twice as many takes four times as long."""

LINE_ENDS = {b"\xe2\x80\xa8": rb"\u2028", b"\xe2\x80\xa9": rb"\u2029", b"\xc2\x85": rb"\u0085"}
"""What many readers take for the end of a line, though JSON does not, and how it is written instead."""

ENTRY_OVERHEAD = 200
"""Bytes charged for a held entry beyond its text: the objects around it, as measured."""


class RunStatus(StrEnum):
    """What a run is doing, in our words. The host's own word stays in ``Run.raw_status``."""

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
        """Whether nothing more will come unless somebody resumes the run."""
        return self in _ENDED


_ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


def _seconds(moment: str) -> float | None:
    """A time in seconds since the epoch; None when it is none that can be known."""
    try:
        parsed = datetime.fromisoformat(moment)
        return parsed.timestamp() if parsed.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class RunRef:
    """The name of a run everywhere: taken from the host's answer, so that one run has one name."""

    organization: str
    id: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the host last described it.

    ``fields`` are the host's own names and values, unknown ones too; only times are rewritten (RFC 3339, UTC).
    ``marks`` are what the gateway wrote on the run when it created it, which clients never see; None when this
    description leaves them out.
    """

    ref: RunRef
    status: RunStatus
    raw_status: str | None
    fields: Mapping[str, Json]
    marks: Mapping[str, str] | None = None

    @property
    def created(self) -> float | None:
        """When the host made it, as of an entry."""
        return _seconds(str(self.fields.get("created_at")))

    def updated(self, newer: "Run") -> "Run":
        """This run as ``newer`` describes it. What ``newer`` does not say, the status too, keeps its last value."""
        fields = {**self.fields, **newer.fields}
        marks = self.marks if newer.marks is None else newer.marks
        if newer.raw_status is not None:
            return replace(newer, fields=fields, marks=marks)
        if "status" in self.fields:
            fields["status"] = self.fields["status"]
        return replace(self, fields=fields, marks=marks)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing the agent did: its JSON object as bytes, encoded once, plus the few facts that the core needs.

    ``open``: its output is still to come, so the host will fill it in later.
    ``amendable``: it is of a kind that the host fills in, so an older copy of it may differ.
    ``said``: the texts in it, if it is what a user said: the prompt of a run, or that of a resume.
    ``answers``: it is what the agent answered.
    ``absent``: it stands in the place of one that cannot be had.
    """

    json: bytes
    created_at: str | None
    open: bool
    amendable: bool
    said: str | None = None
    answers: bool = False
    absent: bool = False

    @property
    def size(self) -> int:
        """What holding this entry costs, in bytes."""
        return len(self.json) + len(self.said or "") + ENTRY_OVERHEAD

    @property
    def digest(self) -> str:
        """Four characters that tell this copy of the entry from others: the same in every process."""
        return urlsafe_b64encode(zlib.crc32(self.json).to_bytes(4, "big")[1:]).decode()

    @property
    def created(self) -> float | None:
        """When the host made it, in seconds since the epoch; None when the host does not say so in a way we know."""
        return _seconds(self.created_at or "")


class StepKind(StrEnum):
    """What a log entry tells, in the words of all hosts."""

    USER = "user"
    """What a user said."""
    THOUGHT = "thought"
    ACTION = "action"
    """The agent uses a tool."""
    ANSWER = "answer"
    ERROR = "error"
    """Something went wrong; the run may go on."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Step:
    """What a log entry means. ``raw_kind`` is the host's own word for its kind.

    ``text`` is what it says to people, empty where it says nothing. An action has the name of its ``tool``, its
    ``input``, and its ``output`` when that is there (``closed``).
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
    """The host's own account of a listing; any of it may be unknown, and ``total`` is a hint, never a proof."""

    total: int | None
    page: int | None
    size: int | None
    pages: int | None


UNCOUNTED = Paging(None, None, None, None)
"""Of this nothing is known."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A stretch of the log, with the run as it was at that moment.

    ``entries`` follow position ``after``. ``at_end``: the log had no more when this was read, by the host's word; how
    many entries there are says nothing of that.
    With ``newest_first`` the stretch was counted from the other end; ``after`` is how many entries were skipped there.
    """

    run: Run
    after: Cursor
    entries: tuple[LogEntry, ...]
    at_end: bool
    paging: Paging
    newest_first: bool = False

    def position(self, index: int) -> Cursor | None:
        """The position of ``entries[index]``; None when the host did not say how long the log is."""
        if not self.newest_first:
            return self.after + index + 1
        return None if self.paging.total is None else self.paging.total - self.after - index

    @property
    def length(self) -> int:
        """How many entries are here."""
        return len(self.entries)

    @property
    def last(self) -> Cursor:
        """The position of the last entry here (of a page read in the log's own order)."""
        return self.after + len(self.entries)


@dataclass(frozen=True, slots=True)
class Appended:
    """A new entry at the end of the log."""

    cursor: Cursor
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Amended:
    """An entry that was there before has changed."""

    cursor: Cursor
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Changed:
    """The run is described anew: a level, not an edge, so only the latest counts.

    ``length`` is where the log ends when the run has ended and every entry has been read; None while it may grow.
    ``seen`` is when the host was asked, in the event loop's time: an end is believed for a while, not for ever.
    """

    run: Run
    length: Cursor | None
    seen: float


Event: TypeAlias = Appended | Amended | Changed


def to_json(value: Json) -> bytes:
    """Encode to one line of JSON that every reader accepts, and takes for one line.

    Text that is not valid Unicode (lone surrogates) is written ASCII-escaped, and so are Unicode's line ends; NaN and
    infinities become null.

    Raises:
        ValueError: the value cannot be written at all (nested too deeply).
    """
    try:
        written = orjson.dumps(value)
    except TypeError:  # orjson knows neither lone surrogates nor integers beyond 64 bits
        try:
            return json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
        except RecursionError as error:
            raise ValueError("nested too deeply to be written as JSON") from error
    if not written.isascii():
        for end, escaped in LINE_ENDS.items():  # they can only stand in texts
            if end in written:
                written = written.replace(end, escaped)
    # copied, because orjson leaves room behind what it wrote, often more than that takes, and entries are held
    return memoryview(written).tobytes()


def whole(digits: str) -> int | str:
    """A whole number, if it has at most ``MOST_DIGITS`` digits."""
    return int(digits) if len(digits.lstrip("-")) <= MOST_DIGITS else digits


def from_json(text: bytes | bytearray, whole: Callable[[str], Json] = whole) -> Json:
    """Read JSON, whole numbers to their last digit, and what Python alone calls JSON: NaN, 1e400, lone surrogates.

    ``whole`` reads a whole number from its digits; by itself it leaves more than ``MOST_DIGITS`` of them a text.

    Raises:
        ValueError: it is none.
    """
    # orjson makes floats of integers beyond 64 bits, without a word; those have at least 19 digits
    if _NINETEEN_DIGITS in text.translate(_DIGITS_ONLY):
        try:
            return _read_exactly(text, whole)
        except (ValueError, RecursionError):
            pass  # to orjson with it: it reads what is nested more deeply, and knows what is no JSON
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
