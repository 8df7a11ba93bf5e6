"""What ``codegen-api tail`` and the like make of texts and entries. As processes they are in tests/end_to_end."""

import io
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import respx

from codegen_api.colours import painted
from codegen_api.terminal import COMMANDS, commands, show
from codegen_api.terminal.client import GatewayClient, LiveLog, LogEvent, Refused, _event
from codegen_api.terminal.entries import shown_entry
from codegen_api.terminal.harmless import but_colours, plain
from tests.test_readme import rows

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/terminal.md").read_text()


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Tty()
    line = json.dumps({"event": "log", "id": "1", "data": {"position": 1, **data}}).encode()
    event = _event(line)
    assert event is not None
    show.Screen(out=out, err=io.StringIO()).event(event)
    return out.getvalue()


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("a\tb\nc\r\nd", "a\tb\nc\nd"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;https://evil.example\x07here\x1b]8;;\x1b\\", "here"),
        ("\x1b]52;c;eA==\x07", ""),
        ("\x1bPq#0\x1b\\\x1b_x\x1b\\\x1bc\x1b(B", ""),
        ("\x1b\x1b]52;c;eA==", "\u241b\u241b]52;c;eA=="),  # what does not end is shown
        ("\x1b[\x1b[31m31m", "\u241b[31m"),  # nothing comes together of what is around something left out
        ("a\rb\x00\x9b31m\x7f", "a\u240db\u2400\u2039U+009B\u203a31m\u2039U+007F\u203a"),
        ("\u202eb\u2069\ud800", "\u2039U+202E\u203ab\u2039U+2069\u203a\u2039U+D800\u203a"),
        ("\u4f60\u597d \U0001f469\u200d\U0001f4bb", "\u4f60\u597d \U0001f469\u200d\U0001f4bb"),
    ],
)  # fmt: skip
def test_a_text_is_shown_without_what_a_terminal_obeys(text: str, harmless: str) -> None:
    assert plain(text) == harmless
    assert plain(plain(text)) == plain(text)


@respx.mock
def test_a_page_in_the_place_of_a_log_is_not_waited_for() -> None:
    respx.get("http://gateway.example/agent-runs/1/logs/stream").respond(html="<html>Welcome</html>")
    with closing(GatewayClient("http://gateway.example", "a token", None)) as client:
        log = LiveLog(client, "agent-runs/1/logs/stream", "", print)
        with pytest.raises(Refused, match=r"is no gateway, or not its whole address: 200, text/html\."):
            list(log.events())


def test_of_a_text_with_colours_these_are_kept() -> None:
    assert but_colours("\x1b[1;31ma\x1b[2J\x1b]0;x\x07\u202e\x1b[0m") == "\x1b[1;31ma\u2039U+202E\u203a\x1b[0m"


def test_entries_of_other_hosts_say_what_they_are() -> None:
    for data, kind, title, part in (
        ({"role": "ROLE_USER", "parts": [{"text": "Hello"}]}, "message", "", ("message", "Hello")),
        ({"type": "ai", "content": [{"type": "text", "text": "Done"}]}, "answer", "", ("answer", "Done")),
        (
            {"type": "ai", "tool_calls": [{"name": "search", "args": {"query": "x", "k": 3}}]},
            "tool",
            "search  x",
            ("input", "k: 3"),
        ),
        ({"kind": "AgentErrorEvent", "message": "No"}, "error", "", ("error", "No")),
        ({"kind": "strange", "n": 1}, "other", "strange", ("output", "kind: strange\nn: 1")),
        (
            {"message_type": "ACTION", "tool_name": "edit", "tool_input": {"path": "a", "old": "x", "new": "y\nz"}},
            "tool",
            "edit  a",
            ("come", "+ y\n+ z"),
        ),
    ):
        found = shown_entry(data)
        assert (found.kind, found.title) == (kind, title)
        assert part in found.parts


def test_a_long_text_is_folded_and_says_how_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = shown({"message_type": "ACTION", "tool_name": "x", "tool_output": "line\n" * 1000}, monkeypatch)
    assert written.count("line\n") == show.FOLDED
    assert "1001 lines, 5,000 characters in all: --full shows them" in written


def test_without_rich_an_answer_is_shown_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"message_type": "FINAL_ANSWER", "observation": "# Done\n\n**well** &#x202e;"}
    assert "**" not in shown(answer, monkeypatch)
    assert "\u202e" not in shown(answer, monkeypatch)
    monkeypatch.setattr(show, "Markdown", None)
    written = shown(answer, monkeypatch)
    assert "# Done\n" in written
    assert "**well** &#x202e;" in written


def test_an_entry_that_is_nested_too_deeply_to_be_read_is_shown_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    deep = '{"event":"log","id":"7~x","data":{"position":7,"x":' + "[" * 100_000 + '"\u202e\x7f"' + "]" * 100_000 + "}}"
    event = _event(deep.encode())
    assert event == LogEvent("log", "7~x", None, deep.encode())
    out = io.StringIO()
    show.Screen(out=out).event(event)
    assert out.getvalue().startswith("  7~x Other")
    assert "\u202e" not in out.getvalue()
    show.JsonLines().event(event)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.strip() == deep.replace("\u202e", r"\u202e").replace("\x7f", r"\u007f")


def test_the_commands_and_options_of_the_page_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(PAGE.split("\n| exit status")[0])
    assert {row[0].strip("`").split()[0] for row in table} == set(COMMANDS)
    for row in table:
        with pytest.raises(SystemExit):
            commands.run([row[0].strip("`").split()[0], "--help"])
        helped = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", row[1]):
            assert option in helped
    statuses = [line.split("|")[1].strip() for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    assert {int(status) for status in statuses} == {
        *commands.ENDS.values(),
        commands.MISUSED,
        commands.REFUSED,
        commands.INTERRUPTED,
    }


def test_nothing_is_painted_that_is_empty_or_for_no_terminal() -> None:
    assert painted("", "1") == ""
    assert painted("x", "1", wanted=False) == painted("x", "") == "x"
