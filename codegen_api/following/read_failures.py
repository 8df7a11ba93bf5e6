"""What the log says of runs that cannot be read: a line when that begins, and one when it is over.

An outage of the host strikes all runs that are followed, at each attempt to read them. What several meet is told for
the first of them, when it begins, and for the last of them, when it is over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cachetools import TTLCache

from codegen_api.following.rights import loop_time
from codegen_api.runs import RunRef
from codegen_api.telemetry import logger

SELDOM = 60.0
"""Seconds in which one thing that comes and goes is told once."""


@dataclass(slots=True)
class _KnownTrouble:
    since: float
    told: bool
    runs: set[RunRef] = field(default_factory=set)


class Troubles:
    """The runs that cannot be read just now, by what the first attempt met. ``name`` is what of a run is read."""

    def __init__(
        self,
        clock: Callable[[], float] = loop_time,
        *,
        name: Callable[[RunRef], str] = lambda ref: f"the log of run {ref.id}",
    ) -> None:
        self._clock = clock
        self._name = name
        self._met: dict[RunRef, str] = {}
        self._now: dict[str, _KnownTrouble] = {}
        self._told: TTLCache[str, bool] = TTLCache(100, SELDOM, timer=clock)

    def met(self, ref: RunRef, reason: str) -> None:
        """An attempt to read this run has failed."""
        if ref in self._met:
            return
        self._met[ref] = reason
        if reason not in self._now:
            self._now[reason] = _KnownTrouble(self._clock(), reason not in self._told)
            if reason not in self._told:
                self._told[reason] = True
                logger.warning("%s is late, and is asked for again: %s", self._name(ref), reason)
        self._now[reason].runs.add(ref)

    def over(self, ref: RunRef) -> None:
        """This run has been read."""
        trouble = self._left(ref)
        if trouble is not None and trouble.told:
            logger.info("%s goes on, after %.0f s", self._name(ref), self._clock() - trouble.since)

    def gone(self, ref: RunRef) -> None:
        """Nobody wants to read this run any more."""
        self._left(ref)

    def _left(self, ref: RunRef) -> _KnownTrouble | None:
        """What is over for all who met it, now that this run does not meet it any more."""
        reason = self._met.pop(ref, None)
        if reason is None:
            return None
        trouble = self._now[reason]
        trouble.runs.discard(ref)
        return None if trouble.runs else self._now.pop(reason)
