import asyncio

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.gateway import Gateway
from tests.fakehost import FakeHost
from tests.following.viewing import Viewer
from tests.virtual import run


def test_a_viewer_who_reads_what_was_evicted_is_not_left_alone_when_the_window_is_let_go_meanwhile() -> None:
    """An ended run is not looked at any more, so nobody would open its window again."""

    async def main() -> None:
        host = FakeHost()
        long = host.add("1", status="COMPLETE")
        long.append(3000, text="x" * 1000)
        other = host.add("2", status="COMPLETE")
        other.append(50, text="x" * 1000)
        host.latency = 1.0
        gateway = Gateway(host, MemoryBroker(max_bytes=60_000), old_pages_bytes=10**7)
        slow, quick = Viewer(), Viewer()
        loop = asyncio.get_running_loop()
        watching = asyncio.create_task(slow.watch(gateway))
        await asyncio.sleep(10)
        assert 0 < slow.cursor < 2000
        await quick.watch(gateway, run="2")
        await watching
        assert slow.texts() == long.encoded()
        assert slow.ends == [3000]
        assert loop.time() < 100
        await gateway.aclose()

    run(main())
