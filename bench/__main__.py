"""``python -m bench``: the gateway beside what it is compared with, on the same work. README.md says what is measured.

All rows are written to RESULTS.md beside this file, with their plots; ``--only`` prints one of them, within a minute.
"""

import argparse
import platform
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import bars, machine
from bench.report import Figure, Line, Plot, table
from bench.rows import ROWS
from bench.work import MINIATURE, Row, Scale, measured

HERE = Path(__file__).parent
PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "aiohttp", "httpx", "sse-starlette", "orjson")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", choices=names, action="append", help="print this row alone; may be repeated")
    parser.add_argument(
        "--rounds", type=int, help="how often each case is measured (3 times, or fewer if it takes long)"
    )
    parser.add_argument("--litellm", metavar="PYTHON", help="also LiteLLM, of the environment of this Python")
    parser.add_argument("--miniature", action="store_true", help="only to see that everything works")
    given = parser.parse_args(argv)
    machine.prepare()
    scale = replace(MINIATURE if given.miniature else Scale(), litellm=given.litellm)
    began, load = time.monotonic(), machine.load()
    tables, plots = [], []
    reached: dict[str, tuple[str, Sequence[Figure], Sequence[Line]]] = {}
    for row in ROWS:
        if row.name not in given.only if given.only else row.asked:
            continue
        found = measured(row, scale, given.rounds or row.rounds)
        lines = [(case.who, case.group, samples) for case, samples in found.rounds.items()]
        reached[row.name] = row.title, row.figures, lines
        without = [f"\nWithout a figure: {each}.\n" for each in found.without]
        tables.append("".join([table(row.title, row.note, row.counts, row.figures, lines), *without]))
        plots += [_plot(row, lines)] if row.plotted else []
        print(tables[-1], flush=True)
    print(bars.table(reached))
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} minutes", file=sys.stderr)
    if not given.only and not given.miniature:
        write(HERE, bars.table(reached), tables, plots, minutes, load)


def _plot(row: Row, lines: Sequence[Line]) -> Plot:
    figure = next(each for each in row.figures if each.key == row.plotted)
    curves: dict[str, list[tuple[float, float]]] = {}
    for who, group, samples in sorted(lines, key=lambda line: line[1]):
        if values := [sample[figure.key] for sample in samples if figure.key in sample]:
            curves.setdefault(who, []).append((group, statistics.median(values) * figure.scale))
    return Plot(row.name, row.title, row.counts, f"{figure.title}, {figure.unit}", curves)


def write(
    directory: Path, reached: str, tables: Sequence[str], plots: Sequence[Plot], minutes: float, load: float
) -> None:
    """RESULTS.md and the plots; ``reached`` is the table of bars, ``load`` what else this machine was busy with."""
    for plot in plots:
        (directory / f"{plot.name}.svg").write_text(plot.svg())
    shown = "\n".join(f"![{plot.title}: {plot.y}, against {plot.x}]({plot.name}.svg)\n" for plot in plots)
    (directory / "RESULTS.md").write_text(
        "# Results\n\n"
        f"Written by `python -m bench` on {datetime.now(UTC):%-d %B %Y}, in {minutes:.0f} minutes, on"
        f" {machine.described()}. Before it began {load:.1f} processes were busy on this machine. {_versions()}.\n\n"
        "Medians over the rounds (least to most), and the median of the ratios, round by round, to the first line of"
        " the table or of those with the same number. [README.md](README.md) says how each figure is measured.\n\n"
        + f"## What must be reached\n\n{reached}\n## Figures\n\n"
        + "\n".join(tables)
        + "\n## Plots\n\n"
        + shown
    )


def _versions() -> str:
    said = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    nginx = machine.versions({"nginx": ["nginx", "-v"]}, lambda text: re.sub(r".*nginx/", "", text.strip()))
    return ", ".join([*said, *(f"{name} {each}" for name, each in nginx.items())])


if __name__ == "__main__":
    main()
