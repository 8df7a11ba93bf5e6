"""What the system has too little of is no fault of the program: callers are told to come back, operators in a line."""

import asyncio
import errno
import logging
import sqlite3
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest

from codegen_api.errors import AtCapacity
from codegen_api.exhaustion import exhausted_resource
from codegen_api.http.web import as_gateway_error
from codegen_api.outbound import Outbound
from codegen_api.telemetry import log_lines, logger
from codegen_api.telemetry.log_lines import log_loop_fault
from tests.dialects.routes import EVERY
from tests.dialects.site import run, serving
from tests.fakehost import FakeHost

SHORT = {
    "descriptors": OSError(errno.EMFILE, "Too many open files"),
    "memory": MemoryError(),
    "threads": RuntimeError("can't start new thread"),
    "disk space": OSError(errno.ENOSPC, "No space left on device"),
    "ports": OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
}


def inside(cause: BaseException) -> Exception:
    """An error that came of it, several steps on."""
    try:
        try:
            raise cause
        except BaseException as error:
            raise ValueError("something else") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize(("what", "error"), SHORT.items(), ids=SHORT)
def test_it_is_found_wherever_it_is_in_what_led_to_an_error(what: str, error: BaseException) -> None:
    assert exhausted_resource(error) == exhausted_resource(inside(error)) == what
    assert isinstance(as_gateway_error(inside(error)), AtCapacity)


@pytest.mark.parametrize("error", [OSError(errno.ECONNREFUSED, "x"), RuntimeError("x"), sqlite3.Error("x"), None])
def test_other_errors_are_none(error: BaseException | None) -> None:
    assert exhausted_resource(error) is None


@pytest.mark.wire("no-room", "error-retry-after")
@pytest.mark.parametrize("error", SHORT.values(), ids=SHORT)
def test_callers_are_told_to_come_back_and_the_operator_in_one_line(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "_logged", {})  # it may have been said already

    class Short(FakeHost):
        async def get_run(self, *_: Any) -> Any:
            raise error

    async def main() -> None:
        async with serving(Short(), dialects=EVERY, org_id="9") as site:
            for path in ("/agent-runs/1", "/v1/organizations/9/agent/run/1") * 3:
                answer = await site.get(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "at_capacity")
                assert answer.headers["retry-after"] == "5"

    run(main())
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == [f"a system resource is exhausted: {exhausted_resource(error)}"]


@pytest.mark.wire("no-room")
async def test_a_connection_to_the_host_that_cannot_be_opened_for_lack_of_descriptors_is_not_the_hosts_fault() -> None:
    def transport(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x") from aiohttp.ClientConnectorError(
            SimpleNamespace(host="host", port=80, ssl=True),  # type: ignore[arg-type]
            OSError(errno.EMFILE, "Too many open files"),
        )

    outbound = Outbound(
        "http://host", "", transport=httpx.MockTransport(transport), connect_timeout=1, read_timeout=1, via=None
    )
    with pytest.raises(AtCapacity):
        await outbound.ask("GET", "/", None, None, [])
    assert outbound.observation is None
    await outbound.aclose()


@pytest.mark.wire("no-room")
def test_an_event_loop_that_cannot_accept_says_so_once_and_whatever_else_it_has_to_say(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "filters", [log_lines._once_a_minute])
    monkeypatch.setattr(log_lines, "_logged", {})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_fault)
        for _ in range(100):
            loop.call_exception_handler({"message": "accept failed", "exception": SHORT["descriptors"]})
        loop.call_exception_handler({"message": "something else"})

    run(main())
    told = [record.getMessage() for record in caplog.records]
    assert told == ["a system resource is exhausted: descriptors", "something else"]
