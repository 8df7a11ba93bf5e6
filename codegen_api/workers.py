"""What worker processes share: a directory that exists while one of them serves.

Workers know only their parent. It gives all of them the same random key, from which each derives the directory's name.
The name is new at each start of the parent, and cannot be guessed. Each worker holds a shared lock on the directory,
which the system releases however the worker ends. The last worker to leave in good order removes it.
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
"""The variable that prometheus_client reads on import."""


class SharedDirectory:
    """The directory at ``path``, created and locked.

    Raises:
        OSError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        if sys.platform == "win32":
            raise OSError("there are no locks on directories here")
        self.path = path
        descriptor = None
        while descriptor is None:  # another worker removed it meanwhile: try again
            descriptor = _open_locked(path)
        self._descriptor = descriptor

    def leave(self) -> None:
        """Release the directory; the last worker removes it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.path, ignore_errors=True)
        except BlockingIOError:
            pass  # other workers still use it
        finally:
            os.close(self._descriptor)


def _open_locked(path: Path) -> int | None:
    """The directory, open and locked; None if it was removed or replaced before the lock was held."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    still_there = False
    try:
        opened = os.fstat(descriptor)
        if opened.st_uid != os.geteuid() or stat.S_IMODE(opened.st_mode) & 0o077:
            raise PermissionError(f"other users can access {path}")
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            still_there = os.path.samestat(opened, path.stat())
    finally:
        if not still_there:
            os.close(descriptor)
    return descriptor if still_there else None


def join() -> SharedDirectory:
    """Open the directory of this worker and its siblings.

    Raises:
        OSError: it cannot be used.
    """
    parent = multiprocessing.parent_process()
    key = bytes(multiprocessing.current_process().authkey)
    name = hmac.digest(key, f"codegen_api {parent.pid if parent else os.getpid()}".encode(), "sha256").hex()
    return SharedDirectory(Path(tempfile.gettempdir()) / f"codegen-api-{name[:32]}")


def share(worker_count: int) -> SharedDirectory | None:
    """Share a metrics directory among the workers, unless the operator has named one."""
    if worker_count == 1 or multiprocessing.parent_process() is None or METRICS_DIRECTORY in os.environ:
        return None
    try:
        shared = join()
    except OSError as error:
        logger.warning("/metrics gives the numbers of single workers: %s", error)
        return None
    os.environ[METRICS_DIRECTORY] = str(shared.path)
    return shared


def worker_count(given: int) -> int:
    """The number of processes that share the host's limit. uvicorn's workers find it in their command line."""
    if given > 1 or multiprocessing.parent_process() is None:
        return given
    match = re.search(r"--workers[= ]([0-9]+)", " ".join(sys.argv))
    return int(match[1] if match else os.environ.get("WEB_CONCURRENCY") or 1)


def logs_startup(given: int) -> bool:
    """Whether this process is the one among its siblings that logs how they were started."""
    if multiprocessing.parent_process() is None:
        return True
    # a worker: the gateway's own entry point has logged it already; uvicorn alone has not, so its first worker does
    return given == 1 and multiprocessing.current_process().name.endswith("-1")
