"""What the native dialect's streams have in common: who comes with a ticket, and which format they want."""

import time
from collections.abc import AsyncGenerator

from fastapi import Request

from codegen_api import errors
from codegen_api.auth.tickets import Tickets
from codegen_api.dialects.native.wire import EVENTS, LINES, Writer
from codegen_api.identity import Caller
from codegen_api.parts import parts_of
from codegen_api.runs import Json, RunRef
from codegen_api.sse import EventStream, lasting
from codegen_api.taps import Tap
from codegen_api.web import address_of, admit, authenticate, bears_token, timestamp

LINE_TYPES = ("application/x-ndjson", "application/jsonl")


def writer_for(request: Request) -> Writer:
    """The format that the client accepts: JSON lines if it says so, else server-sent events."""
    lines = any(kind in request.headers.get("accept", "") for kind in LINE_TYPES)
    return LINES if lines else EVENTS


async def viewer(request: Request, ticket: str | None, wanted: str | None, run_id: str) -> tuple[Caller, str | None]:
    """The caller, by their token or else by their ``ticket`` for this, and the organization that they want."""
    if ticket is None:
        return await authenticate(request), wanted
    opened = tickets_of(request).open(ticket, time.time())
    if RunRef(wanted or opened.run.organization, run_id) != opened.run:
        raise errors.InvalidTicket
    caller = await admit(request, await parts_of(request).callers.ticket_holder(opened, address_of(request)))
    return caller, opened.run.organization


def usable(request: Request, ticket: str | None) -> str | None:
    """The ticket, if it counts: a bearer token goes before it."""
    return None if bears_token(request) else ticket


def ticket_fields(request: Request, path: str, run: RunRef, caller: Caller) -> dict[str, Json]:
    """A new ticket for the stream at ``path``."""
    ticket, expires = tickets_of(request).seal(run, caller, time.time())
    return {
        "ticket": ticket,
        "url": f"{request.scope.get('root_path', '')}{path}?ticket={ticket}",
        "expires_at": timestamp(expires, "seconds"),
    }


def tickets_of(request: Request) -> Tickets:
    tickets = parts_of(request).tickets
    if tickets is None:
        raise errors.TicketsNotConfigured
    return tickets


def event_stream(
    request: Request,
    pieces: Tap[bytes] | AsyncGenerator[bytes, None],
    writer: Writer,
    source: AsyncGenerator[object, None] | None = None,
) -> EventStream:
    return lasting(request, pieces, writer.media_type, source=source)
