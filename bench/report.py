"""Tables of medians, spread and ratios in Markdown, and plots in SVG."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Sample = dict[str, float]
"""What one round of one case measured: a value for each figure's key."""


@dataclass(frozen=True)
class Figure:
    """A column. ``unit`` is written behind each value, which was multiplied by ``scale``."""

    key: str
    title: str
    unit: str = ""
    scale: float = 1.0
    compared: bool = True

    def text(self, value: float) -> str:
        value *= self.scale
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}"


Line = tuple[str, float, list[Sample]]
"""Who was measured, the number of its group, and all rounds."""


def table(title: str, note: str, counts: str, figures: Sequence[Figure], lines: Sequence[Line]) -> str:
    """Each value with its least and most, and compared, round by round, with that of the first line of its group.

    ``counts``: what the numbers of the groups count, which are shown where that is said.
    """
    shown = [f"### {title}\n", *([f"{note}\n"] if note else [])]
    head = [counts] if counts else []
    shown.append("| | " + " | ".join([*head, *(figure.title for figure in figures)]) + " |")
    shown.append("|---|" + "---:|" * (len(head) + len(figures)))
    references: dict[float, list[Sample]] = {}
    for who, group, samples in lines:
        reference = references.setdefault(group, samples)
        cells = [_cell(figure, samples, reference) for figure in figures]
        shown.append(f"| {who} | " + " | ".join([*([f"{group:,g}"] if counts else []), *cells]) + " |")
    return "\n".join(shown) + "\n"


def _cell(figure: Figure, samples: list[Sample], reference: list[Sample]) -> str:
    values = [sample[figure.key] for sample in samples if figure.key in sample]
    if not values:
        return "-"
    text = figure.text(statistics.median(values)) + (f" {figure.unit}" if figure.unit else "")
    if len(values) > 1:
        text += f" ({figure.text(min(values))} to {figure.text(max(values))})"
    ratios = [
        one[figure.key] / other[figure.key]
        for one, other in zip(samples, reference, strict=True)
        if figure.key in one and other.get(figure.key)
    ]
    compared = samples is not reference and figure.compared and ratios
    return f"{text}, {statistics.median(ratios):.2f} x" if compared else text


@dataclass(frozen=True)
class Plot:
    """Cost against ``x``, of several curves; both axes are logarithmic."""

    name: str
    title: str
    x: str
    y: str
    curves: dict[str, list[tuple[float, float]]]

    WIDTH = 640
    HEIGHT = 360
    LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
    COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700")

    def svg(self) -> str:
        points = [point for curve in self.curves.values() for point in curve] or [(1.0, 1.0)]
        xs, ys = _ticks([x for x, _ in points], exact=True), _ticks([y for _, y in points])

        def at_x(value: float) -> float:
            return self.LEFT + _part(value, xs) * (self.WIDTH - self.LEFT - self.RIGHT)

        def at_y(value: float) -> float:
            return self.HEIGHT - self.BOTTOM - _part(value, ys) * (self.HEIGHT - self.TOP - self.BOTTOM)

        right, bottom = self.WIDTH - self.RIGHT, self.HEIGHT - self.BOTTOM
        drawn = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.WIDTH} {self.HEIGHT}" font-family="sans-serif"'
            ' font-size="12"><rect width="100%" height="100%" fill="white"/>',
            f'<text x="{self.LEFT}" y="20" font-size="14">{escape(self.title)}</text>',
            f'<text x="{(self.LEFT + right) / 2:.0f}" y="{self.HEIGHT - 10}" text-anchor="middle">'
            f"{escape(self.x)}</text>",
            f'<text x="16" y="{(self.TOP + bottom) / 2:.0f}" text-anchor="middle"'
            f' transform="rotate(-90 16 {(self.TOP + bottom) / 2:.0f})">{escape(self.y)}</text>',
        ]
        drawn += [
            f'<path d="M{at_x(tick):.1f} {self.TOP}V{bottom}" stroke="#ddd"/>'
            f'<text x="{at_x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:,g}</text>'
            for tick in xs
        ]
        drawn += [
            f'<path d="M{self.LEFT} {at_y(tick):.1f}H{right}" stroke="#ddd"/>'
            f'<text x="{self.LEFT - 6}" y="{at_y(tick) + 4:.1f}" text-anchor="end">{tick:,g}</text>'
            for tick in ys
        ]
        for number, (who, curve) in enumerate(self.curves.items()):
            color = self.COLORS[number % len(self.COLORS)]
            path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in curve)
            drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
            drawn += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{color}"/>' for x, y in curve]
            drawn.append(f'<text x="{right + 10}" y="{self.TOP + 18 * number + 8}" fill="{color}">{escape(who)}</text>')
        return "\n".join([*drawn, "</svg>"]) + "\n"


def _ticks(values: Sequence[float], *, exact: bool = False) -> list[float]:
    """Where the lines are: at the values themselves, or at 1, 2 and 5 times powers of ten around them."""
    if exact:
        return sorted(set(values))
    marks = [times * 10.0**power for power in range(-9, 12) for times in (1, 2, 5)]
    low = max(mark for mark in marks if mark <= min(values))
    high = min(mark for mark in marks if mark >= max(values) and mark > low)
    return [mark for mark in marks if low <= mark <= high]


def _part(value: float, ticks: Sequence[float]) -> float:
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    return (math.log(value) - low) / (high - low) if high > low else 0.5
