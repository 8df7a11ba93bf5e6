"""What can be done to a client's connection: leave it hanging, cut it in the middle of a body, reset it.

All three reach through uvicorn's `send` to its transport. Under an in-process test transport there is no
connection to cut: a ConnectionResetError takes its place, and `hang` simply waits.
"""

import asyncio
import socket
import struct

from starlette.types import Receive, Send


async def reset(receive: Receive, send: Send) -> None:
    """Drop the connection with RST, without another byte."""
    transport = _transport(send)
    # Lingering for zero seconds makes the kernel send RST instead of FIN. Not every event loop hands out a socket that
    # may be touched, so this is another one for the same descriptor, which stays the transport's.
    twin = socket.socket(fileno=transport.get_extra_info("socket").fileno())
    try:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        twin.detach()
    transport.abort()
    await _gone(receive)


async def hang(receive: Receive, send: Send, seconds: float) -> None:
    """Say nothing until the client leaves; reset the connection after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await _gone(receive)
    except TimeoutError:
        await reset(receive, send)


async def send_half(body: bytes, receive: Receive, send: Send) -> None:
    """Send half of a body whose whole length is already announced, and close."""
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    # close() and not abort(): what was written must still reach the client, or it would not be half a body.
    _transport(send).close()
    await _gone(receive)


def _transport(send: Send) -> asyncio.Transport:
    """The connection under uvicorn's `send`. Raises ConnectionResetError when there is none to cut."""
    transport: asyncio.Transport | None = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("the sandbox cut this connection on demand")
    return transport


async def _gone(receive: Receive) -> None:
    """Wait until the connection is closed, from either side."""
    while (await receive())["type"] != "http.disconnect":
        pass
