"""The native dialect on the wire, as docs/wire.md specifies it: pure functions from the gateway's data to bytes."""

import random
from collections.abc import AsyncGenerator
from typing import assert_never
from urllib.parse import quote
from weakref import WeakKeyDictionary

from starlette.responses import Response

from codegen_api import errors, following
from codegen_api.brokers import Batch
from codegen_api.dialects import detail_fields
from codegen_api.gateway.viewing import Stream
from codegen_api.http.sse import HEARTBEAT, frame, line, retry
from codegen_api.http.web import WAITS, error_headers, json_response, retry_after, status_of
from codegen_api.runs import Appended, Changed, Cursor, Json, Paging, Run, WaitReason, to_json
from codegen_api.taps import Tap
from codegen_api.telemetry import count_entries, note, record_ending, record_notice, request_id, trace

RETRY_MS = 2000
"""Reconnect delay of clients whose stream broke."""


# -- errors -----------------------------------------------------------------------------------------------------------


def error_fields(error: errors.GatewayError) -> dict[str, Json]:
    """An error, in the same shape over HTTP and in a stream."""
    body: dict[str, Json] = {
        "error": error.message,
        "code": error.code,
        "status_code": status_of(error),
        "request_id": request_id(),
    }
    if error.details:
        body["details"] = detail_fields(error)
    if status_of(error) in WAITS:
        body["retry_after"] = retry_after(error)
    return body


def render_error(error: errors.GatewayError) -> Response:
    return json_response(to_json(error_fields(error)), status_of(error), error_headers(error))


# -- data -------------------------------------------------------------------------------------------------------------


def run_fields(run: Run) -> dict[str, Json]:
    """A run: the host's fields and ours. The last two of ours are present only if the host provides them."""
    fields: dict[str, Json] = {**run.fields, "run_status": run.status.value, "ended": run.status.ended}
    if run.reason is not None:
        fields["waiting_for"] = run.reason.value
    if run.final:
        fields["final"] = True
    return fields


def run_path(run_id: str) -> str:
    return f"/agent-runs/{quote(run_id, safe='')}"


def entry_json(json: bytes, position: int | None) -> bytes:
    """A log entry: its bytes unchanged, with its position appended."""
    comma = b"" if json == b"{}" else b","
    return b'%b%b"position":%b}' % (json[:-1], comma, b"null" if position is None else b"%d" % position)


def paging_fields(paging: Paging) -> dict[str, Json]:
    return {"total": paging.total, "page": paging.page, "size": paging.size, "pages": paging.pages}


# -- streams ----------------------------------------------------------------------------------------------------------


class Writer:
    """Writes events as server-sent events. Subclasses write other formats."""

    media_type = "text/event-stream; charset=utf-8"
    heartbeat = HEARTBEAT
    event = staticmethod(frame)
    wait = staticmethod(retry)

    def __init__(self) -> None:
        self._written: WeakKeyDictionary[Batch, bytes] = WeakKeyDictionary()

    def batch(self, batch: Batch) -> bytes:
        """The events of a batch, encoded once for all viewers at the same position."""
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


class LineWriter(Writer):
    """Writes events as JSON lines."""

    media_type = "application/x-ndjson"
    heartbeat = b'{"event":"heartbeat"}\n'
    event = staticmethod(line)

    @staticmethod
    def wait(milliseconds: int) -> bytes:
        return b""


EVENTS, LINES = Writer(), LineWriter()


def framed(  # noqa: PLR0911 - a case for each kind of update
    update: following.Update | following.FeedUpdate,
    writer: Writer,
    ended: Cursor | None = None,
    waits_for: WaitReason | None = None,
) -> bytes:
    """The events for one update of a log or a feed. If the viewer knows that the log ``ended`` somewhere, the status of
    a run that continues revokes that. ``waits_for`` is what the run waited for in its last status.
    """
    match update:
        case Batch():
            count_entries(len(update.entries))
            return writer.batch(update)
        case Changed(run=run):
            # the id revokes an end, also for viewers that resume from here in another process
            status = writer.event("status", to_json(run_fields(run)), None if run.status.ended else ended)
            if run.reason in (None, waits_for):
                return status
            return status + _notice(writer, {"code": "waiting", "retry_in": None, "reason": run.reason})
        case following.Notice():
            return _notice(writer, {"code": update.code, "retry_in": update.retry_in})
        case following.Resync():
            data: dict[str, Json] = {"requested": update.requested, "log_length": update.length}
            return writer.event("resync", to_json(data), update.cursor)
        case following.Quiet():
            return writer.heartbeat
        case following.Current():
            return b""
        case following.Leaving() | following.FeedLeaving():
            record_ending("reconnect")
            return _reconnect_notice(writer, "reconnect", last_event_id=str(update.position))
        case following.Ended():
            record_ending("end")
            data = {**run_fields(update.run), "total_logs": update.length}
            return writer.event("end", to_json(data), f"{update.length}.end")
        case following.Listed():
            return writer.event("list", to_json({"ids": update.ids}), str(update.position))
        case following.Shown():
            count_entries(1)
            return writer.event("run", _described_json(update.described), str(update.position))
        case following.Removed():
            return writer.event("removed", to_json({"id": update.id}), str(update.position))
        case _:
            assert_never(update)


_described: WeakKeyDictionary[following.Described, bytes] = WeakKeyDictionary()


def _described_json(described: following.Described) -> bytes:
    """The run as JSON, encoded once for all viewers."""
    written = _described.get(described)
    if written is None:
        written = _described[described] = to_json(run_fields(described.run))
    return written


def _notice(writer: Writer, data: dict[str, Json]) -> bytes:
    record_notice(str(data["code"]))
    return writer.event("notice", to_json(data))


class Frames(Tap[bytes]):
    """The frames of ``stream``. ``ended`` is where the viewer believes that the log ends, if it does."""

    __slots__ = ("_ended", "_stream", "_trace", "_wait", "_waits_for", "_writer")

    def __init__(self, stream: Stream, writer: Writer, ended: Cursor | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._writer = writer
        self._ended = ended
        self._wait = writer.wait(RETRY_MS)
        self._waits_for: WaitReason | None = None
        self._trace = trace.get()
        stream.sink = self

    def take(self) -> bytes | None:
        if self.over:
            return None
        try:
            while (update := self._stream.take()) is not None:
                if written := self._framed(update):
                    return written
        except errors.GatewayError as error:
            self.over = True
            note(error.code, error.root_reason)
            return self._writer.event("failure", to_json(error_fields(error)))
        self.over = self._stream.over
        return None

    def offer(self, item: Batch | following.Quiet, now: float) -> bool:
        if isinstance(item, following.Quiet):
            return self.sink.offer(self._writer.heartbeat, now)
        if not self.sink.offer(self._writer.batch(item), now):
            return False
        if self._trace is not None:
            self._trace.entries += len(item.entries)
        return True

    def _framed(self, update: following.Update) -> bytes:
        written = framed(update, self._writer, self._ended, self._waits_for)
        if isinstance(update, Changed | following.Notice):
            written, self._wait = self._wait + written, b""
        if isinstance(update, Changed):
            self._waits_for = update.run.reason
            self._ended = self._ended if update.run.status.ended else None
        return written

    async def aclose(self) -> None:
        self.over = True
        await self._stream.aclose()


async def feed_frames(
    first: following.FeedUpdate, rest: AsyncGenerator[following.FeedUpdate, None], writer: Writer
) -> AsyncGenerator[bytes, None]:
    """The frames of a feed."""
    try:
        yield writer.wait(RETRY_MS) + framed(first, writer)
        async for update in rest:
            yield framed(update, writer)
    except errors.GatewayError as error:
        note(error.code, error.root_reason)
        yield writer.event("failure", to_json(error_fields(error)))


async def try_again(error: errors.GatewayError, writer: Writer) -> AsyncGenerator[bytes, None]:
    """The frames of a stream that could not start because of ``error``, which is temporary."""
    note(error.code, error.root_reason)
    limited = isinstance(error, errors.RateLimited | errors.UpstreamRateLimited)
    at_least = retry_after(error) if limited else error.retry_after or 0
    yield _reconnect_notice(writer, "rate_limited" if limited else "upstream_unavailable", at_least=at_least)


def _reconnect_notice(writer: Writer, code: str, *, at_least: float = 0, last_event_id: str | None = None) -> bytes:
    """The final notice of a stream that clients should resume. Its delay has jitter, so that they spread out."""
    milliseconds = int(max(at_least * 1000, RETRY_MS / 2) * random.uniform(1, 2))  # noqa: S311 - spreads load only
    data: dict[str, Json] = {"code": code, "retry_in": milliseconds / 1000}
    if last_event_id is not None:
        data["last_event_id"] = last_event_id
    return writer.wait(milliseconds) + _notice(writer, data)
