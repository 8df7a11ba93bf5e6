"""A TCP proxy that notes the requests passing through it, and breaks connections where a test says."""

import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

REQUEST = re.compile(rb"^([A-Z]+) (\S+) HTTP/1\.1\r\n((?:[^\r\n]+\r\n)*)\r\n", re.MULTILINE)
LAST_ID = re.compile(r"^last-event-id: *(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass
class Relay:
    """``url``: where it listens. ``asked``: each GET, as its path without the query, and its Last-Event-ID."""

    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: int = 0
    cut_before: re.Pattern[bytes] | None = None
    """Where in an answer the next cut is made, once."""
    lengths: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers is cut that say where to come back (by ``Location``)."""
    late: float = 0
    """Seconds for which each answer to a POST is held back: what was asked for has happened, and nobody knows."""
    _down: bool = False
    _open: set[socket.socket] = field(default_factory=set)

    def go_down(self) -> None:
        """Break every connection, and from now on each new one."""
        self._down = True
        for each in list(self._open):
            _reset(each)

    def come_up(self) -> None:
        self._down = False

    def serve(self, client: socket.socket, target: tuple[str, int]) -> None:
        if self._down:
            _reset(client)
            return
        with client, socket.create_connection(target) as server:
            ends, posted = {client, server}, threading.Event()
            self._open |= ends
            forth = threading.Thread(target=self._forth, args=(client, server, posted), daemon=True)
            forth.start()
            with suppress(OSError):
                self._back(server, client, posted)
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            forth.join()
            self._open -= ends

    def _forth(self, client: socket.socket, server: socket.socket, posted: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                for method, path, headers in REQUEST.findall(data):
                    if method == b"GET":
                        last = LAST_ID.search(headers.decode())
                        self.asked.append((path.decode().partition("?")[0], last and last[1]))
                    elif method == b"POST":
                        posted.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _back(self, server: socket.socket, client: socket.socket, posted: threading.Event) -> None:
        left: int | None = None
        while data := server.recv(1 << 16):
            time.sleep(self.late if posted.is_set() else 0)
            posted.clear()
            if left is None and self.lengths and b"\r\nlocation: " in data.lower():
                left = self.lengths.pop(0)
            if left is not None:
                left -= len(data)
                if left <= 0:
                    self.cuts += 1
                    client.sendall(data[: len(data) + left])
                    return
            cut = self.cut_before and self.cut_before.search(data)
            if cut:
                self.cut_before = None
                self.cuts += 1
                client.sendall(data[: cut.start()])
                return
            client.sendall(data)


def _reset(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()


@contextmanager
def relay(target: str) -> Iterator[Relay]:
    """A relay in front of the server at this URL."""
    host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
    made = Relay()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            made.serve(self.request, (host, int(port)))

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
            made.go_down()
            thread.join(10)
