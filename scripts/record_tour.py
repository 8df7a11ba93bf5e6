"""What the tour of ``tests/test_documents.py`` sends and gets, to compare two checkouts byte by byte.

In each checkout (the plugin may come from another one, by ``PYTHONPATH``)::

    TOUR_RECORD=/tmp/now pytest -p scripts.record_tour tests/test_documents.py

and then ``diff /tmp/before/shapes /tmp/now/shapes``: there JSON has types in the place of values, of which some are a
matter of time; ``exchanges`` has the values. Every exchange with a gateway passes through a proxy that writes it down.
What differs from one run to the next by nature is replaced: ids, times, ports, numbers that count up. The events of a
stream are sorted, and each is there once.
"""

import asyncio
import json
import os
import re
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import h11
import pytest

RECORD = Path(os.environ.get("TOUR_RECORD", "."))

CHANGING = [
    (re.compile(rb'"request_id": ?"[^"]*"'), b'"request_id":"R"'),
    (re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?"), b"TIME"),
    (re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), b"UUID"),
    (re.compile(rb"(?<![0-9A-Za-z])([a-z]+_)?[0-9a-f]{20,}"), rb"\1HEX"),
    (re.compile(rb"127\.0\.0\.1:\d+|localhost:\d+"), b"HOST"),
    (re.compile(rb"\d+\.\d+"), b"9.9"),
    (re.compile(rb"(?<![0-9A-Za-z])\d{4,}"), b"9999"),
    (re.compile(rb"~[\w-]{4,}"), b"~COPIES"),
]
LIVING = re.compile(rb'^(:.*|event: (ping|heartbeat)\ndata:.*|retry: .*|\{"event":"heartbeat"\})$', re.M)
JSON = re.compile(rb"^(data: )?[{\[].*$", re.M)
PASSED_OVER = {b"x-request-id", b"date", b"content-length", b"user-agent", b"host", b"accept-encoding", b"traceparent"}

_numbers = count()


class _Proxy(threading.Thread):
    """Passes every connection on to ``port``, and writes down what goes each way."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._to = port
        self._ready = threading.Event()
        self.port = 0
        self.start()
        self._ready.wait()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await server.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        path = RECORD / f"{next(_numbers):05}"
        await asyncio.gather(
            _copy(reader, back, path.with_suffix(".out")), _copy(there, writer, path.with_suffix(".in"))
        )


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: Path) -> None:
    with path.open("wb") as file:
        try:
            while data := await reader.read(65536):
                file.write(data)
                file.flush()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


def pytest_configure(config: pytest.Config) -> None:
    from tests.end_to_end.processes import Server  # noqa: PLC0415 - of the checkout that is tested

    RECORD.mkdir(parents=True, exist_ok=True)
    begin = Server.__init__

    def record(self: Server, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        base, _, port = self.url.rpartition(":")
        if port:
            object.__setattr__(self, "url", f"{base}:{_Proxy(int(port)).port}")

    Server.__init__ = record  # type: ignore[method-assign]


def pytest_unconfigure(config: pytest.Config) -> None:
    exchanges = {each for path in RECORD.glob("*.out") for each in _exchanges(path)}
    (RECORD / "exchanges").write_bytes(b"\n\n".join(sorted(exchanges)))
    (RECORD / "shapes").write_bytes(b"\n\n".join(sorted({_once(JSON.sub(_shape, each)) for each in exchanges})))


def _exchanges(path: Path) -> Iterator[bytes]:
    """The exchanges of a connection, each as a text."""
    client = h11.Connection(h11.CLIENT)
    answers = path.with_suffix(".in").read_bytes()
    for head, body in _requests(path.read_bytes()):
        client.send(h11.Request(method=head.method, target=head.target, headers=head.headers))
        if body:
            client.send(h11.Data(data=body))
        client.send(h11.EndOfMessage())
        if answers:
            client.receive_data(answers)
            answers = b""
        answer, content = _answer(client)
        if answer is None:
            return
        kept = b"\n".join(
            b"%s: %s" % (name, value) for name, value in sorted(answer.headers) if name not in PASSED_OVER
        )
        told = b"%s %s\n%s\n-> %d\n%s\n" % (head.method, head.target, body, answer.status_code, kept)
        yield _settled(told + _sorted(answer, content))
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            return
        client.start_next_cycle()


def _requests(data: bytes) -> Iterator[tuple[h11.Request, bytes]]:
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    head, body = None, b""
    while True:
        event = server.next_event()
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            yield head, body
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is not h11.DONE:
                return
            server.start_next_cycle()
        else:
            return


def _answer(client: h11.Connection) -> tuple[h11.Response | None, bytes]:
    """An answer as far as it came: a client may have left."""
    head, body = None, b""
    while True:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError:
            return head, body
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif not isinstance(event, h11.InformationalResponse):
            return head, body


def _sorted(answer: h11.Response, content: bytes) -> bytes:
    kind = dict(answer.headers).get(b"content-type", b"")
    end = b"\n\n" if kind.startswith(b"text/event-stream") else b"\n" if kind == b"application/x-ndjson" else None
    if end is None:
        return content
    events = LIVING.sub(b"", content.replace(b"\r\n", b"\n")).split(end)
    return b"\n".join(sorted({_settled(event.strip()) for event in events if event.strip()}))


def _settled(text: bytes) -> bytes:
    for pattern, name in CHANGING:
        text = pattern.sub(name, text)
    return text


def _shape(found: re.Match[bytes]) -> bytes:
    """A line of JSON with types in the place of values, and one of each kind of item in a list."""
    before, text = found[1] or b"", found[0].removeprefix(found[1] or b"")
    try:
        return before + json.dumps(_types(json.loads(text))).encode()
    except ValueError:
        return found[0]


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _types(each) for name, each in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(_types(each)) for each in value})
    return "null or text" if value is None or isinstance(value, str) else type(value).__name__


def _once(exchange: bytes) -> bytes:
    """Each line once, as it comes first: several events of a stream may have become the same."""
    return b"\n".join(dict.fromkeys(exchange.split(b"\n")))
