"""The contract of the store of outcomes: what came of requests that bear an Idempotency-Key.

Plain data under a name that tells nothing, each operation whole: two processes that share a store must not both take
themselves for the first.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from codegen_api.runs import RunRef

KEPT_SECONDS = 24 * 3600.0


class State(StrEnum):
    UNDER_WAY = "under way"
    UNKNOWN = "unknown"
    """It broke off, and the host may have acted."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a request. Times are in seconds since the epoch.

    ``fingerprint`` tells it from another one under the same key. It came first at ``since``, and is in this ``state``
    from ``at`` on. While it is unknown, the host may still act for ``grace`` seconds. ``note`` is what its sender wrote
    down before the host was asked. What came of it is ``run``, and ``result`` is how that was described then: empty
    when a store has let go of it, because descriptions are large and may be had again.
    """

    fingerprint: str
    state: State
    since: float
    at: float
    grace: float = 0.0
    note: str = ""
    run: RunRef | None = None
    result: bytes = b""


class Outcomes(Protocol):
    """Outcomes by name, each kept for ``KEPT_SECONDS`` at least, but for its ``result``."""

    async def begin(self, name: str, outcome: Outcome) -> Outcome | None:
        """Keep ``outcome`` and return None, unless there is one: then that is returned, and nothing is changed."""
        ...

    async def change(self, name: str, then: Outcome, now: Outcome) -> bool:
        """Put ``now`` in the place of ``then``; False, and nothing is changed, when something else is there."""
        ...

    async def forget(self, name: str, then: Outcome) -> None:
        """Take ``then`` away, if it is there."""
        ...

    async def aclose(self) -> None:
        """Let go of what the store holds."""
        ...
