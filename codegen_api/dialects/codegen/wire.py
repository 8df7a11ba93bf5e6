"""The hosted API on the wire: pure functions from the gateway's data to the bytes that the host itself would send.

They leave out the gateway's additions, and convert normalized times back.
"""

import json
import re
from collections.abc import Mapping, Sequence

from starlette.responses import Response

from codegen_api.errors import Detail, GatewayError, Rejected
from codegen_api.gateway.run_lists import FoundRuns
from codegen_api.http.web import error_headers, json_response, status_of
from codegen_api.identity import Principal
from codegen_api.runs import Json, LogEntry, LogPage, Paging, Run, to_json
from codegen_api.telemetry import request_id

_OURS = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d(?:\.\d+)?)Z", re.ASCII)


# -- errors -----------------------------------------------------------------------------------------------------------


def error_fields(error: GatewayError) -> dict[str, Json]:
    """An error with every field that clients look for. The host has three shapes of errors, and each client reads some
    of them: ``message`` as well as ``detail``, which is a list where the host's is.
    """
    return {
        "detail": _faults(error) if isinstance(error, Rejected) else error.message,
        "message": error.message,
        "status_code": status_of(error),
        "code": error.code,
        "request_id": request_id(),
    }


def render_error(error: GatewayError) -> Response:
    return json_response(to_json(error_fields(error)), status_of(error), error_headers(error))


def _faults(error: Rejected) -> Json:
    faults = [item for item in error.details if isinstance(item, Detail)] or [Detail((), error.message, error.code)]
    return [fault.fields for fault in faults]


# -- data -------------------------------------------------------------------------------------------------------------


def host_time(value: Json) -> Json:
    """Convert our UTC timestamps to the host's format: with a space and without a zone. Other values are unchanged."""
    ours = _OURS.fullmatch(value) if isinstance(value, str) else None
    return value if ours is None else f"{ours[1]} {ours[2]}"


def run_fields(run: Run) -> dict[str, Json]:
    """A run with the host's fields only."""
    fields = with_host_times(run.fields)
    pulls = fields.get("github_pull_requests")
    if isinstance(pulls, list):
        fields["github_pull_requests"] = [with_host_times(pull) if isinstance(pull, dict) else pull for pull in pulls]
    return fields


def with_host_times(fields: Mapping[str, Json]) -> dict[str, Json]:
    return {key: host_time(value) if key.endswith("_at") else value for key, value in fields.items()}


def entry_json(entry: LogEntry) -> bytes:
    """A log entry: its bytes unchanged, except for the time."""
    created_at = host_time(entry.created_at)
    if created_at == entry.created_at:
        return entry.json
    before, after = (f'"created_at":"{time}"'.encode() for time in (entry.created_at, created_at))
    if entry.json.count(before) == 1:
        return entry.json.replace(before, after)
    # the same time occurs in the entry's data as well
    return to_json({**json.loads(entry.json), "created_at": created_at})


def log_page(page: LogPage) -> bytes:
    """A page of the log with the run, in the host's format."""
    entries = b",".join(entry_json(entry) for entry in page.entries)
    paging = page.paging
    rest = to_json({"total_logs": paging.total, "page": paging.page, "size": paging.size, "pages": paging.pages})
    return b'%b,"logs":[%b],%b' % (to_json(run_fields(page.run))[:-1], entries, rest[1:])


def runs_page(found: FoundRuns, skip: int, limit: int) -> bytes:
    """A page of runs. If a search filled it and may continue, its total claims that there are more."""
    runs = [run_fields(run) for run in found.listing.items]
    return page_of(runs, found.listing.paging, skip, limit, more=len(runs) == limit and found.next_skip is not None)


def page_of(items: Sequence[Json], paging: Paging, skip: int, limit: int, *, more: bool = False) -> bytes:
    """A page with all four numbers, which the host always sends. Unknown ones are computed: the total is the number of
    items skipped and present, plus one if there may be ``more``.
    """
    total = skip + len(items) + more if paging.total is None else paging.total
    numbers: dict[str, Json] = {
        "total": total,
        "page": skip // limit + 1 if paging.page is None else paging.page,
        "size": limit if paging.size is None else paging.size,
        "pages": -(-total // limit) if paging.pages is None else paging.pages,
    }
    return to_json({"items": items, **numbers})


def user_fields(principal: Principal) -> dict[str, Json]:
    """A user unknown to the host, in the host's format. Clients require a number and two strings."""
    return {
        "id": principal.number,
        "email": None,
        "github_user_id": principal.user,
        "github_username": principal.user,
        "avatar_url": None,
        "full_name": None,
        "role": None,
        "is_admin": None,
    }
