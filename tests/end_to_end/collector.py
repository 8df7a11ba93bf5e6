"""A collector of traces, over real HTTP on this machine: what it was sent, and as much of it as a test asks for."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.end_to_end.processes import eventually


@dataclass
class Collector:
    """Takes spans, or answers with another ``status``."""

    url: str
    status: int = 200
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> list[Any]:
        """All spans, of the SDK's own form."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def services(self) -> set[str]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        attributes = [
            each for request in requests for part in request.resource_spans for each in part.resource.attributes
        ]
        return {each.value.string_value for each in attributes if each.key == "service.name"}

    def named(self, name: str, *, number: int = 1) -> list[Any]:
        """The spans of this name, once there are so many."""
        return eventually(
            lambda: [span for span in self.spans() if span.name == name], lambda spans: len(spans) >= number
        )


def attributes(span: Any) -> dict[str, object]:
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in span.attributes
    }


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken = found.status == 200
            if taken:
                found.bodies.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        serving.start()
        try:
            yield found
        finally:
            server.shutdown()
            serving.join()
