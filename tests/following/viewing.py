"""A viewer for tests: takes the updates of a stream and keeps the log that they amount to."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from codegen_api.brokers import Batch
from codegen_api.following import Current, Ended, Leaving, Notice, Position, Quiet, Resync
from codegen_api.gateway import Gateway
from codegen_api.http.sse import parse_position
from codegen_api.identity import Caller
from codegen_api.runs import Amended, Appended, Changed
from tests.fakehost import caller


@dataclass
class Viewer:
    """What somebody saw of a log. A gap or a repeat fails at once. ``plain``: it comes back with a number, no more."""

    plain: bool = True
    log: dict[int, bytes] = field(default_factory=dict)
    cursor: int = 0
    position: Position | None = None
    statuses: list[str | None] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    resyncs: list[Resync] = field(default_factory=list)
    amended: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    last_run: object = None
    left_at: int | None = None
    refused: bool = False
    arrivals: dict[int, float] = field(default_factory=dict)

    def take(self, update: object) -> None:
        match update:
            case Batch(entries=entries, positions=positions):
                assert len(entries) == len(positions)
                for event, position in zip(entries, positions, strict=True):
                    self._take_entry(event)
                    self.position = position
            case Changed(run=run):
                self.statuses.append(run.raw_status)
                self.last_run = run
            case Notice(code=code):
                self.notices.append(code)
            case Resync():
                self.resyncs.append(update)
                self.cursor, self.position = update.cursor, None
                self.log = {position: entry for position, entry in self.log.items() if position <= update.cursor}
            case Ended(run=run, length=length):
                assert length == self.cursor
                self.ends.append(length)
                self.last_run = run
            case Leaving(position=position):
                assert position.cursor == self.cursor
                self.left_at = position.cursor
            case Current(cursor=cursor):
                assert cursor == self.cursor
            case Quiet():
                pass
            case _:
                raise AssertionError(update)

    def _take_entry(self, event: Appended | Amended | Changed) -> None:
        match event:
            case Appended(cursor=cursor, entry=entry):
                assert cursor == self.cursor + 1, f"{cursor} came after {self.cursor}"
                self.cursor = cursor
                self.log[cursor] = entry.json
                self.arrivals[cursor] = asyncio.get_running_loop().time()
            case Amended(cursor=cursor, entry=entry):
                assert cursor <= self.cursor
                self.log[cursor] = entry.json
                self.amended.append(cursor)

    def texts(self) -> list[str]:
        assert list(self.log) == list(range(1, len(self.log) + 1))
        return [self.log[position].decode() for position in sorted(self.log)]

    def comes_from(self, *, over: bool = False) -> Position:
        """What it sends when it comes back."""
        if over or self.plain or self.position is None:
            return Position(self.cursor, over)
        position = parse_position(str(self.position))  # as clients send it
        assert position == self.position
        assert position.cursor == self.cursor
        return position

    async def glance(self, gateway: Gateway, events: int, *, who: Caller | None = None) -> int:
        """Take so many entries or changes of entries at most, and be cut off; how many there were. It may end."""
        stream = await gateway.follow(who or caller(), "9", "1", self.comes_from())
        assert stream is not None
        taken = 0
        try:
            async for update in stream:
                if isinstance(update, Batch):
                    room = events - taken
                    taken += len(update.entries[:room])
                    self.take(replace(update, entries=update.entries[:room], positions=update.positions[:room]))
                else:
                    self.take(update)
                if taken >= events or isinstance(update, Resync):
                    break
        finally:
            await stream.aclose()
        return taken

    async def watch(
        self,
        gateway: Gateway,
        *,
        who: Caller | None = None,
        run: str = "1",
        over: bool = False,
        until: float | None = None,
    ) -> bool:
        """Watch once, until the stream ends or for ``until`` seconds; whether there was a stream."""
        stream = await gateway.follow(who or caller(), "9", run, self.comes_from(over=over))
        if stream is None:
            return False
        try:
            async with asyncio.timeout(until):
                async for update in stream:
                    self.take(update)
        except TimeoutError:
            pass
        finally:
            await stream.aclose()
        return True


def watched(gateway: Gateway, **how: Any) -> tuple[Viewer, asyncio.Task[bool]]:
    """A new viewer, who begins to watch, and the task in which they do."""
    viewer = Viewer()
    return viewer, asyncio.create_task(viewer.watch(gateway, **how))


async def shown(gateway: Gateway, **how: Any) -> Viewer:
    """A new viewer, who has watched until the stream ended."""
    viewer = Viewer()
    await viewer.watch(gateway, **how)
    return viewer
