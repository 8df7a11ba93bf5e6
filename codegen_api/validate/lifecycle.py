"""Checks of a run's whole life: it is created, watched live with a cut in the middle, read by pages, and resumed.

The log is followed and recorded once. Most of the checks then only look at the record.
"""

import asyncio
import re
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx

from .client import Client, Failed, ServerEvent, Skipped, described, error_of, events_of, expect, json_of, run_of, shown
from .options import Object, object_in

PROMPT = "This is a smoke test. Change nothing, and answer with the single word pong."
PROMPT_AGAIN = "Still a smoke test. Change nothing, and answer with the single word pong again."
CUT_AFTER = 2
"""Entries after which the connection is cut, once."""
FRUITLESS = 3
"""Connections in a row without anything new after which the check gives up."""
LONGEST_PAUSE = 10.0
"""Maximum seconds before a reconnect, even if the gateway asks for more: this is a check and not a browser."""


@dataclass(slots=True)
class Record:
    """What was received of one log. ``ended`` is the ``end`` event, ``trouble`` why there is none."""

    last_id: str | None = None
    positions: list[int] = field(default_factory=list)
    entries: dict[int, Object] = field(default_factory=dict)
    connections: int = 0
    told_ended: bool = False
    live: bool = False
    """Whether the run was still at work when the first entry arrived."""
    ended: ServerEvent | None = None
    trouble: str = ""


@dataclass(slots=True)
class Findings:
    """What checks have found, for later checks."""

    bodies: list[Object] = field(default_factory=list)
    runs: list[Object] = field(default_factory=list)
    run_id: int | str = 0
    gone: bool = False
    """Whether the gateway has stopped accepting connections."""
    cause: str = ""
    """Why no check that needs a user can pass."""
    record: Record = field(default_factory=Record)


async def create(client: Client, found: Findings) -> str:
    metadata = {} if client.options.metadata is None else {"metadata": client.options.metadata}
    answer = await client.ask("POST", "/agent-runs", body={"prompt": PROMPT, **metadata})
    run = run_of(json_of(answer, 201))
    location = answer.headers.get("Location", "")
    expect(location, "there is no Location")
    run_of(json_of(await client.ask("GET", client.url(location))), run["id"])
    found.run_id = run["id"]
    return f"201, run {run['id']}, found where Location says"


async def stream(client: Client, found: Findings) -> str:
    record = found.record
    await _follow(client, found.run_id, record, cut_after=CUT_AFTER)
    return f"{len(record.positions)} entries over {record.connections} connections"


async def live(_: Client, found: Findings) -> str:
    expect(found.record.positions, "no entry came at all")
    expect(found.record.live, "the first entry came only after the run had ended (held back, or a run too short)")
    return "the first entry arrived while the run was at work"


async def unbroken(_: Client, found: Findings) -> str:
    record = found.record
    _expect_whole(record, 1)
    if record.connections == 1:
        raise Skipped("the log ended before it could be cut")
    return f"positions 1 to {len(record.positions)}, none lost and none doubled"


async def end(_: Client, found: Findings) -> str:
    return f"{_expect_end(found.record)} entries in all"


async def pages(client: Client, found: Findings) -> str:
    entries = found.record.entries
    limit = min(100, len(entries) // 3 + 1)
    skip = read = 0
    while skip < len(entries):
        answer = await client.ask("GET", f"/agent-runs/{found.run_id}/logs?skip={skip}&limit={limit}")
        page = json_of(answer)
        logs = page.get("logs")
        expect(isinstance(logs, list) and logs, "a page has no `logs` although there are more")
        expect(page.get("total_logs") == len(entries), f"`total_logs` is not {len(entries)}")
        for position, entry in enumerate(logs or (), skip + 1):
            expect(entries.get(position) == entry, f"entry {position} is not what the stream last said of it")
        skip, read = skip + len(logs or ()), read + 1
        more = skip < len(entries)
        expect(("next" in answer.links) == more, 'Link: rel="next" does not tell whether there is more')
    return f"{read} pages, equal to what was streamed"


async def told(client: Client, found: Findings) -> str:
    path, last = f"/agent-runs/{found.run_id}/logs/stream", found.record.last_id or ""
    while True:  # the check as a whole has a time limit
        async with client.stream(path, {"Accept": "text/event-stream", "Last-Event-ID": last}) as answer:
            if answer.status_code == 204:
                return f"Last-Event-ID {shown(last)} is answered 204"
            late = answer.status_code == 200 and await _is_late(answer)
            expect(late, f"Last-Event-ID {shown(last)} was answered {described(answer)}, not 204")
        await asyncio.sleep(1.0)


async def _is_late(answer: httpx.Response) -> bool:
    """Whether the gateway says that it waits for its host: then it cannot know yet whether there are new entries."""
    async with aclosing(events_of(answer.aiter_bytes())) as events:
        async for event in events:
            if event.name in ("notice", "log", "end"):
                return event.name == "notice"
    return False


async def ticket(client: Client, found: Findings) -> str:
    answer = await client.ask("POST", f"/agent-runs/{found.run_id}/logs/stream-ticket")
    if answer.status_code == 501:
        raise Skipped(f"not configured ({error_of(answer, 501)['code']})")
    url = json_of(answer, 201).get("url")
    expect(isinstance(url, str) and "?ticket=" in url, "the ticket has no `url`")
    followed = await client.ask("GET", client.url(f"{url}&last_event_id={found.record.last_id}"), token=None)
    expect(followed.status_code in (200, 204), f"without a token the ticket's URL answered {described(followed)}")
    refused = error_of(await client.ask("GET", client.url(f"{url}x"), token=None), 401)
    return f"opens the log without a token; a false one is 401 ({refused['code']})"


async def resume(client: Client, found: Findings) -> str:
    before = _expect_end(found.record)
    answer = await client.ask("POST", f"/agent-runs/{found.run_id}/resume", body={"prompt": PROMPT_AGAIN})
    run_of(json_of(answer), found.run_id)
    record = Record(last_id=found.record.last_id)
    await _follow(client, found.run_id, record)
    expect(record.positions or record.trouble, f"the stream ended at {before} again")
    _expect_whole(record, before + 1)
    return f"positions {before + 1} to {_expect_end(record)}, and the end again"


# -- following a log --------------------------------------------------------------------------------------------------


async def _follow(client: Client, run_id: int | str, record: Record, cut_after: int | None = None) -> None:
    """Follow the log to its end, and reconnect whenever a connection ends before that."""
    seconds, fruitless = client.options.timeout, 0
    try:
        async with asyncio.timeout(seconds):
            while record.ended is None and fruitless < FRUITLESS:
                known = len(record.positions)
                pause = await _connection(client, run_id, record, cut_after)
                cut_after = None
                fruitless = 0 if len(record.positions) > known else fruitless + 1
                if record.ended is None:
                    await asyncio.sleep(min(pause, LONGEST_PAUSE))
    except TimeoutError:
        record.trouble = f"run {run_id} has not ended within {seconds:g} s (see --timeout)"
    else:
        record.trouble = f"{FRUITLESS} connections in a row ended without anything new, and without an end"


async def _connection(client: Client, run_id: int | str, record: Record, cut_after: int | None) -> float:
    """Read one connection, to its end or until it is cut. Returns the seconds to wait before the next."""
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
    if record.last_id is not None:
        headers["Last-Event-ID"] = record.last_id
    record.connections += 1
    pause = 2.0
    async with client.stream(f"/agent-runs/{run_id}/logs/stream", headers) as answer:
        if answer.status_code >= 400:
            await answer.aread()
            error_of(answer, answer.status_code)
        expect(answer.status_code == 200, f"a stream was answered {described(answer)}, not 200")
        _expect_stream_headers(answer)
        first = True
        async with aclosing(events_of(answer.aiter_bytes())) as events:
            async for event in events:
                pause = pause if event.retry is None else event.retry / 1000
                expect(not first or event.name in ("status", "notice"), f"a stream began with {shown(event.name)}")
                first = False
                _add(event, record)
                if record.ended is not None:
                    break
                if event.name == "log" and len(record.positions) == 1:
                    # the order of events does not tell: a proxy that holds all back until the end keeps it
                    seen = run_of(json_of(await client.ask("GET", f"/agent-runs/{run_id}")), run_id)
                    record.live = not (seen["ended"] or record.told_ended)
                if cut_after is not None and len(record.positions) >= cut_after:
                    return 0.0
    return pause


def _add(event: ServerEvent, record: Record) -> None:
    data = _data(event)
    match event.name:
        case "status":
            record.told_ended = run_of(data)["ended"]
        case "log":
            position = data.get("position")
            begins = re.match("[0-9]*", event.id or "")
            same = isinstance(position, int) and begins is not None and begins[0] == str(position)
            expect(same, "the id of an entry does not begin with its `position`")
            record.positions.append(data["position"])
            record.entries[data["position"]] = data
        case "log.amended":
            expect(event.id is not None, "an amended entry has no id")
            record.entries[data.get("position", 0)] = data
        case "end":
            record.ended = event
        case "resync":
            raise Failed("the gateway does not know the position that it gave itself (resync)")
        case "failure":
            raise Failed(f"the gateway gave up: {shown(data.get('code'))}")
        case _:
            pass  # notices, and what later versions add
    record.last_id = event.id or record.last_id


def _data(event: ServerEvent) -> Object:
    data = object_in(event.data)
    if data is None:
        raise Failed(f"the data of {shown(event.name)} is no JSON object")
    return data


def _expect_stream_headers(answer: httpx.Response) -> None:
    kind = answer.headers.get("Content-Type", "")
    expect(kind.partition(";")[0] == "text/event-stream", f"a stream has the type {shown(kind or 'none')}")
    expect("no-cache" in answer.headers.get("Cache-Control", ""), "a stream may be cached")
    expect(answer.headers.get("Content-Encoding", "identity") == "identity", "a stream is compressed")


def _expect_whole(record: Record, first: int) -> None:
    """Check that every entry from position ``first`` on came once, and in order."""
    for expected, position in enumerate(record.positions, first):
        if position < expected:
            raise Failed(f"position {position} came twice, or late")
        expect(position == expected, f"position {expected} was lost")
    strangers = [position for position in record.entries if position not in range(1, first + len(record.positions))]
    expect(not strangers, "an entry was amended that had never come")


def _expect_end(record: Record) -> int:
    """Check the ``end`` event. Returns the length of the log."""
    if record.ended is None:
        raise Failed(record.trouble)
    data, last = _data(record.ended), max(record.positions, default=0)
    expect(run_of(data)["ended"], "`end` shows a run that has not ended")
    expect(data.get("total_logs") == last, f"`total_logs` of the end is not {last}, the last position")
    expect(record.ended.id == f"{last}.end", f"the id of the end is not {last}.end")
    return last
