"""Processes that are measured: on a processor of their own, and what they take by the kernel's own account. Linux only.

With two processors or more, what is measured has one of them, and everything else (the host, the load) the others.
"""

import os
import resource
import select
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import descendants, environment, kill

STARTING = 60.0
"""Seconds after which what was started has failed to serve."""

MIB = 1024 * 1024

_ALL = sorted(os.sched_getaffinity(0))
_MEASURED = {_ALL[0]}
_OTHERS = set(_ALL[1:]) or _MEASURED


class Failed(Exception):
    """What was measured did not do its work, so there is no figure."""


@dataclass(frozen=True)
class Server:
    """Something that serves on ``port``. ``pid`` is the process that was started; its children count with it."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pids(self) -> list[int]:
        return [self.pid, *descendants(self.pid)]

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return sum(map(cpu_seconds, self.pids))

    def memory(self) -> int:
        """Bytes that it has in memory."""
        return sum(memory(pid, "VmRSS") for pid in self.pids)

    def peak(self) -> int:
        """Bytes that it had in memory when that was most."""
        return sum(memory(pid, "VmHWM") for pid in self.pids)


class Meter:
    """What ``server`` used from ``start`` to ``stop``, and what makes the load (this process, and hosts) did."""

    def __init__(self, server: Server, *hosts: Server) -> None:
        self.seconds = 0.0
        self.cpu = 0.0
        self.load = 0.0
        """Of a processor."""
        self._server = server
        self._hosts = hosts

    def start(self) -> None:
        self._before = self._read()

    def stop(self) -> None:
        began, cpu, load = self._before
        now, cpu_now, load_now = self._read()
        self.seconds, self.cpu = now - began, cpu_now - cpu
        self.load = (load_now - load) / self.seconds

    def _read(self) -> tuple[float, float, float]:
        load = time.process_time() + sum(host.cpu() for host in self._hosts)
        return time.perf_counter(), self._server.cpu(), load


def prepare() -> None:
    """Before all else: the processors, and as many connections as may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, _OTHERS)


def free_port() -> int:
    with socket.socket() as holding:
        holding.bind(("127.0.0.1", 0))
        port: int = holding.getsockname()[1]
        return port


def program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    path: str = "/",
    *,
    settings: Mapping[str, object] | None = None,
    variables: Mapping[str, str] | None = None,
    measured: bool = True,
    statuses: Sequence[int] = (200,),
    within: float = STARTING,
) -> Iterator[Server]:
    """``command`` while it serves; it has answered at ``path``. What it logs goes to a file, as it would elsewhere."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, (Path(directory) / "log").open("w+b") as log:
        given = {**environment(**(settings or {})), "TMPDIR": directory, **(variables or {})}
        os.sched_setaffinity(0, _MEASURED if measured else _OTHERS)  # which it inherits
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, env=given
            )
        finally:
            os.sched_setaffinity(0, _OTHERS)
        try:
            deadline = time.monotonic() + within
            while status_of(port, path) not in statuses:
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Failed(f"{command[0]} does not serve: {log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.005)
            yield Server(port, process.pid)
        finally:
            for pid in descendants(process.pid):
                kill(pid)
            process.kill()
            process.wait(STARTING)


def status_of(port: int, path: str) -> int | None:
    """The status of the answer to a GET; None when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            ready, _, _ = select.select([connection], [], [], 5)
            return int(connection.recv(4096).split(b" ", 2)[1]) if ready else None
    except (OSError, IndexError, ValueError):
        return None


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


def versions(commands: Mapping[str, Sequence[str]], read: Callable[[str], str]) -> dict[str, str]:
    """What programs say of themselves, of those that are here."""
    said = {}
    for name, command in commands.items():
        if (found := program(command[0])) is not None:
            done = subprocess.run([found, *command[1:]], capture_output=True, text=True, check=False)
            said[name] = read(done.stdout + done.stderr)
    return said


def described() -> str:
    """This machine, in a line."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else os.uname().machine
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB / 1024
    return f"{len(_ALL)} processors ({model}), {memory:.0f} GiB, Linux {os.uname().release}"


def load() -> float:
    """How many processes wanted a processor in the last minute."""
    return os.getloadavg()[0]


def cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3): all threads, those that ended too
    except OSError:  # it has ended meanwhile
        return 0.0


def memory(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
