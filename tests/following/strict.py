"""A host in memory that keeps to its limit: every request counts, whoever makes it and for whatever."""

import asyncio
import itertools
from collections import defaultdict, deque
from typing import Any

from codegen_api.errors import GatewayError, UpstreamRateLimited
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, LogPage, RunRef
from codegen_api.telemetry import Allowance
from tests.fakehost import FakeHost


class StrictHost(FakeHost):
    """Allows each token, or everybody together, ``limit`` requests in any 60 seconds, and answers 429 to any more.

    ``says``: its answers tell what is left.
    """

    def __init__(self, *, limit: int = 60, together: bool = False, says: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self.limit = limit
        self.refused: list[tuple[float, str]] = []
        self.reads: defaultdict[str, list[float]] = defaultdict(list)
        self._together = together
        self._says = says
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def refusal(self, operation: str, credential: Credential) -> GatewayError | None:
        now = asyncio.get_running_loop().time()
        times = self._recent(credential)
        if len(times) < self.limit:
            times.append(now)
            return None
        self.refused.append((now, operation))
        return UpstreamRateLimited(retry_after=10)

    def allowance(self, credential: Credential) -> Allowance | None:
        times = self._recent(credential)
        if not self._says:
            return None
        return Allowance(self.limit - len(times), times[0] + 60 - asyncio.get_running_loop().time() if times else 60)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        page = await super().read_log(credential, ref, after, limit, newest_first=newest_first)
        self.reads[ref.id].append(asyncio.get_running_loop().time())
        return page

    def longest_gap(self, id: str, opened: float, closed: float) -> float:  # noqa: A002
        """The longest time between two reads of a run's log, and before the first and after the last."""
        moments = [opened, *(moment for moment in self.reads[id] if opened <= moment <= closed), closed]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))

    def _recent(self, credential: Credential) -> deque[float]:
        times = self._times["" if self._together else credential.token]
        now = asyncio.get_running_loop().time()
        while times and times[0] <= now - 60:
            times.popleft()
        return times
