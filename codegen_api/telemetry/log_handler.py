"""A log handler with a thread of its own: logging never waits for a slow reader or disk.

The first line after a pause is written at once. Then the thread sleeps for a moment, and writes the lines of that time
together: waking it for each line would cost more than the line. If the reader is too slow, lines are dropped and
counted, and the count is logged once the reader catches up.
"""

import logging
import os
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from time import sleep

MOST_BYTES = 4 * 1024 * 1024
"""Maximum bytes queued."""
LAST_SECONDS = 1.0
"""Seconds that the end of the process waits for queued lines."""
REST = 0.02
"""Seconds that the thread sleeps after it has written."""
AT_ONCE = 4096
"""Bytes of lines that are written together. A pipe may mix longer writes with the lines of other processes."""


class ThreadedHandler(logging.Handler):
    """Writes to a file descriptor that it does not own. ``lost`` is called for each dropped line."""

    def __init__(self, descriptor: int, lost: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost = lost
        self._changed = threading.Condition(threading.Lock())
        self._lines: list[bytes] = []
        self._waiting = 0
        self._unreported = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            self._begin()
        except Exception:  # logging must never break what is logged
            self._drop()
            return
        with self._changed:
            fits = self._waiting + len(line) <= MOST_BYTES
            if fits:
                self._waiting += len(line)
                self._lines.append(line)
                if len(self._lines) == 1:
                    self._changed.notify_all()
        if not fits:
            self._drop()

    def flush(self) -> None:
        """Wait briefly for queued lines."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, LAST_SECONDS)

    def _begin(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            thread.start()
            self._thread = thread

    def _drop(self) -> None:
        with self._changed:
            self._unreported += 1
        self._lost()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
            for batch in _batches(lines):
                self._write_batch(batch)
            sleep(REST)

    def _write_batch(self, lines: Sequence[bytes]) -> None:
        content = b"".join(lines)
        unwritten = self._write(content)
        if not unwritten and self._waiting == len(content):
            self._report_lost()
        for line in reversed(lines):
            if unwritten > 0:
                unwritten -= len(line)
                self._drop()
        with self._changed:
            self._waiting -= len(content)
            self._changed.notify_all()

    def _report_lost(self) -> None:
        with self._changed:
            unreported, self._unreported = self._unreported, 0
        if unreported:
            text = f"{unreported} lines of this log were lost: nobody took them"
            record = logging.LogRecord("codegen_api", logging.WARNING, __file__, 0, text, None, None)
            if self._write(f"{self.format(record)}\n".encode()):
                with self._changed:
                    self._unreported += unreported

    def _write(self, content: bytes) -> int:
        """Write; return the number of bytes that could not be written."""
        # not through a Python file object: this daemon thread could die with its lock held, and block the exit of the
        # process
        try:
            while content:
                try:
                    content = content[os.write(self._descriptor, content) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
        except OSError:
            pass
        return len(content)


def _batches(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The lines in batches of at most ``AT_ONCE`` bytes, or of one longer line."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    yield batch
