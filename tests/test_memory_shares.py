"""Whatever is held of logs, in whatever form, stays together within what the operator has allowed."""

import asyncio
import gc
import tracemalloc
from uuid import UUID

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.build_parts import memory_shares
from codegen_api.conversations import RenderCache, TurnEntry
from codegen_api.conversations.progress import Pages
from codegen_api.dialects.agent_protocol.rendering import EntryRenderer
from codegen_api.dialects.everruns.families import FLAT, NESTED
from codegen_api.dialects.everruns.rendering import FrameRenderer
from codegen_api.following import Position
from codegen_api.stores import Turn, TurnState
from tests.fakehost import FakeHost, caller, in_front_of
from tests.following.viewing import Viewer

pytestmark = pytest.mark.virtual_time

MIB = 1024 * 1024


@pytest.mark.parametrize("total", [MIB, 128 * MIB, 128 * MIB + 7])
@pytest.mark.parametrize("dialects", [0, 1, 2, 3])
def test_the_shares_are_all_there_is(total: int, dialects: int) -> None:
    logs, turns, renderings = memory_shares(total, dialects)
    assert logs + turns + renderings == total
    assert logs >= total // 4


async def test_with_every_cache_full_at_once_no_more_is_held_than_was_allowed() -> None:
    """Four runs are viewed by fast and slow viewers, read back, worded and rendered."""
    total = 4 * MIB  # much more than what else this process may allocate meanwhile
    of_logs, of_turns, of_renderings = memory_shares(total, 2)

    host = FakeHost()
    for number in range(1, 5):
        host.add(str(number), status="COMPLETE").append(300, text=f"{number} " + "x" * 4000)
    broker = MemoryBroker(max_bytes=of_logs)
    gateway = in_front_of(host, broker)
    pages = Pages(gateway, max_bytes=of_turns, clock=lambda: 10_000.0)
    rendered = RenderCache(of_renderings)
    modes = frozenset({"messages", "custom"})
    turns = [
        Turn(
            str(UUID(int=number)),
            str(UUID(int=99)),
            0.0,
            0.0,
            state=TurnState.COMPLETED,
            number=number,
            run=each.ref,
            end=300,
        )
        for number, each in enumerate(host.runs.values())
    ]
    gc.collect()
    tracemalloc.start()
    # opened before they have anything, and fed in turn
    renderers = [EntryRenderer(turn, modes, host.step, rendered) for turn in turns]
    frame_renderers = [FrameRenderer(family, host.step, rendered) for family in (FLAT, NESTED)]
    slow = [await gateway.follow(caller(), "9", str(number), Position(0)) for number in range(1, 5)]
    for stream in slow:
        assert stream is not None
        for _ in range(2):
            await anext(stream)
    for number, turn in enumerate(turns):
        viewer = Viewer(cursor=0)
        await viewer.watch(gateway, run=str(number + 1))
        del viewer
        async for news in pages.read(caller(), turn):
            for came in news:
                renderers[number].render(came)
                for renderer in frame_renderers:
                    renderer.render_entry(turn, TurnEntry(came.offset, came.entry))
    del news, came
    held = {
        "logs": (broker.held_bytes, of_logs),
        "turns": (pages._kept.currsize, of_turns),
        "renderings": (rendered._kept.currsize, of_renderings),
    }
    for name, (size, share) in held.items():
        assert share / 2 < size <= share, name
    for stream in slow:
        assert stream is not None
        await stream.aclose()
    await asyncio.sleep(1)
    gc.collect()
    measured, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert measured <= 1.25 * total
    await pages.aclose()
