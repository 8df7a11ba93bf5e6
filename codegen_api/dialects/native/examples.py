"""Examples for the OpenAPI document, written by the code that writes the answers."""

import json
from dataclasses import replace
from typing import Any

from codegen_api.brokers import Batch
from codegen_api.dialects import pending_fields
from codegen_api.dialects.native.wire import (
    EVENTS,
    LINES,
    RETRY_MS,
    Writer,
    entry_json,
    feed_framed,
    framed,
    run_fields,
)
from codegen_api.following import (
    Described,
    Ended,
    FeedPosition,
    FeedUpdate,
    Listed,
    Notice,
    Position,
    Quiet,
    Removed,
    Shown,
    Update,
)
from codegen_api.positions import Sighting
from codegen_api.runs import Amended, Appended, Changed, Json, LogEntry, Run, RunRef, RunStatus, WaitReason, to_json
from codegen_api.upstreams import PendingRequest

_RUN = Run(
    RunRef("323", "12345"),
    RunStatus.RUNNING,
    "ACTIVE",
    {
        "id": 12345,
        "organization_id": 323,
        "status": "ACTIVE",
        "created_at": "2025-06-21T11:20:04.338398Z",
        "web_url": "https://codegen.com/agent/trace/12345",
        "result": None,
        "summary": None,
        "source_type": "API",
        "github_pull_requests": [],
        "metadata": {"source": "api"},
    },
)
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
_ENTRY: dict[str, Json] = {
    "agent_run_id": 12345,
    "created_at": "2025-06-21T11:20:09.108894Z",
    "tool_name": "ripgrep_search",
    "message_type": "ACTION",
    "thought": "Look for the function first.",
    "observation": None,
    "tool_input": {"query": "def fibonacci"},
    "tool_output": {"matches": 1},
}


def _batch(event: type[Appended] | type[Amended], told: Sighting | None, **fields: Json) -> Batch:
    entry = LogEntry(to_json({**_ENTRY, **fields}), None, open=False, amendable=True)
    return Batch((event(1, entry),), None, 1, 0, (Position(1, told=told, copies=(entry.digest,)),))


_UPDATES: tuple[Update, ...] = (
    Changed(_RUN, None, 0.0),
    _batch(Appended, None, tool_output=None),
    Notice("upstream_unavailable", 2.1),
    Notice("recovered"),
    Changed(_WAITING, None, 0.0),
    _batch(Amended, Sighting.of(1, 1)),
    Quiet(),
    Ended(_OVER, 1),
)


_BEFORE, _AFTER = Described.of(_RUN, 0.0, 0.0), Described.of(_OVER, 0.0, 0.0)
_FEED: tuple[FeedUpdate, ...] = (
    Listed((12345, 12344), FeedPosition()),
    Shown(_BEFORE, FeedPosition((_BEFORE.mark,))),
    Removed(12344, FeedPosition((_BEFORE.mark,))),
    Quiet(),
    Shown(_AFTER, FeedPosition((_AFTER.mark,))),
)


def _example(writer: Writer) -> str:
    return (writer.wait(RETRY_MS) + b"".join(framed(update, writer) for update in _UPDATES)).decode()


def _feed_example(writer: Writer) -> str:
    return (writer.wait(RETRY_MS) + b"".join(feed_framed(update, writer) for update in _FEED)).decode()


RUN_EXAMPLE: dict[str, Any] = run_fields(_RUN)
PENDING_EXAMPLE: dict[str, Any] = pending_fields(_PENDING)
ENTRY_EXAMPLE: dict[str, Any] = json.loads(entry_json(to_json(_ENTRY), 25))
STREAM_EXAMPLE = _example(EVENTS)
LINES_EXAMPLE = _example(LINES)
FEED_EXAMPLE = _feed_example(EVENTS)
FEED_LINES_EXAMPLE = _feed_example(LINES)
