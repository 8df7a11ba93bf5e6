"""What the gateway must reach, and what it aims at: in ratios to others in the same run where there are such.

Each bar is about one figure of one line of a table; the last column of what ``table`` makes says whether it was met.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report import Figure, Line

BARE, LOGGING = "FastAPI + aiohttp", "FastAPI + aiohttp + log line"
GATEWAY, NATIVE = "gateway", "gateway, native alone"

Place = tuple[str, float]
"""Of a line: who was measured, and the number of its group."""


@dataclass(frozen=True)
class Bar:
    """``figure`` of ``row`` must be at most ``must``, or at least, where more is better (``least``); and so ``aim``.

    Both are in the unit of the figure, or factors of that of the line at ``beside``.
    """

    row: str
    figure: str
    must: float
    aim: float | None = None
    of: Place = (GATEWAY, 0)
    beside: Place | None = None
    least: bool = False

    def reached(self, lines: Sequence[Line]) -> float | None:
        """The median over the rounds; None where nothing was measured."""
        samples = {(who, group): rounds for who, group, rounds in lines}
        pairs = zip(samples.get(self.of, []), samples.get(self.beside or self.of, []), strict=False)
        values = [
            one[self.figure] / (other[self.figure] if self.beside else 1)
            for one, other in pairs
            if self.figure in one and other.get(self.figure)
        ]
        return statistics.median(values) if values else None

    def met(self, reached: float, goal: float) -> bool:
        return reached >= goal if self.least else reached <= goal


BARS = (
    Bar("gets", "rate", 0.6, 0.8, beside=(LOGGING, 0), least=True),
    Bar("gets", "rate", 12, 20, beside=("LiteLLM", 0), least=True),
    Bar("added", "p50", 1.5, 1, beside=(BARE, 0)),
    Bar("added", "p99", 2, 1, beside=(BARE, 0)),
    Bar("viewers", "p99", 3, 1, (GATEWAY, 1000), ("nchan", 1000)),
    Bar("burst", "rate", 4, 12, (GATEWAY, 500), ("nchan", 500), least=True),
    Bar("idle", "memory", 16 * 1024, 12 * 1024, (GATEWAY, 5000)),
    Bar("idle", "share", 0.02, 0.01, (GATEWAY, 5000)),
    Bar("start", "seconds", 2, 1.5, (NATIVE, 0), ("bare FastAPI", 0)),
    Bar("active", "cpu", 1.1, None, (GATEWAY, 1000), (GATEWAY, 10)),
    Bar("active", "p99", 2.0, None, (GATEWAY, 1000)),
    Bar("turns", "rate", 40, 60, least=True),
    Bar("turns", "first", 0.4),
)


def table(measured: Mapping[str, tuple[str, Sequence[Figure], Sequence[Line]]]) -> str:
    """All bars, against the lines of the rows by their names, each with its title and figures."""
    shown = ["| work | figure | must reach | aim | reached | |", "|---|---|---:|---:|---:|---|"]
    for bar in BARS:
        if bar.row not in measured:
            continue
        title, figures, lines = measured[bar.row]
        figure, reached = next(each for each in figures if each.key == bar.figure), bar.reached(lines)
        verdict = "not measured"
        if reached is not None:
            met, aimed = bar.met(reached, bar.must), bar.aim is not None and bar.met(reached, bar.aim)
            verdict = "aim reached" if aimed else "met" if met else "**missed**"
        count = f", {bar.of[1]:,g}" if bar.of[1] else ""
        shown.append(
            f"| {title}{count} | {figure.title} | {_said(bar, figure, bar.must)} | {_said(bar, figure, bar.aim)} |"
            f" {_said(bar, figure, reached)} | {verdict} |"
        )
    return "\n".join(shown) + "\n"


def _said(bar: Bar, figure: Figure, value: float | None) -> str:
    if value is None:
        return "-"
    if bar.beside is None:
        return f"{figure.text(value)} {figure.unit}".strip()
    who, count = bar.beside
    return f"{value:,.3g} x {who}" + (f", {count:,g}" if count and count != bar.of[1] else "")
