"""Log lines: whoever logs never waits, whatever becomes of the lines, and what is lost is counted and told."""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from codegen_api.telemetry import log_handler
from codegen_api.telemetry.log_handler import AT_ONCE, MOST_BYTES, ThreadedHandler
from codegen_api.telemetry.metrics import PrometheusObserver

WAIT = 30.0


class Pipe:
    """A pipe of 4 KiB whose reader reads when told so, and a logger that writes into it."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, 4096)
        self.lost = 0
        self.lines = ThreadedHandler(self.write, self._count)
        self.lines.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def _count(self) -> None:
        self.lost += 1

    def say(self, text: str) -> None:
        self.lines.handle(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))

    def all(self) -> list[str]:
        """Every line there is, until one that is ``end``."""
        found = b""
        while b"INFO end\n" not in found:
            found += os.read(self.read, 65536)
        lines = found.decode().splitlines()
        return lines[: lines.index("INFO end") + 1]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    # what waits in the pipe goes, so that the thread is not left in the middle of a line
    threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(pipe.read, 65536), b"")], daemon=True).start()
    pipe.lines.flush()
    os.close(pipe.write)


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    for number in range(20):
        pipe.say(f"line {number} \ud800 ä")
    pipe.say("end")
    assert pipe.all() == [*(f"INFO line {number} \\ud800 ä" for number in range(20)), "INFO end"]
    assert pipe.lost == 0


def test_who_logs_does_not_wait_for_who_does_not_read_and_what_is_lost_is_told(pipe: Pipe) -> None:
    text = "x" * 1000
    fit = MOST_BYTES // len(f"INFO {text}\n")
    for _ in range(fit + 500):  # in this thread: it would stand here for ever
        pipe.say(text)
    assert pipe.lost == pytest.approx(500, abs=10)  # some are in the pipe already
    reading = threading.Thread(target=lambda: said.extend(pipe.all()))
    said: list[str] = []
    reading.start()
    pipe.lines.flush()  # as long as it takes, within bounds: it is being read
    while pipe.lines._waiting:
        pipe.lines.flush()
    pipe.say("end")
    reading.join(WAIT)
    assert said.count(f"INFO {text}") + pipe.lost == fit + 500
    assert said[-2:] == [f"WARNING {pipe.lost} lines of this log were lost: nobody took them", "INFO end"]


def test_lines_that_come_while_the_thread_rests_are_written_together(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting, rested, written, write = threading.Event(), threading.Event(), list[bytes](), os.write

    def rest(_: float) -> None:
        resting.set()
        rested.wait(WAIT)

    def noted(descriptor: int, content: bytes) -> int:
        written.append(content)
        return write(descriptor, content)

    monkeypatch.setattr(log_handler, "sleep", rest)
    monkeypatch.setattr(os, "write", noted)
    pipe.say("begin")
    assert resting.wait(WAIT)
    for number in range(100):
        pipe.say(f"{number} {'x' * 100}")
    pipe.say("end")
    rested.set()
    assert len(pipe.all()) == 102
    assert len(written) == 1 + 3  # of 11 KiB
    assert all(len(content) <= AT_ONCE and content.endswith(b"\n") for content in written)


def test_the_end_of_the_process_waits_for_a_moment_only(pipe: Pipe) -> None:
    for _ in range(100):
        pipe.say("x" * 1000)
    pipe.lines.flush()  # comes back
    assert pipe.lines._waiting > 0


@pytest.mark.parametrize("how", ["a full disk", "a reader who is gone", "a file that was closed"])
def test_a_line_that_cannot_be_written_is_lost_and_counted(how: str) -> None:
    read, write = os.pipe()
    descriptor = os.open("/dev/full", os.O_WRONLY) if how == "a full disk" else write
    os.close(read)
    if how == "a file that was closed":
        os.close(write)
        descriptor = 1_000_000  # a number that nothing is given meanwhile
    metrics = PrometheusObserver()
    lines = ThreadedHandler(descriptor, metrics.unlogged)
    for _ in range(3):
        lines.handle(logging.LogRecord("x", logging.INFO, "", 0, "hello", None, None))
    lines.flush()
    assert b"codegen_api_log_lines_lost_total 3.0" in metrics.render()


def test_a_disk_that_has_room_again_is_told_what_it_missed(tmp_path: Path) -> None:
    lines = ThreadedHandler(os.open("/dev/full", os.O_WRONLY))
    lines.handle(logging.LogRecord("x", logging.INFO, "", 0, "one", None, None))
    lines.flush()
    lines._descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    lines.handle(logging.LogRecord("x", logging.INFO, "", 0, "two", None, None))
    lines.flush()
    assert (tmp_path / "log").read_text() == "two\n1 lines of this log were lost: nobody took them\n"


def test_a_line_that_cannot_be_made_disturbs_nobody(pipe: Pipe) -> None:
    pipe.lines.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("no number",), None))
    pipe.say("end")
    assert pipe.all() == ["INFO end"]
    assert pipe.lost == 1
