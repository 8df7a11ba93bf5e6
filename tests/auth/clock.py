"""The clock by which requests are counted, in the hands of a test."""

from types import SimpleNamespace

import limits.aio.storage.memory
import limits.aio.strategies
import pytest

from codegen_api.auth import quota

BEGINNING = 1_800_000_000.123
"""Of a minute. Not to the dot: for that one moment the library says that a window just begun is over."""


class Clock:
    """Epoch seconds, which pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = BEGINNING
        for module in (quota, limits.aio.strategies, limits.aio.storage.memory):
            monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: self.now))
