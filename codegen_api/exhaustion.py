"""Recognizes exhausted system resources, which are no bug: they pass, or the operator has to fix them."""

import errno
from collections.abc import Mapping

_RESOURCES: Mapping[int, str] = {
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.EADDRNOTAVAIL: "ports",
    errno.ENOBUFS: "memory",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
}


def exhausted_resource(error: BaseException | None) -> str | None:
    """The resource whose exhaustion led to this error, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None and error.errno in _RESOURCES:
            return _RESOURCES[error.errno]
        if isinstance(error, MemoryError):
            return "memory"
        if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
            return "threads"
        error = error.__cause__ or error.__context__
    return None
