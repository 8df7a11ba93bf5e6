"""How often the host answers: sliding windows over the answers it really gave.

Three policies, because the host's own documents contradict each other: `table` is the per-endpoint table of its
OpenAPI document, counted per token and endpoint; `shared` is the sentence of its logs guide, one allowance per
token for everything; `off` never refuses. A refused request costs nothing.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

LimitPolicy = Literal["table", "shared", "off"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `answers` in any `seconds`."""

    answers: int
    seconds: float


TABLE: Mapping[str, RateLimit] = {"create": RateLimit(10, 60.0), "logs": RateLimit(60, 60.0)}
"""The endpoints with a figure of their own; the host states none for resume and ban."""

OTHERS = RateLimit(60, 30.0)
SHARED = RateLimit(60, 60.0)


class Limits:
    """The windows of every token. `clock` is in seconds and never goes back."""

    def __init__(self, policy: LimitPolicy, clock: Callable[[], float]) -> None:
        if policy not in ("table", "shared", "off"):
            raise ValueError(f"limits must be table, shared or off, not {policy!r}")
        self.policy = policy
        self._clock = clock
        self._windows: dict[tuple[str, str], deque[float]] = {}

    def take(self, user: str, operation: str) -> int | None:
        """Count one answer for `user`; None, or, when it is refused, the whole seconds until the next one."""
        if self.policy == "off":
            return None
        shared = self.policy == "shared"
        allowance = SHARED if shared else TABLE.get(operation, OTHERS)
        window = self._windows.setdefault((user, "" if shared else operation), deque())
        now = self._clock()
        while window and window[0] <= now - allowance.seconds:
            window.popleft()
        if len(window) >= allowance.answers:
            return max(1, math.ceil(window[0] + allowance.seconds - now))
        window.append(now)
        return None
