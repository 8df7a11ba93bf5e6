"""What the processes beside each other have in common: a directory, for as long as one of them serves.

Workers know nothing of each other but their parent. It gives each of them the same random key, so each finds the same
directory by itself, every start of the parent has a fresh one, and nobody else can guess its name. Each worker holds a
shared lock on it, which ends with the worker, however that ends. The last one to leave in good order removes it.
"""

import contextlib
import hmac
import multiprocessing
import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from codegen_api.telemetry import logger

if sys.platform != "win32":
    import fcntl

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus_client looks for when it is imported."""


class SharedDirectory:
    """The directory at ``path``, joined.

    Raises:
        OSError: it cannot be had.
    """

    def __init__(self, path: Path) -> None:
        if sys.platform == "win32":
            raise OSError("there are no locks on directories here")
        self.path = path
        held = None
        while held is None:  # else it was removed just when we came
            held = _entered(path)
        self._held = held

    def leave(self) -> None:
        """Let go of it. The last one removes it."""
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.path, ignore_errors=True)
        except BlockingIOError:
            pass  # somebody else is still there
        finally:
            os.close(self._held)


def _entered(path: Path) -> int | None:
    """The directory, open and locked; None when what was locked is no longer what is found there."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    kept = False
    try:
        found = os.fstat(held)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{path} is not ours alone")
        fcntl.flock(held, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            kept = os.path.samestat(found, path.stat())
    finally:
        if not kept:
            os.close(held)
    return held if kept else None


def join() -> SharedDirectory:
    """The directory of this worker and of those beside it.

    Raises:
        OSError: it cannot be had.
    """
    parent = multiprocessing.parent_process()
    key = bytes(multiprocessing.current_process().authkey)
    name = hmac.digest(key, f"codegen_api {parent.pid if parent else os.getpid()}".encode(), "sha256").hex()
    return SharedDirectory(Path(tempfile.gettempdir()) / f"codegen-api-{name[:32]}")


def share(beside: int) -> SharedDirectory | None:
    """What this worker shares with those beside it, unless the operator has named a directory for them."""
    if beside == 1 or multiprocessing.parent_process() is None or METRICS_DIRECTORY in os.environ:
        return None
    try:
        shared = join()
    except OSError as error:
        logger.warning("/metrics gives the numbers of single workers: %s", error)
        return None
    os.environ[METRICS_DIRECTORY] = str(shared.path)
    return shared


def beside(given: int) -> int:
    """How many processes share the host's budget. uvicorn does not tell its workers, but they see its command line."""
    if given > 1 or multiprocessing.parent_process() is None:
        return given
    told = re.search(r"--workers[= ]([0-9]+)", " ".join(sys.argv))
    return int(told[1] if told else os.environ.get("WEB_CONCURRENCY") or 1)


def speaks_for_all(given: int) -> bool:
    """Whether this process is the one of several beside each other that says how they were started."""
    if multiprocessing.parent_process() is None:
        return True
    # a worker: the front door has spoken before it began, and uvicorn alone never does
    return given == 1 and multiprocessing.current_process().name.endswith("-1")
