"""How runs and their logs look: for people, with colours and folded on a terminal; or as JSON lines, for programs."""

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from codegen_api.colours import BOLD, CYAN, DIM, GREEN, MAGENTA, RED, YELLOW, painted, shows_colours

from .client import LogEvent, Object
from .entries import ShownEntry, shown_entry
from .harmless import but_colours, on_a_line, plain

try:
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme
except ImportError:  # without the extra, answers are shown as they are written
    Markdown = None  # type: ignore[assignment, misc]

FOLDED, ANSWER = 8, 200
"""Maximum lines shown of a text, and of an answer, on a terminal without ``--full``."""
MOST_MARKDOWN = 60_000
"""Maximum characters of an answer that is rendered as Markdown."""
DEEP = 100
"""A line that begins with more Markdown characters is an attack, and not rendered."""
INDENT = " " * 15
KINDS = {"error": RED, "message": MAGENTA, "answer": GREEN, "thought": "", "tool": CYAN, "other": DIM}
PARTS = {"gone": RED, "come": GREEN, "input": DIM, "thought": "", "error": RED}
STATUSES = {"completed": GREEN, "failed": RED, "cancelled": RED, "waiting": YELLOW, "paused": YELLOW, "running": CYAN}


class Screen:
    """Standard output and standard error, for people. With ``full`` nothing is folded."""

    def __init__(self, full: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out, self._err = out or sys.stdout, err or sys.stderr
        for stream in (self._out, self._err):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        self._colours = shows_colours(self._out)
        self._folds = not full and self._out.isatty()
        self._width = max(shutil.get_terminal_size().columns, 40) - len(INDENT) - 2 if self._out.isatty() else 0
        self._status: object = None
        self._answers: set[str] = set()

    def say(self, text: str) -> None:
        """Print a sentence about the run or the connection. It is not part of the log, so it goes to standard error."""
        line = painted(f"· {on_a_line(text)}", DIM, shows_colours(self._err))
        print(line, file=self._err, flush=True)

    def event(self, event: LogEvent) -> None:
        match event.name:
            case "log" | "log.amended":
                self._entry(event)
            case "status" if event.data and event.data.get("run_status") != self._status:
                self._status = event.data.get("run_status")
                if not event.data.get("ended"):  # the end of the log says that
                    self.say(f"Run {event.data.get('id')} is {self._status}.")
            case "resync" if event.id == "0":
                self.say("The host has another log now. It begins anew.")
            case "resync":
                self.say("The log is shorter than was asked for. It goes on from its end.")
            case "end" if event.data:
                self._end(event.data)

    def run(self, run: Object) -> None:
        """Print a line about a run, in a list."""
        status = f"{on_a_line(str(run.get('run_status')))[:9]:<9}"
        age = _age(run.get("created_at"))
        title = _title(run)
        if self._width:
            title = title[: self._width - len(str(run.get("id"))) - 2]
        colour = STATUSES.get(str(run.get("run_status")), "")
        self._write(
            f"{on_a_line(str(run.get('id')))}  {painted(status, colour, self._colours)}  "
            f"{painted(f'{age:>4}', DIM, self._colours)}  {title}"
        )

    def id(self, run: Object) -> None:
        """Print only the run's id, for scripts."""
        self._write(on_a_line(str(run.get("id"))))

    def _entry(self, event: LogEvent) -> None:
        try:
            if event.data is None:
                raise RecursionError
            entry, position = shown_entry(event.data), event.data.get("position")
        except RecursionError:  # only an attack is nested like this
            entry, position = ShownEntry("other", "", (("output", event.line.decode(errors="replace")),)), event.id
        kind = entry.kind.capitalize() + ("*" if event.name == "log.amended" else "")
        head = f"{on_a_line(str(position))[:6]:>5} {painted(f'{kind:<8}', KINDS[entry.kind], self._colours)} "
        lines = [line for part in entry.parts for line in self._part(*part)]
        if entry.title:
            title = on_a_line(entry.title)
            lines.insert(0, painted(title[: self._width] if self._folds else title, BOLD, self._colours))
        self._write(
            "\n".join(f"{INDENT if number else head}{line}".rstrip() for number, line in enumerate(lines or [""]))
        )

    def _part(self, what: str, text: str) -> list[str]:
        if what == "answer":
            self._answers.add(text.strip())
            lines = self._markdown(text) if self._colours else None
            if lines is not None:
                return lines if not self._folds or len(lines) <= ANSWER else [*lines[:ANSWER], self._more(text)]
        most = ANSWER if what == "answer" else FOLDED
        colour, marks = PARTS.get(what, ""), ("→ ", "  ") if what == "output" else ("", "")
        return [
            f"{marks[number > 0]}{painted(line, colour, self._colours)}".rstrip()
            for number, line in enumerate(self._folded(text, most))
        ]

    def _folded(self, text: str, most: int) -> list[str]:
        """The lines of a text, wrapped to the terminal's width; only the first ``most`` of them."""
        if not self._folds:
            return plain(text).strip("\n").split("\n")
        cut = text[: (most + 1) * self._width]
        lines = [
            piece
            for line in plain(cut).strip("\n").expandtabs(4).split("\n")
            for piece in textwrap.wrap(line, self._width, replace_whitespace=False, break_on_hyphens=False) or [""]
        ]
        if len(lines) <= most and len(cut) == len(text):
            return lines
        return [*lines[:most], self._more(text)]

    def _more(self, text: str) -> str:
        lines = text.count("\n") + 1
        return painted(f"… {lines} lines, {len(text):,} characters in all: --full shows them", DIM, self._colours)

    def _markdown(self, text: str) -> list[str] | None:
        """The lines of rendered Markdown; None if it cannot be rendered."""
        cleaned = plain(text)
        if Markdown is None or len(cleaned) > MOST_MARKDOWN or _is_deep(cleaned):
            return None
        page = io.StringIO()
        console = Console(
            file=page,
            width=self._width or 80,
            force_terminal=True,
            legacy_windows=False,
            color_system="standard",
            theme=Theme({"markdown.code": "bold cyan", "markdown.code_block": ""}),  # theirs are on black
        )
        try:
            console.print(Markdown(cleaned, hyperlinks=False, code_theme="ansi_dark"))
        except RecursionError:
            return None
        # Markdown can write control characters as entities, too: &#x202e;
        return [but_colours(line).rstrip() for line in page.getvalue().strip("\n").split("\n")]

    def _end(self, run: Object) -> None:
        result = run.get("result")
        if isinstance(result, str) and result.strip() and result.strip() not in self._answers:
            self._write(f"{painted('result', GREEN, self._colours):>5}")
            for line in self._part("answer", result):
                self._write(f"{INDENT}{line}".rstrip())
        status = on_a_line(str(run.get("run_status")))
        shown = painted(status, STATUSES.get(status, ""), shows_colours(self._err))
        pulls = run.get("github_pull_requests")
        urls = [str(pull.get("url")) for pull in pulls if isinstance(pull, Mapping)] if isinstance(pulls, list) else []
        links = [on_a_line(url)[:200] for url in urls if url.startswith(("https://", "http://"))]
        print(f"· {shown}, {run.get('total_logs')} entries", *links, sep="  ", file=self._err, flush=True)

    def _write(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class JsonLines(Screen):
    """Standard output for programs: one JSON object a line, in ASCII, so that it cannot control a terminal."""

    def event(self, event: LogEvent) -> None:
        """Print the event as the gateway sent it."""
        if event.data is None:  # it could not be parsed; escaped as ASCII it is the same JSON
            print(_ascii(event.line.decode(errors="replace")), flush=True)
        else:
            self.run({"event": event.name, "id": event.id, "data": event.data})

    def run(self, run: Object) -> None:
        print(json.dumps(run, separators=(",", ":")), flush=True)

    id = run


def _ascii(text: str) -> str:
    """JSON with all control characters and all characters beyond ASCII escaped."""
    return "".join(sign if " " <= sign <= "~" else json.dumps(sign)[1:-1].replace("\x7f", "\\u007f") for sign in text)


def _is_deep(text: str) -> bool:
    return any(len(line) - len(line.lstrip(" \t>*+-[(_")) > DEEP for line in text.split("\n"))


def _title(run: Mapping[str, Any]) -> str:
    metadata = run.get("metadata")
    asked = metadata.get("prompt") if isinstance(metadata, Mapping) else None
    said = (run.get("prompt"), asked, run.get("title"), run.get("summary"), run.get("result"))
    text = next((each for each in said if isinstance(each, str) and each.strip()), "")
    return plain(text.strip()[:200]).split("\n")[0]


def _age(created: object) -> str:
    """How long ago, in the largest unit that fits."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(str(created))).total_seconds()
    except (ValueError, TypeError):
        return ""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
