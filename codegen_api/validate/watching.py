"""Watching a live log: when each piece arrives, and how the log ends."""

import asyncio
import re
from dataclasses import dataclass, field

import httpx

from .client import Client

SLACK = 3.0
"""Seconds that a heartbeat may be late, besides half its interval."""
BUSY = 4
"""A log that is never silent is watched for this many intervals of heartbeats."""
_OVER = re.compile(rb'^event: (end$|failure$|notice\n.*"reconnect")', re.MULTILINE)
"""How the gateway ends a live log."""


@dataclass(slots=True)
class Watch:
    """What was seen of a live log. ``pieces`` are the times at which pieces arrived, in seconds since the start.

    ``outcome``: ``enough`` was seen, the gateway said that the log was ``over``, the connection was ``cut``, or it was
    ``silent`` for longer than a gateway is.
    """

    outcome: str = "cut"
    answer: httpx.Response | None = None
    pieces: list[float] = field(default_factory=list)
    heartbeat: bool = False
    seconds: float = 0.0

    @property
    def silence(self) -> float:
        """Seconds from the last piece to the end."""
        return self.seconds - max(self.pieces, default=0.0)

    @property
    def survived(self) -> float:
        """Seconds of the longest silence that was followed by another piece."""
        return max((later - earlier for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)), default=0.0)


def is_stream(answer: httpx.Response) -> bool:
    kind: str = answer.headers.get("Content-Type", "")
    return kind.startswith("text/event-stream")


async def watch(client: Client, path: str, heartbeat: float, patience: float | None) -> Watch:
    """Watch a live log until a heartbeat has come, or for ``patience`` seconds, unless it is over or silent before."""
    seen, rest, clock = Watch(), b"", asyncio.get_running_loop().time
    silence, longest = 1.5 * heartbeat + SLACK, patience or BUSY * heartbeat
    started = clock()
    try:
        async with asyncio.timeout(silence) as bound:
            # ask for compression, as browsers do: something on the way may compress
            async with client.stream(path, {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}) as answer:
                seen.answer = answer
                if not is_stream(answer):
                    await answer.aread()
                    return seen
                async for piece in answer.aiter_bytes():
                    seen.pieces.append(clock() - started)
                    bound.reschedule(clock() + silence)
                    *frames, rest = (rest + piece).split(b"\n\n")
                    seen.heartbeat = seen.heartbeat or b":" in frames
                    if any(map(_OVER.search, frames)):
                        seen.outcome = "over"
                        break
                    if seen.pieces[-1] >= longest or (seen.heartbeat and patience is None):
                        seen.outcome = "enough"
                        break
    except TimeoutError:
        seen.outcome = "silent"
    except httpx.TransportError:
        pass  # cut
    seen.seconds = clock() - started
    return seen
