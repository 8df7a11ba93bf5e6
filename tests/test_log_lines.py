"""Lines of the log: as text, and as JSON, with what is known of the request."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from codegen_api.telemetry import Trace, logger, trace
from codegen_api.telemetry.log_lines import (
    JsonFormatter,
    PeopleFormatter,
    TextFormatter,
    form_of,
    log_request,
    set_up_logging,
)
from tests.dialects.rich import RichHost
from tests.dialects.site import Connection, serving


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(caplog: pytest.LogCaptureFixture, formatter: logging.Formatter) -> list[str]:
    return [formatter.format(record) for record in caplog.records if record.name == "codegen_api"]


def of_a_request(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    said = [json.loads(line) for line in lines(caplog, JsonFormatter())]
    return [each for each in said if "method" in each]


async def test_the_line_of_a_request_says_who_asked_for_what_and_how_it_went(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(RichHost()) as site:
        await site.get("/agent-runs/7?hunter2=1", headers={"X-Request-ID": "abc"})
        await site.get("/nowhere", token=None)
    found, nowhere = of_a_request(caplog)
    assert found.pop("duration_ms") >= 0
    assert found.pop("time").endswith("Z")
    message = found.pop("message")
    assert message.startswith("GET /agent-runs/7 404 ")
    assert found == {
        "level": "info",
        "method": "GET",
        "route": "/agent-runs/{id}",
        "status": 404,
        "principal": "1",
        "code": "not_found",
    }
    assert nowhere["route"] is None
    assert "principal" not in nowhere


async def test_the_line_of_a_stream_says_how_it_ended_and_how_many_entries_it_had(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(RichHost(), stream_stall_seconds=0.05) as site:
        site.host.add("1", status="COMPLETE").append(3)
        site.host.add("2").append(2)
        await site.get("/agent-runs/1/logs/stream")
        gone, stuck = (Connection(site.app, "/agent-runs/2/logs/stream") for _ in range(2))
        await gone.received(2)
        gone.leave()
        await gone.task
        stuck.blocked = asyncio.Event()
        await stuck.task
    over, left, stalled = of_a_request(caplog)
    assert (over["ending"], over["entries"]) == ("end", 3)
    assert left["ending"] == "client_left"
    assert (stalled["ending"], stalled["code"]) == ("client_stalled", "client_stalled")


@pytest.fixture
def asked() -> Iterator[Trace]:
    current = Trace("abc", principal="käse\u2028 \ud800" + "x" * 1000, ending="end", entries=3)
    token = trace.set(current)
    yield current
    trace.reset(token)


def test_text_has_the_same_behind_the_line_in_one_word_each(asked: Trace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_request(asked, "GET", "/x", None, 200, 0.1, refused=False)
    (line,) = lines(caplog, TextFormatter("%(levelname)s %(message)s"))
    name = r"k\xe4se\u2028\x20\ud800" + "x" * 93
    assert line == rf"INFO GET /x 200 100 ms principal={name} ending=end entries=3 request_id=abc"


def test_people_at_a_terminal_get_what_they_can_read(asked: Trace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked.principal = "ali ce"
    log_request(asked, "GET", "/x\x1b", None, 200, 83.2, refused=False)
    asked.principal = asked.ending = None
    asked.code, asked.reason = "upstream_error", "a\nb"
    log_request(asked, "POST", "/x", None, 502, 0.0124, refused=False)
    logger.warning("take care")
    stream, failed, care = (line.partition(" ")[2] for line in lines(caplog, PeopleFormatter(colours=False)))
    assert stream == r"200 GET   /x\x1b  1 min 23 s  ali\x20ce  3 entries, end"
    assert failed == r"502 POST  /x  12 ms  upstream_error (a\nb)  request_id=abc"
    assert care == "WARNING take care"
    coloured = lines(caplog, PeopleFormatter(colours=True))
    assert "\x1b[32m200\x1b[0m" in coloured[0]
    assert "\x1b[31m502\x1b[0m" in coloured[1]
    assert "\x1b[33mWARNING\x1b[0m" in coloured[2]


def test_json_has_one_line_whatever_is_in_it(asked: Trace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_request(asked, "GET", "/x", None, 200, 0.1, refused=False)
    asked.principal = "käse\u2028"
    log_request(asked, "GET", "/x", None, 200, 0.1, refused=False)
    try:
        raise ValueError("no matter")
    except ValueError:
        logger.exception("a\nb")
    bad, odd, fault = lines(caplog, JsonFormatter())
    assert all(line.isascii() and "\n" not in line for line in (bad, odd, fault))
    assert json.loads(bad)["principal"] == "käse\u2028 \ud800" + "x" * 93
    assert (json.loads(odd)["principal"], json.loads(odd)["request_id"]) == ("käse\u2028", "abc")
    assert json.loads(fault)["message"] == "a\nb"
    assert "ValueError" in json.loads(fault)["traceback"]


def test_a_line_of_another_library_names_it() -> None:
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Started %d", (7,), None)
    said = json.loads(JsonFormatter().format(record))
    assert (said["logger"], said["level"], said["message"]) == ("uvicorn.error", "warning", "Started 7")


def test_what_is_not_logged_costs_no_line(asked: Trace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log_request(asked, "GET", "/x", None, 200, 0.1, refused=False)
    asked.code, asked.reason = "upstream_error", "status 500"
    log_request(asked, "GET", "/x", None, 502, 0.1, refused=False)
    log_request(asked, "GET", "/x", None, 422, 0.1, refused=True)
    assert [line for line in lines(caplog, TextFormatter("%(message)s")) if "/x" in line] == lines(
        caplog, TextFormatter("%(message)s")
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("log_format", "stream", "json_wanted"),
    [
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
        ("auto", None, True),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ],
)
def test_lines_are_text_on_a_terminal_and_json_elsewhere_unless_one_is_asked_for(
    log_format: str, stream: Any, json_wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert (form_of(log_format) == "json") is json_wanted
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "lastResort", None)
    set_up_logging("INFO", log_format, lambda: None)
    if isinstance(stream, io.StringIO):
        logger.info("hello")
        assert stream.getvalue().startswith("{") is json_wanted
        assert "hello" in stream.getvalue()
