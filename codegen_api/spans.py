"""Spans: what a tracing system is told of requests, for those who begin and end them.

Without a ``Tracer`` there are none, and nothing is done for them. ``tracing`` makes them with OpenTelemetry.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol


class Span(Protocol):
    """A piece of work in a distributed trace."""

    @property
    def trace_id(self) -> str: ...

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers with which it is passed on."""
        ...

    def link(self, other: "Span") -> None:
        """It has to do with another one."""
        ...

    def end(self, attributes: Mapping[str, str | int], *, name: str | None = None, error: str | None = None) -> None:
        """It is over. ``name`` replaces the one it was begun with; ``error`` is a code."""
        ...


class Tracer(Protocol):
    """Begins spans."""

    def request(self, method: str, headers: Mapping[str, str]) -> Span:
        """A client's request, with these headers about the trace it belongs to."""
        ...

    def call(self, operation: str, parent: Span | None) -> Span:
        """A request to the host."""
        ...

    def turn(self, began: float, parent: Span | None) -> Span:
        """A turn of a conversation, which ``began`` then (epoch seconds)."""
        ...


calling: ContextVar[Span | None] = ContextVar("codegen_api_calling", default=None)
"""The span of the request to the host that is being made."""

SWITCHES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def traces_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the standard variables say where traces go, and do not switch them off."""
    said = [environment.get(name, "").strip() for name in SWITCHES]
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or said[0].lower() == "none"
    return any(said) and not off
