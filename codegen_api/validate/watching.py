"""Watching a live log as it comes: when each piece arrived, and how it went out."""

import asyncio
import re
from dataclasses import dataclass, field

import httpx

from .client import Client

SLACK = 3.0
"""Seconds that a heartbeat may come late, beside half its interval."""
BUSY = 4
"""So many heartbeats long a log is watched that is never silent."""
_OVER = re.compile(rb'^event: (end$|failure$|notice\n.*"reconnect")', re.MULTILINE)
"""How the gateway ends a live log."""


@dataclass(slots=True)
class Watch:
    """What came of a live log. ``pieces`` are the seconds after which each arrived.

    ``outcome``: ``enough`` was seen, the gateway said that it was ``over``, it was ``cut``, or ``silent`` for longer
    than the gateway is.
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
        """Seconds of the longest silence after which something came."""
        return max((later - earlier for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)), default=0.0)


def is_stream(answer: httpx.Response) -> bool:
    kind: str = answer.headers.get("Content-Type", "")
    return kind.startswith("text/event-stream")


async def watch(client: Client, path: str, heartbeat: float, patience: float | None) -> Watch:
    """Watch a live log until a heartbeat has come, or for ``patience`` seconds; for less where it is over or silent."""
    seen, rest, clock = Watch(), b"", asyncio.get_running_loop().time
    silence, longest = 1.5 * heartbeat + SLACK, patience or BUSY * heartbeat
    started = clock()
    try:
        async with asyncio.timeout(silence) as bound:
            # compressed where somebody does that: browsers ask for it
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
