"""The native dialect on the wire, as docs/wire.md specifies it: pure functions from the gateway's data to bytes."""

import random
from collections.abc import AsyncGenerator
from typing import Protocol, assert_never
from weakref import WeakKeyDictionary

from starlette.responses import Response

from codegen_api import errors
from codegen_api.brokers import Batch
from codegen_api.following import Current, Ended, Leaving, Notice, Quiet, Resync, Stream, Update
from codegen_api.runs import Appended, Changed, Cursor, Json, Paging, Run, to_json
from codegen_api.sse import HEARTBEAT, frame, line, retry
from codegen_api.telemetry import note, trace
from codegen_api.upstreams import Listing
from codegen_api.web import WAITS, error_headers, json_response, retry_after, status_of

RETRY_MS = 2000
"""Reconnect delay for clients of a stream that broke."""


# -- errors -----------------------------------------------------------------------------------------------------------


def error_fields(error: errors.GatewayError) -> dict[str, Json]:
    """An error, in the same shape over HTTP and in a stream."""
    current = trace.get()
    body: dict[str, Json] = {
        "error": error.message,
        "code": error.code,
        "status_code": status_of(error),
        "request_id": current.request_id if current else None,
    }
    if error.details:
        body["details"] = [
            {"loc": list(item.loc), "msg": item.msg, "type": item.type} if isinstance(item, errors.Detail) else item
            for item in error.details
        ]
    if status_of(error) in WAITS:
        body["retry_after"] = retry_after(error)
    return body


def render_error(error: errors.GatewayError) -> Response:
    return json_response(to_json(error_fields(error)), status_of(error), error_headers(error))


# -- data -------------------------------------------------------------------------------------------------------------


def run_fields(run: Run) -> dict[str, Json]:
    """A run: the host's fields and two of ours."""
    return {**run.fields, "run_status": run.status.value, "ended": run.status.ended}


def entry_json(json: bytes, position: int | None) -> bytes:
    """A log entry: its bytes unchanged, with its position appended."""
    comma = b"" if json == b"{}" else b","
    return b'%b%b"position":%b}' % (json[:-1], comma, b"null" if position is None else b"%d" % position)


def paging_fields(paging: Paging) -> dict[str, Json]:
    return {"total": paging.total, "page": paging.page, "size": paging.size, "pages": paging.pages}


def listing_fields(listing: Listing[Run]) -> dict[str, Json]:
    return {"items": [run_fields(run) for run in listing.items], **paging_fields(listing.paging)}


# -- the stream -------------------------------------------------------------------------------------------------------


class Writer(Protocol):
    """A format for the events of a stream."""

    media_type: str
    heartbeat: bytes

    def event(self, name: str, data: bytes, id: str | int | None = None) -> bytes: ...  # noqa: A002

    def wait(self, milliseconds: int) -> bytes: ...

    def batch(self, batch: Batch) -> bytes: ...


class _Events:
    media_type = "text/event-stream; charset=utf-8"
    heartbeat = HEARTBEAT
    event = staticmethod(frame)
    wait = staticmethod(retry)

    def __init__(self) -> None:
        self._written: WeakKeyDictionary[Batch, bytes] = WeakKeyDictionary()

    def batch(self, batch: Batch) -> bytes:
        """Encoded once for all viewers at the same position."""
        written = self._written.get(batch)
        if written is None:
            written = self._written[batch] = b"".join(
                self.event(
                    "log" if isinstance(event, Appended) else "log.amended",
                    entry_json(event.entry.json, event.cursor),
                    str(position),
                )
                for event, position in zip(batch.entries, batch.positions, strict=True)
            )
        return written


class _Lines(_Events):
    media_type = "application/x-ndjson"
    heartbeat = b'{"event":"heartbeat"}\n'
    event = staticmethod(line)

    @staticmethod
    def wait(milliseconds: int) -> bytes:
        return b""


EVENTS: Writer = _Events()
LINES: Writer = _Lines()


def framed(update: Update, writer: Writer, ended: Cursor | None = None) -> bytes:
    """One update. If the viewer was told of an end, the description of a run that continues revokes it."""
    match update:
        case Batch():
            return writer.batch(update)
        case Changed(run=run):
            # with an id, for viewers that resume from here in another process
            return writer.event("status", to_json(run_fields(run)), None if run.status.ended else ended)
        case Notice():
            return writer.event("notice", to_json({"code": update.code, "retry_in": update.retry_in}))
        case Resync():
            data: dict[str, Json] = {"requested": update.requested, "log_length": update.length}
            return writer.event("resync", to_json(data), update.cursor)
        case Quiet():
            return writer.heartbeat
        case Current():
            return b""
        case Leaving():
            return _leave(writer, "reconnect", last_event_id=str(update.position))
        case Ended():
            data = {**run_fields(update.run), "total_logs": update.length}
            return writer.event("end", to_json(data), f"{update.length}.end")
        case _:
            assert_never(update)


async def frames(stream: Stream, writer: Writer, ended: Cursor | None = None) -> AsyncGenerator[bytes, None]:
    """The frames for a viewer who was told before that the log had ``ended`` there."""
    wait = writer.wait(RETRY_MS)
    try:
        async for update in stream:
            written = framed(update, writer, ended)
            if isinstance(update, Changed | Notice):
                written, wait = wait + written, b""
            if written:
                yield written
            if isinstance(update, Changed) and not update.run.status.ended:
                ended = None
    except errors.GatewayError as error:
        note(error.code, error.root_reason)
        yield writer.event("failure", to_json(error_fields(error)))


async def try_again(error: errors.GatewayError, writer: Writer) -> AsyncGenerator[bytes, None]:
    note(error.code, error.root_reason)
    limited = isinstance(error, errors.RateLimited | errors.UpstreamRateLimited)
    at_least = retry_after(error) if limited else error.retry_after or 0
    yield _leave(writer, "rate_limited" if limited else "upstream_unavailable", at_least=at_least)


def _leave(writer: Writer, code: str, *, at_least: float = 0, last_event_id: str | None = None) -> bytes:
    """The final notice of a stream that is to be resumed: jittered, so that clients do not come back together."""
    milliseconds = int(max(at_least * 1000, RETRY_MS / 2) * random.uniform(1, 2))  # noqa: S311 - spreads load only
    data: dict[str, Json] = {"code": code, "retry_in": milliseconds / 1000}
    if last_event_id is not None:
        data["last_event_id"] = last_event_id
    return writer.wait(milliseconds) + writer.event("notice", to_json(data))
