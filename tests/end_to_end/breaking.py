"""A TCP proxy that resets connections at every kind of place in a frame of server-sent events, one after the other."""

import fcntl
import itertools
import re
import socket
import socketserver
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

FRAME = b"event: log\n"
PLACES = {
    "before the frame": rb"",
    "in the name of a field": rb"eve",
    "in the name of the event": rb"event: lo",
    "behind the name of the event": rb"event: log",
    "behind the line of the event": rb"event: log\n",
    "before the data": rb"event: log\ndata:",
    "in the data": rb"event: log\ndata: \{[^\n]{30}",
    "in a character": rb"event: log\ndata: [^\n]*?\xc3",
    "behind the data": rb"event: log\ndata: [^\n]*",
    "behind the line of the data": rb"event: log\ndata: [^\n]*\n",
    "in the name of the id": rb"event: log\ndata: [^\n]*\ni",
    "in the id": rb"event: log\ndata: [^\n]*\nid: \d",
    "behind the id": rb"event: log\ndata: [^\n]*\nid: [^\n]*",
    "between the last two line ends": rb"event: log\ndata: [^\n]*\nid: [^\n]*\n",
    "behind the frame": rb"event: log\ndata: [^\n]*\nid: [^\n]*\n\n",
}
BETWEEN = "between the last two line ends"
RETRY = re.compile(rb"(?<=retry: )\d+")
NO_ANSWER, HALF_A_HEAD = "before the answer", "in the head of the answer"


@dataclass
class Breaking:
    """``apart``: how many entries come between two cuts, for each connection in turn. ``cuts``: where it has cut, and
    the position of the entry in whose frame. ``ended``: how many answers came to an end of their own.
    """

    target: tuple[str, int]
    apart: Iterator[int]
    url: str = ""
    cuts: list[tuple[str, int]] = field(default_factory=list)
    ended: int = 0
    _places: Iterator[str] = field(default_factory=lambda: itertools.cycle([*PLACES, NO_ANSWER, HALF_A_HEAD]))

    def serve(self, client: socket.socket) -> None:
        place = next(self._places)
        if place == NO_ANSWER:
            client.recv(1 << 16)
            self.cuts.append((place, 0))
            _reset(client)
            return
        with client, socket.create_connection(self.target) as server:
            forth = threading.Thread(target=_forward, args=(client, server), daemon=True)
            forth.start()
            with suppress(OSError):
                self._back(server, client, place)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            forth.join()

    def _back(self, server: socket.socket, client: socket.socket, place: str) -> None:
        left, held = next(self.apart), b""
        while data := server.recv(1 << 16):
            held += RETRY.sub(lambda found: b"10".zfill(len(found[0])), data)  # come back soon, in as many digits
            if place == HALF_A_HEAD:
                self._cut(client, held[:60], place, 0)
                return
            while (start := held.find(FRAME)) >= 0 and (left > 1 or b"\n\n" in held[start:]):
                left -= 1
                whole = re.compile(PLACES["behind the frame"]).match(held, start)
                if left <= 0 and whole is not None:  # and not in two chunks
                    cut = re.compile(PLACES[place]).match(held, start)
                    position = re.search(rb'"position":(\d+)', whole[0])
                    assert cut is not None, (place, whole[0])
                    assert position is not None
                    self._cut(client, held[: cut.end()], place, int(position[1]))
                    return
                client.sendall(held[: start + 1])
                held = held[start + 1 :]
            # what may be the beginning of a frame, or is one of that in which to cut, waits for the rest
            begun = next(size for size in range(len(FRAME), -1, -1) if held.endswith(FRAME[:size]))
            keep = start if start >= 0 else len(held) - begun
            client.sendall(held[:keep])
            held = held[keep:]
            self.ended += data.endswith(b"0\r\n\r\n")  # the connection may go on with another answer

    def _cut(self, client: socket.socket, last: bytes, place: str, position: int) -> None:
        self.cuts.append((place, position))
        client.sendall(last)
        _reset(client)


def _forward(client: socket.socket, server: socket.socket) -> None:
    with suppress(OSError):
        while data := client.recv(1 << 16):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def _reset(sock: socket.socket) -> None:
    """End a connection as a crash does, when the other side has taken what was sent."""
    with suppress(OSError):
        for _ in range(1000):
            (unsent,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))
            if not unsent:
                break
            time.sleep(0.001)
        sock.shutdown(socket.SHUT_RD)  # for whoever reads from it just now
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def counted(cuts: list[tuple[str, int]]) -> Counter[str]:
    return Counter(place for place, _ in cuts)


@contextmanager
def breaking(target: str, apart: Iterator[int]) -> Iterator[Breaking]:
    """A proxy in front of the server at this URL."""
    host, _, port = target.removeprefix("http://").partition(":")
    made = Breaking((host, int(port)), apart)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            made.serve(self.request)

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Listener(("127.0.0.1", 0), Handler) as listener:
        made.url = f"http://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            listener.shutdown()
            thread.join(10)
