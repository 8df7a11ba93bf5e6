"""How large the project is: ``python -m scripts.size``.

Lines of Python in the package, by part, and in its tests; classes, and names of classes that stand for several things;
files that are too long; and what it takes to start with one dialect and with all.
"""

import ast
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "codegen_api"
START = (
    "from codegen_api import Settings, create_app; create_app(Settings(_env_file=None, {dialects}log_level='ERROR'))"
)
TRIES = 5
LONGEST = 400
"""Lines of a file."""


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def classes() -> dict[str, list[str]]:
    """The names of classes, and the modules that have one."""
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(PACKAGE)))
    return found


def ambiguous() -> dict[str, list[str]]:
    """The names of classes that stand for several things, and the modules that have one."""
    return {name: modules for name, modules in classes().items() if len(modules) > 1}


def too_long() -> dict[str, int]:
    """The files of the package that have more lines than one may have, and how many."""
    counted = {str(path.relative_to(PACKAGE)): lines(path) for path in sorted(PACKAGE.rglob("*.py"))}
    return {path: count for path, count in counted.items() if count > LONGEST}


def start_seconds(dialects: str) -> float:
    """The median of some starts, from nothing to an application."""
    taken = []
    for _ in range(TRIES):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", START.format(dialects=dialects)], cwd=ROOT, check=True)  # noqa: S603
        taken.append(time.perf_counter() - began)
    return median(taken)


def main() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    parts: dict[str, int] = defaultdict(int)
    for path in files:
        inside = path.relative_to(PACKAGE).parts
        parts["/".join(inside[: 2 if inside[0] == "dialects" else 1]) if len(inside) > 1 else "(top)"] += lines(path)
    print(f"{sum(parts.values()):7,} lines in {len(files)} files of codegen_api")
    for part, count in sorted(parts.items(), key=lambda each: -each[1]):
        print(f"{count:7,}   {part}")
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts]
    print(f"{sum(map(lines, tests)):7,} lines in {len(tests)} files of tests")
    print(f"{sum(map(len, classes().values())):7,} classes")
    for name, modules in ambiguous().items():
        print(f"        {name} stands for {len(modules)} things: {', '.join(modules)}")
    for file, count in too_long().items():
        print(f"{count:7,} lines in {file}")
    for what, dialects in (
        ("native alone", ""),
        ("all dialects", "dialects=('agent_protocol','agio','codegen','everruns'), "),
    ):
        print(f"{start_seconds(dialects):7.2f} s to start with {what}")


if __name__ == "__main__":
    main()
