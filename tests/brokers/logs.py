"""Logs to publish: entry ``n`` in version ``v`` is the same wherever it appears."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from codegen_api.brokers import BATCH_BYTES, PAGE
from codegen_api.runs import Changed, Json, LogEntry, LogPage, Paging, Run, RunRef, RunStatus

BIG = "x" * (BATCH_BYTES + 1)


def ref(number: int) -> RunRef:
    return RunRef("9", str(number))


REF = ref(1)


def a_run(ref: RunRef = REF, **fields: Json) -> Run:
    return Run(ref, RunStatus.RUNNING, "ACTIVE", fields)


def entry(number: int, version: int = 0, text: str = "") -> LogEntry:
    return LogEntry(json.dumps({"n": number, "v": version, "t": text}).encode(), None, False, False)


def entries(first: int, stop: int, version: int = 0, text: str = "") -> tuple[LogEntry, ...]:
    return tuple(entry(number, version, text) for number in range(first, stop))


def page(after: int, count: int, *, version: int = 0, text: str = "", ref: RunRef = REF) -> LogPage:
    """Entries ``after + 1`` and the next ones, ``count`` in all."""
    return made_page(after, entries(after + 1, after + count + 1, version, text), ref)


def made_page(after: int, entries: tuple[LogEntry, ...], ref: RunRef = REF) -> LogPage:
    return LogPage(a_run(ref), after, entries, False, Paging(None, None, None, None))


def changed(*, length: int | None = None, ref: RunRef = REF, **fields: Json) -> Changed:
    return Changed(a_run(ref, **fields), length, 0.0)


async def unasked(number: int) -> tuple[LogEntry, ...]:
    """Reads pages again for who must not need it."""
    raise AssertionError(f"page {number} was read again")


@dataclass
class Host:
    """Has a log, and knows which of its pages were read again."""

    entries: Sequence[LogEntry]
    read: list[int] = field(default_factory=list)

    async def page(self, number: int) -> Sequence[LogEntry]:
        self.read.append(number)
        return self.entries[number * PAGE : (number + 1) * PAGE]
