"""Running out of what the system gives: no fault of the program, and soon over, or the operator's to mend."""

import errno
from collections.abc import Mapping

_WHAT: Mapping[int, str] = {
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.EADDRNOTAVAIL: "ports",
    errno.ENOBUFS: "memory",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk space",
}


def shortage(error: BaseException | None) -> str | None:
    """What there was too little of, if that is what led to this error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None and error.errno in _WHAT:
            return _WHAT[error.errno]
        if isinstance(error, MemoryError):
            return "memory"
        if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
            return "threads"
        error = error.__cause__ or error.__context__
    return None
