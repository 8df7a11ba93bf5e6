"""Examples for the OpenAPI document, made by the code that writes the responses."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from codegen_api import following
from codegen_api.brokers import Batch
from codegen_api.dialects import pending_fields
from codegen_api.dialects.native.wire import EVENTS, LINES, RETRY_MS, Writer, entry_json, framed, run_fields
from codegen_api.following import Described, FeedPosition, Position
from codegen_api.http import openapi
from codegen_api.positions import Sighting
from codegen_api.runs import Amended, Appended, Changed, Json, LogEntry, Run, RunRef, RunStatus, WaitReason, to_json
from codegen_api.upstreams import PendingRequest

_RUN = Run(RunRef("323", "12345"), RunStatus.RUNNING, "ACTIVE", openapi.RUN)
_OVER = replace(_RUN, status=RunStatus.COMPLETED, raw_status="COMPLETE", fields={**_RUN.fields, "status": "COMPLETE"})
_WAITING = replace(
    _RUN,
    status=RunStatus.WAITING,
    raw_status="WAITING",
    fields={**_RUN.fields, "status": "WAITING"},
    reason=WaitReason.APPROVAL,
)
_PENDING = PendingRequest(
    "req_1",
    WaitReason.APPROVAL,
    "Run `rm -r build`?",
    tool="bash",
    input={"command": "rm -r build"},
    fields={"id": "req_1", "permission": "bash"},
)


def _batch(event: type[Appended] | type[Amended], seen: Sighting | None, **fields: Json) -> Batch:
    entry = LogEntry(to_json({**openapi.ENTRY, **fields}), None, open=False, amendable=True)
    return Batch((event(1, entry),), None, 1, 0, (Position(1, seen=seen, copies=(entry.digest,)),))


_UPDATES: tuple[following.Update, ...] = (
    Changed(_RUN, None, 0.0),
    _batch(Appended, None, tool_output=None),
    following.Notice("upstream_unavailable", 2.1),
    following.Notice("recovered"),
    Changed(_WAITING, None, 0.0),
    _batch(Amended, Sighting.of(1, 1)),
    following.Quiet(),
    following.Ended(_OVER, 1),
)


_BEFORE, _AFTER = Described.of(_RUN, 0.0, 0.0), Described.of(_OVER, 0.0, 0.0)
_FEED: tuple[following.FeedUpdate, ...] = (
    following.Listed((12345, 12344), FeedPosition()),
    following.Shown(_BEFORE, FeedPosition((_BEFORE.mark,))),
    following.Removed(12344, FeedPosition((_BEFORE.mark,))),
    following.Quiet(),
    following.Shown(_AFTER, FeedPosition((_AFTER.mark,))),
)


def _example(updates: Iterable[following.Update | following.FeedUpdate], writer: Writer) -> str:
    return (writer.wait(RETRY_MS) + b"".join(framed(update, writer) for update in updates)).decode()


RUN: dict[str, Any] = run_fields(_RUN)
PENDING: dict[str, Any] = pending_fields(_PENDING)
ENTRY: dict[str, Any] = json.loads(entry_json(to_json(openapi.ENTRY), 25))
LOG = {**RUN, "logs": [ENTRY], "total_logs": 25, "page": 1, "size": 100, "pages": 1}
STREAM = _example(_UPDATES, EVENTS)
STREAM_LINES = _example(_UPDATES, LINES)
FEED = _example(_FEED, EVENTS)
FEED_LINES = _example(_FEED, LINES)
