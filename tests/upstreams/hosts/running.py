"""A real host: a process of its own, on a port that it keeps when it is killed and started again."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import httpx
import pytest

from tests.conftest import CI
from tests.end_to_end.processes import ROOT, STARTING, WAIT, held_port
from tests.upstreams.hosts.model import model

PLACE = "TEST_HOSTS"
"""The environment variable that names the folder into which ``scripts/install_test_hosts`` installs."""

DAILY = {"langgraph", "opencode"}
"""The hosts that CI has at each push; it is for the nightly to have the others: they take more than a GiB."""

STOPPING = 10.0
"""Seconds that a host gets to end by itself."""

MARK = "REAL_HOST_OF_TESTS"
"""The environment variable by which the processes are known that a host has started."""


class RealHost:
    """It serves within ``with``, on ``url``. All that it reads and stores is in ``directory``, which is empty at first.

    ``model`` is what its agents ask, and ``started_in`` the seconds that the last start took.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    """Where the program is in the folder of installed hosts."""
    health: ClassVar[str] = "/health"
    keeps: ClassVar[bool] = True
    """Whether its runs are there after a restart."""
    token = ""
    """What the host takes for a password, if it takes one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.log = directory / "log"
        self.started_in = 0.0
        self.held = ExitStack()
        self.model = self.held.enter_context(model())
        self.port = self.held.enter_context(held_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    # -- what each host says of itself ------------------------------------------------------------------------------

    @classmethod
    def found(cls) -> str | None:
        """Its program: in the folder of installed hosts, or else on PATH, if it is called like the host."""
        installed = Path(os.environ.get(PLACE, "")) / cls.program
        if PLACE in os.environ and installed.exists():
            return str(installed)
        return shutil.which(cls.name) if installed.name == cls.name else None

    @classmethod
    def missing(cls) -> str | None:
        """What to do where it is not installed."""
        if cls.found():
            return None
        return f"{cls.name} is not in ${PLACE}: export {PLACE}=DIRECTORY and run scripts/install_test_hosts {cls.name}"

    def command(self) -> list[str]:
        """What starts it. There is no usual one, so a class that forgets it is told."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def prepare(self) -> None:
        """Write what the host reads; ``directory`` is empty."""

    @property
    def headers(self) -> dict[str, str]:
        """What lets a request in."""
        return {}

    # -- its life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.home.mkdir()
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.held.close()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        began = time.monotonic()
        kept = {name: os.environ[name] for name in ("LANG", "PATH") if name in os.environ}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                env={
                    **kept,
                    "HOME": str(self.home),
                    "PYTHONPATH": str(ROOT),
                    "PYTHONUNBUFFERED": "1",
                    "TMPDIR": str(self.home),
                    "TZ": "UTC",
                    MARK: str(self.directory),
                    **self.environment(),
                },
            )
        while not self._answers():
            assert self._process.poll() is None, f"{self.name} has ended: {self.log_tail()}"
            assert time.monotonic() < began + STARTING, f"{self.name} does not start: {self.log_tail()}"
            time.sleep(0.05)
        self.started_in = time.monotonic() - began

    def ready(self) -> bool:
        """Whether it would do what it is asked for; a host may answer its health call before that."""
        return True

    def _answers(self) -> bool:
        # a request of the first seconds may get no answer at all, so each has bounded time and a connection of its own
        try:
            with self.client(timeout=5) as client:
                return client.get(self.health).is_success and self.ready()
        except httpx.TransportError:
            return False

    def client(self, timeout: float = WAIT) -> httpx.Client:
        """One whose requests are let in."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=timeout, trust_env=False)

    def kill(self) -> None:
        """End it and whatever it has started, at once, as when a machine fails."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(WAIT)
        self._process = None
        for pid in self._strays():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _strays(self) -> Iterator[int]:
        """Processes that have left the group of the host: terminals, say."""
        mark = f"{MARK}={self.directory}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    yield int(path.parent.name)

    def stored(self) -> None:
        """Wait until it has stored what it has, so that ``kill`` loses nothing."""

    def restart(self) -> None:
        """End it as an operator would, so that it can store what it has, and start it on the same port."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOPPING)
        self.kill()
        self.start()

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


def is_here(kind: type[RealHost]) -> bool:
    """Whether there are tests with this host here. Outside CI they are skipped, and say how to install it."""
    return kind.name in DAILY or not CI or kind.missing() is None


H = TypeVar("H", bound=RealHost)


def serving(kind: type[H], directories: pytest.TempPathFactory) -> Iterator[H]:
    """What a fixture of module scope yields from: one host of that kind. Without it its tests are skipped."""
    if (reason := kind.missing()) is not None:
        pytest.skip(reason)
    with kind(directories.mktemp(kind.name)) as host:
        yield host
