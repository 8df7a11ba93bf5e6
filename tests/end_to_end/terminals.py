"""A terminal with a command on it, and what it has written there."""

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tests.end_to_end.processes import WAIT

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
COLUMNS = 90


class Terminal:
    """A command on a terminal of its own, and what it has written there."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self._written = b""

    @property
    def text(self) -> str:
        return self._written.decode(errors="surrogateescape")

    def until(self, wanted: Callable[[str], Any]) -> str:
        """Read on until the screen has what is wanted."""
        deadline = time.monotonic() + WAIT
        while not wanted(self.text):
            ready, _, _ = select.select([self._screen], [], [], max(deadline - time.monotonic(), 0))
            assert ready, self.text[-2000:]
            part = os.read(self._screen, 1 << 20)
            assert part, self.text[-2000:]
            self._written += part
        return self.text

    def over(self) -> int:
        """Read to the end; the exit status."""
        with suppress(OSError):  # so the end of a terminal is told
            while select.select([self._screen], [], [], WAIT)[0]:
                part = os.read(self._screen, 1 << 20)
                if not part:
                    break
                self._written += part
        return self.process.wait(WAIT)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())


@contextmanager
def terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """The command, on a terminal of its own, whose signals reach it."""
    screen, inside = os.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        pass_fds=[inside],
        env=environment,
        preexec_fn=lambda: os.login_tty(inside),  # noqa: PLW1509 - nothing else can give it the terminal
    )
    os.close(inside)
    try:
        yield Terminal(process, screen)
    finally:
        process.kill()
        process.wait(WAIT)
        os.close(screen)
