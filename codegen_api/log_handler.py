"""A log handler with a thread of its own: logging never waits for a slow reader or disk.

Lines that are not taken in time are dropped and counted; the count is logged once lines are taken again.
"""

import logging
import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue

MOST_BYTES = 4 * 1024 * 1024
"""Maximum bytes queued."""
LAST_SECONDS = 1.0
"""How long the end of the process waits for queued lines."""


class ThreadedHandler(logging.Handler):
    """Writes to a file descriptor that it does not own. ``lost`` is called for each dropped line."""

    def __init__(self, descriptor: int, lost: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost = lost
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._counting = threading.Condition()
        self._waiting = 0
        self._unreported = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            self._begin()
        except Exception:  # logging must never break the work that it is about
            self._drop()
            return
        with self._counting:
            fits = self._waiting + len(line) <= MOST_BYTES
            self._waiting += len(line) if fits else 0
        if fits:
            self._queue.put(line)
        else:
            self._drop()

    def flush(self) -> None:
        """Wait briefly for queued lines."""
        with self._counting:
            self._counting.wait_for(lambda: not self._waiting, LAST_SECONDS)

    def _begin(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            thread.start()
            self._thread = thread

    def _drop(self) -> None:
        with self._counting:
            self._unreported += 1
        self._lost()

    def _write_all(self) -> None:
        while True:
            line = self._queue.get()
            if not self._write(line):
                self._drop()
            elif self._queue.empty():
                self._report_lost()
            with self._counting:
                self._waiting -= len(line)
                self._counting.notify_all()

    def _report_lost(self) -> None:
        with self._counting:
            unreported, self._unreported = self._unreported, 0
        if unreported:
            text = f"{unreported} lines of this log were lost: nobody took them"
            record = logging.LogRecord("codegen_api", logging.WARNING, __file__, 0, text, None, None)
            if not self._write(f"{self.format(record)}\n".encode()):
                with self._counting:
                    self._unreported += unreported

    def _write(self, line: bytes) -> bool:
        # not through a Python file object: this daemon thread could die with its lock held, and block the exit of the
        # process
        try:
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
        except OSError:
            return False
        return True
