"""Holds for all tests: nothing secret is written anywhere (see ``tests/leaks.py``). And the profile of long runs."""

import logging

import pytest
from hypothesis import settings

from tests.leaks import WATCH, Handler, sandbox_texts

HANDLER = Handler(WATCH)

# for tests that leave the number to the profile; whatever CI chooses, each night tries other examples
settings.register_profile("nightly", max_examples=5000, deadline=None, derandomize=False, print_blob=True)


def pytest_sessionstart() -> None:
    logging.getLogger().addHandler(HANDLER)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """By now every process has ended: fixtures of the session too have been torn down."""
    logging.getLogger().removeHandler(HANDLER)
    for text in sandbox_texts():
        WATCH.secret("a text of the sandbox's logs", text)
    if WATCH.found() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = WATCH.found()
    if found:
        terminalreporter.section("secrets in logs and error bodies", red=True)
        for each in found[:50]:
            terminalreporter.line(each)
        terminalreporter.line(f"{len(found)} in all. This run has failed.", red=True)
