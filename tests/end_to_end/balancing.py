"""What stands before several gateways: one address for clients, whichever gateway is in service."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Balancer:
    """Carries new connections to the gateway in service; those that are open stay where they are."""

    def __init__(self) -> None:
        self._address = ("127.0.0.1", 0)
        self._gateway = ("", 0)
        self._listening: socket.socket | None = None
        self._open: dict[asyncio.Task[None], socket.socket] = {}

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self._address)

    def send_to(self, gateway: str) -> None:
        """From now on, new connections go to this one."""
        host, _, port = gateway.removeprefix("http://").partition(":")
        self._gateway = host, int(port)
        if self._listening is None:
            self._listening = socket.create_server(self._address, backlog=1024)
            self._listening.setblocking(False)
            self._address = self._listening.getsockname()
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def refuse(self) -> None:
        """From now on, new connections are refused."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def cut(self, every: int = 1) -> None:
        """Cut each so-many-th of the open connections, whatever is under way there."""
        for client in list(self._open.values())[::every]:
            with suppress(OSError):  # its client has left just now
                client.shutdown(socket.SHUT_RDWR)

    async def aclose(self) -> None:
        self.refuse()
        self.cut()
        if self._open:
            await asyncio.wait(self._open)

    def _accept(self) -> None:
        assert self._listening is not None
        with suppress(BlockingIOError):  # its client has left just now
            client, _ = self._listening.accept()
            client.setblocking(False)
            carrying = asyncio.ensure_future(self._carry(client))
            self._open[carrying] = client
            carrying.add_done_callback(self._open.pop)

    async def _carry(self, client: socket.socket) -> None:
        with client, socket.socket() as gateway:
            gateway.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(gateway, self._gateway)
            except ConnectionError:
                return
            ways = [asyncio.ensure_future(_pump(*way)) for way in ((client, gateway), (gateway, client))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    """What comes from one side, to the other, until either is closed."""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while piece := await loop.sock_recv(source, 1 << 16):
            await loop.sock_sendall(sink, piece)


@asynccontextmanager
async def balancer() -> AsyncIterator[Balancer]:
    """A balancer that carries nothing yet; afterwards nothing of it is left."""
    made = Balancer()
    try:
        yield made
    finally:
        await made.aclose()
