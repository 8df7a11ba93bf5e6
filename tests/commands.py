"""Programs that tests run to their end."""

import os
import subprocess
from collections.abc import Sequence
from typing import Any


def completed(
    command: Sequence[str | os.PathLike[str]], *, timeout: float = 60.0, check: bool = False, **more: Any
) -> subprocess.CompletedProcess[str]:
    """What a program has said, as text, and how it ended."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=check, **more)
