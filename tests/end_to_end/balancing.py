"""What stands before several gateways: one address for clients, whichever gateway is in service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Balancer:
    """Carries new connections to the gateway in service, at ``url``; those that are open stay where they are."""

    def __init__(self) -> None:
        self.url = ""
        self._port = 0
        self._target = ""
        self._listening: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def send_to(self, gateway: str) -> None:
        """From now on, new connections go to this one."""
        self._target = gateway
        if self._listening is None:
            self._listening = await asyncio.start_server(self._carry, "127.0.0.1", self._port, backlog=1024)
            self._port = self._listening.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{self._port}"

    def refuse(self) -> None:
        """From now on, new connections are refused."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def cut(self, every: int = 1) -> None:
        """Cut each so-many-th of the open connections, wherever they are."""
        for writer in list(self._open.values())[::every]:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        host, _, port = self._target.removeprefix("http://").partition(":")
        try:
            there, back = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
        else:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            del self._open[task]


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """What comes from one side, to the other, until either is closed."""
    try:
        with suppress(ConnectionError):
            while piece := await source.read(1 << 16):
                sink.write(piece)
                await sink.drain()
    finally:
        sink.close()


@asynccontextmanager
async def balancer() -> AsyncIterator[Balancer]:
    """A balancer that carries nothing yet; afterwards nothing of it is left."""
    made = Balancer()
    try:
        yield made
    finally:
        made.refuse()
        carrying = list(made._open)
        made.cut()
        if carrying:
            await asyncio.wait(carrying)
