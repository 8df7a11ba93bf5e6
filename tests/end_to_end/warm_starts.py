"""Starts programs of the package by forking a process that has imported all of it already.

The imports are nearly all that a start costs, and tests start hundreds of processes. Everything else is as with a start
of its own: the script is run from its first line, with its arguments, environment, folder and standard files. Tests of
what a start itself does, or of other installations, start theirs with ``subprocess``.
"""

import atexit
import functools
import gc
import importlib
import json
import logging
import multiprocessing.spawn
import multiprocessing.util
import os
import pkgutil
import re
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

MOST = 1 << 20
"""Bytes of one order at most."""

USED_LATER = (
    "alembic.command", "sqlalchemy.dialects.sqlite.pysqlite", "uvicorn.lifespan.on",
    "uvicorn.loops.auto", "uvicorn.protocols.http.auto",
)  # fmt: skip
"""What programs of the package import when they need it, and nearly all of them do."""


class WarmProcess:
    """A process started so: what tests use of ``subprocess.Popen``."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path,
        env: Mapping[str, str],
        stderr: int,
        stdin: bool = False,
        stdout: bool,
    ) -> None:
        self.returncode: int | None = None
        self.stdin: FileIO | None = None
        self.stdout: FileIO | None = None
        inner_in, inner_out = os.open(os.devnull, os.O_RDONLY), os.dup(stderr)
        if stdin:
            os.close(inner_in)
            inner_in, outer = os.pipe()
            self.stdin = FileIO(outer, "wb")
        if stdout:
            os.close(inner_out)
            outer, inner_out = os.pipe()
            self.stdout = FileIO(outer, "rb")
        self._told, telling = os.pipe()  # its pid, and when it has ended its status
        handed = [inner_in, inner_out, stderr, telling]
        order = json.dumps({"command": [*command], "cwd": str(cwd), "env": {**env}}).encode()
        socket.send_fds(_starter(), [order], handed)
        for descriptor in (inner_in, inner_out, telling):
            os.close(descriptor)
        self.pid: int = struct.unpack("i", os.read(self._told, 4))[0]

    def poll(self) -> int | None:
        return self._result(0)

    def wait(self, timeout: float | None = None) -> int:
        result = self._result(timeout)
        if result is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return result

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "WarmProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()
        self.wait()
        os.close(self._told)

    def _result(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], seconds)[0]:
            self.returncode = struct.unpack("i", os.read(self._told, 4))[0]
        return self.returncode


@functools.cache
def _starter() -> socket.socket:
    """The way to the process that forks; it ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(its.fileno())],
        pass_fds=[its.fileno()],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"},
    )
    its.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


# -- in the process that forks ----------------------------------------------------------------------------------------


def _import_all() -> None:
    import codegen_api

    for module in pkgutil.walk_packages(codegen_api.__path__, "codegen_api."):
        if not module.name.endswith(".__main__") and ".migrations." not in module.name:
            importlib.import_module(module.name)
    for name in USED_LATER:
        importlib.import_module(name)


def _next_to_be(orders: socket.socket) -> dict[str, Any] | None:
    """Fork for each order that comes. Returns what to be in each child, and None when nobody is left to order."""
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking)
    telling: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([orders.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 512)
            for pid in [*telling]:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    _tell(telling.pop(pid), os.waitstatus_to_exitcode(status))
        if orders.fileno() not in ready:
            continue
        order, descriptors, _, _ = socket.recv_fds(orders, MOST, 4)
        if not order:
            return None
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            for descriptor in (*descriptors, *telling.values(), woken, waking):
                os.close(descriptor)
            orders.close()
            wanted: dict[str, Any] = json.loads(order)
            return wanted
        telling[pid] = descriptors.pop()
        os.write(telling[pid], struct.pack("i", pid))
        for descriptor in descriptors:
            os.close(descriptor)


def _tell(descriptor: int, status: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for it
        os.write(descriptor, struct.pack("i", status))
    os.close(descriptor)


def _be(wanted: Mapping[str, Any]) -> None:
    """Run the program as the interpreter would, in this process."""
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    time.tzset()
    multiprocessing.util.spawnv_passfds = _spawn  # type: ignore[assignment]
    _, *arguments = wanted["command"]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _spawn(path: bytes, arguments: Sequence[str | bytes], descriptors: Sequence[int]) -> int:
    """What ``multiprocessing`` starts a worker with: a fork of the program that asks for it, as new as it can be made.

    Nothing of the program's goes on or ends in it: it leaves without going back to where it was forked.
    """
    call = re.search(r"spawn_main\(tracker_fd=(\d+), pipe_handle=(\d+)\)", " ".join(map(os.fsdecode, arguments)))
    if call is None:
        return int(_START(path, arguments, descriptors))
    pid = os.fork()
    if pid:
        return pid
    status: object = 1
    try:
        gc.freeze()  # nothing of the program's is to be closed here
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)) and number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(-1)
        atexit._clear()
        atexit.register(logging.shutdown)  # as whoever imports it anew does
        for logger in map(logging.getLogger, ["", *logging.root.manager.loggerDict]):
            logger.handlers.clear()  # their threads stayed where this was forked
            logger.filters.clear()
        kept = {0, 1, 2, *descriptors}
        for descriptor in {int(name) for name in os.listdir("/proc/self/fd")} - kept:
            with suppress(OSError):
                os.close(descriptor)
        for name in [*sys.modules]:
            if name.partition(".")[0] == "prometheus_client" or name == "codegen_api.telemetry.metrics":
                del sys.modules[name]  # what they do is decided when they are imported
        sys.argv = ["-c", "--multiprocessing-fork"]
        multiprocessing.spawn.spawn_main(tracker_fd=int(call[1]), pipe_handle=int(call[2]))
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)


_START = multiprocessing.util.spawnv_passfds

if __name__ == "__main__":
    _import_all()
    gc.collect()
    gc.freeze()  # or the first collection in each child copies every page
    to_be = _next_to_be(socket.socket(fileno=int(sys.argv[1])))
    if to_be is not None:
        _be(to_be)
