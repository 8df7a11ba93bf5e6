"""What a resume through this gateway makes of what the host says afterwards: for a while that may be of the old end."""

from codegen_api.following.rights import loop_time
from codegen_api.runs import Cursor, Run, RunStatus

RESUME_DOUBT = 30.0
"""Seconds after a resume in which the host may still report the end before it."""


class Resumption:
    """The last resume of a run, and the last cancel. All times are the event loop's.

    ``lags``: for some time the host may still answer as before a resume.
    """

    def __init__(self, *, lags: bool = True) -> None:
        self._lags = lags
        self.at = float("-inf")
        """When the host answered the resume."""
        self._cancelled_at = float("-inf")
        self._length: Cursor | None = None  # of the log before it, as far as that is known
        self._active = False  # the host has said since then that the run works

    @property
    def in_doubt(self) -> bool:
        """Whether the host may still answer as before."""
        return self._lags and loop_time() - self.at < RESUME_DOUBT

    def resumed(self, at: float, length: Cursor | None) -> None:
        """The host answered a resume; the log was of this ``length`` before, or longer."""
        self.at, self._length, self._active = at, length, False

    def cancelled(self, at: float) -> None:
        """The host answered a cancel."""
        self._cancelled_at = at

    def began(self, length: Cursor) -> None:
        """The log was of this length, be it known or not, when the resume came."""
        self._length = max(length, self._length or 0)

    def seen(self, tail: Cursor) -> None:
        """The log has been read up to there; what it was before is no longer to be known if it is not by now."""
        if self._length is None:
            self._length = tail

    def allows(self, run: Run, sent: float, tail: Cursor) -> bool:
        """Whether to believe what an answer, asked for when it was ``sent``, says of the status.

        The host may answer from a copy that is behind, so an end is believed in these seconds only for a reason: it is
        a cancel, of which we know, or the log has grown beyond the prompt of the resume. The prompt alone is no reason,
        as it may stand in the log beside the old status, unless the run was seen at work in between.
        """
        if sent < self.at:
            return False
        if not run.status.ended:
            self._active = self._active or run.raw_status is not None
            return True
        if not self.in_doubt:
            return True
        if run.status is RunStatus.CANCELLED and sent >= self._cancelled_at > self.at:
            return True  # be it news or old, it is so
        grown = 0 if self._length is None else tail - self._length
        return grown > 1 or (grown == 1 and self._active)
