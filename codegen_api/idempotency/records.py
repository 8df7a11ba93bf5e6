"""Records of requests with a key, under names that reveal nothing: the port, and its in-memory store.

Plain data and atomic operations: of two processes that share a store, only one may be the first to begin a request.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from cachetools import LRUCache, TTLCache

from codegen_api.following import loop_time
from codegen_api.runs import Run, RunRef, RunStatus, WaitReason, from_json, to_json

KEPT_SECONDS = 24 * 3600.0


class RequestState(StrEnum):
    UNDER_WAY = "under way"
    UNKNOWN = "unknown"
    """It broke off, and the host may have acted."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What is known of a request. Times are epoch seconds.

    ``fingerprint`` tells different requests with one key apart. The request first came at ``since`` and entered
    ``state`` at ``at``. In ``UNKNOWN`` the host may still act for ``grace`` seconds. ``note`` was written before asking
    the host. ``run`` is the result and ``result`` its description then. Stores may drop descriptions, as they are large
    and can be read again; it is empty then.
    """

    fingerprint: str
    state: RequestState
    since: float
    at: float
    grace: float = 0.0
    note: str = ""
    run: RunRef | None = None
    result: bytes = b""


class Records(Protocol):
    """Records by name, kept for at least ``KEPT_SECONDS``, except for their ``result``."""

    async def begin(self, name: str, record: RequestRecord) -> RequestRecord | None:
        """Store ``record`` and return None; if there is one already, return that and change nothing."""
        ...

    async def change(self, name: str, then: RequestRecord, now: RequestRecord) -> bool:
        """Replace ``then`` by ``now``; False, and no change, if there is something else."""
        ...

    async def forget(self, name: str, then: RequestRecord) -> None:
        """Delete ``then``, if it is there."""
        ...

    async def aclose(self) -> None: ...


class MemoryRecords:
    """``Records`` for one process: the last ``at_most``, far more than a host's limit allows one token in a day.
    Results take up to ``max_bytes``, and the least recently used are dropped.
    """

    def __init__(self, *, at_most: int = 100_000, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._kept: TTLCache[str, RequestRecord] = TTLCache(at_most, KEPT_SECONDS, timer=loop_time)
        self._results: LRUCache[str, bytes] = LRUCache(max_bytes, getsizeof=len)

    def has(self, name: str) -> bool:
        return name in self._kept

    async def begin(self, name: str, record: RequestRecord) -> RequestRecord | None:
        there = self._kept.get(name)
        if there is None:
            self._keep(name, record)
            return None
        return replace(there, result=self._results.get(name, b""))

    async def change(self, name: str, then: RequestRecord, now: RequestRecord) -> bool:
        if self._kept.get(name) != replace(then, result=b""):
            return False
        self._keep(name, now)
        return True

    async def forget(self, name: str, then: RequestRecord) -> None:
        if self._kept.get(name) == replace(then, result=b""):
            del self._kept[name]
            self._results.pop(name, None)

    async def aclose(self) -> None:
        self._kept.clear()
        self._results.clear()

    def _keep(self, name: str, record: RequestRecord) -> None:
        self._kept[name] = replace(record, result=b"")
        self._results.pop(name, None)
        if 0 < len(record.result) <= self._results.maxsize:  # the cache raises for larger ones
            self._results[name] = record.result


def encoded_run(run: Run) -> bytes:
    """A run for the record; empty if it cannot be encoded."""
    marks = None if run.marks is None else dict(run.marks)
    facts = [run.ref.organization, run.ref.id, run.status.value, run.raw_status, dict(run.fields), marks]
    try:
        return to_json([*facts, run.reason, run.final])
    except ValueError:  # nested too deeply
        return b""


def decoded_run(result: bytes) -> Run:
    """The reverse of ``encoded_run``."""
    kept: Any = from_json(result)
    organization, run_id, status, raw_status, fields_, marks, reason, final = kept
    waits_for = None if reason is None else WaitReason(reason)
    return Run(RunRef(organization, run_id), RunStatus(status), raw_status, fields_, marks, waits_for, final)
