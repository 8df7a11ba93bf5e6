"""Looks at the host for the effect of a request: a run by its mark, a resume by the user's words."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace

from codegen_api.errors import GatewayError, OutcomeUnknown, UpstreamError, UpstreamFailure, UpstreamUnreachable
from codegen_api.gateway import Gateway
from codegen_api.gateway.run_lists import SEARCHED_PAGES
from codegen_api.identity import ALL, READ, WRITE, Caller
from codegen_api.runs import Cursor, LogEntry, Run, RunRef
from codegen_api.upstreams import RunFilter

CUT_GRACE = 5.0
"""Seconds for which the host may still act on a request after the connection broke."""

SILENT_GRACE = 60.0
"""Seconds for which it may still act after a timeout."""

SECOND_LOOK = 1.0
"""Seconds until a second look if the host's answer was unusable."""

CLOCK_SKEW = 600.0
"""Seconds by which the host's clock may be behind ours."""

PROMPT = 200
"""Characters of a prompt that are compared with the log. Hosts may truncate longer prompts."""


def in_doubt(error: BaseException) -> bool:
    """Whether the host may have acted although the request ended in this error."""
    return error.may_have_acted if isinstance(error, UpstreamFailure) else not isinstance(error, GatewayError)


def grace(error: BaseException) -> float:
    """Seconds for which the host may still act after this error."""
    if isinstance(error, UpstreamError):
        return 0.0
    return CUT_GRACE if isinstance(error, UpstreamUnreachable) else SILENT_GRACE


async def find_marked(
    gateway: Gateway,
    caller: Caller,
    organization: str,
    name: str,
    values: Collection[str],
    since: float,
    *,
    pages: int = SEARCHED_PAGES,
    suits: Callable[[Run], bool] = lambda _: True,
) -> Run | None:
    """The newest run accepted by ``suits`` whose mark ``name`` is one of ``values`` and that was created after
    ``since`` (epoch seconds). The list is newest first, so the first older run ends the search.

    Raises:
        OutcomeUnknown: it is not on the first ``pages`` of more, or a run that might be it cannot be read.
    """
    skip, unseen = 0, False
    while pages > 0:
        found = await gateway.list(as_reader(caller), organization, skip, gateway.page_size, RunFilter(), None)
        pages -= SEARCHED_PAGES if found.searched else 1
        unseen = unseen or found.unseen
        for run in found.listing.items:
            if (run.marks or {}).get(name) in values and suits(run):
                return run
            if run.created is not None and run.created < since - CLOCK_SKEW and not unseen:
                return None
        if unseen:
            break
        if found.listing.at_end:
            return None
        skip = found.next_skip or skip + found.listing.length
    raise OutcomeUnknown("There are too many newer runs to find out whether this one was started.", retry_after=60)


async def find_said(
    gateway: Gateway, caller: Caller, ref: RunRef, prompt: str, *, after: Cursor = 0, behind: str | None = None
) -> bool:
    """Whether the user said this in a run: behind position ``after``, or, searching backwards, behind the entry named
    ``behind``.

    Raises:
        OutcomeUnknown: it is not on the first pages of more, or an entry that might be it cannot be read.
    """
    newest_first = behind is not None
    for _ in range(SEARCHED_PAGES):
        page = await gateway.read_log(
            as_reader(caller), ref.organization, ref.id, after, gateway.page_size, newest_first=newest_first
        )
        for entry in page.entries:
            if entry.absent:
                raise OutcomeUnknown("The host cannot show all of the log.", retry_after=60)
            if newest_first and entry_name(entry) == behind:
                return False
            if entry.said is not None and prompt.strip()[:PROMPT] in entry.said:
                return True
        if page.at_end:
            return False
        after += page.length
    raise OutcomeUnknown("The log has grown too long to find out whether the run was resumed.", retry_after=60)


def as_reader(caller: Caller) -> Caller:
    """The caller with read scopes: callers who may only write can still find what they wrote."""
    reading = {READ, READ + ALL} if WRITE + ALL in caller.scopes else {READ}
    return replace(caller, scopes=caller.scopes | reading)


def entry_name(entry: LogEntry) -> str:
    """A name for an entry in its log: its creation time, if known, as the rest may be amended."""
    return entry.created_at or hashlib.sha256(entry.json).hexdigest()
